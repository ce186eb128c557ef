/** The same view as lines of text, for a terminal of any size. */

import type { InspectedDevice, InspectedQueue, MachineInspection } from '../machine/inspect.ts';
import type { InspectedFunction } from '../vfio/inspected-function.ts';
import type { EventSuppression } from '../virtio/queue/ring-snapshot.ts';
import type { Drawing } from './drawing/drawing.ts';
import { drawText } from './drawing/text.ts';
import { barColumns, functionFacts, interruptText } from './function-facts.ts';
import { domainText, faultsText, mappingsText, type Reach, reachIn } from './iommu-facts.ts';
import type { Selection } from './page.ts';
import { type QueueModel, queueModel, type Stretch } from './queue-model.ts';

/** Select Graphic Rendition codes (ECMA-48 §8.3.117). */
const STYLES = { bold: 1, dim: 2, reverse: 7, good: 32, taken: 33, waiting: 36, bad: 31 } as const;

/** Some text in one style. */
interface Span {
  readonly text: string;
  readonly style?: keyof typeof STYLES;
}

type Line = readonly Span[];

export const TERMINAL_KEYS =
  'arrows: device and queue   d drawing   h hold   s step   r release   q quit';
/** Lines at the bottom for the features. */
const FEATURE_LINES = 8;
/** Columns of guest RAM, for a device behind the IOMMU. */
const REACH_MIN = 16;
const REACH_MAX = 64;
const NAME_COLUMNS = 10;
const REACH_CELLS: Readonly<Record<Reach, Span>> = {
  none: { text: '.', style: 'dim' },
  read: { text: 'r', style: 'good' },
  write: { text: 'w', style: 'taken' },
  both: { text: '#', style: 'waiting' },
};

/**
 * A screen of text.
 * @param notice one line that the user must see, e.g. that an order was refused
 * @param drawing shown instead of rings and features
 * @param exits how often that happens, with the drawing
 * @returns no more lines than `rows`, none longer than `columns`, with their styles
 */
export function terminalView(
  name: string,
  inspection: MachineInspection,
  selection: Selection | undefined,
  { columns, rows }: { readonly columns: number; readonly rows: number },
  notice = '',
  drawing?: Drawing,
  exits = '',
): string[] {
  const { state, devices, functions } = inspection;
  const device = devices.find((one) => one.name === selection?.device);
  const queue = device?.queues[selection?.queue ?? 0];
  const passed = functions.find((one) => one.name === selection?.device);
  // A drawing needs the rows of the devices that it does not show.
  const isListed = (one: InspectedDevice | InspectedFunction): boolean =>
    drawing === undefined || one === device || one === passed;
  const top: Line[] = [
    [
      { text: name, style: 'bold' },
      { text: `  ${state}   ` },
      { text: TERMINAL_KEYS, style: 'dim' },
    ],
    [],
    ...devices.filter(isListed).map((one) => deviceLine(one, one === device, queue)),
    ...functions.filter(isListed).map((one) => functionLine(one, one === passed)),
    [{ text: notice, style: 'bad' }],
  ];
  const features =
    device === undefined || drawing !== undefined
      ? []
      : featureLines(device, columns).slice(0, FEATURE_LINES);
  const room = Math.max(0, rows - top.length - features.length);
  const middle = (
    drawing !== undefined
      ? [...drawText(drawing, columns), exits].map((text): Line => [{ text }])
      : device === undefined || queue === undefined
        ? functionLines(passed)
        : [
            ...reachLines(inspection, device.name, columns),
            ...queueLines(device, queue, columns, room),
          ]
  ).slice(0, room);
  const filler: Line[] = Array.from({ length: Math.max(0, room - middle.length) }, () => []);
  return [...top, ...middle, ...filler, ...features]
    .slice(0, rows)
    .map((line) => render(line, columns));
}

function deviceLine(
  device: InspectedDevice,
  chosen: boolean,
  queue: InspectedQueue | undefined,
): Line {
  const { name, type = `ID ${device.deviceId}`, place = '', datapath, queues, statusBits } = device;
  const status = statusBits.at(-1) ?? 'reset';
  const healthy = !statusBits.includes('FAILED') && !statusBits.includes('DEVICE_NEEDS_RESET');
  const spans: Span[] = [
    { text: `${chosen ? '>' : ' '} ${name.padEnd(9)}`, ...(chosen ? { style: 'bold' } : {}) },
    { text: ` ${type.padEnd(9)} ${place.padEnd(12)} ${datapath.padEnd(10)}` },
    { text: status.padEnd(13), ...(healthy ? {} : { style: 'bad' }) },
  ];
  for (const one of queues) {
    const text = `${one.name}${one.held === null ? '' : '*'}`;
    const style = chosen && one === queue ? 'reverse' : one.enabled ? undefined : 'dim';
    spans.push({ text, ...(style === undefined ? {} : { style }) }, { text: ' ' });
  }
  return spans;
}

