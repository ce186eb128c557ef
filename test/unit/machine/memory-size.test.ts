/** How much RAM a machine can have, and is asked to have. */
import t from 'tap';
import { growthOf, memoryState, requestMemory } from '../../../src/machine/memory-size.ts';
import type { MachineOptions } from '../../../src/machine/options.ts';
import { resolveOptions } from '../../../src/machine/resolve-options.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { MemDevice } from '../../../src/virtio/device/mem/mem.ts';

const kernel = '/k';
const machine = resolveOptions({
  kernel,
  memory: 511 * MiB,
  memoryDevice: { max: 1023 * MiB },
});

t.test('sizes in bytes, blocks of the device', async (t) => {
  const device = new MemDevice('mem0');
  device.setMemory({
    gpa: 0,
    count: 256,
    pluggedOf: () => 3,
    plug: () => true,
    unplug: () => {},
  });
  t.equal(growthOf(machine), 512 * MiB);
  requestMemory(machine, device, 911 * MiB);
  t.equal(device.requested, 200);
  const state = { target: 911 * MiB, current: 517 * MiB, max: 1023 * MiB };
  t.same(memoryState(machine, device), state);
  for (const bytes of [512 * MiB, 1025 * MiB, 509 * MiB, 0, Number.NaN, 911.5 * MiB]) {
    t.throws(() => requestMemory(machine, device, bytes), { code: 'E_MEMORY' }, `${bytes}`);
  }
  t.equal(device.requested, 200);
});

t.test('without a device it stays', async (t) => {
  const plain = resolveOptions({ kernel, memory: 512 * MiB });
  t.equal(growthOf(plain), 0);
  const state = { target: 512 * MiB, current: 512 * MiB, max: 512 * MiB };
  t.same(memoryState(plain, undefined), state);
  t.throws(() => requestMemory(plain, undefined, 512 * MiB), {
    message: /create it with memoryDe/,
  });
});

t.test('what cannot be', async (t) => {
  const memory = 512 * MiB;
  const refused = (options: Partial<MachineOptions>, message: RegExp): void => {
    const max = { max: 1024 * MiB };
    t.throws(() => resolveOptions({ kernel, memory, memoryDevice: max, ...options }), {
      code: 'E_MEMORY',
      message,
    });
  };
  refused({ memoryDevice: { max: memory } }, /^memory cannot grow from 512 to 512 MiB; /);
  refused({ memoryDevice: { max: memory + MiB } }, /whole 2 MiB more$/);
  refused({ hugePages: true }, /^mem0 and huge pages cannot be combined: /);
  refused({ iommu: true }, /^mem0 and iommu0 cannot/);
  refused({ vfio: [{ address: '0000:01:00.0' }] }, / vfio0 cannot/);
  refused({ nets: [{ vhostUser: { socket: '/s' } }] }, / net0 cannot/);
  t.throws(() => resolveOptions({ kernel, memoryDevice: {} as never }), { code: 'E_MEMORY' });
});

t.test('files as memory, too, are known to this process only', async (t) => {
  const pmems = [{ path: '/f' }];
  t.throws(() => resolveOptions({ kernel, pmems, iommu: true }), {
    code: 'E_PMEM',
    message: /^pmem0 and iommu0 cannot be combined: /,
  });
  t.doesNotThrow(() => resolveOptions({ kernel, pmems, hugePages: true }));
});
