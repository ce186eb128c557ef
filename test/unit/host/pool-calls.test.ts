/** System calls in the thread pool: results, errnos, and several at a time. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { EBADF, ENOENT, ENOTTY } from '../../../src/abi/errno.ts';
import { NativeMemory } from '../../../src/host/native-memory.ts';
import { poolCalls } from '../../../src/host/pool-calls.ts';
import * as sys from '../../../src/host/syscall.ts';

const O_CREAT = 0o100;

t.test('a file is made, written, and closed', async (t) => {
  const path = join(t.testdir(), 'file');
  const fd = await poolCalls.open(path, sys.O_RDWR | sys.O_CLOEXEC | O_CREAT);
  t.ok(fd > 2);
  const memory = new NativeMemory(5);
  memory.bytes.set(Buffer.from('bytes'));
  t.equal(await poolCalls.write(fd, memory), 5);
  t.equal(await poolCalls.ioctl(fd, 0xdead), -ENOTTY);
  t.equal(await poolCalls.close(fd), 0);
  // open was given no mode: root reads it all the same.
  if (process.getuid?.() === 0) t.equal(readFileSync(path, 'latin1'), 'bytes');
});

t.test('each call has its own errno', async (t) => {
  const calls = Array.from({ length: 20 }, (_, i) =>
    i % 2 === 0 ? poolCalls.close(-1) : poolCalls.open('/nonexistent/file', sys.O_RDWR),
  );
  const expected = calls.map((_, i) => (i % 2 === 0 ? -EBADF : -ENOENT));
  t.same(await Promise.all(calls), expected);
});
