/** Drawings: which boundaries each way to serve a queue crosses, and that nothing in a picture runs into something else. */
import fc from 'fast-check';
import t from 'tap';
import { drawDevice } from '../../../src/inspect/drawing/draw-device.ts';
import { drawFunction } from '../../../src/inspect/drawing/draw-function.ts';
import { drawMachine } from '../../../src/inspect/drawing/draw-machine.ts';
import {
  crossing,
  type Drawing,
  type Path,
  type Space,
} from '../../../src/inspect/drawing/drawing.ts';
import { cut, wrap } from '../../../src/inspect/drawing/layout.ts';
import { drawSvg, drawSvgFile } from '../../../src/inspect/drawing/svg.ts';
import { drawText } from '../../../src/inspect/drawing/text.ts';
import type { InspectedDevice } from '../../../src/machine/inspect.ts';
import { DATAPATHS, IN_PROCESS, PASSED } from '../../support/fixtures/datapaths.ts';
import { aFunction, anInspection } from '../../support/fixtures/inspection.ts';

const ALL: ReadonlyMap<string, Drawing> = new Map([
  ...Object.entries(DATAPATHS).map(
    ([name, { device, driver }]) => [name, drawDevice(device, driver)] as const,
  ),
  ['vfio', drawFunction(PASSED.seen, PASSED.driver)] as const,
]);

/** The steps of a path, as the spaces that they lead through, and what they cross. */
function pathOf(drawing: Drawing | undefined, path: Path): string[] {
  const steps = drawing?.steps.filter((step) => step.path === path) ?? [];
  return steps.map((step) => `${step.from} ${step.to}: ${crossing(step) ?? 'stays'}`);
}

t.test('kicks and interrupts: which boundaries they cross', (t) => {
  const kick = (name: string): string[] => pathOf(ALL.get(name), 'kick');
  const interrupt = (name: string): string[] => pathOf(ALL.get(name), 'interrupt');
  t.same(kick('in-process'), ['guestKernel hostKernel: VM exit', 'hostKernel vmm: wake-up']);
  t.same(interrupt('in-process'), [
    'vmm hostKernel: system call',
    'hostKernel guestKernel: VM entry',
  ]);
  t.same(kick('vhost'), ['guestKernel hostKernel: VM exit', 'hostKernel hostKernel: stays']);
  t.same(interrupt('vhost'), ['hostKernel guestKernel: VM entry'], 'no user space');
  t.same(kick('vhost-user'), ['guestKernel hostKernel: VM exit', 'hostKernel process: wake-up']);
  t.same(interrupt('vhost-user'), [
    'process hostKernel: system call',
    'hostKernel guestKernel: VM entry',
  ]);
  t.same(kick('userland'), ['guestUser hostKernel: VM exit', 'hostKernel vmm: wake-up']);
  t.same(kick('vdpa'), ['guestKernel hostKernel: VM exit', 'hostKernel hardware: bus']);
  t.same(kick('vdpa-doorbell'), ['guestKernel hardware: no exit, bus']);
  t.same(interrupt('vdpa'), ['hardware hostKernel: bus', 'hostKernel guestKernel: VM entry']);
  t.same(kick('vfio'), [
    'guestKernel hardware: no exit, bus',
    'guestKernel vmm: VM exit to user space',
  ]);
  t.same(interrupt('vfio'), ['hardware hostKernel: bus', 'hostKernel guestKernel: VM entry']);
  t.end();
});

t.test('rings: who is at both ends', (t) => {
  const rings = [...ALL].map(([name, drawing]) => `${name} ${pathOf(drawing, 'rings').join()}`);
  t.same(rings, [
    'in-process guestKernel vmm: shared memory',
    'vhost guestKernel hostKernel: shared memory',
    'vhost-user guestKernel process: shared memory',
    'userland guestUser vmm: shared memory',
    'vdpa guestKernel hardware: DMA through the IOMMU',
    'vdpa-doorbell guestKernel hardware: DMA through the IOMMU',
    'vfio guestKernel hardware: DMA through the IOMMU',
  ]);
  t.end();
});

/** With some of it different. */
const changed = (more: Partial<InspectedDevice>): Drawing =>
  drawDevice({ ...IN_PROCESS, ...more }, { name: 'virtio_net', userland: false });

