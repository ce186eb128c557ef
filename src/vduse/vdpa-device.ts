/** A vDPA device of this host, which iproute2's `vdpa` adds and removes. */

import { bindVdpaDevice, vdpaDevice } from '../backend/vdpa-devices.ts';
import { run } from '../guest/programs.ts';
import { AsyncCloseable } from '../host/cleanup-stack.ts';
import { inTime } from '../host/deadline.ts';
import { messageOf, UsageError } from '../host/errors.ts';

/** How long its removal may take: a driver waits for its requests first. */
const REMOVE_MS = 10_000;
/** A Ctrl-C is for us: it would make the kernel give up in the middle. */
const ALONE = { detached: true };

/** Bound by the first driver of the vDPA bus that is there: virtio_vdpa, or vhost_vdpa. */
export class VdpaDevice extends AsyncCloseable {
  readonly #name: string;
  readonly #stuck: () => void;
  #added: Promise<unknown> | undefined;

  /** @param stuck called when it cannot be removed, since the host's own requests are not answered */
  constructor(name: string, stuck: () => void) {
    super();
    this.#name = name;
    this.#stuck = stuck;
  }

  /**
   * Adds it, and lets a driver probe it.
   * @param management the device that makes it: `vduse`
   * @throws UsageError when there is no `vdpa`, or it fails
   */
  async add(management: string): Promise<void> {
    const remedy = 'see "vdpa mgmtdev show"; the program is in the package iproute2';
    this.#added = run(
      ['vdpa', 'dev', 'add', 'name', this.#name, 'mgmtdev', management],
      remedy,
      ALONE,
    );
    await this.#added;
  }

  /** It has been added before. */
  adopt(): void {
    this.#added = Promise.resolve();
  }

  /**
   * Has a driver bind it, whichever took it first.
   * @throws UsageError when the kernel does not bind it
   */
  async bind(driver: string): Promise<void> {
    try {
      await bindVdpaDevice(this.#name, driver);
    } catch (error) {
      throw new UsageError(
        'E_VDUSE',
        `cannot bind the vDPA device ${this.#name} to ${driver}: ${messageOf(error)}`,
        `see dmesg, and "ls /sys/bus/vdpa/drivers"`,
      );
    }
  }

  /** Removes it, if it was added. */
  async close(): Promise<void> {
    const removed = this.#remove();
    await inTime(removed, REMOVE_MS, async () => {
      // A guest's machine may have it open; its requests can still be served by the next server.
      if (vdpaDevice(this.#name).driver === 'vhost_vdpa') return;
      this.#stuck();
      await inTime(removed, REMOVE_MS, () => {});
    });
  }

  async #remove(): Promise<void> {
    try {
      if (this.#added === undefined) return;
      await this.#added;
      await run(['vdpa', 'dev', 'del', this.#name], 'remove it by hand', ALONE);
    } catch {
      // It was not added, or has been removed.
    }
  }
}
