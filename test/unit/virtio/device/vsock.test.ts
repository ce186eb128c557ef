/** The socket device (virtio 1.3 §5.10): connections, limits, and drivers that break rules. */
import { Buffer } from 'node:buffer';
import type { Duplex } from 'node:stream';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import * as abi from '../../../../src/abi/virtio-vsock.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { VsockHandler } from '../../../../src/virtio/device/vsock/vsock-handler.ts';
import { BUFFER, PacketHeader } from '../../../../src/virtio/device/vsock/vsock-packet.ts';
import { MAX_CONNECTIONS, VsockSwitch } from '../../../../src/virtio/device/vsock/vsock-switch.ts';
import {
  EVENT,
  GUEST,
  ops,
  payloadOf,
  RX,
  readAll,
  STREAM,
  TX,
  VsockRig,
  waiting,
} from '../../../support/rigs/vsock.ts';

const { VIRTIO_VSOCK_SHUTDOWN_SEND: SEND } = abi;

for (const [format, features] of [
  ['split', STREAM],
  ['packed', STREAM | featureSet(VIRTIO_F_RING_PACKED)],
] as const) {
  t.test(`§5.10.6.5 a guest connects to a listening program (${format})`, async (t) => {
    using rig = new VsockRig(features);
    rig.listening.set(52, []);
    rig.send('REQUEST');
    const [response, ...none] = await rig.packets();
    t.equal(response?.op, 'RESPONSE');
    t.same(none, []);
    t.match(response?.header, {
      srcCid: abi.VMADDR_CID_HOST,
      dstCid: GUEST,
      srcPort: 52,
      dstPort: 1000,
      len: 0,
      type: abi.VIRTIO_VSOCK_TYPE_STREAM,
      flags: 0,
      bufAlloc: BUFFER,
      fwdCnt: 0,
    });
    const program = rig.listening.get(52)?.[0] as Duplex;
    rig.send('RW', {}, Buffer.from('to the host'));
    await rig.settle();
    t.equal(waiting(program), 'to the host');
    program.write('to the guest');
    const [data] = await rig.packets();
    t.match(data, { op: 'RW', payload: Buffer.from('to the guest') });
    t.match(data?.header, { len: 12, bufAlloc: BUFFER, fwdCnt: 11 }, 'the header has the credit');
  });
}

t.test("§5.10.6.5 RST when the host's port has no listener", async (t) => {
  using rig = new VsockRig();
  rig.send('REQUEST', { dstPort: 53 });
  const packets = await rig.packets();
  t.same(ops(packets), ['RST']);
  t.match(packets[0]?.header, { srcPort: 53, dstPort: 1000, dstCid: GUEST });
});

t.test('§5.10.6.5 a program connects to a port of the guest', async (t) => {
  using rig = new VsockRig();
  const program = rig.dial(80);
  program.write('early');
  const [request, ...none] = await rig.packets();
  t.equal(request?.op, 'REQUEST');
  t.same(none, [], 'no data before the answer');
  t.match(request?.header, { dstPort: 80, dstCid: GUEST, srcCid: 2, bufAlloc: BUFFER });
  const hostPort = request?.header.srcPort ?? 0;
  t.ok(hostPort >= 2 ** 30);
  rig.send('RESPONSE', { srcPort: 80, dstPort: hostPort });
  const data = await rig.packets();
  t.equal(waiting(program), `OK ${hostPort}\n`);
  t.equal(payloadOf(data).toString(), 'early');

  const second = rig.dial(80);
  const [other] = await rig.packets();
  t.not(other?.header.srcPort, hostPort, 'two connections differ in their ports');
  rig.send('RST', { srcPort: 80, dstPort: other?.header.srcPort ?? 0 });
  t.equal(await readAll(second), '', 'a refused program gets no OK');
});

t.test('§5.10.6.5 a program that asks before there is a driver waits for it', async (t) => {
  using rig = new VsockRig();
  const early = rig.dial(80);
  rig.rig.stop();
  rig.switch.reset();
  await rig.settle();
  t.notOk(early.destroyed);
  rig.handOver();
  t.same(ops(await rig.packets()), ['REQUEST']);
  rig.switch.reset();
  await rig.settle();
  t.ok(early.destroyed || early.readableEnded, 'what the guest knew of ends with it');
});

t.test('§5.10.6.5 a guest that does not answer a REQUEST in time gets RST', async (t) => {
  using rig = new VsockRig(STREAM, { answer: 1, close: 60_000 });
  const program = rig.dial(80);
  const ended = readAll(program);
  const received: string[] = [];
  while (!received.includes('RST')) received.push(...ops(await rig.packets(1)));
  t.same(received, ['REQUEST', 'RST']);
  t.equal(await ended, '');
});

