/** `nodevmm device`: a starter for a virtio device of your own, its tests, and its use as a disk of this host. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { guestsFolder } from '../guest/executables.ts';
import { UsageError } from '../host/errors.ts';
import { packageFolder } from '../host/package-folder.ts';
import { TemporaryFolder } from '../host/temporary-folder.ts';
import { bundleModule } from '../machine/user-devices/load-device.ts';
import { mountDevice } from './device-mount.ts';
import type { RegisterCommand } from './exit-status.ts';

/** The starter is a renamed copy of the example. */
const EXAMPLE = path.join(guestsFolder, 'example');
const EXAMPLE_NAME = 'virtio-example';

/** A name is part of a C identifier and of a file in /dev. */
const NAME = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/;
const MAX_NAME = 24;

const EXAMPLES = `
Examples:
  nodevmm device new my-device          a folder with device, Linux driver, test, and what to do with them
  nodevmm device test my-device/device.test.ts
  sudo nodevmm device mount docs/examples/computed-disk.ts,mib=64    prints /dev/vda, until Ctrl-C`;

/** Adds `device`. */
export const registerDeviceCommand: RegisterCommand = (program, finish) => {
  const device = program
    .command('device')
    .description('write a virtio device of your own')
    .addHelpText('after', EXAMPLES);
  device
    .command('new')
    .description('create a starter: a device, its Linux driver, its test')
    .argument('<name>', 'of the folder, of the driver, and of its file in /dev')
    .action((name: string) => {
      const folder = path.resolve(name);
      writeStarter(path.basename(name), folder);
      process.stdout.write(`${folder}: see README.md\n`);
      finish(0);
    });
  device
    .command('test')
    .description("run tests of a device with Node's test runner; they may be in TypeScript")
    .argument('[file...]', 'default: device.test.ts')
    .action(async (files: string[]) => {
      finish(await runTests(files.length === 0 ? ['device.test.ts'] : files));
    });
  device
    .command('mount')
    .description(
      'make a disk of your own a disk of this host, until Ctrl-C; prints its file in /dev',
    )
    .argument('<file>', 'a file with a device, and its options: ./disk.ts,key=value')
    .option('--name <name>', 'of the vDPA device (default: that of the file)')
    .action(async (file: string, { name }: { readonly name?: string }) => {
      finish(await mountDevice(file, name));
    });
};

/**
 * Writes the example's files under another name.
 * @throws UsageError when the name is invalid, or the folder exists
 */
export function writeStarter(name: string, folder: string): void {
  if (!NAME.test(name) || name.length > MAX_NAME) {
    throw new UsageError(
      'E_NAME',
      `${name} is not a device name`,
      `use at most ${MAX_NAME} lower-case letters, digits, and single dashes, such as my-device`,
    );
  }
  if (existsSync(folder)) {
    throw new UsageError('E_FILE', `${folder} already exists`, 'use another name');
  }
  for (const file of filesBelow(EXAMPLE)) {
    const target = path.join(folder, renamed(file, name));
    mkdirSync(path.dirname(target), { recursive: true });
    writeFileSync(target, renamed(readFileSync(path.join(EXAMPLE, file), 'utf8'), name));
  }
}

function filesBelow(folder: string): string[] {
  const paths = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return paths.filter((file) => statSync(path.join(folder, file)).isFile());
}

/** Renames it in every form in which the name is written. */
function renamed(text: string, name: string): string {
  const identifier = (from: string): string => from.replaceAll('-', '_');
  return text
    .replaceAll(EXAMPLE_NAME, name)
    .replaceAll(identifier(EXAMPLE_NAME), identifier(name))
    .replaceAll(identifier(EXAMPLE_NAME).toUpperCase(), identifier(name).toUpperCase());
}

/** @returns the exit status of Node's test runner */
async function runTests(files: readonly string[]): Promise<number> {
  const bundle = (name: string): string => path.join(packageFolder, 'dist/bundle/bin', name);
  const modules = {
    'nodevmm/device': bundle('device-module.js'),
    'nodevmm/testing': bundle('testing.js'),
  };
  using folder = new TemporaryFolder('nodevmm-test-');
  const outputs: string[] = [];
  for (const [index, file] of files.entries()) {
    if (!existsSync(file)) throw new UsageError('E_FILE', `no such test: ${file}`);
    const output = path.join(
      folder.path,
      `${index}-${path.basename(file).replace(/\.\w+$/, '')}.mjs`,
    );
    await bundleModule({ file: path.resolve(file) }, output, modules);
    outputs.push(output);
  }
  // Node's default differs between its versions.
  const reporter = process.stdout.isTTY ? 'spec' : 'tap';
  const args = ['--enable-source-maps', '--test', `--test-reporter=${reporter}`, ...outputs];
  const child = spawn(process.execPath, args, { stdio: 'inherit' });
  return await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}
