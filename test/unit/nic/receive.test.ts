/** The receive half of the emulated 82540EM: filters, buffers, descriptors. */
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import { E1000Rig, frame, MAC, RX_BUFFERS, RX_RING } from '../../support/rigs/e1000.ts';

const { RXD_STAT_DD: DD, RXD_STAT_EOP: EOP, RXD_STAT_IXSM: IXSM, RXD_STAT_VP: VP } = e1000;
const BROADCAST = [255, 255, 255, 255, 255, 255];
const GROUP = [0x01, 0x00, 0x5e, 0x12, 0x34, 0x56];
const OTHER = [2, 0, 0, 0, 0, 1];
const FCS = 4;

function running(rctl: number = e1000.RCTL_BAM, count = 8): E1000Rig {
  const rig = new E1000Rig();
  rig.start();
  rig.enableReceive(rctl, count);
  rig.pump();
  return rig;
}

/** How many descriptors were used. */
function used(rig: E1000Rig): number {
  return rig.read(e1000.RDH);
}

t.test('SDM 3.2.3 a packet, its descriptor and its interrupt', async (t) => {
  using rig = running();
  rig.write(e1000.IMS, e1000.ICR_RXT0);
  const packet = frame(MAC);
  rig.arrive(packet);
  const { length, status, bytes } = rig.received(0);
  t.equal(length, packet.length + FCS);
  t.equal(status, DD | EOP | IXSM);
  t.same(bytes.subarray(0, packet.length), packet);
  t.same(
    [...bytes.subarray(packet.length)],
    [0, 0, 0, 0],
    'where the frame check sequence would be',
  );
  t.equal(used(rig), 1);
  t.ok(rig.line);
  t.equal(rig.read(e1000.ICR), e1000.ICR_RXT0);
  t.notOk(rig.line);
});

t.test('SDM 13.4 RCTL.SECRC: without the frame check sequence', async (t) => {
  using rig = running(e1000.RCTL_BAM | e1000.RCTL_SECRC);
  rig.arrive(frame(MAC, 60));
  t.equal(rig.received(0).length, 60);
});

t.test('what is shorter than a wire carries is padded', async (t) => {
  using rig = running();
  rig.arrive(frame(MAC, 42));
  const { length, bytes } = rig.received(0);
  t.equal(length, 64);
  t.same(bytes.subarray(42), new Uint8Array(22));
});

t.test('nothing is received before it is enabled, or without buffers', async (t) => {
  using rig = new E1000Rig();
  rig.start();
  rig.arrive(frame(MAC, 60));
  rig.arrive(frame(MAC, 70));
  t.equal(used(rig), 0);
  rig.enableReceive(0, 8, 1);
  rig.pump();
  t.equal(used(rig), 1, 'the packets waited in the tap');
  t.equal(rig.received(0).length, 64);
  rig.write(e1000.RDT, 3);
  rig.pump();
  t.equal(rig.received(1).length, 74, 'the other for a buffer');
  rig.write(e1000.RCTL, 0);
  rig.pump();
  rig.arrive(frame(MAC));
  t.equal(used(rig), 2);
});

t.test('around the end of the ring', async (t) => {
  using rig = running();
  for (let i = 0; i < 20; i++) {
    rig.arrive(frame(MAC, 100 + i));
    t.equal(rig.received(i % 8).length, 104 + i);
    rig.write(e1000.RDT, i % 8);
    rig.pump();
  }
  t.equal(used(rig), 20 % 8);
});

const FILTERS: readonly (readonly [string, number, readonly number[], boolean])[] = [
  ['an exact address', 0, [...MAC], true],
  ['the address of another', 0, OTHER, false],
  ['UPE: any single address', e1000.RCTL_UPE, OTHER, true],
  ['UPE is not about groups', e1000.RCTL_UPE, GROUP, false],
  ['a group', 0, GROUP, false],
  ['MPE: any group', e1000.RCTL_MPE, GROUP, true],
  ['a broadcast', 0, BROADCAST, false],
  ['BAM: broadcasts', e1000.RCTL_BAM, BROADCAST, true],
];
for (const [name, rctl, destination, wanted] of FILTERS) {
  t.test(`SDM 3.2.1 ${name} is ${wanted ? 'received' : 'filtered'}`, async (t) => {
    using rig = running(rctl);
    rig.arrive(frame(destination));
    t.equal(used(rig), wanted ? 1 : 0);
    t.equal(rig.read(e1000.TPR), 1, 'but seen');
  });
}

t.test('SDM 13.5 further exact addresses, valid ones', async (t) => {
  using rig = running(0);
  rig.write(e1000.RA + 8 * 15, 0x0000_0002);
  rig.write(e1000.RA + 8 * 15 + 4, 0x0100);
  rig.arrive(frame(OTHER));
  t.equal(used(rig), 0);
  rig.write(e1000.RA + 8 * 15 + 4, 0x8000_0100);
  rig.arrive(frame(OTHER));
  t.equal(used(rig), 1);
});

