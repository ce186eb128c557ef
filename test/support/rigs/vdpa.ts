/** vDPA devices of the lab, made by `nodevmm serve --vduse` and bound by vhost_vdpa, and guests that use them. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { packageFolder } from '../../../src/host/package-folder.ts';
import type { VirtualMachine } from '../../../src/index.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256, testFolder } from './files.ts';
import { DISK_BY_SERIAL, guestShell } from './guest.ts';

const PROGRAM = join(packageFolder, 'dist/bundle/bin/main.js');
const SERIAL = 'over-vdpa';

/** A server, and the file that guests get its device by. */
export type Parent = readonly [server: ChildProcess, file: string];

/** Serves a device to the lab until the test ends. */
export async function serveParent(name: string, ...device: string[]): Promise<Parent> {
  for (const module of ['vduse', 'vhost_vdpa', 'tun']) {
    execFileSync('/run/nodevmm/busybox', ['modprobe', module]);
  }
  const argv = [PROGRAM, 'serve', ...device, '--vduse', name];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'inherit', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  for (;;) {
    const folder = `/sys/bus/vdpa/devices/${name}`;
    const bound = existsSync(folder) ? readdirSync(folder) : [];
    const file = bound.find((entry) => entry.startsWith('vhost-vdpa'));
    if (file !== undefined) return [child, `/dev/${file}`];
    if (child.exitCode !== null) throw new Error(`serve ${device.join(' ')} ended`);
    await delay(100);
  }
}

/** A disk of 64 MiB, with the host's file that it is. */
export class ParentDisk {
  readonly image = join(testFolder(t), 'disk.raw');

  constructor() {
    writeFileSync(this.image, Buffer.alloc(64 * MiB, 'on the host '));
  }

  serve(name: string): Promise<Parent> {
    return serveParent(name, 'blk', `${this.image},serial=${SERIAL},packed=on`);
  }

  /** Has a guest write to it. @returns whether the file, and the guest, then hold that */
  async exchanges(vm: VirtualMachine, at: number): Promise<boolean> {
    const answer = await guestShell(
      vm,
      `${DISK_BY_SERIAL}
       disk ${SERIAL} >/dev/null
       dd if=/bin/busybox of=/dev/vda bs=64k seek=${at * 16} count=8 oflag=direct 2>/dev/null
       dd if=/dev/vda bs=64k skip=${at * 16} count=8 iflag=direct 2>/dev/null | sha256sum`,
    );
    const bytes = readFileSync(this.image).subarray(at * MiB, at * MiB + 512 * 1024);
    return bytes.toString('latin1', 1, 4) === 'ELF' && answer === `${sha256(bytes)}  -`;
  }
}
