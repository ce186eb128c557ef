/** Pictures of recorded snapshots: what a queue's rings, the page and the terminal show of them. */
import fc from 'fast-check';
import t from 'tap';
import { drawMachine } from '../../../src/inspect/drawing/draw-machine.ts';
import { inspectPage, inspectView, selectQueue } from '../../../src/inspect/page.ts';
import { queueModel } from '../../../src/inspect/queue-model.ts';
import { ringFigures } from '../../../src/inspect/ring-figure.ts';
import { terminalView } from '../../../src/inspect/terminal-view.ts';
import type { InspectedQueue } from '../../../src/machine/inspect.ts';
import type { InspectedFunction } from '../../../src/vfio/inspected-function.ts';
import { aDevice, aFunction, anInspection, busyQueue } from '../../support/fixtures/inspection.ts';

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
    ['vfio0', undefined],
    ['nosuch', 77],
  ] as const) {
    const page = inspectPage('web<', inspection, selectQueue(inspection, device, queue), 'NONCE');
    t.same(unbalanced(page), [], `${device} ${queue}`);
    t.notMatch(page, /https?:|src=|url\(|@import|<link|<script>|<style>/i);
    t.notMatch(page.replace(/<script.*<\/script>/s, ''), /NaN|undefined|\[object/);
  }
  t.same(selectQueue(inspection, undefined, undefined), { device: 'busy0', queue: 0 });
  t.same(selectQueue({ state: 'created', devices: [], functions: [] }, 'a', 1), undefined);
  t.same(
    unbalanced(inspectPage('x', { state: 'created', devices: [], functions: [] }, undefined, 'N')),
    [],
  );
  t.end();
});

t.test('drawings: of one device, or of all, in the page’s colors', (t) => {
  const inspection = anInspection();
  const drivers = new Map([['PCI 00:05.0', { name: 'nvme<', userland: false }]]);
  const activity = { exits: '7 VM exits/s, 2 to user space/s', devices: new Map() };
  const shown = (device: string, view: 'drawing' | 'drawings'): string => {
    const page = inspectPage('web', inspection, { device, queue: 0 }, 'N', view, {
      drivers,
      activity,
    });
    t.same(unbalanced(page), [], view);
    t.match(page, /<style nonce="N">.*\.drawing .*<\/style>/s);
    return page.replace(/<style.*<\/style>|<script.*<\/script>/gs, '');
  };
  const one = shown('busy0', 'drawing');
  t.equal(one.match(/<svg /g)?.length, 1);
  t.match(one, /aria-label="busy0: device ID 42, PCI 00:02.0, served in nodevmm"/);
  t.match(one, /<a href="\?device=busy0&amp;view=drawing" class="queue" aria-current="true">/);
  t.equal(one.match(/aria-current/g)?.length, 1, 'the queue is not the current one');
  t.match(one, '7 VM exits/s, 2 to user space/s');
  const all = shown('busy0', 'drawings');
  t.equal(all.match(/<svg /g)?.length, 3);
  t.match(all, /nvme&lt;/);
  t.match(all, /<a href="\?view=drawings" class="queue" aria-current="true">/);
  t.notMatch(all, /style=|https?:(?!\/\/www\.w3\.org\/2000\/svg)/);
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
      { state: 'running', devices: [vhost], functions: [] },
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

t.test('a function of the host: where it is, its BARs and interrupts', (t) => {
  const inspection = anInspection();
  t.same(selectQueue(inspection, 'vfio0', 3), { device: 'vfio0', queue: 0 });
  const alone = { ...inspection, devices: [] };
  t.same(selectQueue(alone, undefined, undefined), { device: 'vfio0', queue: 0 });
  const gone = aFunction({
    driver: null,
    gone: true,
    bars: [],
    interrupts: { mode: 'none', used: 0, vectors: 0 },
    resetMethod: 'none',
  });
  const both = (functions: readonly InspectedFunction[]): string[] => {
    const selection = { device: 'vfio0', queue: 0 };
    const size = { columns: 120, rows: 40 };
    const seen = { ...alone, functions };
    const terminal = terminalView('web', seen, selection, size).join('\n');
    return [inspectView('web', seen, selection), terminal];
  };
  for (const view of both([aFunction()])) {
    for (const part of [
      '0000:01:00.0, IOMMU group 7, driver vfio-pci',
      'PCI 00:05.0',
      '1b36:0010, class 010802',
      'MSI-X 2/65',
      '512 MiB',
      '16 KiB',
      '0xc0000000',
      '0x0+0x2000 memory slot 9, 0x2000+0x2000 trapped',
      'not decoded',
    ]) {
      t.ok(view.includes(part), part);
    }
  }
  for (const view of both([gone])) {
    t.match(view, /taken back by the host/);
    t.match(view, /driver none/);
    t.match(view, /cannot be reset/);
  }
  t.end();
});

t.test('a drawing in a terminal: of the device that is listed, above the exits', (t) => {
  const inspection = anInspection();
  const [drawing] = drawMachine(inspection, {}, 'busy0');
  const lines = terminalView(
    'web',
    inspection,
    { device: 'busy0', queue: 0 },
    { columns: 100, rows: 40 },
    '',
    drawing,
    '7 VM exits/s',
  );
  const text = lines.join('\n');
  t.match(text, /busy0.*busy0: device ID 42.*rings.*7 VM exits\/s/s);
  t.notMatch(text, /idle0|F_VERSION_1/);
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
      kicksSuppressed: fc.boolean(),
    }),
    fc.record({
      format: fc.constant('packed' as const),
      descriptors: fc.array(descriptor, { maxLength: 20 }),
      driverEvent: event,
      deviceEvent: event,
      waiting: number,
      kicksSuppressed: fc.boolean(),
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
      const inspection = { state: 'running', devices: [aDevice('busy0', [queue])], functions: [] };
      const selection = { device: 'busy0', queue: 0 };
      const view = inspectView('web', inspection, selection);
      terminalView('web', inspection, selection, { columns: 80, rows: 24 });
      return !/NaN|undefined|Infinity/.test(view) && view.length < 2 ** 20;
    }),
    { numRuns: 200 },
  );
  t.end();
});