t.test('what the state says', (t) => {
  const text = (drawing: Drawing): string => drawText(drawing, 140).join('\n');
  const parents: [place: 'process' | 'kernel' | 'hardware' | undefined, space: Space][] = [
    ['process', 'process'],
    ['kernel', 'hostKernel'],
    ['hardware', 'hardware'],
    [undefined, 'hostKernel'],
  ];
  for (const [place, space] of parents) {
    const backend = { name: '/dev/vhost-vdpa-0', ...(place === undefined ? {} : { place }) };
    const drawing = changed({ datapath: 'vdpa', backend });
    t.equal(drawing.steps[0]?.to, space, `vDPA: ${place}`);
  }
  t.match(text(changed({ threadState: 'running' })), /│thread net0 +│.*\n.*│running +│/);
  t.match(
    pathOf(changed({ notify: [{ space: 'memory', address: '0xd0000050', by: 'exit' }] }), 'kick'),
    [
      'guestKernel vmm: VM exit to user space',
      'vmm hostKernel: system call',
      'hostKernel vmm: wake-up',
    ],
    'without an ioeventfd',
  );
  t.same(pathOf(changed({ poll: 'always' }), 'kick'), ['vmm vmm: stays'], 'polled');
  t.match(text(changed({ poll: 'adaptive' })), /epoll_wait, unless it polls/);
  for (const interrupt of ['intx', 'line'] as const) {
    t.same(
      pathOf(changed({ interrupt }), 'interrupt'),
      [
        'vmm hostKernel: system call',
        'hostKernel vmm: wake-up',
        'vmm hostKernel: system call',
        'hostKernel guestKernel: VM entry',
      ],
      `${interrupt}: by the main thread, which keeps the status register`,
    );
  }
  const [receive, transmit] = IN_PROCESS.queues;
  if (receive === undefined || transmit === undefined) throw new Error('no queues');
  const silent = changed({ queues: [{ ...receive, vector: null, held: 0 }, transmit] });
  t.match(text(silent), /MSI-X vector 2/);
  t.same(silent.notes, ['Held: receiveq1.', 'The driver has no interrupt for receiveq1.']);
  const none = changed({ queues: [{ ...receive, vector: null }] });
  t.same(pathOf(none, 'interrupt'), []);
  t.same(none.notes, ['The driver has no interrupt for any queue.']);
  t.match(text(changed({ queues: [{ ...receive, enabled: false }] })), /none of 1 enabled/);
  const gone = { name: '/net.sock', gone: true };
  t.match(text(changed({ datapath: 'vhost-user', backend: gone })), /The backend has left\./);
  t.match(drawDevice(DATAPATHS.vhost.device).notes, [/does not say/, /itself serves controlq/]);
  for (const interrupt of ['msi-x', 'intx', 'line'] as const) {
    const idle = drawDevice({ ...IN_PROCESS, interrupt, status: 0 });
    t.match(text(idle), /│no driver +│/);
    t.same([pathOf(idle, 'kick'), pathOf(idle, 'interrupt')], [[], []], interrupt);
  }
  t.same(changed({ status: 0x4f }).notes, ['The device has stopped and asks for a reset.']);
  const { place: _, backend: __, interrupt: ___, ...unplugged } = IN_PROCESS;
  const bare = drawDevice({ ...unplugged, notify: [], status: 0 });
  t.same([pathOf(bare, 'kick'), pathOf(bare, 'interrupt')], [[], []]);
  t.match(text(bare), /not plugged in.*by the device’s own code/s);
  t.end();
});

t.test('how often a traced device is notified, notifies, and serves', (t) => {
  const activity = { kicks: '12 kicks/s', chains: '340 chains/s', interrupts: '1.5 interrupts/s' };
  const { steps } = drawDevice(IN_PROCESS, undefined, activity);
  t.same(
    steps.filter(({ text }) => text.includes('/s')).map(({ path, text }) => `${path} ${text}`),
    [
      'data readv, writev; 340 chains/s',
      'kick eventfd, epoll_wait; 12 kicks/s',
      'interrupt eventfd; 1.5 interrupts/s',
    ],
  );
  t.end();
});

t.test('a function that the host took back, or that does not interrupt', (t) => {
  t.same(drawFunction(aFunction({ gone: true })).steps, []);
  t.same(drawFunction(aFunction({ gone: true })).notes, ['The host has taken it back.']);
  const quiet = drawFunction(aFunction({ interrupts: { mode: 'none', used: 0, vectors: 0 } }));
  t.same(pathOf(quiet, 'interrupt'), []);
  const pin = drawFunction(aFunction({ interrupts: { mode: 'INTx', used: 1, vectors: 1 } }));
  t.match(drawText(pin, 120).join('\n'), /end of interrupt unmasks it/);
  t.end();
});

