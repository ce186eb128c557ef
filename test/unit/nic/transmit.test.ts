/** The transmit half of the emulated 82540EM: descriptors in, packets with a tap's header out. */
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import {
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  virtio_net_hdr,
} from '../../../src/abi/virtio-net.ts';
import { E1000Rig, frame, TX_BUFFERS, TX_RING, VNET_HEADER } from '../../support/rigs/e1000.ts';

const EOP = e1000.TXD_CMD_EOP;
const RS = e1000.TXD_CMD_RS;
const DATA = e1000.TXD_CMD_DEXT | (e1000.TXD_DTYP_DATA << e1000.TXD_DTYP_SHIFT);
const CONTEXT = e1000.TXD_CMD_DEXT | (e1000.TXD_DTYP_CONTEXT << e1000.TXD_DTYP_SHIFT);
const PEER = [2, 0, 0, 0, 0, 1];
const BROADCAST = [255, 255, 255, 255, 255, 255];

/** The packet of what came out, and the fields of the header in front. */
function parse(whole: Uint8Array | undefined) {
  const bytes = whole ?? new Uint8Array(VNET_HEADER);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return {
    packet: bytes.subarray(VNET_HEADER),
    flags: view.getUint8(virtio_net_hdr.flags.offset),
    gsoType: view.getUint8(virtio_net_hdr.gso_type.offset),
    headerLength: view.getUint16(virtio_net_hdr.hdr_len.offset, true),
    gsoSize: view.getUint16(virtio_net_hdr.gso_size.offset, true),
    start: view.getUint16(virtio_net_hdr.csum_start.offset, true),
    offset: view.getUint16(virtio_net_hdr.csum_offset.offset, true),
  };
}

function running(count = 8, tctl: number = e1000.TCTL_EN): E1000Rig {
  const rig = new E1000Rig();
  rig.start();
  rig.enableTransmit(count, tctl);
  return rig;
}

