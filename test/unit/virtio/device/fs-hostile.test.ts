/** Drivers that send anything: each request is answered, the device continues, no descriptor leaks. */
import fc from 'fast-check';
import t from 'tap';
import * as fuse from '../../../../src/abi/fuse.ts';
import {
  createdHandle,
  handleOf,
  nodeOf,
  openDescriptors,
  SharedFolder,
} from '../../../support/rigs/fs-driver.ts';

const OPCODES = Object.entries(fuse)
  .filter(([name, value]) => /^FUSE_[A-Z0-9_]+$/.test(name) && typeof value === 'number')
  .map(([, value]) => value as number)
  .filter((value) => value <= 60);

/** Often a value that means something, else any. */
const word = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 8 }) },
  { weight: 1, arbitrary: fc.constantFrom(0xffffffff, 0x80000000, 0x7fffffff, 0x1fffff, 0o100644) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
);
const name = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('file\0', 'folder\0', 'inner\0', 'a\0', 'b\0') },
  { weight: 2, arbitrary: fc.constantFrom('', '\0', '..\0', '.\0', 'a/b\0', 'file', 'user.a\0') },
  { weight: 1, arbitrary: fc.string({ maxLength: 300 }) },
);

interface Step {
  readonly opcode: number;
  readonly nodeid: number;
  readonly words: readonly number[];
  /** Which open file the first two words name; -1: as they are. */
  readonly handle: number;
  readonly names: readonly string[];
  /** How far the header's length is off. */
  readonly lie: number;
  readonly room: number;
  /** Where it is cut into buffers. */
  readonly cuts: readonly number[];
  readonly after: 'nothing' | 'hand over' | 'reset';
}

const step: fc.Arbitrary<Step> = fc.record({
  opcode: fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...OPCODES) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
  ),
  nodeid: fc.oneof(
    { weight: 5, arbitrary: fc.integer({ min: 0, max: 6 }) },
    { weight: 1, arbitrary: fc.constantFrom(2 ** 32, 2 ** 53, 2 ** 63) },
  ),
  words: fc.array(word, { maxLength: 22 }),
  handle: fc.integer({ min: -1, max: 3 }),
  names: fc.array(name, { maxLength: 2 }),
  lie: fc.oneof(
    { weight: 8, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.constantFrom(-50, -1, 1, 4096, 2 ** 31) },
  ),
  room: fc.constantFrom(0, 0, 1, 16, 128, 144, 1000, 4096),
  cuts: fc.array(fc.integer({ min: 1, max: 150 }), { maxLength: 3 }),
  after: fc.oneof(
    { weight: 20, arbitrary: fc.constant('nothing' as const) },
    { weight: 1, arbitrary: fc.constantFrom('hand over' as const, 'reset' as const) },
  ),
});

/** Opcodes that are never answered. */
const SILENT: readonly number[] = [fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT];

/** Those that answer with a node ID, and those that do with a handle. */
const LOOKS_UP = [fuse.FUSE_LOOKUP, fuse.FUSE_CREATE, fuse.FUSE_MKDIR, fuse.FUSE_SYMLINK];
const OPENS = [fuse.FUSE_OPEN, fuse.FUSE_OPENDIR];

t.test('any requests in any order', async (t) => {
  const run = (steps: readonly Step[]): void => {
    using folder = new SharedFolder();
    const before = openDescriptors();
    const fs = folder.driver({ maxFiles: 16 });
    const ids = [fuse.FUSE_ROOT_ID, fs.find('file'), fs.find('folder')];
    const handles = [handleOf(fs.open(fs.find('file'), 2))];
    for (const { opcode, nodeid, words, handle, names, lie, room, cuts, after } of steps) {
      const fh = handles[handle];
      const numbers = [...words];
      if (fh !== undefined) numbers.splice(0, 2, fh % 2 ** 32, Math.floor(fh / 2 ** 32));
      // Blocks that it allocates are real: fewer than 2^20 bytes of them.
      if (opcode === fuse.FUSE_FALLOCATE) numbers.splice(4, 2, (numbers[4] ?? 0) % 2 ** 20, 0);
      const body = Buffer.concat([
        Buffer.from(Uint32Array.from(numbers).buffer),
        ...names.map((text) => Buffer.from(text)),
      ]);
      const header = fs.header(opcode, BigInt(ids[nodeid] ?? nodeid), body.length + lie);
      const whole = Buffer.concat([header, body]);
      const ends = [...new Set([...cuts.filter((cut) => cut < whole.length), whole.length])];
      ends.sort((a, b) => a - b);
      const pieces = ends.map((end, i) => whole.subarray(i === 0 ? 0 : ends[i - 1], end));
      const done = fs.send(pieces, room > 0 ? [16, room] : [16]);
      if (SILENT.includes(opcode)) {
        if (done.written !== 0) throw new Error(`opcode ${opcode} was answered`);
      } else {
        const answer = new DataView(done.data.buffer, done.data.byteOffset, done.data.length);
        const error = -answer.getInt32(4, true);
        if (answer.getUint32(0, true) !== done.written) throw new Error('it is not so long');
        if (error < 0 || error > 133) throw new Error(`errno ${error}`);
        if (error > 0 && done.written !== 16) throw new Error('an error with data');
        const data = new DataView(done.data.buffer, done.data.byteOffset + 16, done.written - 16);
        const result = { error, data, bytes: done.data.subarray(16), written: done.written };
        if (error === 0 && LOOKS_UP.includes(opcode)) ids.push(nodeOf(result));
        if (error === 0 && opcode === fuse.FUSE_CREATE) handles.push(createdHandle(result));
        if (error === 0 && OPENS.includes(opcode)) handles.push(handleOf(result));
      }
      if (after === 'hand over') fs.handOver();
      if (after === 'reset') {
        fs.reset();
        fs.start();
        fs.init();
      }
      if (openDescriptors() > before + 20) throw new Error('too many descriptors');
    }
    if (fs.rig.brokenReason !== undefined) throw new Error(fs.rig.brokenReason);
    fs[Symbol.dispose]();
    if (openDescriptors() !== before) throw new Error('a descriptor was lost');
  };
  fc.assert(fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), run), { numRuns: 150 });
  t.pass('each was answered');
});

t.test('§5.11.6 a chain without a header, or room for one, breaks the device', async (t) => {
  const cases: readonly (readonly [number, readonly number[]])[] = [
    [39, [16]],
    [0, [200]],
    [40, []],
    [40, [15]],
    [40, [7, 8]],
  ];
  for (const [readable, writable] of cases) {
    using folder = new SharedFolder();
    const fs = folder.driver();
    const header = fs.header(fuse.FUSE_GETATTR, 1, 0).subarray(0, readable);
    const asked = { readable: readable === 0 ? [] : [header], writable };
    fs.rig.queue(1).add(asked);
    fs.rig.kick(1);
    t.match(fs.rig.brokenReason, /§5\.11\.6/, `${readable} to read, ${writable} to write`);
    fs.rig.queue(1).add({ readable: [fs.header(fuse.FUSE_DESTROY, 0, 0)], writable: [16] });
    fs.rig.notify(1);
    t.equal(fs.rig.queue(1).completed().length, 0, 'and nothing is served any more');
  }
});

t.test('§5.11.6.2 FORGET needs no room, on any queue', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const before = openDescriptors();
  for (const queue of [0, 1]) {
    const id = fs.find('file');
    t.equal(openDescriptors(), before + 1);
    fs.sendOneWay(fuse.FUSE_FORGET, id, Buffer.from(new BigUint64Array([1n]).buffer), queue);
    t.equal(openDescriptors(), before);
  }
});
