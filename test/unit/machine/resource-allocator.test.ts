import t from 'tap';
import { E1000_IO_SIZE, E1000_MEMORY_SIZE } from '../../../src/abi/e1000.ts';
import type { Datapath } from '../../../src/datapath/datapath.ts';
import { Board } from '../../../src/machine/board/board.ts';
import type { DevicePlan } from '../../../src/machine/board/board-devices.ts';
import { E1000MachineDevice } from '../../../src/machine/devices/e1000-device.ts';
import {
  LateResources,
  ResourceAllocator,
} from '../../../src/machine/devices/resource-allocator.ts';
import { planVirtio } from '../../../src/machine/devices/virtio-plan.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import type { E1000Device } from '../../../src/nic/device.ts';
import {
  IOAPIC_ADDRESS,
  PCI_ECAM_BASE,
  PCI_ECAM_SIZE,
  PCI_MMIO32_BASE,
  PCI_MMIO32_LIMIT,
  VIRTIO_MMIO_BASE,
  VIRTIO_MMIO_WINDOWS,
} from '../../../src/platform/layout.ts';
import type { TransportName } from '../../../src/virtio/device-type.ts';
import { VIRTIO_MMIO_WINDOW_SIZE } from '../../../src/virtio/transport/mmio.ts';
import {
  notifyBarSize,
  VIRTIO_MSIX_BAR_SIZE,
  VIRTIO_STRUCTURES_BAR_SIZE,
  type VirtioPciPlan,
} from '../../../src/virtio/transport/pci.ts';
import type { DeviceShape } from '../../../src/virtio/transport/transport.ts';

type Planned = (resources: ResourceAllocator) => DevicePlan;

const shapeOf = (queues: number): DeviceShape => ({
  name: `with${queues}`,
  deviceId: 1,
  features: 0n,
  featureDependencies: [],
  queueSizes: new Array<number>(queues).fill(64),
  config: new Uint8Array(0),
  configWriteMask: new Uint8Array(0),
});

function entry(queues: number, transport: TransportName = 'pci'): Planned {
  return (resources) => planVirtio(transport, shapeOf(queues), 0, resources);
}
const card = { name: 'card', macBytes: Uint8Array.of(2, 0, 0, 0, 0, 1) } as E1000Device;
const datapath = { withheld: 0n } as Datapath;
const nic: Planned = (resources) =>
  new E1000MachineDevice(
    card,
    () => {},
    () => datapath,
  ).plan(resources);
const QUEUES = [1, 6, 3, 17, 64];
const entries = [
  ...[1, 6, 3].map((queues) => entry(queues)),
  nic,
  ...[17, 64].map((queues) => entry(queues)),
  nic,
];

t.test('notifications to pages of the host', (t) => {
  using resources = new ResourceAllocator('io');
  const shape = {
    name: 'paged',
    deviceId: 2,
    features: 0n,
    featureDependencies: [],
    queueSizes: [64, 64, 64],
    config: new Uint8Array(0),
    configWriteMask: new Uint8Array(0),
  };
  const addresses = [0x7000, 0x8000, 0x9000];
  const [first, second] = [0, 1].map(
    () => planVirtio('pci', shape, 0, resources, addresses).plan,
  ) as [VirtioPciPlan, VirtioPciPlan];
  t.equal(first.notify, 'memory');
  t.same(first.pages?.addresses, addresses);
  t.equal(second.pages?.memorySlot, (first.pages?.memorySlot ?? 0) + 3);
  t.equal(notifyBarSize(3, true), 0x4000, 'a page each');
  t.ok(second.structuresAddress >= first.notifyAddress + 0x4000);
  t.notOk('pages' in planVirtio('mmio', shape, 0, resources, addresses).plan);
  t.end();
});

/** What a board of these devices takes. */
class Planning implements Disposable {
  readonly resources: ResourceAllocator;
  readonly plans: readonly DevicePlan[];

  constructor(devices: readonly Planned[], notify: 'io' | 'memory') {
    this.resources = new ResourceAllocator(notify);
    this.plans = devices.map((plan) => plan(this.resources));
  }

  [Symbol.dispose](): void {
    this.resources.close();
  }
}

function virtioOf({ plans }: Planning): VirtioPciPlan[] {
  return plans.flatMap((fn) => (fn.model === 'virtio-pci' ? [fn.plan] : []));
}

/** Every range of every function on the bus: address and size. */
function ranges(plan: Planning, ports: boolean): (readonly [number, number])[] {
  return plan.plans.flatMap(({ model, plan: fn }) => {
    if (model === 'e1000') {
      if (ports) return [[fn.ioAddress, E1000_IO_SIZE] as const];
      return [[fn.memoryAddress, E1000_MEMORY_SIZE] as const];
    }
    if (model !== 'virtio-pci') return [];
    const notify = [fn.notifyAddress, notifyBarSize(fn.kicks.length)] as const;
    if (ports) return fn.notify === 'io' ? [notify] : [];
    return [
      [fn.structuresAddress, VIRTIO_STRUCTURES_BAR_SIZE] as const,
      [fn.msixAddress, VIRTIO_MSIX_BAR_SIZE] as const,
      ...(fn.notify === 'memory' ? [notify] : []),
    ];
  });
}

