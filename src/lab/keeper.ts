/** The process that keeps a lab: ends with it, by a signal, or after an hour of disuse. */

import { messageParts } from '../host/errors.ts';
import { printable } from '../host/untrusted-text.ts';
import { attachKept, KEPT, type KeeperReport, shareLab } from './kept.ts';
import { Lab, type LabOptions } from './lab.ts';

const IDLE_MS = 3_600_000;

function report(line: KeeperReport): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

// The process that started us exits once the lab is up.
process.stdout.on('error', () => {});

async function keep(options: LabOptions): Promise<void> {
  const lab = await Lab.boot({ ...options, onProgress: (step, done) => report({ step, done }) });
  if ((await attachKept(options.cpu)) !== undefined) throw new Error('another lab is already kept');
  const server = await shareLab(lab, options.cpu);
  let idle = setTimeout(() => process.exit(0), IDLE_MS);
  let clients = 0;
  server.on('connection', (stream) => {
    clients += 1;
    clearTimeout(idle);
    stream.on('close', () => {
      clients -= 1;
      if (clients === 0) idle = setTimeout(() => process.exit(0), IDLE_MS);
    });
  });
  report({ step: KEPT, done: 1 });
  // Standard error is the log next to the socket.
  const { message } = await lab.agent.closed;
  process.stderr.write(`${new Date().toISOString()} ${printable(message)}\n`);
  process.exit(0);
}

keep(JSON.parse(process.argv[2] ?? '{}') as LabOptions).catch((error: unknown) => {
  const [problem, remedy] = messageParts(error);
  const line = JSON.stringify({ error: problem, remedy });
  process.stdout.write(`${line}\n`, () => process.exit(1));
});
