import t from 'tap';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { DescriptorChain } from '../../../../src/virtio/queue/descriptor-chain.ts';
import { FAULT_CHAIN_LOOP } from '../../../../src/virtio/queue/virtqueue.ts';

function example(ram: Ram): DescriptorChain {
  const chain = new DescriptorChain(ram.memory);
  chain.clear();
  chain.add(0x1000, 0, 3, false);
  chain.add(0x2000, 0, 4, false);
  chain.add(0x3000, 0, 2, true);
  chain.add(0x4000, 0, 5, true);
  ram.memory.bytes(0x1000, 3).set(Buffer.from('abc'));
  ram.memory.bytes(0x2000, 4).set(Buffer.from('defg'));
  return chain;
}

t.test('read copies across segments, from any position', async (t) => {
  using ram = new Ram(MiB);
  const chain = example(ram);
  const into = new Uint8Array(4);
  t.equal(chain.read(2, into), 4);
  t.equal(Buffer.from(into).toString(), 'cdef');
  t.equal(chain.read(5, into), 2, 'the part ends before');
  t.equal(chain.read(7, into), 0);
});

t.test('write copies across segments, from any position, and into no readable one', async (t) => {
  using ram = new Ram(MiB);
  const chain = example(ram);
  t.equal(chain.write(1, Buffer.from('xyz')), 3);
  t.equal(Buffer.from(ram.memory.bytes(0x3001, 1)).toString(), 'x');
  t.equal(Buffer.from(ram.memory.bytes(0x4000, 2)).toString(), 'yz');
  t.equal(chain.write(0, new Uint8Array(100)), 7, 'no more than there is room for');
  t.equal(Buffer.from(ram.memory.bytes(0x1000, 3)).toString(), 'abc');
});

t.test('locate gives the RAM offset of a byte', async (t) => {
  using ram = new Ram(MiB);
  const chain = example(ram);
  t.strictSame(
    [chain.locate(false, 0), chain.locate(false, 3), chain.locate(false, 7)],
    [0x1000, 0x2000, -1],
  );
  t.strictSame(
    [chain.locate(true, 0), chain.locate(true, 6), chain.locate(true, 7)],
    [0x3000, 0x4004, -1],
  );
});

t.test('the iovecs are struct iovec of the host addresses', async (t) => {
  using ram = new Ram(MiB);
  const chain = example(ram);
  const view = new DataView(chain.iovec.buffer, chain.iovec.byteOffset);
  const base = BigInt(ram.memory.address);
  t.strictSame(
    [0, 1, 2, 3].map((i) => [
      view.getBigUint64(i * 16, true) - base,
      view.getBigUint64(i * 16 + 8, true),
    ]),
    [
      [0x1000n, 3n],
      [0x2000n, 4n],
      [0x3000n, 2n],
      [0x4000n, 5n],
    ],
  );
  t.equal(chain.writableIovecAddress, chain.iovecAddress + 32);
});

t.test('a chain has room for no more segments than its capacity', async (t) => {
  using ram = new Ram(MiB);
  const chain = new DescriptorChain(ram.memory, 2);
  chain.clear();
  t.strictSame(
    [chain.add(0, 0, 1, false), chain.add(0, 0, 1, true), chain.add(0, 0, 1, true)],
    [0, 0, FAULT_CHAIN_LOOP],
  );
  t.equal(chain.count, 2);
});
