/** Pictures of recorded snapshots: what a queue's rings, the page and the terminal show of them. */
import fc from 'fast-check';
import t from 'tap';
import { inspectPage, inspectView, selectQueue } from '../../../src/inspect/page.ts';
import { queueModel } from '../../../src/inspect/queue-model.ts';
import { ringFigures } from '../../../src/inspect/ring-figure.ts';
import { terminalView } from '../../../src/inspect/terminal-view.ts';
import type { InspectedQueue } from '../../../src/machine/inspect.ts';
import { aDevice, anInspection, busyQueue } from '../../support/fixtures/inspection.ts';

for (const format of ['split', 'packed'] as const) {
  t.test(`positions of both sides, and what is in flight: ${format}`, (t) => {
    const model = queueModel(busyQueue(format));
    // On packed queues a chain takes a slot for each of its descriptors.
    const slots =
      format === 'split' ? { taken: 2, device: 7, driver: 0 } : { taken: 3, device: 0, driver: 1 };
    t.match(model, { used: 5, device: slots.device, driver: slots.driver });
    t.same(model?.taken, { from: 5, count: slots.taken });
    t.same(model?.waiting, { from: slots.device, count: 1 });
    t.same(
      model?.chains.map(({ stage, buffers }) => [
        stage,
        ...buffers.map(({ kind, len }) => `${kind} ${len}`),
      ]),
      [
        ['taken', 'readable 16', 'writable 512'],
        ['taken', 'writable 77'],
        ['waiting', 'readable 99'],
      ],
    );
    t.end();
  });
}

t.test('an unknown position of the device is left out', (t) => {
  const { state: _, ...split } = busyQueue('split');
  const model = queueModel(split);
  t.notOk('device' in (model ?? {}));
  t.same(model?.taken, { from: 5, count: 3 }, 'all that is out counts as taken');
  const { state: __, ...packed } = busyQueue('packed');
  t.match(queueModel(packed), { taken: { count: 0 }, waiting: { count: 0 }, chains: [] });
  t.end();
});

/** Names of elements that are not closed, or closed in the wrong place. */
function unbalanced(html: string): string[] {
  const open: string[] = [];
  const wrong: string[] = [];
  const text = html.replace(/<(style|script)[^>]*>.*?<\/\1>/gs, '');
  for (const [, close, name = '', empty] of text.matchAll(
    /<(\/?)([a-z0-9]+)(?:\s[^<>]*?)?(\/?)>/gi,
  )) {
    if (name === 'meta' || empty === '/') continue;
    if (close === '') open.push(name);
    else if (open.pop() !== name) wrong.push(name);
  }
  return [...wrong, ...open];
}