t.test('a machine’s devices in order, or one, with the drivers of their places', (t) => {
  const drivers = new Map([['PCI 00:05.0', { name: 'nvme', userland: false }]]);
  const titles = (only?: string): string[] =>
    drawMachine(anInspection(), { drivers }, only).map(({ title }) => title.split(':')[0] ?? '');
  t.same(titles(), ['idle0', 'busy0', 'vfio0']);
  t.same(titles('vfio0'), ['vfio0']);
  t.same(titles('nosuch'), []);
  const [drawn] = drawMachine(anInspection(), { drivers }, 'vfio0');
  t.ok(drawn?.boxes.some(({ title }) => title === 'nvme'));
  t.end();
});

const IN_PROCESS_TEXT = `
net0: network, PCI 00:03.0, served in nodevmm
          guest user space  guest kernel      nodevmm           other process     host kernel       hardware
          ┌───────────────┐ ┌───────────────┐║┌───────────────┐                   ┌───────────────┐
          │programs       │ │virtio_net     │║│vCPU threads   │                   │KVM            │
          └───────────────┘ └───────────────┘║└───────────────┘                   └───────────────┘
                  ┊                 ┊        ║┌───────────────┐                   ┌───────────────┐
                  ┊                 ┊        ║│thread net0    │                   │tap nodevmm0   │
                  ┊                 ┊        ║│blocked        │                   └───────────────┘
                  ┊                 ┊        ║└───────────────┘                           ┊
rings             ┊                 shared memory: 2 queues, split: receiveq1 at 0x1f7c000, transmitq1 at 0x1f80000
                  ┊                 ●════════╬════════●                                   ┊
control           ┊                 ├────────╫────────▶ VM exit to user space: registers  ┊
data              ◀─────────────────▶ guest system call: programs’ reads and writes       ┊
                  ┊                 ┊        ║        ◀── system call: readv, writev ─────▶
kick              ┊                 ├── VM exit: port 0xc020, ioeventfd ──────────────────▶
                  ┊                 ┊        ║        ◀── wake-up: eventfd, epoll_wait ───┤
interrupt         ┊                 ┊        ║        ├── system call: eventfd ───────────▶
                  ┊                 ◀── VM entry: irqfd, MSI-X vectors 1, 2 ──────────────┤
`;

const VFIO_TEXT = `
vfio0: PCI function 1b36:0010 of the host, PCI 00:05.0, hardware (VFIO)
          guest user space  guest kernel      nodevmm           other process     host kernel       hardware
          ┌───────────────┐ ┌───────────────┐║┌───────────────┐                   ┌───────────────┐ ┌───────────────┐
          │programs       │ │nvme           │║│vCPU threads   │                   │KVM            │ │1b36:0010      │
          └───────────────┘ └───────────────┘║└───────────────┘                   └───────────────┘ │0000:01:00.0   │
                  ┊                 ┊        ║        ┊                           ┌───────────────┐ └───────────────┘
                  ┊                 ┊        ║        ┊                           │vfio-pci       │         ┊
                  ┊                 ┊        ║        ┊                           └───────────────┘         ┊
rings             ┊                 DMA through the IOMMU: where the driver put them; 512 MiB of guest RAM mapped
                  ┊                 ●════════╬══════════════════════════════════════════════════════════════●
control           ┊                 ├────────╫────────▶ VM exit to user space: configuration space, MSI-X table
                  ┊                 ┊        ║        system call: pread, pwrite, VFIO_DEVICE_SET_IRQS      ┊
                  ┊                 ┊        ║        ├───────────────────────────────────▶                 ┊
                  ┊                 ┊        ║        ┊                  bus: by vfio-pci ├─────────────────▶
data              ◀─────────────────▶ guest system call: programs’ reads and writes       ┊                 ┊
                  ┊                 ●══ DMA through the IOMMU: by the device ═══════════════════════════════●
kick              ┊                 ├── no exit, bus: BAR 0 at 0xc0000000, memory slots of KVM ─────────────▶
                  ┊                 VM exit to user space: what is not mapped of BAR 0 at 0xc0000000        ┊
                  ┊                 ├────────╫────────▶                                   ┊                 ┊
interrupt         ┊                 ┊        ║        ┊             bus: MSI-X, 2 vectors ◀─────────────────┤
                  ┊                 ◀── VM entry: irqfd ──────────────────────────────────┤                 ┊
`;

t.test('as text', (t) => {
  for (const [name, text] of [
    ['in-process', IN_PROCESS_TEXT],
    ['vfio', VFIO_TEXT],
  ] as const) {
    const drawing = ALL.get(name);
    if (drawing === undefined) throw new Error(`no drawing ${name}`);
    t.same(drawText(drawing, 120), text.split('\n').slice(1, -1), name);
  }
  t.end();
});