/** Ones' complement sum of 16-bit words. */
function sum(bytes: Uint8Array, start = 0, end = bytes.length): number {
  let total = 0;
  for (let at = start; at < end; at++)
    total += (bytes[at] ?? 0) << ((at - start) % 2 === 0 ? 8 : 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

t.test('SDM 3.3.3 a packet in a legacy descriptor', async (t) => {
  using rig = running();
  const sent = frame(PEER);
  rig.describe(0, sent.length | EOP | RS, 0, sent);
  rig.write(e1000.IMS, e1000.ICR_TXDW);
  const [out, ...more] = rig.send(1);
  t.same(parse(out).packet, sent);
  t.same(out?.subarray(0, VNET_HEADER), new Uint8Array(VNET_HEADER), 'nothing is asked of the tap');
  t.same(more, []);
  t.ok(rig.isDone(0));
  t.equal(rig.read(e1000.TDH), 1);
  t.ok(rig.line);
  t.equal(rig.read(e1000.ICR), e1000.ICR_TXDW | e1000.ICR_TXQE);
});

t.test('a packet in several descriptors; only those that ask are reported', async (t) => {
  using rig = running();
  const sent = frame(PEER, 300);
  rig.describe(0, 14, 0, sent.subarray(0, 14));
  rig.describe(1, 0);
  rig.describe(2, 86, 0, sent.subarray(14, 100));
  rig.describe(3, 200 | EOP | RS, 0, sent.subarray(100));
  const [out] = rig.send(4);
  t.same(parse(out).packet, sent);
  t.same(
    [0, 1, 2, 3].map((i) => rig.isDone(i)),
    [false, false, false, true],
  );
});

t.test('a packet whose end is not there yet waits', async (t) => {
  using rig = running();
  const sent = frame(PEER);
  rig.describe(0, 50, 0, sent.subarray(0, 50));
  rig.describe(1, 50 | EOP, 0, sent.subarray(50));
  t.same(rig.send(1), []);
  t.equal(rig.read(e1000.TDH), 0);
  t.same(parse(rig.send(2)[0]).packet, sent);
});

t.test(
  'around the end of the ring, more packets than a turn sends and the tap takes',
  async (t) => {
    using rig = running(512);
    const sent = frame(PEER, 64);
    for (let i = 0; i < 512; i++) {
      rig.describe(i, 64 | EOP, 0);
      rig.view(TX_RING + i * 16, 16).setBigUint64(0, BigInt(TX_BUFFERS), true);
    }
    rig.bytes(TX_BUFFERS, 64).set(sent);
    t.equal(rig.send(400).length, 400);
    t.equal(rig.send(100).length, 212);
    t.equal(rig.read(e1000.TDH), 100);
    t.equal(rig.read(e1000.GPTC), 612);
  },
);

t.test('SDM 13.4 TCTL: nothing is sent before EN, short packets are padded with PSP', async (t) => {
  using rig = running(8, 0);
  const sent = frame(PEER, 20);
  rig.describe(0, 20 | EOP, 0, sent);
  rig.describe(1, 20 | EOP, 0, sent);
  t.same(rig.send(1), []);
  rig.write(e1000.TCTL, e1000.TCTL_EN);
  t.same(parse(rig.send(1)[0]).packet, sent);
  rig.write(e1000.TCTL, e1000.TCTL_EN | e1000.TCTL_PSP);
  const padded = new Uint8Array(60);
  padded.set(sent);
  t.same(parse(rig.send(2)[0]).packet, padded);
});

t.test('SDM 3.3.3 IC: a legacy checksum', async (t) => {
  using rig = running();
  const sent = frame(PEER);
  rig.describe(0, sent.length | EOP | e1000.TXD_CMD_IC | (50 << 16), 34 << 8, sent);
  t.match(parse(rig.send(1)[0]), { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, start: 34, offset: 16 });
  rig.describe(1, sent.length | EOP | RS | e1000.TXD_CMD_IC | (20 << 16), 34 << 8, sent);
  t.same(rig.send(2), [], 'a checksum before its start is impossible');
  t.ok(rig.isDone(1), 'but its descriptor comes back');
});

/** IPv4 and TCP, or IPv6 and TCP, as Linux leaves them to hardware. */
function tcpPacket(payload: number, ipv6: boolean, flags = 0x10): Uint8Array {
  const ip = ipv6 ? 40 : 20;
  const bytes = new Uint8Array(14 + ip + 20 + payload).map((_, i) => i & 0xff);
  bytes.set([...PEER, 2, 0, 0, 0, 0, 9, ...(ipv6 ? [0x86, 0xdd] : [0x08, 0x00])]);
  const view = new DataView(bytes.buffer);
  if (ipv6) bytes.set([0x60, 0, 0, 0, 0, 0, 6, 64], 14);
  else bytes.set([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0], 14);
  const tcp = 14 + ip;
  bytes.set([0x50, flags], tcp + 12);
  // The pseudo header's sum, without the length.
  const addresses = ipv6 ? sum(bytes, 22, 54) : sum(bytes, 26, 34);
  view.setUint16(tcp + 16, sum(Uint8Array.of(addresses >> 8, addresses & 0xff, 0, 6)));
  return bytes;
}

/** Writes a context descriptor (SDM 3.3.6). */
function context(rig: E1000Rig, index: number, ipv6: boolean, mss: number, headers: number): void {
  const tcp = ipv6 ? 54 : 34;
  const view = rig.view(TX_RING + index * 16, 16);
  const ipEnd = ipv6 ? 0 : tcp - 1;
  view.setUint32(0, ((ipEnd << 16) | (24 << 8) | 14) >>> 0, true);
  view.setUint32(4, ((tcp + 16) << 8) | tcp, true);
  view.setUint32(8, (CONTEXT | e1000.TXC_TCP | (ipv6 ? 0 : e1000.TXC_IP) | RS) >>> 0, true);
  view.setUint32(12, ((mss << 16) | (headers << 8)) >>> 0, true);
}

t.test('SDM 3.3.7 TXSM: the checksum of the context, for every packet after it', async (t) => {
  using rig = running();
  const sent = tcpPacket(100, false);
  context(rig, 0, false, 0, 0);
  rig.describe(1, sent.length | EOP | DATA, e1000.TXD_POPTS_TXSM, sent);
  rig.describe(2, sent.length | EOP | DATA, e1000.TXD_POPTS_TXSM, sent);
  rig.describe(3, sent.length | EOP | DATA, 0, sent);
  const out = rig.send(4).map(parse);
  t.ok(rig.isDone(0), 'the context descriptor comes back');
  t.equal(out.length, 3);
  t.match(out[0], { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoType: 0, start: 34, offset: 16 });
  t.match(out[1], { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoType: 0, start: 34, offset: 16 });
  t.match(out[2], { flags: 0, start: 0 });
  t.same(out[0]?.packet, sent);
});

t.test('SDM 3.3.7 IXSM: the IPv4 header checksum', async (t) => {
  using rig = running();
  const sent = tcpPacket(100, false);
  context(rig, 0, false, 0, 0);
  rig.describe(1, 20 | DATA, e1000.TXD_POPTS_IXSM, sent.subarray(0, 20));
  rig.describe(2, (sent.length - 20) | EOP | DATA, 0, sent.subarray(20));
  const { packet, flags } = parse(rig.send(3)[0]);
  t.equal(flags, 0);
  t.equal(sum(packet, 14, 34), 0xffff, 'is right');
  t.same(packet.subarray(34), sent.subarray(34));
  t.same(rig.bytes(TX_BUFFERS + 0x1_0000, 20), sent.subarray(0, 20), 'guest memory is left alone');
});

for (const ipv6 of [false, true]) {
  const name = ipv6 ? 'IPv6' : 'IPv4';
  t.test(`SDM 3.5 TCP segmentation over ${name}`, async (t) => {
    using rig = running();
    const sent = tcpPacket(5000, ipv6);
    const headers = sent.length - 5000;
    const tcp = headers - 20;
    const options = ipv6 ? e1000.TXD_POPTS_TXSM : e1000.TXD_POPTS_TXSM | e1000.TXD_POPTS_IXSM;
    context(rig, 0, ipv6, 1460, headers);
    const cut = DATA | e1000.TXD_CMD_TSE;
    rig.describe(1, 30 | cut, options, sent.subarray(0, 30));
    rig.describe(2, (headers - 30 + 1000) | cut, options, sent.subarray(30, headers + 1000));
    rig.describe(3, 4000 | cut | EOP | RS, options, sent.subarray(headers + 1000));
    const out = parse(rig.send(4)[0]);
    t.match(out, {
      flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
      gsoType: ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4,
      gsoSize: 1460,
      headerLength: headers,
      start: tcp,
      offset: 16,
    });
    const view = new DataView(out.packet.buffer, out.packet.byteOffset);
    if (ipv6) t.equal(view.getUint16(18), sent.length - 54, 'payload length');
    else {
      t.equal(view.getUint16(16), sent.length - 14, 'total length');
      t.equal(sum(out.packet, 14, 34), 0xffff, 'header checksum');
    }
    // The pseudo header now has the length, as the kernel wants it.
    const length = sent.length - tcp;
    const pseudo = Uint8Array.of(
      length >> 8,
      length & 0xff,
      sent[tcp + 16] ?? 0,
      sent[tcp + 17] ?? 0,
    );
    t.equal(view.getUint16(tcp + 16), sum(pseudo));
    t.same(out.packet.subarray(headers), sent.subarray(headers));
    t.equal(rig.read(e1000.TSCTC), 1);
  });
}

t.test('SDM 3.5 what fits one segment is not cut; CWR is passed on', async (t) => {
  using rig = running();
  for (const [index, payload, flags] of [
    [0, 1000, 0x10],
    [2, 5000, 0x90],
  ] as const) {
    const sent = tcpPacket(payload, false, flags);
    context(rig, index, false, 1460, 54);
    const lower = sent.length | DATA | e1000.TXD_CMD_TSE | EOP;
    rig.describe(index + 1, lower, e1000.TXD_POPTS_TXSM, sent);
  }
  const out = rig.send(4).map(parse);
  t.match(out[0], { flags: VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoType: 0, gsoSize: 0 });
  t.equal(out[1]?.gsoType, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN);
});

t.test('SDM 9 VLE: a tag is put in where CTRL.VME allows for it', async (t) => {
  using rig = running();
  const sent = frame(PEER);
  const lower = sent.length | EOP | e1000.TXD_CMD_VLE;
  rig.describe(0, lower, 0x2005 << 16, sent);
  t.same(parse(rig.send(1)[0]).packet, sent);
  rig.write(e1000.CTRL, e1000.CTRL_VME);
  rig.describe(1, lower, 0x2005 << 16, sent);
  const { packet } = parse(rig.send(2)[0]);
  const wanted = [...sent.subarray(0, 12), 0x81, 0x00, 0x20, 0x05, ...sent.subarray(12)];
  t.same([...packet], wanted);
  const large = tcpPacket(5000, false);
  context(rig, 2, false, 1460, 54);
  const cut = large.length | DATA | EOP | e1000.TXD_CMD_VLE | e1000.TXD_CMD_TSE;
  rig.describe(3, cut, (0x2005 << 16) | e1000.TXD_POPTS_TXSM, large);
  const out = parse(rig.send(4)[0]);
  t.match(out, { start: 38, offset: 16, headerLength: 58, gsoSize: 1460 });
  t.same([...out.packet.subarray(12, 18)], [0x81, 0x00, 0x20, 0x05, 0x08, 0x00]);
});

t.test('SDM 13.7 statistics', async (t) => {
  using rig = running();
  rig.describe(0, 100 | EOP, 0, frame(PEER));
  rig.describe(1, 100 | EOP, 0, frame(BROADCAST));
  rig.describe(2, 100 | EOP, 0, frame([1, 0, 0x5e, 0, 0, 1]));
  t.equal(rig.send(3).length, 3);
  const read = (offset: number): number => rig.read(offset);
  t.same([e1000.GPTC, e1000.TPT, e1000.BPTC, e1000.MPTC].map(read), [3, 3, 1, 1]);
  t.same([e1000.GOTCL, e1000.TOTL].map(read), [312, 312]);
});

t.test('what is no packet is dropped, its descriptors come back', async (t) => {
  using rig = running();
  rig.describe(0, 13 | EOP | RS, 0, frame(PEER).subarray(0, 13));
  t.same(rig.send(1), []);
  t.ok(rig.isDone(0));
  const sent = tcpPacket(5000, false);
  // Headers that end in the TCP header; a UDP segmentation; no segment size.
  for (const [headers, type, mss] of [
    [40, e1000.TXC_TCP | e1000.TXC_IP, 1460],
    [54, e1000.TXC_IP, 1460],
    [54, e1000.TXC_TCP | e1000.TXC_IP, 0],
  ] as const) {
    const at = rig.read(e1000.TDT);
    context(rig, at, false, mss, headers);
    rig.view(TX_RING + at * 16, 16).setUint32(8, (CONTEXT | type) >>> 0, true);
    const lower = sent.length | DATA | EOP | RS | e1000.TXD_CMD_TSE;
    rig.describe(at + 1, lower, e1000.TXD_POPTS_TXSM, sent);
    t.same(rig.send(at + 2), []);
    t.ok(rig.isDone(at + 1));
  }
  t.equal(rig.broken, undefined);
});

const BREAKS: Readonly<Record<string, (rig: E1000Rig) => void>> = {
  'a ring outside of RAM': (rig) => rig.write(e1000.TDBAH, 0x7fff_ffff),
  'a tail outside of the ring': (rig) => rig.write(e1000.TDLEN, 128),
  'a buffer outside of RAM': (rig) =>
    rig.view(TX_RING, 16).setBigUint64(0, 0xffff_ffff_ffff_fff0n, true),
  'a buffer that ends outside of RAM': (rig) =>
    rig.view(TX_RING, 16).setBigUint64(0, BigInt(rig.ram.memory.size - 99), true),
  'a packet without end': (rig) => {
    for (let i = 0; i < 300; i++) rig.describe(i, 0);
  },
  'a context in the middle of a packet': (rig) => {
    rig.describe(0, 50);
    rig.describe(1, CONTEXT);
  },
  'a descriptor of no type': (rig) => rig.describe(0, e1000.TXD_CMD_DEXT | 0x0020_0000),
};
for (const [name, breaks] of Object.entries(BREAKS)) {
  t.test(`${name} stops the card until its reset`, async (t) => {
    using rig = running(512);
    rig.describe(0, 100 | EOP, 0, frame(PEER));
    breaks(rig);
    t.same(rig.send(300), []);
    t.match(rig.broken, /^(transmit ring: )?(a |head|\d)/);
    t.ok(rig.card.registers.file.broken);
    rig.write(e1000.CTRL, e1000.CTRL_RST);
    t.equal(rig.revived, 1);
    rig.stop();
    rig.start();
    rig.enableTransmit();
    rig.describe(0, 100 | EOP, 0, frame(PEER));
    t.equal(rig.send(1).length, 1);
  });
}
