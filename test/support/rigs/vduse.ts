/** Disks of `nodevmm serve --vduse` as the lab's own, which its kernel's virtio_blk drives. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { testFolder } from './files.ts';

export const PROGRAM = join(packageFolder, 'dist/bundle/bin/main.js');
export const SERIAL = 'over-vduse';

export const run = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'latin1', timeout: 120_000 });

export function loadModules(...names: readonly string[]): void {
  for (const name of names) run('/run/nodevmm/busybox', 'modprobe', name);
}

/** The block devices whose driver reached them by vDPA. */
export const hostDisks = (): string[] =>
  readdirSync('/sys/block').filter((name) => {
    try {
      return readFileSync(`/sys/block/${name}/serial`, 'latin1').trim() === SERIAL;
    } catch {
      return false;
    }
  });

/** Serves a device to the lab until the test ends. @throws Error when the server ends at once */
export async function serveOnHost(name: string, ...device: string[]): Promise<ChildProcess> {
  const argv = [PROGRAM, 'serve', ...device, '--vduse', name];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'inherit', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk;
      process.stderr.write(chunk);
      if (output.includes('this host has it')) resolve();
    });
    child.once('exit', () => reject(new Error(`serve ${device.join(' ')} ended: ${output}`)));
  });
  return child;
}

/** One after the other, servers serve it. */
export class HostDisk {
  readonly folder = testFolder(t);
  readonly image = join(this.folder, 'disk.raw');
  readonly name: string;
  /** When the image was written last before the present server. */
  #before: number | undefined;

  constructor(name: string) {
    this.name = name;
    this.clear();
  }

  clear(): void {
    this.#before = undefined;
    writeFileSync(this.image, Buffer.alloc(64 * MiB));
  }

  /** Resolves when the disk is there. @returns the server, and the disk's file */
  async serve(options: string): Promise<{ child: ChildProcess; disk: string }> {
    const child = await this.start(options);
    for (;;) {
      const [disk] = hostDisks();
      if (disk !== undefined) return { child, disk: `/dev/${disk}` };
      await delay(100);
    }
  }

  start(options: string): Promise<ChildProcess> {
    return serveOnHost(this.name, 'blk', `${this.image},serial=${SERIAL},${options}`);
  }

  /**
   * Kills the server once it has written, and starts the next one.
   * @param load rejects when the writers end; those that end after the kill are the caller's to check
   */
  async replace(
    server: ChildProcess,
    options: string,
    load: Promise<unknown>,
  ): Promise<ChildProcess> {
    this.#before ??= this.#written();
    while (this.#written() === this.#before) await Promise.race([delay(10), load]);
    const exited = once(server, 'exit');
    server.kill('SIGKILL');
    await exited;
    // Now, without a server: the next one may have served all writes before it is seen to be there.
    this.#before = this.#written();
    return await this.start(options);
  }

  /** When the image was written last. */
  #written(): number {
    return statSync(this.image).mtimeMs;
  }
}

/** fio's arguments for random writes that are verified afterwards. */
export function verifiedWrites(file: string, mebibytes: number, depth: number): string[] {
  return [
    '--name=v',
    `--filename=${file}`,
    '--rw=randwrite',
    '--bs=4k',
    `--size=${mebibytes}m`,
    '--direct=1',
    '--ioengine=libaio',
    `--iodepth=${depth}`,
    '--verify=crc32c',
    '--verify_fatal=1',
    // Else a run that is cut short leaves a file.
    '--verify_state_save=0',
  ];
}
