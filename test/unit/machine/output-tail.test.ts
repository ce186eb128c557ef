import t from 'tap';
import { OutputTail } from '../../../src/machine/consoles.ts';

const PANIC = 'Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)';

t.test('the kernel’s line on its panic is found, alone', async (t) => {
  const tail = new OutputTail();
  tail.add(Buffer.from(`[ 1.0] before\r\n[ 1.1] ${PANIC}\r\n[ 1.2] CPU: 0\r\n`));
  t.equal(tail.panic, PANIC);
});

t.test('a line that comes in pieces is found', async (t) => {
  const tail = new OutputTail();
  for (const byte of Buffer.from(`${PANIC}\nrest`)) tail.add(Uint8Array.of(byte));
  t.equal(tail.panic, PANIC);
});

t.test('ordinary output is no panic, whatever its bytes', async (t) => {
  const tail = new OutputTail();
  t.equal(tail.panic, undefined);
  tail.add(Uint8Array.from({ length: 256 }, (_, i) => i));
  tail.add(Buffer.from('Kernel panic averted'));
  t.equal(tail.panic, undefined);
});

t.test('only the end is kept', async (t) => {
  const tail = new OutputTail();
  tail.add(Buffer.from(`${PANIC}\n`));
  tail.add(Buffer.alloc(10_000, 0x2e));
  t.equal(tail.panic, undefined);
});

t.test('a panic before the last power-on is forgotten', async (t) => {
  const tail = new OutputTail();
  tail.add(Buffer.from(PANIC));
  tail.clear();
  t.equal(tail.panic, undefined);
});

t.test("a panic's text has no escape sequences", async (t) => {
  const tail = new OutputTail();
  tail.add(Buffer.from('Kernel panic - not syncing: \x1b]0;gotcha\x07\x9b2J\r\n', 'latin1'));
  t.equal(tail.panic, 'Kernel panic - not syncing: \\x1b]0;gotcha\\x07\\x9b2J');
});