function functionLine(seen: InspectedFunction, chosen: boolean): Line {
  const { name, id, place = '', address, gone, interrupts } = seen;
  return [
    { text: `${chosen ? '>' : ' '} ${name.padEnd(9)}`, ...(chosen ? { style: 'bold' } : {}) },
    { text: ` ${id.padEnd(9)} ${place.padEnd(12)} vfio       ` },
    gone ? { text: 'gone         ', style: 'bad' } : { text: interruptText(interrupts).padEnd(13) },
    { text: address },
  ];
}

function functionLines(seen: InspectedFunction | undefined): Line[] {
  if (seen === undefined) return [];
  return [
    [{ text: seen.name, style: 'bold' }],
    ...functionFacts(seen).map(
      ([name, text]): Line => [{ text: name.padEnd(14), style: 'dim' }, { text }],
    ),
    ...seen.bars.map((bar): Line => {
      const [which = '', ...rest] = barColumns(bar);
      return [{ text: which.padEnd(14), style: 'dim' }, { text: rest.join('  ') }];
    }),
  ];
}

/** Guest RAM once for each device behind the IOMMU: for the IOMMU; for one of them, its own. */
function reachLines(
  { iommu }: MachineInspection,
  device: string,
  columns: number,
): readonly Line[] {
  const shown = (iommu?.endpoints ?? []).filter(
    (one) => device === iommu?.device || one.device === device,
  );
  if (shown.length === 0) return [];
  const texts = shown.map((one) => ({
    facts: `  ${domainText(one)}, ${mappingsText(one)}`,
    faults: one.faults === 0 ? '' : `  ${faultsText(one)}`,
  }));
  const longest = Math.max(...texts.map(({ facts, faults }) => facts.length + faults.length));
  const room = Math.max(REACH_MIN, Math.min(REACH_MAX, columns - NAME_COLUMNS - longest));
  const lines = shown.map((one, i): Line => {
    const { facts = '', faults = '' } = texts[i] ?? {};
    const cells = reachIn(one, room).map((reach) => REACH_CELLS[reach]);
    const name = { text: one.device.padEnd(NAME_COLUMNS) };
    return [name, ...joined(cells), { text: facts }, { text: faults, style: 'bad' }];
  });
  const legend = 'guest RAM that it may: r read, w write, # both';
  return [[{ text: legend, style: 'dim' }], ...lines, []];
}

function queueLines(
  device: InspectedDevice,
  queue: InspectedQueue,
  columns: number,
  rows: number,
): Line[] {
  const { name, format, size, vector, held, enabled } = queue;
  const title: Line = [
    { text: `${device.name} ${name}`, style: 'bold' },
    { text: `  ${format}, ${size} entries, ${vector === null ? 'no vector' : `vector ${vector}`}` },
    { text: device.poll === 'off' ? '' : `  poll=${device.poll}` },
    { text: queue.ring?.kicksSuppressed === true ? '  kicks suppressed' : '', style: 'dim' },
    { text: held === null ? '' : `  HELD: ${held} may be taken`, style: 'taken' },
  ];
  if (!enabled) return [title, [{ text: 'not enabled', style: 'dim' }]];
  const places = `descriptors ${queue.descriptorArea}  driver area ${queue.driverArea}  device area ${queue.deviceArea}`;
  const lines: Line[] = [title, [{ text: places, style: 'dim' }]];
  const model = queueModel(queue);
  if (model === undefined) return [...lines, [{ text: queue.problem ?? '', style: 'bad' }]];
  lines.push(...ringLines(queue, model, columns), []);
  for (const { stage, id, buffers } of model.chains.slice(0, Math.max(0, rows - lines.length))) {
    const arrow = { readable: '->', writable: '<-', indirect: '=>' } as const;
    const text = buffers.map(({ kind, len, addr }) => `${arrow[kind]} ${len} @ ${addr}`).join('  ');
    lines.push([
      { text: stage.padEnd(8), style: stage },
      { text: `${String(id).padStart(5)}  ${text}` },
    ]);
  }
  if (model.chains.length === 0) lines.push([{ text: 'nothing is in flight', style: 'dim' }]);
  return lines.slice(0, rows);
}

