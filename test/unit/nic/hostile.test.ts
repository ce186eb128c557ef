/**
 * Whatever a driver writes into registers and rings: nothing throws, nothing outside of guest RAM is
 * touched, the interrupt line follows cause and mask, and a reset makes a working card of it.
 */
import fc from 'fast-check';
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import { E1000Rig, frame, MAC, RX_RING, TX_BUFFERS, TX_RING } from '../../support/rigs/e1000.ts';

const RING = 16;

/** Registers that mean something, more often than others. */
const offset = fc.oneof(
  fc.constantFrom(
    ...[e1000.CTRL, e1000.EECD, e1000.EERD, e1000.MDIC, e1000.ICR, e1000.ICS, e1000.IMS, e1000.IMC],
    ...[e1000.RCTL, e1000.TCTL, e1000.RDBAL, e1000.RDBAH, e1000.RDLEN, e1000.RDH, e1000.RDT],
    ...[e1000.TDBAL, e1000.TDBAH, e1000.TDLEN, e1000.TDH, e1000.TDT],
  ),
  fc.constantFrom(e1000.TDT, e1000.RDT, e1000.RCTL, e1000.TCTL),
  fc.nat(0x1_ffff),
);
const value = fc.oneof(
  fc.nat(RING),
  fc.constantFrom(0, 2, 0x80, 0x100, 0xffff, 0xffff_ffff, TX_RING, RX_RING, e1000.CTRL_RST),
  fc.nat(0xffff_ffff),
);
const descriptor = fc.record({
  address: fc.oneof(
    {
      weight: 8,
      arbitrary: fc.integer({ min: TX_BUFFERS, max: TX_BUFFERS + 0x1_0000 }).map(BigInt),
    },
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    fc.constantFrom(0n, 8n * 2n ** 20n - 4n, 2n ** 32n, 2n ** 64n - 1n),
  ),
  lower: fc.oneof(
    fc.nat(200).map((length) => length | e1000.TXD_CMD_EOP),
    fc.nat(0xffff_ffff),
    fc
      .nat(0xffff)
      .map((length) => (length | e1000.TXD_CMD_DEXT | e1000.TXD_CMD_EOP | 0x10_0000) >>> 0),
    fc
      .nat(0xffff)
      .map((length) => (length | 0x3000_0000 | e1000.TXD_CMD_TSE | e1000.TXD_CMD_EOP) >>> 0),
  ),
  upper: fc.nat(0xffff_ffff),
  /** A context descriptor's first words, instead of the address. */
  context: fc.boolean(),
});

type Step =
  | {
      readonly kind: 'write';
      readonly offset: number;
      readonly size: number;
      readonly value: number;
    }
  | { readonly kind: 'port'; readonly offset: number; readonly value: number }
  | { readonly kind: 'read'; readonly offset: number; readonly size: number }
  | { readonly kind: 'describe'; readonly ring: number; readonly at: number; readonly words: Words }
  | { readonly kind: 'arrive'; readonly length: number };
type Words = typeof descriptor extends fc.Arbitrary<infer T> ? T : never;

const size = fc.constantFrom(4, 4, 4, 2, 1);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('write' as const), offset, size, value }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      offset: fc.constantFrom(e1000.TDT, e1000.RDT),
      size: fc.constant(4),
      value: fc.nat(RING - 1),
    }),
  },
  fc.record({ kind: fc.constant('port' as const), offset: fc.nat(63), value }),
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('read' as const), offset, size }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('describe' as const),
      ring: fc.constantFrom(TX_RING, RX_RING),
      at: fc.nat(RING - 1),
      words: descriptor,
    }),
  },
  fc.record({
    kind: fc.constant('arrive' as const),
    length: fc.oneof(fc.integer({ min: 14, max: 2000 }), fc.constant(9000)),
  }),
);

function run(rig: E1000Rig, one: Step): void {
  switch (one.kind) {
    case 'write':
      rig.write(one.offset, one.size === 4 ? one.value : one.value % 2 ** (8 * one.size), one.size);
      return;
    case 'port':
      rig.writePort(one.offset & ~3, one.value);
      rig.readPort(one.offset & ~3);
      return;
    case 'read': {
      const read = rig.read(one.offset, one.size);
      if (!Number.isInteger(read) || read < 0 || read >= 2 ** (8 * one.size)) {
        throw new Error(`read ${read} with ${one.size} bytes`);
      }
      return;
    }
    case 'describe': {
      const { address, lower, upper, context } = one.words;
      const view = rig.view(one.ring + one.at * 16, 16);
      view.setBigUint64(0, address, true);
      view.setUint32(8, context ? (lower & ~0xf0_0000) >>> 0 : lower, true);
      view.setUint32(12, upper, true);
      return;
    }
    case 'arrive':
      rig.arrive(frame(MAC, one.length));
  }
}

/** What must hold at any time. */
function check(rig: E1000Rig): void {
  const { file } = rig.card.registers;
  if (rig.line !== file.interrupting) throw new Error('the line does not follow cause and mask');
  if (file.broken !== (rig.broken !== undefined) && rig.revived === 0) {
    throw new Error('a stopped card is not marked as stopped');
  }
  // Were it held now, this would wait forever.
  file.passGate();
}

t.test('any registers, descriptors and packets', async (t) => {
  let broken = 0;
  let sent = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      using rig = new E1000Rig();
      rig.start();
      for (let i = 0; i < RING; i++) rig.describe(i, 60 | e1000.TXD_CMD_EOP, 0, frame(MAC, 60));
      rig.enableTransmit(RING);
      rig.enableReceive(e1000.RCTL_BAM | e1000.RCTL_UPE, RING);
      for (const one of steps) {
        run(rig, one);
        rig.pump();
        while (rig.wire.receive() !== null) sent++;
        check(rig);
      }
      if (rig.broken !== undefined) broken++;
      // The hardest driver to please comes after it.
      rig.write(e1000.CTRL, e1000.CTRL_RST);
      rig.stop();
      rig.start();
      rig.pump();
      while (rig.wire.receive() !== null);
      rig.enableTransmit(RING);
      rig.describe(0, 100 | e1000.TXD_CMD_EOP, 0, frame(MAC));
      if (rig.send(1).length !== 1) throw new Error('a reset card does not send');
    }),
    { numRuns: 400, seed: 20261121 },
  );
  t.ok(broken > 0, `${broken} runs broke the card`);
  t.ok(sent > 0, `${sent} packets were sent all the same`);
});
