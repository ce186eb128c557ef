/** A vDPA device that is there for as long as a machine uses it: iproute2's `vdpa` makes and removes it. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { bindVdpaDevice, vdpaDevice } from '../backend/vdpa-devices.ts';
import { findProgram, run } from '../guest/programs.ts';
import { AsyncCloseable } from '../host/cleanup-stack.ts';
import { inTime } from '../host/deadline.ts';
import { messageOf, messageParts, UsageError } from '../host/errors.ts';
import { onProcessExit } from '../host/threads.ts';

const DRIVER = 'vhost_vdpa';
/** How long a removal may take: the kernel waits until nothing has the device open. */
const REMOVE_MS = 10_000;

/** What makes vDPA devices; tests substitute their own. */
export interface VdpaHost {
  /** Its folder in sysfs. */
  readonly bus: string;
  /** Runs `vdpa`. @throws UsageError when it fails */
  vdpa(args: readonly string[]): Promise<void>;
  /** Starts it, and does not wait: the process may be about to end. */
  vdpaLater(args: readonly string[]): void;
}

const HOST: VdpaHost = {
  bus: '/sys/bus/vdpa',
  async vdpa(args) {
    await run(['vdpa', ...args], 'install the package iproute2');
  },
  vdpaLater(args) {
    // The kernel lets it finish once this process, which has the device open, is gone.
    spawn(findProgram('vdpa') ?? 'vdpa', args, { detached: true, stdio: 'ignore' })
      .on('error', () => {})
      .unref();
  },
};

/** Removed when closed, and when the process ends without that, but for SIGKILL. */
export class MadeParent extends AsyncCloseable {
  /** Of the file that vhost-vdpa has made for it. */
  readonly path: string;
  readonly #name: string;
  readonly #host: VdpaHost;
  readonly #forget: () => void;
  #there = true;

  /** @throws UsageError when it cannot be made, or vhost_vdpa does not take it */
  static async make(
    { mgmtdev, name }: { readonly mgmtdev: string; readonly name: string },
    host: VdpaHost = HOST,
  ): Promise<MadeParent> {
    const { bus } = host;
    if (!existsSync(join(bus, 'drivers', DRIVER))) {
      const remedy = `load it with "modprobe ${DRIVER}"`;
      throw new UsageError('E_VDPA', `this kernel has no ${DRIVER}`, remedy);
    }
    const folder = join(bus, 'devices', name);
    const remove = `remove it with "vdpa dev del ${name}", or use another name`;
    if (existsSync(folder)) {
      throw new UsageError('E_VDPA', `this host has a vDPA device ${name} already`, remove);
    }
    const forget = onProcessExit(() => {
      if (existsSync(folder)) host.vdpaLater(['dev', 'del', name]);
    });
    try {
      await host.vdpa(['dev', 'add', 'name', name, 'mgmtdev', mgmtdev]).catch((error: unknown) => {
        throw notMade(error, mgmtdev);
      });
      return new MadeParent(name, await bind(name, bus), host, forget);
    } catch (error) {
      if (existsSync(folder)) await removed(name, host);
      forget();
      throw error;
    }
  }

  private constructor(name: string, path: string, host: VdpaHost, forget: () => void) {
    super();
    this.#name = name;
    this.path = path;
    this.#host = host;
    this.#forget = forget;
  }

  /** Its file must be closed. */
  async close(): Promise<void> {
    if (!this.#there) return;
    this.#there = false;
    await removed(this.#name, this.#host);
    this.#forget();
  }

  /** As `close`, but does not wait. */
  closeNow(): void {
    if (!this.#there) return;
    this.#there = false;
    this.#host.vdpaLater(['dev', 'del', this.#name]);
    this.#forget();
  }
}

async function removed(name: string, host: VdpaHost): Promise<void> {
  const removal = host.vdpa(['dev', 'del', name]).catch(() => {});
  await inTime(removal, REMOVE_MS, () => {});
}

function notMade(error: unknown, mgmtdev: string): UsageError {
  const [problem, remedy] = messageParts(error);
  const fails = `${mgmtdev} makes no vDPA device: ${problem}`;
  if (/not permitted/.test(problem)) return new UsageError('E_VDPA', fails, 'run as root');
  if (!/No such device|management device/.test(problem)) {
    return new UsageError('E_VDPA', fails, remedy);
  }
  return new UsageError(
    'E_VDPA',
    `this host has no management device ${mgmtdev} for vDPA`,
    'see "vdpa mgmtdev show" and load the module that has it, such as vp_vdpa, mlx5_vdpa, or vdpa_sim_blk',
  );
}

/** Has vhost_vdpa take it, whichever driver was first. @returns the path of its file */
async function bind(name: string, bus: string): Promise<string> {
  try {
    await bindVdpaDevice(name, DRIVER, bus);
  } catch (error) {
    throw new UsageError(
      'E_VDPA',
      `cannot bind the vDPA device ${name} to ${DRIVER}: ${messageOf(error)}`,
      'see dmesg',
    );
  }
  const { file } = vdpaDevice(name, bus);
  if (file !== undefined) return file;
  throw new UsageError(
    'E_VDPA',
    `${DRIVER} has made no file for the vDPA device ${name}`,
    'see dmesg',
  );
}
