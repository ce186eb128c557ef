import t from 'tap';
import { E1000_IO_SIZE, E1000_MEMORY_SIZE } from '../../../src/abi/e1000.ts';
import { Board } from '../../../src/machine/board.ts';
import { type DeviceEntry, DevicePlaces } from '../../../src/machine/device-places.ts';
import { PCI_MMIO32_BASE, PCI_MMIO32_LIMIT } from '../../../src/platform/layout.ts';
import {
  notifyBarSize,
  VIRTIO_MSIX_BAR_SIZE,
  VIRTIO_STRUCTURES_BAR_SIZE,
  type VirtioPciPlan,
} from '../../../src/virtio/transport/pci.ts';

function entry(queues: number): DeviceEntry {
  return {
    kind: 'virtio',
    pciClass: 0,
    shape: {
      name: `with${queues}`,
      deviceId: 1,
      features: 0n,
      featureDependencies: [],
      queueSizes: new Array<number>(queues).fill(64),
      config: new Uint8Array(0),
      configWriteMask: new Uint8Array(0),
    },
  };
}
const nic: DeviceEntry = { kind: 'e1000', name: 'card', mac: Uint8Array.of(2, 0, 0, 0, 0, 1) };
const entries = [...[1, 6, 3].map(entry), nic, ...[17, 64].map(entry), nic];

function virtioOf(plan: DevicePlaces): VirtioPciPlan[] {
  return plan.plans.flatMap((fn) => (fn.kind === 'virtio-pci' ? [fn.plan] : []));
}

/** Every range of every function: address and size. */
function ranges(plan: DevicePlaces, ports: boolean): (readonly [number, number])[] {
  return plan.plans.flatMap(({ kind, plan: fn }) => {
    if (kind === 'e1000') {
      if (ports) return [[fn.ioAddress, E1000_IO_SIZE] as const];
      return [[fn.memoryAddress, E1000_MEMORY_SIZE] as const];
    }
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
    using plan = new DevicePlaces(entries, notify);
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
  using plan = new DevicePlaces(entries, 'memory');
  t.same(
    plan.plans.map(({ plan: { slot } }) => slot),
    [1, 2, 3, 4, 5, 6, 7],
  );
});

t.test('every queue has a kick, every queue and the configuration a vector', async (t) => {
  using plan = new DevicePlaces(entries, 'memory');
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
});
