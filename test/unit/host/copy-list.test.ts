import t from 'tap';
import { COPY, CopyList } from '../../../src/host/copy-list.ts';
import { NativeMemory } from '../../../src/host/native-memory.ts';

function memory(): NativeMemory {
  const made = new NativeMemory(64);
  made.bytes.forEach((_, i) => {
    made.bytes[i] = i;
  });
  return made;
}

function note(copies: CopyList, at: number, target: number, source: number, bytes: number): void {
  copies.numbers.set([target, source, bytes], at * COPY);
}

t.test('copies are done in order, as many as are asked for', async (t) => {
  const { bytes, address } = memory();
  const copies = new CopyList(10);
  // Each takes up what the one before has put down.
  for (let i = 0; i < 10; i++) note(copies, i, address + 4 * (i + 1), address + 4 * i, 4);
  copies.run(0);
  t.equal(bytes[4], 4);
  copies.run(9);
  t.same([...bytes.subarray(0, 42)], [...Array(10).fill([0, 1, 2, 3]).flat(), 40, 41]);
});

t.test('ranges may overlap, and be empty', async (t) => {
  const { bytes, address } = memory();
  const copies = new CopyList(2);
  note(copies, 0, address + 2, address, 20);
  note(copies, 1, address + 60, address, 0);
  copies.run(2);
  t.same([...bytes.subarray(0, 23)], [0, 1, ...Array.from({ length: 20 }, (_, i) => i), 22]);
  t.equal(bytes[60], 60);
});

t.test('no more than it has room for', async (t) => {
  const { bytes, address } = memory();
  const copies = new CopyList(2);
  for (let i = 0; i < 2; i++) note(copies, i, address + i + 1, address, 1);
  copies.run(3);
  t.same([...bytes.subarray(0, 5)], [0, 0, 0, 3, 4]);
});
