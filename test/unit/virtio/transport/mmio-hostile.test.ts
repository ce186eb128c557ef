/**
 * Whatever a guest does to a window of virtio over MMIO: nothing throws, nothing reads wider than
 * requested, and the registers stay consistent.
 */
import fc from 'fast-check';
import t from 'tap';
import * as mmio from '../../../../src/abi/virtio-mmio.ts';
import { signalEventfd } from '../../../../src/host/fd.ts';
import { VirtioMmioRig } from '../../../support/rigs/virtio-mmio.ts';

type Access = readonly [offset: number, size: number, value: number, write: boolean];

const STATUS_BITS = 0xcf;
const GSI = 20;

/** Registers that something hangs on, more often than others. */
const offset = fc.oneof(
  fc.constantFrom(0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x94, 0xc0),
  fc.nat(0x3f).map((register) => 4 * register),
  fc.nat(0x10f),
  fc.constantFrom(0x1ff8, 0x1ffc, 0x1ffe, 0x1fff),
);
const value = fc.oneof(
  fc.nat(3),
  fc.constantFrom(0, 1, 3, 0xb, 0xf, 0x21, 0x40, 0x80, 0x101, 0xffff, 0x8000_0000, 0xffff_ffff),
  fc.nat(0xffff_ffff),
);
const access: fc.Arbitrary<Access> = fc.tuple(
  offset,
  fc.constantFrom(4, 4, 4, 2, 1),
  value,
  fc.boolean(),
);

/** What must hold at any time. */
function check(rig: VirtioMmioRig): string | undefined {
  const { registers } = rig.device;
  const { status } = registers;
  if ((status & ~STATUS_BITS) !== 0) return `status ${status}`;
  if ((status & 4) !== 0 && (status & 8) === 0) return 'DRIVER_OK alone';
  if ((status & 8) !== 0) {
    if ((registers.driverFeatures & ~rig.shape.features) !== 0n) return 'accepted too much';
    if ((registers.driverFeatures & (1n << 32n)) === 0n) return 'no VIRTIO_F_VERSION_1';
  }
  for (const [queue, most] of rig.shape.queueSizes.entries()) {
    const size = registers.queueConfig(queue, 0, 0)?.size ?? 1;
    if (size < 1 || size > most || (size & (size - 1)) !== 0) return `queue size ${size}`;
  }
  if (rig.read(0) !== 0x7472_6976 || rig.read(4) !== 2 || rig.read(8) !== 42) return 'identity';
  if (registers.isr > 3 || registers.isr < 0) return `InterruptStatus ${registers.isr}`;
  if ((registers.isr !== 0) !== (rig.port.lines.get(GSI) ?? false)) return 'the line';
  const { view } = registers.config;
  for (const at of [0, 1, 2, 3, 6, 7, 8, 9]) {
    if (view.getUint8(at) !== at + 1) return `read-only configuration at ${at}`;
  }
  return undefined;
}

/** The owner answers out of turn, and uses a buffer. */
function answer(rig: VirtioMmioRig): void {
  const { registers, lineEventfd } = rig.device;
  rig.takeEvents();
  if (!registers.isResetting) {
    for (const queue of registers.queuesResetting()) registers.completeQueueReset(queue);
  }
  if (registers.isActive) signalEventfd(lineEventfd);
}

for (const start of ['from reset', 'from a running driver'] as const) {
  for (const owner of ['answers while it is waited for', 'is late'] as const) {
    t.test(`${start}, an owner that ${owner}: any accesses`, async (t) => {
      fc.assert(
        fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
          using rig = new VirtioMmioRig();
          if (start === 'from a running driver') rig.initialize(2);
          if (owner === 'answers while it is waited for') rig.answer();
          for (const [i, [at, size, raw, write]] of accesses.entries()) {
            const limit = 2 ** (8 * size);
            if (write) rig.write(at, raw % limit, size);
            else {
              const read = rig.read(at, size);
              if (!Number.isInteger(read) || read < 0 || read >= limit) return false;
            }
            if (i % 8 === 7) {
              if (rig.device.registers.isResetting) rig.device.registers.completeReset();
              answer(rig);
            }
            const wrong = check(rig);
            if (wrong !== undefined) throw new Error(wrong);
            if (owner === 'is late') continue;
            // What the driver reads back once is over.
            const queue = rig.device.registers.queueSelect >>> 0;
            if (write && size === 4 && at === mmio.VIRTIO_MMIO_QUEUE_READY && raw === 0) {
              if (rig.read(at) !== 0) throw new Error(`queue ${queue} is still ready`);
            }
            if (write && size === 4 && at === mmio.VIRTIO_MMIO_STATUS && raw === 0) {
              if (rig.status !== 0) throw new Error('the reset is not over');
            }
          }
          return true;
        }),
        { numRuns: 500, seed: 20261121 },
      );
      t.pass('held');
    });
  }
}
