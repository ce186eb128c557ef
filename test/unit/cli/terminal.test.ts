/** Ctrl-A commands in what is typed. */
import t from 'tap';
import { EscapeFilter } from '../../../src/cli/terminal/terminal.ts';

/** What passes, and which commands result, when the chunks are typed. */
async function type(...chunks: string[]): Promise<{ passed: string; asked: string[] }> {
  const asked: string[] = [];
  const filter = new EscapeFilter((command) => asked.push(command));
  const received: Buffer[] = [];
  filter.on('data', (chunk: Buffer) => received.push(chunk));
  for (const chunk of chunks) filter.write(Buffer.from(chunk, 'latin1'));
  filter.end();
  await new Promise((resolve) => filter.once('end', resolve));
  return { passed: Buffer.concat(received).toString('latin1'), asked };
}

t.strictSame(await type('ls -l\r'), { passed: 'ls -l\r', asked: [] });
t.strictSame(await type('a\x01xb'), { passed: 'ab', asked: ['quit'] }, 'Ctrl-A x');
t.strictSame(await type('a\x01', 'xb'), { passed: 'ab', asked: ['quit'] }, 'in two chunks');
t.strictSame(await type('\x01h'), { passed: '', asked: ['help'] }, 'Ctrl-A h');
t.strictSame(await type('\x01\x01x'), { passed: '\x01x', asked: [] }, 'Ctrl-A Ctrl-A sends one');
t.strictSame(await type('\x01q'), { passed: '\x01q', asked: [] }, 'anything else passes whole');
t.strictSame(await type('\x03\xff'), { passed: '\x03\xff', asked: [] }, 'Ctrl-C and high bytes');
