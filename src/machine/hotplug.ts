/** Devices that come and go: additions to a machine's devices, and what takes them away again. */
import { type Deferred, defer } from '../agent/command.ts';
import type { StepQueue } from '../datapath/datapath.ts';
import { inTime } from '../host/deadline.ts';
import { PeerError, UsageError } from '../host/errors.ts';
import type { RamBacking } from '../memory/ram.ts';
import type { MachineDeviceOptions } from '../virtio/device-type.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { createDevices, type MachineDevices } from './devices/machine-devices.ts';
import { VirtioMachineDevice } from './devices/virtio-device.ts';
import type { MachineObserver } from './machine-observer.ts';
import type { PowerCycle } from './power-cycle.ts';
import { type ResolvedDevice, resolveAddition } from './resolve-options.ts';

/** How a device is removed. */
export interface RemovalOptions {
  /**
   * Take it away in any case, even if the guest does not give it up. Default false: then the guest keeps it.
   */
  readonly surprise?: boolean;
  /**
   * Milliseconds that the guest may take to give it up. Default 30 s, or 2 s with `surprise`; 0, with that: it is not asked, but
   * finds the device missing.
   */
  readonly timeout?: number;
}

const TIMEOUT_MS = 30_000;
const SURPRISE_MS = 2000;
/** A device that was pulled out works for so long, unless its driver is gone before: Linux's wait for its reset. */
const AFTERLIFE_MS = 2000;

/** The parts of a machine that hotplug is about. */
export interface HotplugParts {
  readonly devices: MachineDevices;
  readonly observer: MachineObserver;
  /** What is done to the machine, one step at a time. */
  readonly steps: StepQueue;
  readonly ram: RamBacking;
  /** Bytes of it. */
  readonly memory: number;
  readonly hasIommu: boolean;
  readonly log: (text: string) => void;
  /** While the guest is powered on. */
  cycle(): PowerCycle | undefined;
  isPaused(): boolean;
}

/** One for each machine. */
export class Hotplug {
  readonly #parts: HotplugParts;
  /** By device: who waits for the guest to give it up. */
  readonly #asked = new Map<MachineDevice, Deferred<void>>();

  constructor(parts: HotplugParts) {
    this.#parts = parts;
  }

  /** As `Machine.addDevice`. */
  async add(options: MachineDeviceOptions): Promise<string> {
    const { devices, steps } = this.#parts;
    return await steps.run(async () => {
      const names = devices.all.map(({ name }) => name);
      const asked = resolveAddition(options, names);
      this.#check(asked);
      const device = await this.#create(asked);
      try {
        await this.#plugIn(device);
      } catch (error) {
        devices.remove(device);
        await device.close();
        throw error;
      }
      return device.name;
    });
  }