for (const notify of ['memory', 'io'] as const) {
  t.test(`BARs are aligned, in their window, and apart; doorbells in ${notify}`, async (t) => {
    using plan = new Planning(entries, notify);
    for (const ports of [false, true]) {
      const [low, high] = ports ? [0x1000, 0x1_0000] : [PCI_MMIO32_BASE, PCI_MMIO32_LIMIT];
      const sorted = ranges(plan, ports).sort(([a], [b]) => a - b);
      let end = low;
      for (const [address, size] of sorted) {
        t.equal(address % size, 0);
        t.ok(address >= end && address + size <= high);
        end = address + size;
      }
    }
    t.equal(ranges(plan, true).length, notify === 'io' ? entries.length : 2);
  });
}

t.test('slots follow the host bridge', async (t) => {
  using plan = new Planning(entries, 'memory');
  t.same(
    plan.plans.map(({ plan }) => ('slot' in plan ? plan.slot : undefined)),
    [1, 2, 3, 4, 5, 6, 7],
  );
});

t.test('devices in memory have windows of their own, outside of RAM, bus and APICs', async (t) => {
  const windowed = QUEUES.map((queues) => entry(queues, 'mmio'));
  const mmio = [...windowed, nic, nic, ...windowed, nic, nic];
  using plan = new Planning([...entries, ...mmio], 'memory');
  const windows = plan.plans.flatMap((fn) => (fn.model === 'virtio-mmio' ? [fn.plan] : []));
  t.equal(windows.length, 10);
  let end = PCI_ECAM_BASE + PCI_ECAM_SIZE;
  for (const [number, { index, address, shape, kicks, lineEventfd }] of windows.entries()) {
    t.equal(index, number);
    t.equal(address % VIRTIO_MMIO_WINDOW_SIZE, 0);
    t.ok(address >= end);
    end = address + VIRTIO_MMIO_WINDOW_SIZE;
    t.equal(kicks.length, shape.queueSizes.length);
    t.notOk(kicks.includes(lineEventfd));
  }
  t.ok(VIRTIO_MMIO_BASE + VIRTIO_MMIO_WINDOWS * VIRTIO_MMIO_WINDOW_SIZE <= IOAPIC_ADDRESS);
  const slots = plan.plans.flatMap(({ plan }) => ('slot' in plan ? [plan.slot] : []));
  t.same(slots, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 'and take no slots');
});

t.test('every queue has a kick, every queue and the configuration a vector', async (t) => {
  using plan = new Planning(entries, 'memory');
  const fds = new Set<number>();
  const gsis: number[] = [];
  for (const { shape, kicks, vectors, intxEventfd } of virtioOf(plan)) {
    t.equal(kicks.length, shape.queueSizes.length);
    t.equal(vectors.length, shape.queueSizes.length + 1);
    for (const fd of [...kicks, intxEventfd, ...vectors.map(({ eventfd }) => eventfd)]) {
      t.notOk(fds.has(fd), 'eventfds are not shared');
      fds.add(fd);
    }
    gsis.push(...vectors.map(({ gsi }) => gsi));
  }
  t.same(
    gsis,
    gsis.map((_, route) => Board.msiGsi(route)),
  );
  t.equal(plan.resources.routes, gsis.length);
});

t.test('64-bit BARs go above RAM while there is room, then below 4 GiB', async (t) => {
  using resources = new ResourceAllocator('io', { base: 64 * GiB, size: 8 * GiB });
  t.equal(resources.memory64(16 * MiB), 64 * GiB);
  t.equal(resources.memory64(4 * GiB), 68 * GiB);
  t.equal(resources.memory64(256 * MiB), PCI_MMIO32_BASE, 'the window is full');
  using without = new ResourceAllocator('io');
  t.equal(without.memory64(16 * MiB), PCI_MMIO32_BASE);
});

t.test('a BAR that no window has room for is refused', async (t) => {
  using resources = new ResourceAllocator('io');
  resources.memory(256 * MiB);
  t.throws(() => resources.memory64(512 * MiB), {
    code: 'E_BAR',
    message: /512 MiB has no room for a BAR of 512 MiB/,
  });
  t.equal(resources.memory(0x1000), PCI_MMIO32_BASE + 256 * MiB, 'others still fit');
});

t.test('memory slots, after those of RAM', async (t) => {
  using resources = new ResourceAllocator('io');
  t.equal(resources.memorySlots(3), 8);
  t.equal(resources.memorySlots(0), 11);
  t.equal(resources.memorySlots(1), 11);
});

t.test('late devices take and give back: slots, interrupts, descriptors', (t) => {
  using resources = new ResourceAllocator('io');
  entry(3)(resources);
  const before = resources.routes;
  const taken: number[][] = [];
  for (let round = 0; round < 3; round++) {
    using late = resources.late();
    const plan = planVirtio('pci', shapeOf(4), 0, late).plan as VirtioPciPlan;
    t.equal(plan.slot, 2, 'the first free one');
    t.same([plan.structuresAddress, plan.msixAddress, plan.notifyAddress], [0, 0, 0]);
    taken.push(plan.vectors.map(({ gsi }) => gsi).sort((a, b) => a - b));
    resources.giveBackSlot(plan.slot);
  }
  t.same(taken[1], taken[0]);
  t.same(taken[2], taken[0]);
  t.equal(resources.routes, before + 5, 'no more than were in use at a time');
  const slots = Array.from({ length: 30 }, () => resources.late().slot());
  t.same(new Set(slots).size, 30);
  t.throws(() => resources.late(), { code: 'E_DEVICES' });
  t.throws(
    () => new LateResources('io', 1, { take: () => 0, giveBack: () => {} }).memorySlots(129),
    {
      code: 'E_HOTPLUG',
    },
  );
  t.end();
});