t.test("rings: arcs to scale, hands at each side's position", (t) => {
  const svg = ringFigures(busyQueue('split'));
  t.same(unbalanced(svg), []);
  const arcs = [
    ...svg.matchAll(/class="arc (\w+)"[^>]*dasharray="([\d.]+) [^>]*data-turn="([-\d.]+)"/g),
  ];
  const length = 2 * Math.PI * 104;
  t.same(
    arcs.map(([, name, part, turn]) => [
      name,
      Math.round((Number(part) / length) * 8),
      Number(turn) * 8,
    ]),
    [
      ['taken', 2, 5 - 2],
      ['waiting', 1, 7 - 2],
      ['room', 3, 5 - 2],
    ],
  );
  const hands = [...svg.matchAll(/class="hand (\w+)" data-turn="([\d.]+)"/g)];
  t.same(
    hands.map(([, name, turn]) => [name, Number(turn) * 8]),
    [
      ['event', 7],
      ['device', 7],
      ['driver', 0],
      ['event', 5],
      ['used', 5],
    ],
  );
  t.equal(svg.match(/class="cell"/g)?.length, 4, 'descriptors that are free');
  t.equal(svg.match(/class="cell taken"/g)?.length, 3);
  t.match(ringFigures(busyQueue('packed')), /wrap 0 \/ 1/, 'the device is a lap ahead with taking');
  t.end();
});

t.test('the page is whole, well-formed, and loads nothing', (t) => {
  const inspection = anInspection();
  for (const [device, queue] of [
    [undefined, undefined],
    ['busy0', 1],
    ['busy0', 2],
    ['idle0', 0],
    ['nosuch', 77],
  ] as const) {
    const page = inspectPage('web<', inspection, selectQueue(inspection, device, queue), 'NONCE');
    t.same(unbalanced(page), [], `${device} ${queue}`);
    t.notMatch(page, /https?:|src=|url\(|@import|<link|<script>|<style>/i);
    t.notMatch(page.replace(/<script.*<\/script>/s, ''), /NaN|undefined|\[object/);
  }
  t.same(selectQueue(inspection, undefined, undefined), { device: 'busy0', queue: 0 });
  t.same(selectQueue({ state: 'created', devices: [] }, 'a', 1), undefined);
  t.same(unbalanced(inspectPage('x', { state: 'created', devices: [] }, undefined, 'N')), []);
  t.end();
});

t.test('the view shows what can be done with the queue', (t) => {
  const inspection = anInspection();
  const view = (queue: number): string =>
    inspectView('web', inspection, { device: 'busy0', queue });
  t.match(view(0), /runs freely/);
  t.match(view(0), /value="release" disabled/);
  t.match(view(1), /held: the device takes nothing/);
  t.match(view(1), /value="hold" disabled/);
  t.match(view(2), /class="warning">the used ring at 0x3/);
  for (const datapath of ['vhost', 'vhost-user'] as const) {
    const vhost = { ...aDevice('busy0', [busyQueue('split')]), datapath };
    const served = inspectView(
      'web',
      { state: 'running', devices: [vhost] },
      { device: 'busy0', queue: 0 },
    );
    t.match(served, /cannot be held/);
    t.notMatch(served, /<form/);
  }
  t.end();
});

t.test('a terminal’s lines fit it, whatever its size', (t) => {
  const inspection = anInspection();
  const codes = new RegExp(`${String.fromCharCode(27)}\\[\\d+m`, 'g');
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 1, max: 80 }),
      fc.nat(2),
      (columns, rows, queue) => {
        const lines = terminalView(
          'web',
          inspection,
          { device: 'busy0', queue },
          { columns, rows },
          'no\x1b[2J',
        );
        const texts = lines.map((line) => line.replace(codes, ''));
        return (
          lines.length === rows &&
          texts.every((text) => text.length <= columns && !/\p{Cc}/u.test(text))
        );
      },
    ),
  );
  const lines = terminalView(
    'web',
    inspection,
    { device: 'busy0', queue: 1 },
    { columns: 100, rows: 40 },
  );
  const text = lines.join('\n').replace(codes, '');
  for (const part of [
    '> busy0',
    'q1*',
    'HELD: 0 may be taken',
    '=....###',
    '+F_VERSION_1',
    '-bit 1',
  ]) {
    t.ok(text.includes(part), part);
  }
  t.match(text, /taken +\d+ {2}-> 16 @ 0x\w+ {2}<- 512 @/);
  t.end();
});

t.test('no snapshot breaks a picture', (t) => {
  const number = fc.integer({ min: 0, max: 0xffff });
  const descriptor = fc.record({
    index: number,
    addr: fc.constant('0x0'),
    len: number,
    flags: number,
    next: number,
    id: number,
  });
  const event = fc.record({ offset: number, wrap: fc.nat(1), flags: fc.nat(3) });
  const ring = fc.oneof(
    fc.record({
      format: fc.constant('split' as const),
      descriptors: fc.array(descriptor, { maxLength: 20 }),
      available: fc.record({
        flags: number,
        idx: number,
        usedEvent: number,
        entries: fc.array(fc.record({ slot: number, head: number })),
      }),
      used: fc.record({
        flags: number,
        idx: number,
        entries: fc.array(fc.record({ slot: number, id: number, len: number })),
      }),
      inFlight: fc.array(number),
    }),
    fc.record({
      format: fc.constant('packed' as const),
      descriptors: fc.array(descriptor, { maxLength: 20 }),
      driverEvent: event,
      deviceEvent: event,
      waiting: number,
    }),
  );
  const state = fc.option(fc.record({ nextAvail: number, nextUsed: number }), { nil: undefined });
  fc.assert(
    fc.property(ring, state, fc.integer({ min: 1, max: 32768 }), (snapshot, stands, size) => {
      const queue: InspectedQueue = {
        ...busyQueue('split'),
        size,
        format: snapshot.format,
        ring: snapshot,
        ...(stands === undefined ? {} : { state: stands }),
      };
      const inspection = { state: 'running', devices: [aDevice('busy0', [queue])] };
      const selection = { device: 'busy0', queue: 0 };
      const view = inspectView('web', inspection, selection);
      terminalView('web', inspection, selection, { columns: 80, rows: 24 });
      return !/NaN|undefined|Infinity/.test(view) && view.length < 2 ** 20;
    }),
    { numRuns: 200 },
  );
  t.end();
});
