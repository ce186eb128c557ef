/** The code of a user's device, which may change while the device runs. */

import { statSync } from 'node:fs';
import { describeError, messageOf, UsageError } from '../../host/errors.ts';
import type { HandlerThread } from '../../virtio/device.ts';
import { DefinedDevice } from '../../virtio/device-sdk/defined-device.ts';
import type { DeviceDefinition } from '../../virtio/device-sdk/definition.ts';
import { type LoadedDevice, type LoadedHandlerOptions, loadDevice } from './load-device.ts';

/** A device of your own from a file. */
export interface ModuleDeviceOptions {
  /** Path of a TypeScript or JavaScript file whose default export is `defineDevice(...)`. */
  readonly module: string;
  /** For the file's own use. */
  readonly options?: Readonly<Record<string, string>>;
  /** Where its functions run. Default `main`. */
  readonly thread?: 'main' | 'worker';
  /** Replace the device's code whenever the file, or one that it imports, is saved. Default false. */
  readonly watch?: boolean;
}

const INTERVAL_MS = 200;

/** Watches files until disposed; does not keep the process alive. */
export class FileWatch implements Disposable {
  readonly #timer: NodeJS.Timeout;
  readonly #changed: () => Promise<readonly string[]>;
  /** Each file as of its last report, and as last seen. */
  #reported: ReadonlyMap<string, string>;
  #seen: ReadonlyMap<string, string>;
  #busy = false;

  /**
   * @param changed called when files changed and then stayed the same for a moment: one may be caught
   *   half written. Awaited. Returns the files to watch from then on
   */
  constructor(
    files: readonly string[],
    changed: () => Promise<readonly string[]>,
    intervalMs = INTERVAL_MS,
  ) {
    this.#changed = changed;
    this.#reported = new Map(files.map((file) => [file, stamp(file)]));
    this.#seen = this.#reported;
    this.#timer = setInterval(() => void this.#look(), intervalMs);
    this.#timer.unref();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    if (this.#busy) return;
    const now = new Map([...this.#reported.keys()].map((file) => [file, stamp(file)]));
    const differs = (from: ReadonlyMap<string, string>): boolean =>
      [...now].some(([file, is]) => from.get(file) !== is);
    const moving = differs(this.#seen);
    this.#seen = now;
    if (moving || !differs(this.#reported)) return;
    this.#busy = true;
    try {
      const files = await this.#changed();
      // Known files as they were before they were read, so that later changes are reported next.
      this.#reported = new Map(files.map((file) => [file, now.get(file) ?? stamp(file)]));
      this.#seen = this.#reported;
    } finally {
      this.#busy = false;
    }
  }
}

function stamp(file: string): string {
  const stat = statSync(file, { throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.mtimeMs} ${stat.size} ${stat.ino}`;
}

/** The owner of the device: `VirtioMachineDevice`. */
interface CodeOwner {
  /** Changes the code while nothing is served. */
  reload(change: () => void): Promise<void>;
}

/** A file, and the device built from it; the device releases it. */
export class DeviceCode {
  readonly device: DefinedDevice;
  readonly #from: ModuleDeviceOptions;
  #loaded: LoadedDevice;
  #owner: CodeOwner | undefined;
  #watch: FileWatch | undefined;
  #closed = false;

  /** @throws UsageError when the file cannot be loaded, or it defines an unusable device */
  static async open(name: string, from: ModuleDeviceOptions): Promise<DeviceCode> {
    const loaded = await loadDevice(from.module);
    try {
      return new DeviceCode(name, from, loaded);
    } catch (error) {
      loaded[Symbol.dispose]();
      throw error;
    }
  }

  private constructor(name: string, from: ModuleDeviceOptions, loaded: LoadedDevice) {
    this.#from = from;
    this.#loaded = loaded;
    this.device = new DefinedDevice(name, this.#define(loaded), {
      thread: this.#thread(loaded),
      onClose: () => this.#close(),
    });
  }

  /**
   * Serves the device with the file's current code.
   * @throws UsageError with file, line and reason when it is unusable; nothing changes then
   */
  async reload(): Promise<void> {
    const loaded = await loadDevice(this.#from.module);
    let unused = loaded;
    try {
      const definition = this.#define(loaded);
      this.device.checkReplacement(definition);
      if (this.#closed) return;
      await this.#owner?.reload(() => {
        this.device.replace(definition, this.#thread(loaded));
        unused = this.#loaded;
        this.#loaded = loaded;
      });
    } finally {
      unused[Symbol.dispose]();
    }
  }

  /**
   * Called once, before the guest runs.
   * @param log gets a line whenever a watched file was saved
   */
  attach(owner: CodeOwner, log: (text: string) => void): void {
    this.#owner = owner;
    const { module, watch } = this.#from;
    if (watch !== true) return;
    this.#watch = new FileWatch(this.#loaded.files, async () => {
      try {
        await this.reload();
        log(`${this.device.name}: runs ${module} as it was saved`);
      } catch (error) {
        log(`${this.device.name}: keeps its old code: ${messageOf(error)}`);
      }
      return this.#loaded.files;
    });
  }

  #close(): void {
    this.#closed = true;
    this.#watch?.[Symbol.dispose]();
    this.#loaded[Symbol.dispose]();
  }

  #define(loaded: LoadedDevice): DeviceDefinition {
    try {
      return loaded.define(this.#from.options ?? {});
    } catch (error) {
      if (error instanceof UsageError) throw error;
      const text = `${this.#from.module}: ${describeError(error)}`;
      throw new UsageError('E_DEVICE', text, undefined, { cause: error });
    }
  }

  #thread(loaded: LoadedDevice): HandlerThread {
    if (this.#from.thread !== 'worker') return { kind: 'main' };
    const options: LoadedHandlerOptions = { options: this.#from.options ?? {} };
    return { kind: 'worker', module: loaded.url, options };
  }
}
