/** Machines come and go in one process: none leaves mappings, of which vm.max_map_count allows 65530. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t, { type Test } from 'tap';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { elfKernel, HALT, KERNEL_GPA, out } from '../support/fixtures/kernel-image.ts';
import { testFolder } from '../support/rigs/files.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);
t.setTimeout(170_000);

/** Powers off at once. */
const kernel = path.join(folder, 'kernel');
writeFileSync(
  kernel,
  elfKernel({
    segments: [{ paddr: KERNEL_GPA, bytes: Uint8Array.from([...out(0x605, 0x34), ...HALT]) }],
    pvhEntry: KERNEL_GPA,
  }),
);
const disks = ['a', 'b', 'c'].map((name) => path.join(folder, name));
for (const disk of disks) writeFileSync(disk, Buffer.alloc(MiB));

const WARM_UP = 5;
/** Each machine has six threads of its own, and each of them three mappings for calls. */
const ROUNDS = 10;
const SERIES = 4;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** V8's pages and the C library's arenas lie at multiples of it. */
const ALIGNED = 256 * 1024;

interface Count {
  readonly all: number;
  /** Without those of V8 and the C library, which come and go. */
  readonly others: number;
}

async function countMappings(): Promise<Count> {
  collectGarbage();
  // Threads unmap their memory after they have announced their end.
  await delay(500);
  const lines = readFileSync('/proc/self/maps', 'latin1').trimEnd().split('\n');
  const others = lines.filter((line) => {
    const ends = line.split(' ', 1)[0]?.split('-') ?? [];
    return ends.every((address) => Number.parseInt(address, 16) % ALIGNED !== 0);
  });
  return { all: lines.length, others: others.length };
}

/** Does it again and again. V8's pages and the arenas stop growing; what each machine leaves does not. */
async function leavesNothing(t: Test, once: () => Promise<void>): Promise<void> {
  for (let round = 0; round < WARM_UP; round++) await once();
  const first = await countMappings();
  const grown: number[] = [];
  let last = first;
  while (grown.length < SERIES && !grown.some((count) => count < ROUNDS)) {
    const before = last.all;
    for (let round = 0; round < ROUNDS; round++) await once();
    last = await countMappings();
    grown.push(last.all - before);
  }
  const rounds = grown.length * ROUNDS;
  t.ok(
    Math.min(...grown) < ROUNDS,
    `${grown.join(', ')} mappings more, each after ${ROUNDS} machines`,
  );
  const others = last.others - first.others;
  t.ok(others < rounds, `${others} after ${rounds} that are no heap's`);
}

const create = (): Promise<VirtualMachine> =>
  VirtualMachine.create({
    kernel,
    memory: 32 * MiB,
    cpus: 2,
    disks: disks.map((path) => ({ path })),
    fileSystems: [{ tag: 'shared', source: folder }],
  });

t.test('machines that are created and disposed of', { skip }, async (t) => {
  await leavesNothing(t, async () => {
    await using _vm = await create();
  });
});

t.test('machines that run to their end', { skip }, async (t) => {
  await leavesNothing(t, async () => {
    await using vm = await create();
    await vm.start();
    await vm.wait();
  });
});
