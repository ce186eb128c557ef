/** A board with a virtio device in memory, in a real VM: which notifications make no exit. */
import t from 'tap';
import { kvm_run_io } from '../../src/abi/kvm.ts';
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../src/abi/kvm-constants.ts';
import { VIRTIO_MMIO_QUEUE_NOTIFY } from '../../src/abi/virtio-mmio.ts';
import { drainEventfd } from '../../src/host/fd.ts';
import { exitName } from '../../src/kvm/exit-names.ts';
import { Board } from '../../src/machine/board/board.ts';
import { ResourceAllocator } from '../../src/machine/devices/resource-allocator.ts';
import { planVirtio } from '../../src/machine/devices/virtio-plan.ts';
import { VIRTIO_MMIO_BASE } from '../../src/platform/layout.ts';
import { SharedState } from '../../src/state/shared-state.ts';
import { kvmMissing, TinyGuest } from './tiny-guest.ts';

const skip = kvmMissing();
const PORT_DONE = 0x80;

/** mov dword es:[0x50], value */
const notify = (value: number): number[] => {
  const bytes = [value, value >> 8, value >> 16, value >>> 24].map((byte) => byte & 0xff);
  return [0x26, 0x66, 0xc7, 0x06, VIRTIO_MMIO_QUEUE_NOTIFY, 0x00, ...bytes];
};

t.test('KVM API 4.59 a notification that names its queue makes no exit', { skip }, async (t) => {
  const shape = {
    name: 'test0',
    deviceId: 42,
    features: 0n,
    featureDependencies: [],
    queueSizes: [64, 64, 64],
    config: new Uint8Array(0),
    configWriteMask: new Uint8Array(0),
  };
  using resources = new ResourceAllocator('memory');
  const plan = planVirtio('mmio', shape, 0, resources);
  const { kicks } = plan.plan;
  using guest = new TinyGuest({
    irqchip: true,
    code: [
      ...[...notify(2), ...notify(0), ...notify(0), 0xe6, PORT_DONE],
      // With VIRTIO_F_NOTIFICATION_DATA, and one that is not 32 bits wide.
      ...notify(0x8123_0001),
      ...[0x26, 0xc7, 0x06, VIRTIO_MMIO_QUEUE_NOTIFY, 0x00, 0x01, 0x00], // mov word es:[0x50], 1
    ],
  });
  const board = new Board(
    {
      buffer: SharedState.allocate(Board.stateSize(1)),
      vmFd: guest.vm.fd,
      cpus: 1,
      devices: [plan],
    },
    () => {},
  );
  t.equal(board.reset(), 0);
  t.match(board.windows, [{ address: VIRTIO_MMIO_BASE, gsi: 20 }]);
  const { es } = guest.vcpu.getSystemRegisters();
  const window = { ...es, base: BigInt(VIRTIO_MMIO_BASE), limit: 0xffff_ffffn, g: 1n };
  guest.vcpu.setSystemRegisters({ es: window });

  t.equal(guest.vcpu.enter(), 0);
  t.equal(exitName(guest.vcpu.exitReason), exitName(KVM_EXIT_IO));
  t.equal(guest.vcpu.run.getUint16(kvm_run_io.port.offset, true), PORT_DONE);
  t.same(kicks.map(drainEventfd), [true, false, true]);

  for (const size of [4, 2]) {
    t.equal(guest.vcpu.enter(), 0);
    t.equal(exitName(guest.vcpu.exitReason), exitName(KVM_EXIT_MMIO), `${size} bytes`);
  }
  t.same(kicks.map(drainEventfd), [false, false, false]);
  board.writeMemory(VIRTIO_MMIO_BASE + VIRTIO_MMIO_QUEUE_NOTIFY, 4, 0x8123_0001);
  t.same(kicks.map(drainEventfd), [false, true, false], 'the exit kicks as well');
});