t.test('§5.10.6.4 RST for an unknown type, with that type', async (t) => {
  using rig = new VsockRig();
  rig.listening.set(52, []);
  for (const type of [0, 2, 3, 65535]) rig.send('REQUEST', { type });
  const packets = await rig.packets();
  t.same(ops(packets), ['RST', 'RST', 'RST', 'RST']);
  t.same(
    packets.map(({ header }) => header.type),
    [0, 2, 3, 65535],
  );
});

t.test('§5.10.6.5 RST for packets of no connection, but none for an RST', async (t) => {
  using rig = new VsockRig();
  for (const op of [0, 2, 4, 5, 6, 7, 8, 65535]) rig.send(op);
  rig.send('RST');
  t.same(ops(await rig.packets()), new Array(8).fill('RST'));
});

t.test('§5.10.6.4 a foreign source is ignored, a foreign destination refused', async (t) => {
  using rig = new VsockRig();
  rig.listening.set(52, []);
  rig.send('REQUEST', { srcCid: GUEST + 1 });
  rig.send('REQUEST', { srcCid: GUEST + 2 ** 32 });
  t.same(await rig.packets(), []);
  rig.send('REQUEST', { dstCid: 7 });
  rig.send('REQUEST', { dstCid: 2 + 2 ** 32 });
  const packets = await rig.packets();
  t.same(ops(packets), ['RST', 'RST']);
  t.equal(packets[0]?.header.srcCid, 7, 'in the name of the one it was for');
  t.same(rig.listening.get(52), []);
});

t.test('§5.10.3.2 stream sockets work unless the driver negotiates otherwise', async (t) => {
  const version = featureSet(VIRTIO_F_VERSION_1);
  for (const [bits, answer] of [
    [[], 'RESPONSE'],
    [[abi.VIRTIO_VSOCK_F_STREAM, abi.VIRTIO_VSOCK_F_NO_IMPLIED_STREAM], 'RESPONSE'],
    [[abi.VIRTIO_VSOCK_F_NO_IMPLIED_STREAM], 'RST'],
  ] as const) {
    using rig = new VsockRig(version | featureSet(...bits));
    rig.listening.set(52, []);
    rig.send('REQUEST');
    t.same(ops(await rig.packets()), [answer], `features ${bits.join()}`);
  }
});

t.test('packets that a connection cannot get in its state reset it', async (t) => {
  for (const op of ['REQUEST', 'RESPONSE', 0, 8, 65535]) {
    using rig = new VsockRig();
    await rig.open();
    rig.send(op);
    t.same(ops(await rig.packets()), ['RST'], `op ${op}`);
    rig.send('RW');
    t.same(ops(await rig.packets()), ['RST'], 'it is no more');
  }
  for (const op of ['RW', 'SHUTDOWN', 'REQUEST']) {
    using rig = new VsockRig();
    const program = rig.dial(80);
    const [request] = await rig.packets();
    rig.send(op, { srcPort: 80, dstPort: request?.header.srcPort ?? 0, flags: SEND });
    t.same(ops(await rig.packets()), ['RST'], `${op} instead of RESPONSE`);
    t.ok(program.destroyed || program.readableEnded);
  }
});

t.test('§5.10.6.1 the tx queue is served while the rx queue is full, up to a limit', async (t) => {
  using rig = new VsockRig();
  for (let i = 0; i < 300; i++) {
    rig.rig.queue(TX).completed();
    if (rig.rig.queue(TX).free === 0) break;
    rig.send('RW', { srcPort: 2000 + i });
    if (i % 50 === 49) await rig.settle();
  }
  await rig.settle();
  rig.rig.queue(TX).completed();
  const held = rig.rig.queue(TX).inFlight;
  t.ok(held > 0, `${held} packets wait in their queue`);
  const answers = [];
  while (answers.length < 300) {
    const packets = await rig.packets(64);
    if (packets.length === 0) break;
    answers.push(...packets);
  }
  t.equal(answers.length, 300, 'each is answered at last');
  t.ok(ops(answers).every((op) => op === 'RST'));
});

t.test('no more connections than the limit', async (t) => {
  using rig = new VsockRig();
  rig.listening.set(52, []);
  const answers: string[] = [];
  for (let i = 0; i <= MAX_CONNECTIONS; i++) {
    rig.send('REQUEST', { srcPort: 10_000 + i });
    if (i % 16 === 15) answers.push(...ops(await rig.packets(16)));
  }
  answers.push(...ops(await rig.packets()));
  t.equal(answers.filter((op) => op === 'RESPONSE').length, MAX_CONNECTIONS);
  t.same(answers.slice(MAX_CONNECTIONS), ['RST']);
  const program = rig.dial(80);
  t.equal(await readAll(program), '', 'a program is turned away');
  rig.listening.get(52)?.[0]?.resume();
  rig.send('RST', { srcPort: 10_000 });
  await rig.settle();
  rig.send('REQUEST', { srcPort: 10_000 });
  t.same(ops(await rig.packets()), ['RESPONSE'], 'room for another');
});

