import t from 'tap';
import { HostError } from '../../../src/host/errors.ts';
import { Fd } from '../../../src/host/fd.ts';
import { COPY, CopyList, FaultGuard } from '../../../src/host/native-addon.ts';
import { NativeMemory, viewOf } from '../../../src/host/native-memory.ts';
import * as sys from '../../../src/host/syscall.ts';

const PAGE = 4096;

function mapping(pages: number): { file: Fd; address: number; bytes: Uint8Array } {
  const file = new Fd(sys.check(sys.memfdCreate('guarded', 1), 'memfd_create', 'test'));
  sys.check(sys.ftruncate(file.fd, pages * PAGE), 'ftruncate', 'test');
  const protection = sys.PROT_READ | sys.PROT_WRITE;
  const address = sys.check(
    sys.mmap(0, pages * PAGE, protection, sys.MAP_SHARED, file.fd, 0),
    'mmap',
    'test',
  );
  return { file, address, bytes: new Uint8Array(viewOf(address, pages * PAGE)) };
}

t.test('a truncated mapping reads as zeroes, takes writes, and is counted', (t) => {
  const { file, address, bytes } = mapping(4);
  using guard = new FaultGuard(address, 4 * PAGE);
  bytes.fill(0xaa);
  t.equal(guard.faults, 0);
  sys.check(sys.ftruncate(file.fd, PAGE), 'ftruncate', 'test');
  t.equal(bytes[0], 0xaa, 'the page that is left');
  t.equal(bytes[2 * PAGE], 0);
  t.equal(guard.faults, 1);
  bytes[2 * PAGE + 8] = 1;
  t.equal(bytes[2 * PAGE + 8], 1);
  t.equal(guard.faults, 1, 'one fault a page');
  bytes[3 * PAGE] = 1;
  t.equal(guard.faults, 2);
  guard[Symbol.dispose]();
  t.equal(guard.faults, 0);
  sys.munmap(address, 4 * PAGE);
  file.close();
  t.end();
});

t.test('copies out of and into a truncated mapping survive', (t) => {
  const { file, address, bytes } = mapping(4);
  using guard = new FaultGuard(address, 4 * PAGE);
  bytes.fill(0xaa);
  sys.check(sys.ftruncate(file.fd, PAGE), 'ftruncate', 'test');
  const other = new NativeMemory(PAGE);
  other.bytes.fill(0xbb);
  const copies = new CopyList(2);
  copies.numbers.set([other.address, address + PAGE - 8, 16]);
  copies.numbers.set([address + 2 * PAGE - 4, other.address + 100, 8], COPY);
  copies.run(2);
  t.same([...other.bytes.subarray(0, 17)], [...Array(8).fill(0xaa), ...Array(8).fill(0), 0xbb]);
  t.same([...bytes.subarray(2 * PAGE - 5, 2 * PAGE + 5)], [0, ...Array(8).fill(0xbb), 0]);
  t.equal(guard.faults, 2);
  guard[Symbol.dispose]();
  sys.munmap(address, 4 * PAGE);
  file.close();
  t.end();
});

t.test('a misaligned range is refused', (t) => {
  t.throws(() => new FaultGuard(123, PAGE), HostError);
  t.throws(() => new FaultGuard(PAGE, PAGE, 3000), HostError);
  t.end();
});

t.test('a slot is free again after dispose', (t) => {
  for (let i = 0; i < 200; i++) new FaultGuard(PAGE, PAGE)[Symbol.dispose]();
  t.pass('never full');
  t.end();
});

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

t.test('copies are done in order, as many as requested', async (t) => {
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