t.test('SDM 13.5.1 the hash of a group address, by RCTL.MO', async (t) => {
  // The last two bytes of the address, 0x34 and 0x56: a 12-bit window of 0x5634.
  for (const [offset, hash] of [0x563, 0xac6, 0x58d, 0x634].entries()) {
    using rig = running(offset << e1000.RCTL_MO_SHIFT);
    const group = [0x01, 0x00, 0x5e, 0x12, 0x34, 0x56];
    rig.arrive(frame(group));
    t.equal(used(rig), 0);
    rig.write(e1000.MTA + (hash >> 5) * 4, (1 << (hash & 31)) >>> 0);
    rig.arrive(frame(group));
    t.equal(used(rig), 1, `MO ${offset}`);
  }
});

/** With a tag behind the addresses. */
function tagged(vlan: number, length = 100): Uint8Array {
  const plain = frame(MAC, length);
  const tag = [0x81, 0x00, 0x20 | (vlan >> 8), vlan & 0xff];
  return Uint8Array.from([...plain.subarray(0, 12), ...tag, ...plain.subarray(12)]);
}

t.test('SDM 9 the VLAN filter', async (t) => {
  using rig = running(e1000.RCTL_VFE);
  rig.arrive(tagged(0x123));
  t.equal(used(rig), 0);
  rig.write(e1000.VFTA + (0x123 >> 5) * 4, 1 << (0x123 & 31));
  rig.arrive(tagged(0x123));
  t.equal(used(rig), 1);
  rig.arrive(tagged(0x124));
  t.equal(used(rig), 1);
  rig.arrive(frame(MAC));
  t.equal(used(rig), 2, 'what has no tag is not its business');
});

t.test('SDM 9 CTRL.VME takes the tag out', async (t) => {
  using rig = running();
  const packet = tagged(0x123);
  rig.arrive(packet);
  t.match(rig.received(0), { status: DD | EOP | IXSM, length: packet.length + FCS });
  rig.write(e1000.CTRL, e1000.CTRL_VME);
  rig.arrive(packet);
  const { status, special, bytes } = rig.received(1);
  t.equal(status, DD | EOP | IXSM | VP);
  t.equal(special, 0x2123);
  t.same(bytes.subarray(0, 100), frame(MAC));
  rig.arrive(tagged(0x123, 50));
  t.equal(rig.received(2).length, 64, 'padded again');
});

t.test('SDM 3.2.2 a packet in several buffers', async (t) => {
  using rig = running(3 << e1000.RCTL_BSIZE_SHIFT);
  const packet = frame(MAC, 700);
  rig.arrive(packet);
  const parts = [0, 1, 2].map((i) => rig.received(i));
  t.same(
    parts.map(({ length, status }) => [length, status]),
    [
      [256, DD | IXSM],
      [256, DD | IXSM],
      [192, DD | IXSM | EOP],
    ],
  );
  const joined = Uint8Array.from(parts.flatMap(({ bytes }) => [...bytes]));
  t.same(joined.subarray(0, 700), packet);
});

for (const [bits, size] of [
  [0, 2048],
  [1 << e1000.RCTL_BSIZE_SHIFT, 1024],
  [2 << e1000.RCTL_BSIZE_SHIFT, 512],
  [e1000.RCTL_BSEX | (1 << e1000.RCTL_BSIZE_SHIFT), 16384],
  [e1000.RCTL_BSEX | (2 << e1000.RCTL_BSIZE_SHIFT), 8192],
  [e1000.RCTL_BSEX | (3 << e1000.RCTL_BSIZE_SHIFT), 4096],
] as const) {
  t.test(`SDM 13.4 RCTL.BSIZE: buffers of ${size} bytes`, async (t) => {
    using rig = running(bits | e1000.RCTL_LPE | e1000.RCTL_SECRC, 64);
    rig.arrive(frame(MAC, 16000));
    t.equal(used(rig), Math.ceil(16000 / size));
    t.equal(rig.received(0).length, Math.min(size, 16000));
  });
}

t.test('SDM 13.4 RCTL.LPE: long packets are dropped without it', async (t) => {
  using rig = running();
  rig.arrive(frame(MAC, 1519));
  t.equal(used(rig), 0);
  t.equal(rig.read(e1000.ROC), 1);
  rig.arrive(frame(MAC, 1518));
  t.equal(used(rig), 1);
});

t.test('a packet that the free buffers cannot hold is missed', async (t) => {
  using rig = running((3 << e1000.RCTL_BSIZE_SHIFT) | e1000.RCTL_LPE, 8);
  rig.arrive(frame(MAC, 2000));
  t.equal(used(rig), 0);
  t.equal(rig.read(e1000.MPC), 1);
  t.equal(rig.read(e1000.ICR), e1000.ICR_RXO);
  rig.arrive(frame(MAC, 60));
  t.equal(used(rig), 1, 'the next one fits');
});

