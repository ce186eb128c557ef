/** `nodevmm guest`: makes and lists the guest images. */
import { type Command, Option } from 'commander';
import { buildGuest, type Guest, listGuests } from '../guest/guests.ts';
import { KERNEL_SERIES, type KernelSeries, prepareKernel } from '../guest/kernel.ts';
import { buildModules } from '../guest/module-build.ts';
import { recipes } from '../guest/recipe.ts';
import { ProgressLine } from './terminal/progress.ts';

const KNOWN = Object.entries(recipes)
  .map(([name, recipe]) => `  ${name.padEnd(10)}${recipe.summary}`)
  .join('\n');

/**
 * Adds `guest`.
 * @param finish gets the exit status
 */
export function registerGuestCommand(program: Command, finish: (status: number) => void): void {
  const guest = program.command('guest').description('make and list guest images');
  guest
    .command('build')
    .description('make guest images from distribution packages, in the cache')
    .argument('[name...]', 'images (default: minimal)')
    .addOption(
      new Option('--kernel <series>', 'kernel series').choices([...KERNEL_SERIES]).default('6.12'),
    )
    .addHelpText('after', `\nImages:\n${KNOWN}`)
    .action(async (names: string[], flags: { kernel: KernelSeries }) => {
      await build(names.length === 0 ? ['minimal'] : names, flags.kernel);
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
      process.stdout.write(
        flags.json === true ? `${JSON.stringify(guests, null, 2)}\n` : table(guests),
      );
      finish(0);
    });
}

async function build(names: readonly string[], kernel: KernelSeries): Promise<void> {
  for (const name of names) {
    const progress = new ProgressLine();
    const onProgress = (step: string, fraction: number): void => progress.update(step, fraction);
    const built = await buildGuest(name, { kernel, onProgress }).finally(() => progress.close());
    process.stdout.write(table([built]));
  }
}

async function compile(folder: string, series: KernelSeries): Promise<string[]> {
  using progress = new ProgressLine();
  const onProgress = (step: string, fraction: number): void => progress.update(step, fraction);
  const { version } = await prepareKernel(series, onProgress);
  return await buildModules(folder, version, onProgress);
}

function table(guests: readonly Guest[]): string {
  const row = (guest: Guest): string => {
    const size = `${(guest.initrdSize / 2 ** 20).toFixed(1)} MiB`;
    return `${guest.name.padEnd(10)}${guest.kernelVersion.padEnd(32)}${size.padStart(10)}  ${guest.initrd}\n`;
  };
  return guests.map(row).join('');
}
