/** A function in the hands of vfio-pci, and back in those of its driver afterwards. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Closeable } from '../host/cleanup-stack.ts';
import { messageOf, UsageError } from '../host/errors.ts';
import { type HostFunction, VFIO_DRIVER } from './host-function.ts';

/** What driver_override shows when it is unset. */
const UNSET = '(null)';

/** Binds a function to vfio-pci until closed, unless it is bound to it already. */
export class VfioBinding extends Closeable {
  readonly #function: HostFunction;
  readonly #driver: string | undefined;
  readonly #override: string;
  #bound = false;

  /**
   * @param wanted whether to take it from another driver
   * @throws UsageError when it is another driver's, and cannot or must not be taken from it
   */
  constructor(pciFunction: HostFunction, wanted: boolean) {
    super();
    this.#function = pciFunction;
    const { address, driver, path } = pciFunction;
    this.#driver = driver;
    if (driver === VFIO_DRIVER) {
      this.#override = '';
      return;
    }
    if (!pciFunction.hasVfioDriver) {
      throw new UsageError(
        'E_VFIO_MODULE',
        `this kernel has no driver ${VFIO_DRIVER} for ${address}`,
        `run "modprobe ${VFIO_DRIVER}" as root`,
      );
    }
    if (!wanted) {
      const held = driver === undefined ? 'bound to no driver' : `in use by the driver ${driver}`;
      throw new UsageError(
        'E_VFIO_DRIVER',
        `${address} is ${held}`,
        `add bind=on, which binds it to ${VFIO_DRIVER} meanwhile`,
      );
    }
    const override = readFileSync(join(path, 'driver_override'), 'latin1').trim();
    this.#override = override === UNSET ? '' : override;
    try {
      this.#write(join(path, 'driver_override'), VFIO_DRIVER);
      this.#bound = true;
      if (driver !== undefined) this.#write(join(path, 'driver/unbind'), address);
      this.#write(join(pciFunction.drivers, VFIO_DRIVER, 'bind'), address);
    } catch (error) {
      this.close();
      const problem = `cannot bind ${address} to ${VFIO_DRIVER}: ${messageOf(error)}`;
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EACCES' && code !== 'EPERM') throw new UsageError('E_VFIO_DRIVER', problem);
      throw new UsageError('E_VFIO_PERMISSION', problem, 'run as root');
    }
  }

  /** Nothing may have the function open. */
  close(): void {
    if (!this.#bound) return;
    this.#bound = false;
    const { path, driver, drivers, address } = this.#function;
    // A step that fails does not keep the rest from being done: this may be the process's end.
    this.#try(join(path, 'driver_override'), this.#override === '' ? '\n' : this.#override);
    if (driver === VFIO_DRIVER) this.#try(join(path, 'driver/unbind'), address);
    if (this.#driver !== undefined) this.#try(join(drivers, this.#driver, 'bind'), address);
  }

  #write(path: string, text: string): void {
    writeFileSync(path, text);
  }

  #try(path: string, text: string): void {
    try {
      this.#write(path, text);
    } catch {}
  }
}
