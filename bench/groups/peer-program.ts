/** The same loops in C, from bench/peers. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../../src/host/errors.ts';
import type { GroupContext } from './group.ts';

/** Prints one figure. */
export type PeerProgram = (args: readonly string[], input?: Uint8Array) => number;

/** Compiles bench/peers/NAME.c. @returns undefined, noted as an omission, without a compiler */
export function compilePeer(
  name: string,
  folder: string,
  { omit }: Pick<GroupContext, 'omit'>,
): PeerProgram | undefined {
  const source = fileURLToPath(new URL(`../../../bench/peers/${name}.c`, import.meta.url));
  const program = join(folder, name);
  try {
    execFileSync('cc', ['-O2', '-o', program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    omit('C', messageOf(error).split('\n')[0] ?? '');
    return undefined;
  }
  return (args, input) => Number(execFileSync(program, args, { input }));
}
