/** `nodevmm guest`: makes and lists the guest images. */
import { Option } from 'commander';
import { buildGuest, type Guest, guestName, listGuests } from '../guest/guests.ts';
import { KERNEL_SERIES, type KernelSeries, prepareKernel } from '../guest/kernel.ts';
import { buildModules } from '../guest/own-modules.ts';
import { recipes } from '../guest/recipe.ts';
import type { RegisterCommand } from './exit-status.ts';
import { ProgressLine } from './terminal/progress.ts';

const KNOWN = Object.entries(recipes)
  .map(([name, recipe]) => `  ${name.padEnd(10)}${recipe.summary}`)
  .join('\n');

const BUILD_EXAMPLE = `

Example:
  { read -r kernel; read -r initrd; } < <(nodevmm guest build)
  nodevmm run --kernel "$kernel" --initrd "$initrd"`;

/** Adds `guest`. */
export const registerGuestCommand: RegisterCommand = (program, finish) => {
  const guest = program.command('guest').description('build and list guest images');
  guest
    .command('build')
    .description(
      'make guest images from distribution packages, in the cache; prints the path of the kernel and that of the initramfs, a line each',
    )
    .argument('[name...]', 'images (default: minimal)')
    .addOption(
      new Option('--kernel <series>', 'kernel series').choices([...KERNEL_SERIES]).default('6.12'),
    )
    .option('--json', 'what was made, as JSON')
    .addHelpText('after', `\nImages:\n${KNOWN}${BUILD_EXAMPLE}`)
    .action(async (names: string[], flags: { kernel: KernelSeries; json?: boolean }) => {
      const guests = await build(names.length === 0 ? ['minimal'] : names, flags.kernel);
      process.stdout.write(
        flags.json === true
          ? json(guests)
          : guests.map(({ kernel, initrd }) => `${kernel}\n${initrd}\n`).join(''),
      );
      finish(0);
    });
  guest
    .command('module')
    .description("compile a kernel module of your own for a guest's kernel, and print its path")
    .argument('<folder>', 'its sources, with a Kbuild file')
    .addOption(
      new Option('--kernel <series>', 'kernel series').choices([...KERNEL_SERIES]).default('6.12'),
    )
    .action(async (folder: string, flags: { kernel: KernelSeries }) => {
      const modules = await compile(folder, flags.kernel);
      process.stdout.write(modules.map((path) => `${path}\n`).join(''));
      finish(0);
    });
  guest
    .command('list')
    .description('list the guest images in the cache')
    .option('--json', 'as JSON')
    .action((flags: { json?: boolean }) => {
      const guests = listGuests();
      process.stdout.write(flags.json === true ? json(guests) : table(guests));
      finish(0);
    });
};

async function build(names: readonly string[], kernel: KernelSeries): Promise<Guest[]> {
  const guests: Guest[] = [];
  for (const name of names) {
    const progress = new ProgressLine();
    const building = buildGuest(guestName(name), { kernel, onProgress: progress.update });
    guests.push(await building.finally(() => progress.close()));
  }
  return guests;
}

async function compile(folder: string, series: KernelSeries): Promise<string[]> {
  using progress = new ProgressLine();
  const { version } = await prepareKernel(series, progress.update);
  return await buildModules(folder, version, progress.update);
}

const json = (guests: readonly Guest[]): string => `${JSON.stringify(guests, null, 2)}\n`;

function table(guests: readonly Guest[]): string {
  const row = (guest: Guest): string => {
    const size = `${(guest.initrdSize / 2 ** 20).toFixed(1)} MiB`;
    return `${guest.name.padEnd(10)}${guest.kernelVersion.padEnd(32)}${size.padStart(10)}  ${guest.initrd}\n`;
  };
  return guests.map(row).join('');
}