t.test('connections take turns', async (t) => {
  using rig = new VsockRig();
  const first = await rig.open();
  const second = await rig.open({ srcPort: 1001 });
  first.write(Buffer.alloc(20_000, 'a'));
  second.write(Buffer.alloc(20_000, 'b'));
  await rig.settle();
  const ports = (await rig.packets(6)).map(({ header }) => header.dstPort);
  t.same(ports.slice(0, 4).sort(), [1000, 1000, 1001, 1001]);
});

t.test('connections survive a new handler', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  rig.rig.stop();
  program.write('meanwhile');
  await rig.settle();
  rig.handOver();
  t.equal(payloadOf(await rig.packets()).toString(), 'meanwhile');
});

t.test('§5.10.6 a packet that is no packet breaks the device', async (t) => {
  await t.test('shorter than its header', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    rig.sendBytes(new Uint8Array(43));
    t.match(rig.rig.brokenReason, /shorter than its header \(§5\.10\.6\)/);
    t.equal(await readAll(program), '', "the host's programs are notified");
  });
  await t.test('longer than its buffer', async (t) => {
    using rig = new VsockRig();
    rig.send('RW', { len: 5 }, Buffer.alloc(4));
    t.match(rig.rig.brokenReason, /longer than its buffer \(§5\.10\.6\)/);
  });
  await t.test('a buffer without room', async (t) => {
    using rig = new VsockRig();
    rig.send('RW');
    rig.post(1, 44);
    t.match(rig.rig.brokenReason, /no room for a header and a payload/);
    t.same(rig.taken(), []);
  });
  await t.test('a queue', async (t) => {
    using rig = new VsockRig();
    rig.rig.queue(RX).add({ writable: [100] });
    rig.rig.queue(RX).descriptorArea.setBigUint64(0, 2n ** 60n, true);
    rig.send('RW');
    rig.rig.notify(RX);
    t.match(rig.rig.brokenReason, /queue 0.*§/);
  });
});

t.test('§5.10.6 a header in pieces, and a buffer longer than the payload', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  const header = Buffer.alloc(44);
  header.writeBigUInt64LE(BigInt(GUEST), 0);
  header.writeBigUInt64LE(2n, 8);
  header.writeUInt32LE(1000, 16);
  header.writeUInt32LE(52, 20);
  header.writeUInt32LE(3, 24);
  header.writeUInt16LE(abi.VIRTIO_VSOCK_TYPE_STREAM, 28);
  header.writeUInt16LE(abi.VIRTIO_VSOCK_OP_RW, 30);
  rig.sendBytes(header.subarray(0, 5), header.subarray(5), Buffer.from('abcdef'));
  await rig.settle();
  t.equal(waiting(program), 'abc');
});

t.test('§5.10.6.7 connections lost with a move are reported by an event', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  const ended = readAll(program);
  rig.post(4);
  rig.moveAway();
  t.equal(await ended, '', 'the program is notified, too');
  const late = rig.dial(80);
  t.equal(await readAll(late), '', 'and others are refused');
  t.same(rig.events(), [], 'it waits for a buffer');
  rig.rig.queue(EVENT).add({ writable: [4] });
  rig.rig.queue(EVENT).add({ writable: [4] });
  rig.rig.kick(EVENT);
  t.same(rig.events(), [abi.VIRTIO_VSOCK_EVENT_TRANSPORT_RESET]);
  rig.handOver();
  await rig.settle();
  t.same(rig.events(), [abi.VIRTIO_VSOCK_EVENT_TRANSPORT_RESET], 'on the way back again');
  rig.handOver();
  await rig.settle();
  t.same(rig.events(), [], 'a pause loses nothing');
  await rig.open();
  t.equal(rig.rig.brokenReason, undefined);
});

t.test('§5.10.6.7 a driver that restarts has lost nothing', async (t) => {
  using rig = new VsockRig();
  rig.rig.queue(EVENT).add({ writable: [4] });
  rig.switch.reset();
  rig.moveAway();
  t.same(rig.events(), []);
});

t.test('without a way to the host, each connection is refused', async (t) => {
  using device = new DeviceRig();
  const connections = new VsockSwitch(GUEST, undefined, { answer: 1, close: 1 });
  device.start(new VsockHandler(connections), STREAM, [16, 16, 16]);
  const header = new PacketHeader();
  Object.assign(header, { srcCid: GUEST, dstCid: 2, op: abi.VIRTIO_VSOCK_OP_REQUEST });
  header.encode();
  device.queue(TX).add({ readable: [header.bytes] });
  device.kick(TX);
  device.queue(RX).add({ writable: [100] });
  device.kick(RX);
  const [answer] = device.queue(RX).completed();
  header.bytes.set(answer?.data ?? []);
  header.decode();
  t.equal(header.op, abi.VIRTIO_VSOCK_OP_RST);
});
