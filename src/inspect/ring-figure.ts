/** Rings drawn as rings: entries around a circle, positions as hands, chains in flight in color. */

import type { InspectedQueue } from '../machine/inspect.ts';
import type { EventSuppression } from '../virtio/queue/ring-snapshot.ts';
import { element, escapeText } from './markup.ts';
import { type ChainStage, type QueueModel, queueModel, type Stretch } from './queue-model.ts';

const BOX = 272;
const CENTRE = BOX / 2;
const RADIUS = 104;
const WIDTH = 26;
/** Rings of up to so many entries show the lines between them, and what is in each. */
const LINED = 128;
const LABELLED = 32;
const COLUMNS = 32;
const CELL = 18;

/** The owner of a position. */
type Hand = 'driver' | 'device' | 'used' | 'event';

interface RingParts {
  readonly title: string;
  readonly size: number;
  readonly stretches: readonly (readonly [string, Stretch])[];
  readonly hands: readonly (readonly [Hand, number | undefined, string])[];
  readonly label: (slot: number) => string | undefined;
  readonly lines: readonly string[];
}

/** The rings and the descriptor table of a queue, as SVG; empty without a snapshot. */
export function ringFigures(queue: InspectedQueue): string {
  const { ring, size } = queue;
  const model = queueModel(queue);
  if (ring === undefined || model === undefined) return '';
  const table = descriptorTable(queue, model);
  const under = [
    ['taken', model.taken],
    ['waiting', model.waiting],
  ] as const;
  if (ring.format === 'packed') {
    const { driverEvent, deviceEvent } = ring;
    const ids = new Map(ring.descriptors.map(({ index, id }) => [index, id]));
    const one = figure({
      title: 'Descriptor ring',
      size,
      stretches: under,
      hands: [
        [
          'event',
          deviceEvent.flags === 2 ? deviceEvent.offset : undefined,
          'the device wants a kick here',
        ],
        ['used', model.used, 'the device returns here next'],
        ['device', model.device, 'the device takes this next'],
        ['driver', model.driver, 'the driver adds here next'],
      ],
      label: (slot) => ids.get(slot)?.toString(),
      lines: [
        `wrap ${wrapText(queue.state?.nextAvail)} / ${wrapText(queue.state?.nextUsed)}`,
        `${model.waiting.count} wait, ${model.taken.count} taken`,
      ],
    });
    const events = [
      `driver wants interrupts: ${eventText(driverEvent)}`,
      `device wants kicks: ${eventText(deviceEvent)}`,
    ];
    return figures([one, table], events);
  }
  const { available, used } = ring;
  const heads = new Map(available.entries.map(({ slot, head }) => [slot, head]));
  const ids = new Map(used.entries.map(({ slot, id }) => [slot, id]));
  const slotOf = (idx: number | undefined): number | undefined =>
    idx === undefined ? undefined : idx % size;
  return figures(
    [
      figure({
        title: 'Available ring',
        size,
        stretches: under,
        hands: [
          ['event', slotOf(used.availEvent), 'avail_event: the device wants a kick here'],
          ['device', model.device, 'the device takes this next'],
          ['driver', model.driver, 'idx: the driver adds here next'],
        ],
        label: (slot) => heads.get(slot)?.toString(),
        lines: [`idx ${available.idx}`, `${model.waiting.count} wait, ${model.taken.count} taken`],
      }),
      figure({
        title: 'Used ring',
        size,
        stretches: [
          ['room', { from: model.taken.from, count: model.taken.count + model.waiting.count }],
        ],
        hands: [
          ['event', slotOf(available.usedEvent), 'used_event: the driver wants an interrupt here'],
          ['used', model.used, 'idx: the device returns here next'],
        ],
        label: (slot) => ids.get(slot)?.toString(),
        lines: [`idx ${used.idx}`, `${model.taken.count + model.waiting.count} to come`],
      }),
      table,
    ],
    [
      `driver wants interrupts: ${available.usedEvent === undefined ? yesNo(available.flags) : `at used idx ${available.usedEvent}`}`,
      `device wants kicks: ${used.availEvent === undefined ? yesNo(used.flags) : `at available idx ${used.availEvent}`}`,
    ],
  );
}

/** @param notes what goes with them */
function figures(parts: readonly string[], notes: readonly string[]): string {
  const row = element('div', { class: 'figures' }, parts.join('\n'));
  return row + element('p', { class: 'soft' }, notes.map(escapeText).join(' &middot; '));
}

function figure({ title, size, stretches, hands, label, lines }: RingParts): string {
  const parts = [
    element('circle', { class: 'ring', cx: CENTRE, cy: CENTRE, r: RADIUS, 'stroke-width': WIDTH }),
    ...stretches.map(([name, stretch]) => arc(name, stretch, size)),
    ...(size <= LINED ? [separators(size)] : []),
    ...(size <= LABELLED ? labels(size, label) : []),
    ...hands.map(([name, slot, text]) => hand(name, slot, size, text)),
    ...lines.map((text, line) =>
      element(
        'text',
        { class: line === 0 ? 'index' : 'soft', x: CENTRE, y: CENTRE - 2 + line * 22 },
        escapeText(text),
      ),
    ),
  ];
  const svg = element(
    'svg',
    { viewBox: `0 0 ${BOX} ${BOX}`, role: 'img', 'aria-label': `${title}: ${lines.join(', ')}` },
    parts.join(''),
  );
  const caption = element('figcaption', {}, `${escapeText(title)}, ${size} entries`);
  return element('figure', { class: 'dial' }, svg + caption);
}

