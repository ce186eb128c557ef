/** A vDPA device as a disk of this host: the drivers between them, and the disk's file. */
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { run } from '../guest/programs.ts';
import { UsageError } from '../host/errors.ts';
import { namesIn } from '../host/sysfs.ts';

/** Modules, and what is there once each is loaded, or was built in. */
const DRIVERS = [
  ['vduse', '/dev/vduse/control'],
  ['virtio_vdpa', '/sys/bus/vdpa/drivers/virtio_vdpa'],
  ['virtio_blk', '/sys/bus/virtio/drivers/virtio_blk'],
] as const;
/** From the vDPA device to the file; both appear when the drivers have asked the disk what it is. */
const DISK_MS = 30_000;
const POLL_MS = 50;

/** Loads those that are missing. @throws UsageError when the kernel does not have them */
export async function loadDiskDrivers(): Promise<void> {
  const missing = DRIVERS.filter(([, sign]) => !existsSync(sign)).map(([module]) => module);
  if (missing.length === 0) return;
  await run(['modprobe', '-a', ...missing], `run as root: modprobe -a ${missing.join(' ')}`);
}

/**
 * The disk that virtio_vdpa made of a vDPA device.
 * @returns its file in /dev, once that is there
 * @throws UsageError when none appears; AbortError
 */
export async function findDisk(name: string, signal: AbortSignal): Promise<string> {
  const end = performance.now() + DISK_MS;
  while (performance.now() < end) {
    const disk = diskOf(name);
    if (disk !== undefined && existsSync(`/dev/${disk}`)) return `/dev/${disk}`;
    await delay(POLL_MS, undefined, { signal });
  }
  throw new UsageError(
    'E_VDUSE',
    `this kernel has made no disk of the vDPA device ${name}`,
    'see dmesg for what its drivers say',
  );
}

/** vDPA device, virtio device, disk (sysfs). */
function diskOf(name: string): string | undefined {
  const device = `/sys/bus/vdpa/devices/${name}`;
  const virtio = namesIn(device).find((entry) => /^virtio\d+$/.test(entry));
  return virtio === undefined ? undefined : namesIn(`${device}/${virtio}/block`)[0];
}
