/** Connections of the socket device (virtio 1.3 §5.10.6): credit in both directions, and ends. */
import { Buffer } from 'node:buffer';
import { randomBytes } from 'node:crypto';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-vsock.ts';
import { BUFFER } from '../../../../src/virtio/device/vsock/vsock-packet.ts';
import { ops, payloadOf, readAll, STREAM, VsockRig, waiting } from '../../../support/rigs/vsock.ts';

const { VIRTIO_VSOCK_SHUTDOWN_RCV: RCV, VIRTIO_VSOCK_SHUTDOWN_SEND: SEND } = abi;

t.test('§5.10.6.3 no more is sent than the guest has room for', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open({ bufAlloc: 100 });
  const sent = randomBytes(1000);
  program.write(sent);
  const first = await rig.packets();
  t.same(ops(first), ['RW', 'CREDIT_REQUEST'], 'asked once');
  t.same(payloadOf(first), sent.subarray(0, 100));
  rig.send('CREDIT_UPDATE', { bufAlloc: 100, fwdCnt: 40 });
  t.same(payloadOf(await rig.packets()), sent.subarray(100, 140));
  rig.send('CREDIT_UPDATE', { bufAlloc: 50, fwdCnt: 40 });
  t.same(ops(await rig.packets()), [], 'less room than what is in flight');
  rig.send('CREDIT_UPDATE', { bufAlloc: 100, fwdCnt: 141 });
  t.same(ops(await rig.packets()), [], 'more taken than was sent');
  rig.send('CREDIT_UPDATE', { bufAlloc: 2000, fwdCnt: 140 });
  t.same(payloadOf(await rig.packets()), sent.subarray(140));
});

t.test('§5.10.6.3 a program is not read while the guest has no room', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open({ bufAlloc: 0 });
  let taken = 0;
  for (let i = 0; i < 100; i++) program.write(Buffer.alloc(65536), () => taken++);
  await rig.packets();
  t.ok(taken < 4, `${taken} of 100 writes were taken`);
});

t.test('§5.10.6.3 a query for credit is answered with an update', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  rig.send('RW', {}, Buffer.alloc(10));
  await rig.settle();
  rig.send('CREDIT_REQUEST');
  rig.send('CREDIT_REQUEST');
  program.write('data');
  const packets = await rig.packets();
  t.same(ops(packets).sort(), ['CREDIT_UPDATE', 'RW'], 'two queries at once get one answer');
  const update = packets.find(({ op }) => op === 'CREDIT_UPDATE');
  t.match(update?.header, { bufAlloc: BUFFER, fwdCnt: 10 });
});

t.test('§5.10.6.3 the guest gets credit back as the program reads, not before', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  const sent = randomBytes(BUFFER);
  for (let at = 0; at < BUFFER; at += 8192) rig.send('RW', {}, sent.subarray(at, at + 8192));
  const before = await rig.packets();
  const known = before.at(-1)?.header.fwdCnt ?? 0;
  t.ok(known < BUFFER, `${known} bytes taken by the stream`);
  const parts: Buffer[] = [];
  program.on('data', (part: Buffer) => parts.push(part));
  const after = await rig.packets();
  t.equal(after.at(-1)?.op, 'CREDIT_UPDATE');
  t.ok(BUFFER - (after.at(-1)?.header.fwdCnt ?? 0) < BUFFER / 2);
  t.same(Buffer.concat(parts), sent);
});

t.test('§5.10.6.3 more than its credit: the connection is reset', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  rig.send('RW', {}, Buffer.alloc(BUFFER + 1));
  t.same(ops(await rig.packets()), ['RST']);
  t.equal(program.readableLength, 0);
  t.equal(rig.rig.brokenReason, undefined, 'the device continues');
});

t.test('counters wrap at 2^32', async (t) => {
  using rig = new VsockRig();
  const program = await rig.open();
  program.on('data', () => {});
  let fwdCnt = 0;
  // 2^32 bytes are too many for a test: sent bytes count as taken when the guest reports it.
  program.write('x'.repeat(100));
  await rig.packets();
  fwdCnt = 2 ** 32 - 50;
  rig.send('CREDIT_UPDATE', { fwdCnt, bufAlloc: 160 });
  program.write('y'.repeat(100));
  t.equal(payloadOf(await rig.packets()).length, 10, '100 + 50 of 160 are in flight');
});

