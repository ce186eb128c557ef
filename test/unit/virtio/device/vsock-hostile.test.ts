/** Drivers that send anything: the socket device stays within its bounds and follows the rules. */
import { Buffer } from 'node:buffer';
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-vsock.ts';
import { BUFFER } from '../../../../src/virtio/device/vsock/vsock-packet.ts';
import { type Fields, GUEST, type Packet, VsockRig } from '../../../support/rigs/vsock.ts';

/** Often a value that means something, else any. */
const often = (max: number, ...values: number[]): fc.Arbitrary<number> =>
  fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(...values) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max }) },
  );
const U32 = 0xffff_ffff;
const cid = (usual: number): fc.Arbitrary<number> =>
  fc.oneof(
    { weight: 12, arbitrary: fc.constant(usual) },
    { weight: 1, arbitrary: fc.constantFrom(0, 1, 3, U32, 2 ** 32 + usual, 2 ** 63) },
  );

interface Step {
  readonly op: number;
  readonly fields: Fields;
  readonly payload: number;
  /** What the host does after the packet. */
  readonly host: 'nothing' | 'reads' | 'writes' | 'ends' | 'breaks' | 'dials' | 'hands over';
  /** Receive buffers that the driver posts. */
  readonly post: number;
}

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    op: often(65535, 0, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7),
    fields: fc.record({
      srcCid: cid(GUEST),
      dstCid: cid(abi.VMADDR_CID_HOST),
      srcPort: often(U32, 80, 1000, 1001),
      dstPort: often(U32, 52, 53, 2 ** 30, 2 ** 30 + 1),
      type: often(65535, 1, 1, 1, 2),
      flags: often(U32, 0, 1, 2, 3),
      bufAlloc: often(U32, 0, 1, 100, 65536, U32),
      fwdCnt: often(U32, 0, 1, 100, 65536, U32),
    }),
    payload: often(2 * BUFFER, 0, 1, 100, 4096, 65536),
    host: fc.constantFrom<Step['host'][]>(
      'nothing',
      'nothing',
      'reads',
      'writes',
      'ends',
      'breaks',
      'dials',
      'hands over',
    ),
    post: fc.integer({ min: 0, max: 6 }),
  }),
  { minLength: 1, maxLength: 40 },
);

t.test('any headers in any order', async (t) => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      using rig = new VsockRig();
      rig.listening.set(52, []);
      const received: Packet[] = [];
      for (const { op, fields, payload, host, post } of all) {
        rig.send(op, fields, Buffer.alloc(payload));
        rig.post(post);
        const program = rig.listening.get(52)?.at(-1);
        if (host === 'reads') program?.resume();
        if (host === 'writes' && program?.writable) program.write(Buffer.alloc(5000));
        if (host === 'ends') program?.end();
        if (host === 'breaks') rig.devices.at(-1)?.destroy(new Error('write EPIPE'));
        if (host === 'dials') rig.dial(80);
        if (host === 'hands over') rig.handOver();
        await rig.settle();
        received.push(...rig.taken());
        for (const device of rig.devices) {
          if (device.writableLength > BUFFER + 100) throw new Error('more waits than was allowed');
        }
      }
      if (rig.rig.brokenReason !== undefined) throw new Error(rig.rig.brokenReason);
      for (const packet of received) checkPacket(packet);
    }),
    { numRuns: 100 },
  );
  t.pass();
});

/** §5.10.6: what every packet of the device must be. */
function checkPacket({ op, header, payload }: Packet): void {
  if (header.dstCid !== GUEST) throw new Error(`a packet for ${header.dstCid}`);
  if (header.len !== payload.length) throw new Error('a length that is not the payload’s');
  if (op !== 'RW' && payload.length > 0) throw new Error(`a payload with ${op}`);
  if (op === 'RST') return;
  if (/^\d+$/.test(op)) throw new Error(`op ${op}`);
  if (header.srcCid !== abi.VMADDR_CID_HOST) throw new Error(`a packet from ${header.srcCid}`);
  if (header.type !== abi.VIRTIO_VSOCK_TYPE_STREAM) throw new Error(`type ${header.type}`);
  if (header.bufAlloc !== BUFFER) throw new Error('no valid credit (§5.10.6.3)');
}

t.test('any bytes', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(fc.uint8Array({ maxLength: 100 }), { minLength: 1, maxLength: 3 })),
      async (packets) => {
        using rig = new VsockRig();
        rig.post(20);
        for (const segments of packets) {
          if (rig.rig.brokenReason === undefined) rig.sendBytes(...segments);
        }
        await rig.settle();
        rig.taken().forEach(checkPacket);
        const short = packets.some((parts) => Buffer.concat(parts).length < 44);
        if (short && rig.rig.brokenReason === undefined) throw new Error('took less than a header');
      },
    ),
    { numRuns: 100 },
  );
  t.pass();
});

t.test('credit is never overrun, whatever credit the driver claims', async (t) => {
  const words = fc.record({
    bufAlloc: often(U32, 0, 10, 5000, 65536),
    fwdCnt: often(U32, 0, 10, 5000, 65536, U32),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(words, { maxLength: 20 }), async (all) => {
      using rig = new VsockRig();
      const program = await rig.open({ bufAlloc: 0 });
      let sent = 0;
      program.write(Buffer.alloc(10_000));
      for (const { bufAlloc, fwdCnt } of all) {
        rig.send('CREDIT_UPDATE', { bufAlloc, fwdCnt });
        const free = bufAlloc - ((sent - fwdCnt) >>> 0);
        const got = (await rig.packets(8)).reduce((sum, { header }) => sum + header.len, 0);
        if (got > Math.max(0, free)) throw new Error(`${got} bytes into ${free}`);
        sent += got;
      }
    }),
    { numRuns: 100 },
  );
  t.pass();
});