/** The attributes of an SVG's elements of a kind, as numbers where they are. */
function elements(svg: string, name: string): Record<string, string>[] {
  return [...svg.matchAll(new RegExp(`<${name}((?: [\\w-]+="[^"]*")*)/?>`, 'g'))].map(
    ([, attributes = '']) =>
      Object.fromEntries(
        [...attributes.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, key, value]) => [key, value]),
      ),
  );
}

/** As wide as the widest of the fonts. */
const CHARACTER = 11.5 * 0.61;

/** What of a drawing's texts leaves it, or overlaps another. */
function collisions(svg: string): string[] {
  const [outer] = elements(svg, 'svg');
  const texts = [...svg.matchAll(/<text ([^>]*)>(.*?)<\/text>/g)].map(
    ([, attributes = '', content = '']) => {
      const [, style = ''] = /class="([^"]*)"/.exec(attributes) ?? [];
      const [x = 0, y = 0] = ['x', 'y'].map((key) =>
        Number(new RegExp(` ${key}="([^"]*)"`).exec(` ${attributes}`)?.[1]),
      );
      const plain = content.replace(/<[^>]*>/g, '').replace(/&\w+;|&#\d+;/g, '-');
      const width = plain.length * CHARACTER;
      const left = style.includes('middle') ? x - width / 2 : x;
      return { plain, left, right: left + width, top: y - 10, bottom: y + 3 };
    },
  );
  const wrong: string[] = [];
  for (const [at, one] of texts.entries()) {
    if (one.left < 0 || one.right > Number(outer?.width) || one.bottom > Number(outer?.height)) {
      wrong.push(`${one.plain} leaves`);
    }
    for (const other of texts.slice(at + 1)) {
      const apart =
        one.right <= other.left ||
        other.right <= one.left ||
        one.bottom <= other.top ||
        other.bottom <= one.top;
      if (!apart) wrong.push(`${one.plain} on ${other.plain}`);
    }
  }
  return wrong;
}

t.test('texts neither overlap nor leave the picture', (t) => {
  for (const [name, drawing] of ALL) t.same(collisions(drawSvg(drawing).svg), [], name);
  t.end();
});

t.test('a file of several, one below the other', (t) => {
  const file = drawSvgFile([...ALL.values()]);
  const [outer, ...inner] = elements(file, 'svg');
  t.equal(inner.length, ALL.size);
  let end = 0;
  for (const { y = '0', height } of inner) {
    t.ok(Number(y) >= end);
    end = Number(y) + Number(height);
  }
  t.equal(Number(outer?.height), end);
  t.match(drawSvgFile([]), /^<svg .*<\/svg>\n$/s);
  t.end();
});

t.test('whatever is in them: marked up, within the lines, apart', (t) => {
  const word = fc.oneof(
    fc.constantFrom(
      '<script>',
      '&',
      '/a/very/long/path/that/no/box/has/room/for.raw',
      'x'.repeat(300),
      '',
    ),
    fc.string({ maxLength: 60 }),
  );
  const queue = fc.record({ name: word, enabled: fc.boolean(), vector: fc.option(fc.nat(70)) });
  fc.assert(
    fc.property(
      fc.constantFrom(
        'userspace' as const,
        'vhost' as const,
        'vhost-user' as const,
        'vdpa' as const,
      ),
      fc.constantFrom('msi-x' as const, 'intx' as const, 'line' as const),
      fc.array(queue, { maxLength: 70 }),
      word,
      fc.boolean(),
      fc.integer({ min: 40, max: 240 }),
      (datapath, interrupt, queues, name, userland, columns) => {
        const [like] = IN_PROCESS.queues;
        if (like === undefined) return false;
        const drawing = drawDevice(
          {
            ...IN_PROCESS,
            datapath,
            interrupt,
            backend: { name, calls: name },
            queues: queues.map((one, index) => ({ ...like, ...one, index })),
          },
          { name: 'virtio_net', userland },
        );
        const { svg } = drawSvg(drawing);
        const lines = drawText(drawing, columns);
        return (
          collisions(svg).length === 0 &&
          !/<script|NaN|undefined/.test(svg) &&
          lines.every((line) => line.length <= Math.max(columns, 58))
        );
      },
    ),
    { numRuns: 100 },
  );
  t.end();
});

t.test('text that has to fit', (t) => {
  t.same(wrap('thread net0', 8), ['thread', 'net0']);
  t.same(wrap('a b c', 3), ['a b', 'c']);
  t.equal(cut('/run/user/net.sock', 9), '…net.sock');
  t.equal(cut('a long name', 6), 'a lon…');
  t.end();
});