/** A stretch of entries as an arc; always drawn, so that a page that follows can let it grow. */
function arc(name: string, { from, count }: Stretch, size: number): string {
  const length = 2 * Math.PI * RADIUS;
  const part = (Math.min(count, size) / size) * length;
  return element('circle', {
    class: `arc ${name}`,
    cx: CENTRE,
    cy: CENTRE,
    r: RADIUS,
    'stroke-width': WIDTH - 6,
    'stroke-dasharray': `${part.toFixed(2)} ${(length - part + 1).toFixed(2)}`,
    // Entry 0 is at the top, and not where a circle starts.
    ...turned(from / size - 0.25),
  });
}

function separators(size: number): string {
  const path = Array.from({ length: size }, (_, slot) => {
    const inner = point(slot, size, RADIUS - WIDTH / 2);
    const outer = point(slot, size, RADIUS + WIDTH / 2);
    return `M${inner}L${outer}`;
  }).join('');
  return element('path', { class: 'separators', d: path });
}

function labels(size: number, label: (slot: number) => string | undefined): string[] {
  return Array.from({ length: size }, (_, slot) => {
    const [x, y] = place(slot + 0.5, size, RADIUS);
    return element(
      'text',
      { class: 'entry', x: x.toFixed(1), y: (y + 4).toFixed(1) },
      label(slot) ?? '',
    );
  });
}

/** A hand points at the start of an entry: the next one that its owner will use. */
function hand(name: Hand, slot: number | undefined, size: number, text: string): string {
  const turn = (slot ?? 0) / size;
  const inner = CENTRE - RADIUS + WIDTH / 2;
  const outer = CENTRE - RADIUS - WIDTH / 2;
  const shape =
    name === 'used' || name === 'device'
      ? `M${CENTRE} ${inner - 2}l-7 15h14z`
      : `M${CENTRE} ${outer + 2}l-7 -15h14z`;
  const line = `M${CENTRE} ${inner}V${outer}`;
  const parts =
    element('title', {}, escapeText(text)) +
    (name === 'event' ? '' : element('path', { class: 'line', d: line })) +
    element('path', { class: 'tip', d: shape });
  return element(
    'g',
    {
      class: slot === undefined ? `hand ${name} hidden` : `hand ${name}`,
      ...turned(turn),
    },
    parts,
  );
}

/** The descriptors as cells in the color of their chain; writable ones are marked. */
function descriptorTable({ ring, size }: InspectedQueue, model: QueueModel): string {
  if (ring === undefined) return '';
  const members = new Map<number, { stage: ChainStage; kind: string }>();
  for (const { stage, buffers } of model.chains) {
    for (const { index, kind } of buffers) members.set(index, { stage, kind });
  }
  const rows = Math.ceil(ring.descriptors.length / COLUMNS);
  const columns = Math.min(COLUMNS, ring.descriptors.length);
  const cells = ring.descriptors.map(({ index, addr, len }, at) => {
    const member = members.get(index);
    const x = (at % COLUMNS) * CELL;
    const y = Math.floor(at / COLUMNS) * CELL;
    const text = `descriptor ${index}: ${len} bytes at ${addr}${member === undefined ? '' : `, ${member.kind}, ${member.stage}`}`;
    const box = { x: x + 1, y: y + 1, width: CELL - 2, height: CELL - 2, rx: 2 };
    const mark =
      member === undefined || member.kind === 'readable'
        ? ''
        : element('path', {
            class: 'mark',
            d: `M${x + CELL / 2} ${y + 5}v${CELL - 10}${member.kind === 'indirect' ? `M${x + 5} ${y + CELL / 2}h${CELL - 10}` : ''}`,
          });
    return element(
      'g',
      { class: member === undefined ? 'cell' : `cell ${member.stage}` },
      element('title', {}, escapeText(text)) + element('rect', box) + mark,
    );
  });
  const svg = element(
    'svg',
    {
      viewBox: `0 0 ${columns * CELL} ${Math.max(rows, 1) * CELL}`,
      role: 'img',
      'aria-label': 'Descriptor table',
      class: 'table',
      width: columns * CELL,
    },
    cells.join(''),
  );
  const shown =
    ring.descriptors.length < size ? `${ring.descriptors.length} of ${size}` : `${size}`;
  const caption = element('figcaption', {}, `Descriptors, ${shown}`);
  return element('figure', {}, svg + caption);
}

function wrapText(position: number | undefined): string {
  return position === undefined ? '?' : String(position >>> 15);
}

function eventText({ flags, offset, wrap }: EventSuppression): string {
  if (flags === 0) return 'yes';
  return flags === 1 ? 'no' : `at descriptor ${offset}, wrap ${wrap}`;
}

function yesNo(flags: number): string {
  return (flags & 1) === 0 ? 'yes' : 'no';
}

/** A page that follows turns what has `data-turn` the way that indices go. */
function turned(turn: number): Record<string, string> {
  return {
    'data-turn': turn.toFixed(6),
    'transform-origin': `${CENTRE} ${CENTRE}`,
    transform: `rotate(${(turn * 360).toFixed(3)})`,
  };
}

function place(slot: number, size: number, radius: number): [number, number] {
  const angle = (slot / size) * 2 * Math.PI;
  return [CENTRE + radius * Math.sin(angle), CENTRE - radius * Math.cos(angle)];
}

function point(slot: number, size: number, radius: number): string {
  const [x, y] = place(slot, size, radius);
  return `${x.toFixed(1)} ${y.toFixed(1)}`;
}