t.test('§5.10.6.5 SHUTDOWN of one direction is a half-close', async (t) => {
  await t.test('by the guest', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    rig.send('RW', {}, Buffer.from('last words'));
    rig.send('SHUTDOWN', { flags: SEND });
    t.equal(await readAll(program), 'last words');
    program.write('still sent');
    const data = await rig.packets();
    t.equal(payloadOf(data).toString(), 'still sent');
    rig.send('SHUTDOWN', { flags: 0 });
    rig.send('RW', {}, Buffer.from('again'));
    t.same(ops(await rig.packets()), ['RST'], 'the flag stays, and data after it breaks the rule');
  });
  await t.test('by the program', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    program.end('last words');
    const packets = await rig.packets();
    t.same(ops(packets), ['RW', 'SHUTDOWN'], 'after the data');
    t.equal(packets[1]?.header.flags, SEND);
    rig.send('RW', {}, Buffer.from('still sent'));
    await rig.settle();
    t.equal(waiting(program), 'still sent');
  });
  await t.test("the guest will receive no more: the program's data is dropped", async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    rig.send('SHUTDOWN', { flags: RCV });
    let taken = 0;
    for (let i = 0; i < 20; i++) program.write(Buffer.alloc(65536), () => taken++);
    t.same(await rig.packets(), []);
    t.equal(taken, 20);
    rig.send('RW', {}, Buffer.from('words'));
    await rig.settle();
    t.equal(waiting(program), 'words');
  });
});

t.test('§5.10.6.5 a clean disconnect', async (t) => {
  await t.test('by the guest: RST, and the program gets all that was sent', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    const sent = randomBytes(100_000);
    rig.send('RW', {}, sent);
    rig.send('SHUTDOWN', { flags: RCV | SEND });
    t.same(ops(await rig.packets()), ['RST']);
    t.equal(await readAll(program), sent.toString('latin1'));
    await rig.open();
    t.pass('the ports are free again');
  });
  await t.test('by both: SHUTDOWN of both directions, then RST from the guest', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    rig.send('SHUTDOWN', { flags: SEND });
    program.resume();
    program.end('bye');
    const packets = await rig.packets();
    t.same(ops(packets), ['RW', 'SHUTDOWN']);
    t.equal(packets[1]?.header.flags, RCV | SEND);
    rig.send('RST');
    t.same(await rig.packets(), []);
    await rig.open();
  });
  await t.test('the program first', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    program.resume();
    program.end();
    t.match((await rig.packets())[0]?.header, { flags: SEND });
    rig.send('SHUTDOWN', { flags: SEND });
    t.match((await rig.packets())[0]?.header, { flags: RCV | SEND });
  });
  await t.test('a guest that does not answer gets RST', async (t) => {
    using rig = new VsockRig(STREAM, { answer: 60_000, close: 1 });
    const program = await rig.open();
    rig.send('SHUTDOWN', { flags: SEND });
    program.resume();
    program.end();
    const received: string[] = [];
    while (!received.includes('RST')) received.push(...ops(await rig.packets(1)));
    t.same(received, ['SHUTDOWN', 'RST']);
  });
});

t.test('§5.10.6.5 RST disconnects', async (t) => {
  await t.test('by the guest', async (t) => {
    using rig = new VsockRig();
    const program = await rig.open();
    rig.send('RW', {}, Buffer.from('said'));
    rig.send('RST');
    t.equal(await readAll(program), 'said');
    t.same(await rig.packets(), [], 'an RST is not answered');
  });
  await t.test("by a program's end that is no half-close", async (t) => {
    using rig = new VsockRig();
    await rig.open();
    rig.devices.at(-1)?.destroy(new Error('write EPIPE'));
    t.same(ops(await rig.packets()), ['RST']);
  });
});