  /** As `Machine.removeDevice`. */
  async remove(name: string, options: RemovalOptions): Promise<void> {
    const { surprise = false, timeout = surprise ? SURPRISE_MS : TIMEOUT_MS } = options;
    const { steps, log } = this.#parts;
    const device = this.#find(name);
    if (this.#parts.cycle() !== undefined && !(surprise && timeout === 0)) {
      if (await this.#asks(device, timeout, surprise)) return;
      if (!surprise) {
        throw new PeerError(
          'E_EJECT',
          `the guest did not give up ${name} within ${timeout / 1000} s`,
          'stop using it there, or remove it with surprise (--force)',
        );
      }
      log(`${name}: the guest did not give it up; it is pulled out`);
    }
    await steps.run(() => this.#pullOut(device, true));
  }

  /** Asks the guest to give up a device. @returns whether it did */
  async #asks(device: MachineDevice, timeout: number, surprise: boolean): Promise<boolean> {
    // Nothing moves in a paused guest.
    if (this.#parts.isPaused()) {
      if (surprise) return false;
      throw new UsageError(
        'E_STATE',
        `a paused guest cannot give up ${device.name}`,
        'resume it first, or use surprise (--force)',
      );
    }
    const before = this.#asked.get(device);
    const gone = before ?? defer<void>();
    this.#asked.set(device, gone);
    this.#parts.cycle()?.askBack(device, true);
    const isGone = await inTime(
      gone.promise.then(() => true),
      timeout,
      () => false,
    );
    if (isGone || before !== undefined) return isGone;
    this.#asked.delete(device);
    this.#parts.cycle()?.askBack(device, false);
    return false;
  }

  /** The guest gave a device up. */
  async ejected(device: MachineDevice): Promise<void> {
    const { steps, log } = this.#parts;
    const isAsked = this.#asked.has(device);
    await steps.run(() => this.#pullOut(device, false));
    if (!isAsked) log(`${device.name}: the guest ejected it`);
  }

  /** The guest is powered off, or about to start again: the devices that it was to give up are removed without it. In a step. */
  async poweredOff(): Promise<void> {
    for (const device of [...this.#asked.keys()]) await this.#pullOut(device, true);
  }

  #find(name: string): MachineDevice {
    const { devices } = this.#parts;
    const device = devices.all.find((one) => one.name === name);
    const removable = devices.all.filter((one) => one.removable).map((one) => one.name);
    if (device?.removable === true) return device;
    throw new UsageError(
      'E_DEVICE',
      device === undefined
        ? `this machine has no device ${name}`
        : `${name} stays for as long as its machine runs`,
      removable.length === 0 ? undefined : `${removable.join(', ')} can be removed`,
    );
  }

  #check({ type, backend, options, context, transport, iommu }: ResolvedDevice): void {
    const { ram, hasIommu } = this.#parts;
    const refuse = (problem: string, remedy: string): never => {
      throw new UsageError('E_HOTPLUG', `${context.name} cannot be added: ${problem}`, remedy);
    };
    if (type.number === 'always' || type.number === 'on-request' || type.name === 'vfio') {
      refuse(`a running machine gets no ${type.name}`, 'start the machine with it');
    }
    if (transport !== 'pci') {
      refuse('only the PCI bus has room for devices that come later', 'use transport=pci');
    }
    if (iommu === 'on' && hasIommu) {
      refuse('devices that come later are outside the IOMMU', 'start the machine with it');
    }
    const shared = backend.ram?.(options);
    if (shared === 'locked') {
      refuse('it needs all guest RAM locked', 'start the machine with it');
    }
    if (shared !== undefined && ram === 'anonymous') {
      refuse(
        'other processes cannot reach the RAM of this machine',
        `start the machine with a device that shares it, or use share=shadow for ${context.name}`,
      );
    }
  }

  async #create(asked: ResolvedDevice): Promise<MachineDevice> {
    const { memory, log } = this.#parts;
    const made: MachineDevice[] = [];
    try {
      await createDevices([asked], memory, made, log);
      const [device] = made;
      if (device?.removable !== true) {
        throw new UsageError(
          'E_HOTPLUG',
          `${asked.context.name} cannot be added: a running machine gets no such device`,
          'start the machine with it',
        );
      }
      await device.prepare?.();
      // A driver that finds the device waits for its thread, and counts that as a timeout.
      if (device instanceof VirtioMachineDevice) await device.ready();
      return device;
    } catch (error) {
      for (const device of made) await device.close();
      throw error;
    }
  }

  async #plugIn(device: MachineDevice): Promise<void> {
    const { devices, observer } = this.#parts;
    observer.add(device, devices.add(device));
    const cycle = this.#parts.cycle();
    if (cycle === undefined) return;
    if (this.#parts.isPaused()) await device.pause();
    cycle.plugIn(device);
  }

  /** @param unasked the guest does not know yet */
  async #pullOut(device: MachineDevice, unasked: boolean): Promise<void> {
    const { devices } = this.#parts;
    if (!devices.all.includes(device)) return;
    const cycle = this.#parts.cycle();
    try {
      let wasReset = false;
      if (cycle !== undefined && unasked) {
        cycle.hide(device);
        if (!this.#parts.isPaused() && device instanceof VirtioMachineDevice) {
          wasReset = await inTime(device.free(), AFTERLIFE_MS, () => false);
        }
      }
      // Linux's drivers read the status after their reset, too.
      await cycle?.pullOut(device, wasReset ? AFTERLIFE_MS : 0);
    } finally {
      devices.remove(device);
      const asked = this.#asked.get(device);
      this.#asked.delete(device);
      await device.close();
      asked?.resolve();
    }
  }
}