function ringLines(
  { ring, size, state }: InspectedQueue,
  model: QueueModel,
  columns: number,
): Line[] {
  if (ring === undefined) return [];
  const counts = `${model.waiting.count} wait, ${model.taken.count} taken`;
  if (ring.format === 'packed') {
    const wrap = (position: number | undefined): string => `${(position ?? 0) >>> 15}`;
    const text = `wrap ${wrap(state?.nextAvail)} / ${wrap(state?.nextUsed)}  ${counts}`;
    const events = `events: driver ${eventText(ring.driverEvent)}, device ${eventText(ring.deviceEvent)}`;
    return [
      [{ text: 'descriptor ring ' }, { text: `${text}  ${events}`, style: 'dim' }],
      ...bar(size, model, columns, { D: model.driver, T: model.device, U: model.used }),
    ];
  }
  const { available, used } = ring;
  const event = (name: string, idx: number | undefined, flags: number): string =>
    `${idx === undefined ? '' : `  ${name} ${idx}`}  flags ${flags}`;
  const room = { from: model.taken.from, count: model.taken.count + model.waiting.count };
  return [
    [
      { text: `available ring  idx ${available.idx}` },
      {
        text: `${event('used_event', available.usedEvent, available.flags)}  ${counts}`,
        style: 'dim',
      },
    ],
    ...bar(size, model, columns, { D: model.driver, T: model.device }),
    [
      { text: `used ring  idx ${used.idx}` },
      {
        text: `${event('avail_event', used.availEvent, used.flags)}  ${room.count} to come`,
        style: 'dim',
      },
    ],
    ...bar(size, { taken: { from: 0, count: 0 }, waiting: { from: 0, count: 0 } }, columns, {
      U: model.used,
    }),
  ];
}

/** A ring unrolled: each character is one or several entries; below it the positions of both sides. */
function bar(
  size: number,
  { taken, waiting }: Pick<QueueModel, 'taken' | 'waiting'>,
  columns: number,
  hands: Readonly<Record<string, number | undefined>>,
): Line[] {
  const width = Math.max(1, Math.min(size, columns));
  const at = (slot: number): number => Math.floor((slot * width) / size);
  const cells = new Array<keyof typeof STYLES | undefined>(width).fill(undefined);
  const paint = ({ from, count }: Stretch, style: keyof typeof STYLES): void => {
    for (let i = 0; i < count; i++) cells[at((from + i) % size)] = style;
  };
  paint(waiting, 'waiting');
  paint(taken, 'taken');
  const marks = new Array<string>(width).fill(' ');
  for (const [letter, slot] of Object.entries(hands)) {
    if (slot === undefined) continue;
    const cell = at(slot);
    marks[cell] = marks[cell] === ' ' ? letter : '+';
  }
  const legend = Object.entries({ D: 'driver adds', T: 'device takes', U: 'device returns' })
    .filter(([letter]) => hands[letter] !== undefined)
    .map(([letter, text]) => `${letter} ${text}`)
    .join(', ');
  const spans = cells.map((style): Span => {
    if (style === undefined) return { text: '.', style: 'dim' };
    return { text: style === 'taken' ? '#' : '=', style };
  });
  const below = marks.join('').trimEnd();
  const fits = below.length + legend.length + 3 <= columns;
  return [joined(spans), [{ text: below }, { text: fits ? `   ${legend}` : '', style: 'dim' }]];
}

/** Neighbours of one style as one span. */
function joined(spans: readonly Span[]): Line {
  const all: { text: string; style?: keyof typeof STYLES }[] = [];
  for (const span of spans) {
    const last = all.at(-1);
    if (last !== undefined && last.style === span.style) last.text += span.text;
    else all.push({ ...span });
  }
  return all;
}

function featureLines({ features }: InspectedDevice, columns: number): Line[] {
  const lines: Span[][] = [[{ text: 'features: ' }]];
  let used = 10;
  for (const { bit, name = `bit ${bit}`, negotiated } of features) {
    const text = `${negotiated ? '+' : '-'}${name.replace(/^VIRTIO_/, '')} `;
    if (used + text.length > columns) {
      lines.push([]);
      used = 0;
    }
    used += text.length;
    lines.at(-1)?.push({ text, style: negotiated ? 'good' : 'dim' });
  }
  return lines;
}

function eventText({ flags, offset, wrap }: EventSuppression): string {
  if (flags === 0) return 'always';
  return flags === 1 ? 'never' : `at ${offset}, wrap ${wrap}`;
}

/** Clips a line, and makes what could move the cursor harmless. */
function render(line: Line, columns: number): string {
  let left = columns;
  let text = '';
  for (const span of line) {
    const part = span.text.replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, '?').slice(0, left);
    left -= part.length;
    if (part === '') continue;
    text += span.style === undefined ? part : `\x1b[${STYLES[span.style]}m${part}\x1b[0m`;
  }
  return text;
}
