/**
 * Time to boot: from the start of the VMM's process to the first line that the guest's init
 * prints on the console. nodevmm is started through its command line, as a user would.
 */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import type { Measure } from '../harness/measure.ts';
import { measureInRounds } from '../harness/rounds.ts';
import { Child } from '../subjects/child.ts';
import { MICROVM, MICROVM_PCI, Q35, type QemuMachine, qemuCommand } from '../subjects/qemu.ts';
import {
  COMMAND_LINE,
  type GuestSpec,
  lacksQemu,
  NODEVMM,
  type Selectable,
} from '../subjects/subject.ts';
import type { Group } from './group.ts';

/** Also prints how long the kernel ran, by the guest's own clock. */
const MARKER = /nodevmm-init: userspace reached at ([0-9.]+) s/;
const MEMORY_MIB = 512;

const TOTAL: Measure = { name: 'exec to init', unit: 'ms', better: 'lower' };
const KERNEL: Measure = {
  name: 'guest kernel to init',
  unit: 'ms',
  better: 'lower',
  aspect: { of: TOTAL.name, label: 'of it kernel' },
};
const EXIT: Measure = {
  name: 'end of the process',
  unit: 'ms',
  better: 'lower',
  aspect: { of: TOTAL.name, label: 'end' },
};

interface Bootable extends Selectable {
  /** @param cache folder for files that a VMM keeps between starts */
  readonly command: (spec: GuestSpec, cache: string) => string[];
}

const nodevmm: Bootable = {
  name: 'nodevmm',
  reference: false,
  peer: 'QEMU q35',
  command: ({ kernel, initrd, memoryMiB }, cache) => [
    ...['env', `XDG_CACHE_HOME=${cache}`, process.execPath, NODEVMM, 'run', '--no-lab'],
    ...['--kernel', kernel, '--initrd', initrd],
    ...['--cmdline', COMMAND_LINE, '--memory', `${memoryMiB}M`],
  ],
};

const qemu = (name: string, machine: QemuMachine): Bootable => ({
  name,
  reference: true,
  lacking: lacksQemu,
  command: (spec) => qemuCommand(machine, spec, undefined),
});

const CONTESTANTS: readonly Bootable[] = [
  nodevmm,
  qemu('QEMU q35', Q35),
  qemu('QEMU microvm PCI', MICROVM_PCI),
  // A virtio console over MMIO needs a module, which is loaded long after init has started.
  qemu('QEMU microvm ttyS0', { ...MICROVM, console: 'ttyS0' }),
];

/** One boot. @returns milliseconds by measure */
async function boot(command: readonly string[]): Promise<Record<string, number>> {
  const begin = performance.now();
  let up = 0;
  let kernelSeconds = Number.NaN;
  {
    await using child = new Child(command);
    const seen = new Promise<RegExpExecArray>((resolve) => {
      let text = '';
      child.process.stdout?.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
        const match = MARKER.exec(text);
        if (match !== null) resolve(match);
      });
    });
    kernelSeconds = Number((await child.during('the guest’s init', seen))[1]);
    up = performance.now();
  }
  const end = performance.now();
  return { [TOTAL.name]: up - begin, [KERNEL.name]: kernelSeconds * 1000, [EXIT.name]: end - up };
}

export const bootGroup: Group = {
  name: 'boot',
  summary: 'time from exec of the VMM to the guest’s init',
  image: 'minimal',
  async run(context) {
    if (context.skips(TOTAL.name)) return;
    const image = await context.image('minimal');
    // In memory, like anything that is started a second time: in the lab, other folders come from its host.
    using temporary = new TemporaryFolder('nodevmm-boot-');
    const folder = temporary.path;
    const kernel = join(folder, 'vmlinuz');
    const initrd = join(folder, 'initrd');
    copyFileSync(image.kernel, kernel);
    copyFileSync(image.initrd, initrd);
    const spec: GuestSpec = { kernel, initrd, memoryMiB: MEMORY_MIB };
    const taking = {
      group: 'boot',
      measures: [TOTAL, KERNEL, EXIT],
      contestants: context.select(CONTESTANTS),
      take: (contestant: Bootable) => boot(contestant.command(spec, folder)),
    };
    context.report(await measureInRounds(taking, context));
  },
};
