/**
 * Whatever a guest does to the registers of a virtio function: nothing throws, nothing reads wider
 * than requested, and the registers stay consistent.
 */
import fc from 'fast-check';
import t from 'tap';
import { VirtioPciRig } from '../../../support/rigs/virtio-pci.ts';

type Access = readonly [space: number, offset: number, size: number, value: number, write: boolean];

const STATUS_BITS = 0xcf;

/** Offsets that mean something, more often than others. */
const offset = fc.oneof(
  fc.nat(0x3f),
  fc.nat(0xff),
  fc.nat(0xfff),
  fc.constantFrom(0x1000, 0x1001, 0x2000, 0x2004, 0x2009, 0x800, 0x3ffc, 0x3fff),
);
const value = fc.oneof(
  fc.nat(0xf),
  fc.constantFrom(0, 1, 2, 3, 0xf, 0xb, 0x80, 0x101, 0xffff, 0xffff_ffff, 0xc010_0000, 0xe000_0000),
  fc.nat(0xffff_ffff),
);
const access: fc.Arbitrary<Access> = fc.tuple(
  fc.nat(8),
  offset,
  fc.constantFrom(1, 2, 4),
  value,
  fc.boolean(),
);

/** Runs an access; returns what was read, or 0. */
function run(rig: VirtioPciRig, [space, at, size, raw, write]: Access): number {
  const data = size === 4 ? raw : raw % 2 ** (8 * size);
  const io = space === 7 || space === 8;
  const address =
    space < 6
      ? rig.bar(space) + at
      : space === 6
        ? 0xe000_0000 + (1 << 15) + at
        : space === 7
          ? 0xcf8 + (at & 7)
          : 0x1000 + at;
  if (io && write) rig.writePort(address, size, data);
  else if (io) return rig.readPort(address, size);
  else if (write) rig.writeMemory(address, size, data);
  else return rig.readMemory(address, size);
  return 0;
}

/** What must hold at any time. */
function check(rig: VirtioPciRig): string | undefined {
  const { registers } = rig.device;
  if ((registers.status & ~STATUS_BITS) !== 0) return `status ${registers.status}`;
  if ((registers.status & 4) !== 0 && (registers.status & 8) === 0) return 'DRIVER_OK alone';
  if ((registers.status & 8) !== 0 && (registers.driverFeatures & ~rig.shape.features) !== 0n) {
    return 'accepted what was not offered';
  }
  if ((registers.status & 8) !== 0 && (registers.driverFeatures & (1n << 32n)) === 0n) {
    return 'accepted without VIRTIO_F_VERSION_1';
  }
  for (const [queue, most] of rig.shape.queueSizes.entries()) {
    const config = registers.queueConfig(queue, 0, 0);
    if (config === undefined) continue;
    const { size } = config;
    if (size < 1 || size > most || (size & (size - 1)) !== 0) return `queue size ${size}`;
  }
  if (rig.bus === undefined || rig.config(0, 4) !== 0x106a_1af4) return 'identity';
  const open = registers.isr !== 0 && rig.port.lines.get(17) !== true;
  const disabled =
    (rig.config(4, 2) & 0x400) !== 0 || (rig.config(rig.msix() + 2, 2) & 0x8000) !== 0;
  if (open && !disabled) return 'the line does not follow the ISR';
  if (registers.isr === 0 && rig.port.lines.get(17) === true) return 'the line is stuck';
  const { view } = registers.config;
  for (const at of [0, 1, 2, 3, 6, 7, 8, 9]) {
    if (view.getUint8(at) !== at + 1) return `read-only configuration at ${at}`;
  }
  return undefined;
}

/** The owner answers at some time; queue resets of its own accord. */
function answer(rig: VirtioPciRig): void {
  const { registers } = rig.device;
  for (const event of rig.takeEvents()) {
    if (event === '1: queues changed' && !registers.isResetting) {
      for (const queue of registers.queuesResetting()) registers.completeQueueReset(queue);
    }
    if (event === '1: reset') registers.completeReset();
    if (event === '1: driver ok') rig.device.assertQueueInterrupt();
  }
}

for (const start of ['from reset', 'from a running driver'] as const) {
  for (const notify of ['memory', 'io'] as const) {
    t.test(`${start}, doorbells in ${notify}: any accesses`, async (t) => {
      fc.assert(
        fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
          using rig = new VirtioPciRig({ notify });
          if (start === 'from reset') rig.enableDecoding();
          else rig.initialize(2);
          for (const [i, one] of accesses.entries()) {
            const read = run(rig, one);
            const limit = 2 ** (8 * one[2]);
            if (!Number.isInteger(read) || read < 0 || read >= limit) return false;
            if (i % 8 === 7) answer(rig);
            const wrong = check(rig);
            if (wrong !== undefined) throw new Error(wrong);
          }
          return true;
        }),
        { numRuns: 300, seed: 20261121 },
      );
      t.pass('held');
    });
  }
}
