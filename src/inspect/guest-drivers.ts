/** What drives the devices inside of the guest: nobody but the guest knows, so its agent is asked. */
import type { ExecOptions } from '../agent/command-options.ts';
import type { ExecResult } from '../agent/exec.ts';
import { VIRTIO_MMIO_BASE } from '../platform/layout.ts';
import { VIRTIO_MMIO_WINDOW_SIZE } from '../virtio/transport/mmio.ts';

/** What drives a device. */
export interface GuestDriver {
  /** Of the virtio device, such as `virtio_net`; else of the PCI function. */
  readonly name: string;
  /** It only hands the function to programs: the driver proper is in the guest's userland. */
  readonly userland: boolean;
}

/** By the device's place, such as `PCI 00:03.0` or `MMIO 0xf0000000`. */
export type GuestDriverMap = ReadonlyMap<string, GuestDriver>;

/** Whatever runs commands in the guest. */
export interface GuestShell {
  exec(command: string, options: ExecOptions): Promise<ExecResult>;
}

/**
 * The links to the drivers of PCI functions, and of virtio devices on them and in MMIO windows, by one program: forks take time in a
 * guest.
 */
const SCRIPT =
  'cd /sys/bus && exec ls -ld pci/devices/*/driver pci/devices/*/virtio*/driver platform/devices/LNRO0005:*/virtio*/driver';
const FUNCTION =
  /^l.* pci\/devices\/0000:([\da-f]{2}:[\da-f]{2}\.[0-7])\/(virtio\d+\/)?driver -> \S*\/([\w-]{1,32})$/;
/** Linux numbers ACPI devices of one _HID in the order of the DSDT, which is that of their windows. */
const WINDOW =
  /^l.* platform\/devices\/LNRO0005:([\da-f]{2})\/virtio\d+\/driver -> \S*\/([\w-]{1,32})$/;
const USERLAND = ['uio_pci_generic', 'igb_uio', 'vfio-pci'];
/** A guest that is busy, or has no agent yet, is not waited for. */
const PATIENCE_MS = 5000;
const OUTPUT_MAX = 16 * 1024;
const PERIOD_MS = 5000;

/** Asks once. @throws NodeVmmError when the guest does not answer in time */
export async function askDrivers(
  guest: GuestShell,
  patienceMs = PATIENCE_MS,
): Promise<GuestDriverMap> {
  const { stdout } = await guest.exec(SCRIPT, { timeout: patienceMs, maxBuffer: OUTPUT_MAX });
  return parseDrivers(stdout.toString('latin1'));
}

/** Lines that are none are left out: the guest may answer anything. */
export function parseDrivers(output: string): GuestDriverMap {
  const drivers = new Map<string, GuestDriver>();
  for (const line of output.split('\n')) {
    const [, window = '', driver] = WINDOW.exec(line) ?? [];
    if (driver !== undefined) {
      const address = VIRTIO_MMIO_BASE + Number.parseInt(window, 16) * VIRTIO_MMIO_WINDOW_SIZE;
      drivers.set(`MMIO 0x${address.toString(16)}`, { name: driver, userland: false });
      continue;
    }
    const [, place = '', virtio, name] = FUNCTION.exec(line) ?? [];
    if (name === undefined) continue;
    const key = `PCI ${place}`;
    const userland = USERLAND.includes(name);
    // Of a virtio device's two drivers, its own is the one to name.
    if (virtio !== undefined || !drivers.has(key)) drivers.set(key, { name, userland });
  }
  return drivers;
}

/** The latest answer, for views that cannot wait for one. */
export class GuestDrivers {
  readonly #ask: () => Promise<GuestDriverMap>;
  #known: GuestDriverMap = new Map();
  #asking: Promise<void> | undefined;
  #next = 0;

  /** @param ask whatever it throws means that nothing is known */
  constructor(ask: () => Promise<GuestDriverMap>) {
    this.#ask = ask;
  }

  /** What is known; asks again every few seconds, one request at a time. */
  get known(): GuestDriverMap {
    if (this.#asking === undefined && performance.now() >= this.#next) void this.refresh();
    return this.#known;
  }

  /** Resolves when the guest has answered, or has not. */
  refresh(): Promise<void> {
    this.#asking ??= this.#ask()
      .catch((): GuestDriverMap => new Map())
      .then((answer) => {
        this.#known = answer;
        this.#next = performance.now() + PERIOD_MS;
        this.#asking = undefined;
      });
    return this.#asking;
  }
}