t.test('SDM 13.4 RCTL.RDMTS: RXDMT0 when the buffers run low', async (t) => {
  using rig = running(1 << e1000.RCTL_RDMTS_SHIFT, 8);
  const causes: number[] = [];
  for (let i = 0; i < 7; i++) {
    rig.arrive(frame(MAC));
    causes.push(rig.read(e1000.ICR));
  }
  const low = e1000.ICR_RXT0 | e1000.ICR_RXDMT0;
  const { ICR_RXT0: plain } = e1000;
  t.same(causes, [plain, plain, plain, plain, low, low, low], 'a quarter is left');
});

t.test('SDM 13.7 statistics', async (t) => {
  using rig = running(e1000.RCTL_BAM | e1000.RCTL_MPE);
  rig.arrive(frame(MAC));
  rig.arrive(frame(BROADCAST));
  rig.arrive(frame(GROUP));
  rig.arrive(frame(OTHER));
  const read = (offset: number): number => rig.read(offset);
  t.same([e1000.GPRC, e1000.BPRC, e1000.MPRC, e1000.TPR].map(read), [3, 1, 1, 4]);
  t.same([e1000.GORCL, e1000.TORL].map(read), [312, 416]);
});

t.test('a removed tap is reported once', async (t) => {
  using rig = running();
  rig.wire.cut();
  rig.pump();
  rig.write(e1000.RDT, 3);
  rig.pump();
  t.equal(rig.logs.length, 1);
  t.match(rig.logs[0], /was it removed\?/);
  t.equal(rig.broken, undefined);
});

for (const [name, errno] of [
  ['EINVAL', 22],
  ['EIO', 5],
  ['ENOMEM', 12],
] as const) {
  t.test(
    `a tap that fails once with ${name} is read again, and the errno is reported by name`,
    async (t) => {
      using rig = running();
      rig.tap.faults.push(errno);
      rig.arrive(frame(MAC));
      t.equal(used(rig), 1, 'the packet came');
      t.match(rig.logs, [new RegExp(`^receiving from the tap failed \\(${name}\\)`)]);
    },
  );
}

t.test('a tap that keeps failing is left alone, and read again later', async (t) => {
  using rig = running();
  rig.tap.faults.push(...new Array<number>(40).fill(22));
  rig.arrive(frame(MAC));
  t.equal(used(rig), 0);
  const { reads } = rig.tap;
  t.ok(reads < 40, `no busy loop: ${reads} reads`);
  rig.write(e1000.RDT, 3);
  rig.pump();
  t.equal(rig.tap.reads, reads, 'nor has the driver it read');
  while (rig.tap.faults.length > 0) rig.pump(10_000);
  rig.pump(10_000);
  t.equal(used(rig), 1);
  t.equal(rig.logs.length, 1, 'all of it is one line');
});

t.test('a tap that fails with EBADFD is gone', async (t) => {
  using rig = running();
  rig.tap.faults.push(77);
  const { reads } = rig.tap;
  rig.arrive(frame(MAC));
  rig.arrive(frame(MAC));
  t.equal(used(rig), 0);
  t.equal(rig.tap.reads, reads + 1);
  t.match(rig.logs, [/\(EBADFD\): the tap is gone/]);
});

t.test('another handler continues where the first one left off', async (t) => {
  using rig = running();
  rig.arrive(frame(MAC));
  rig.stop();
  rig.arrive(frame(MAC, 200));
  t.equal(used(rig), 1);
  rig.start();
  rig.pump();
  t.equal(rig.received(1).length, 204);
});

const BREAKS: Readonly<Record<string, (rig: E1000Rig) => void>> = {
  'a ring outside of RAM': (rig) => rig.write(e1000.RDBAH, 1),
  'a head outside of the ring': (rig) => rig.write(e1000.RDH, 8),
  'a buffer outside of RAM': (rig) =>
    rig.view(RX_RING, 16).setBigUint64(0, BigInt(rig.ram.memory.size - 50), true),
  'a buffer nowhere': (rig) => rig.view(RX_RING, 16).setBigUint64(0, 2n ** 64n - 8n, true),
};
for (const [name, breaks] of Object.entries(BREAKS)) {
  t.test(`${name} stops the card`, async (t) => {
    using rig = running();
    breaks(rig);
    rig.arrive(frame(MAC));
    t.match(rig.broken, /not in RAM|outside of a ring/);
    t.ok(rig.card.registers.file.broken);
    t.same(rig.bytes(RX_BUFFERS, 8), new Uint8Array(8), 'nothing was written');
  });
}
