/** A console in a file: full disks, readers that leave, and what is reported. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { ConsoleFile } from '../../../src/cli/terminal/console-file.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const at = (name: string): string => path.join(folder, name);

function open(name: string, append = false): { file: ConsoleFile; logs: string[] } {
  const logs: string[] = [];
  const log = (text: string): void => void logs.push(text);
  return { file: new ConsoleFile({ path: at(name), append, log }), logs };
}

/** Resolves when the file has taken it, or lost it. */
function put(file: ConsoleFile, text: string): Promise<void> {
  return new Promise((resolve) => file.write(text, () => resolve()));
}

t.test('it is its owner’s alone, and whole when it is finished', async (t) => {
  const { file, logs } = open('console');
  for (let i = 0; i < 1000; i++) file.write(`line ${i}\n`);
  await file.finish();
  t.equal(readFileSync(at('console'), 'utf8').split('\n').length, 1001);
  t.equal(statSync(at('console')).mode & 0o777, 0o600);
  t.same(logs, []);
});

t.test('append adds to the file, otherwise it is truncated', async (t) => {
  writeFileSync(at('log'), 'first boot\n');
  const { file } = open('log', true);
  await put(file, 'second boot\n');
  await file.finish();
  t.equal(readFileSync(at('log'), 'utf8'), 'first boot\nsecond boot\n');
  const anew = open('log').file;
  await put(anew, 'third boot\n');
  await anew.finish();
  t.equal(readFileSync(at('log'), 'utf8'), 'third boot\n');
});

t.test('a full disk loses output, reported once and at the end', async (t) => {
  const { file, logs } = open(path.relative(folder, '/dev/full'));
  for (let i = 0; i < 100; i++) await put(file, '0123456789');
  await file.finish();
  t.equal(file.errored, null);
  t.equal(logs.length, 2);
  t.match(logs[0], /no space left on device \(ENOSPC\); its output is lost meanwhile/);
  t.match(logs[1], /^1000 bytes of console output are missing from/);
});

t.test('a FIFO whose reader leaves, and gets another one', async (t) => {
  execFileSync('mkfifo', [at('fifo')]);
  const reader = (): number => openSync(at('fifo'), constants.O_RDONLY | constants.O_NONBLOCK);
  const first = reader();
  const { file, logs } = open('fifo');
  await put(file, 'received');
  const bytes = Buffer.alloc(1000);
  t.equal(bytes.toString('latin1', 0, readSync(first, bytes)), 'received');
  closeSync(first);
  await put(file, 'unheard');
  await put(file, 'too');
  const second = reader();
  await put(file, 'read again');
  const text = bytes.toString('latin1', 0, readSync(second, bytes));
  t.equal(text, '\r\n[10 bytes of console output dropped]\r\nread again');
  await file.finish();
  closeSync(second);
  t.match(logs, [/\(EPIPE\)/, /^10 bytes/]);
  t.equal(logs.length, 2);
});

t.test('a FIFO that is full and not read keeps no run from ending', async (t) => {
  execFileSync('mkfifo', [at('full')]);
  const reader = openSync(at('full'), constants.O_RDONLY | constants.O_NONBLOCK);
  const { file, logs } = open('full');
  file.write(Buffer.alloc(200_000));
  await file.finish();
  closeSync(reader);
  t.equal(logs.length, 2);
  t.match(logs[0], /\(EAGAIN\)/);
});
