/** The benchmarks that need no guest, print tables of their own, and run alone as well. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/** A benchmark program of bench/. */
export interface BenchProgram {
  readonly name: string;
  readonly summary: string;
}

export const BENCH_PROGRAMS: readonly BenchProgram[] = [
  { name: 'queue-walk', summary: 'a virtqueue’s pop and push, beside C (docs/virtqueues.md)' },
  { name: 'blk-engine', summary: 'disk requests without a guest, beside C (docs/blk.md)' },
  {
    name: 'vhost-user-blk',
    summary: 'disk requests over vhost-user, beside qemu-storage-daemon (docs/vhost-user.md)',
  },
  {
    name: 'vhost-user-fs',
    summary: 'requests of files over vhost-user, beside virtiofsd (docs/fs.md)',
  },
  { name: 'net-forward', summary: 'packets without a guest, beside C (docs/net.md)' },
];

/** Runs one with its output shown. @returns its exit status */
export async function runBenchProgram({ name }: BenchProgram): Promise<number> {
  const program = fileURLToPath(new URL(`../${name}.js`, import.meta.url));
  const child = spawn(process.execPath, [program], { stdio: ['ignore', 'inherit', 'inherit'] });
  const [status] = (await once(child, 'close')) as [number | null];
  return status ?? 1;
}
