/** The memory that a VDUSE device may access: what its IOTLB holds, in one mapping. */
import { fstatSync, readFileSync } from 'node:fs';
import { ForeignRam, type ForeignRegion } from '../memory/foreign-ram.ts';
import { MiB } from '../memory/ram-layout.ts';
import type { IotlbEntry, VduseDevice } from './vduse-device.ts';

/** The rings of a driver of this host, or the pieces of a guest's RAM; a process may map no more. */
const MOST_ENTRIES = 4096;
/** Of kernels that do not say (before 6.7). */
const BOUNCE_SIZE = 64 * MiB;

/**
 * Maps it.
 * @throws HostError; PeerError when a process that owns the device shares what cannot be mapped
 */
export function mapIotlb(device: VduseDevice): ForeignRam {
  const entries = device.iotlb(MOST_ENTRIES);
  try {
    const regions = entries.map((entry) => ({
      gpa: entry.iova,
      size: entry.size,
      fd: entry.file.fd,
      fileOffset: entry.fileOffset,
      readOnly: entry.readOnly,
      fromKernel: isFromKernel(entry),
    }));
    return new ForeignRam([...bounceBuffers(device, regions), ...regions]);
  } finally {
    for (const { file } of entries) file.close();
  }
}

/** The bounce buffers and rings of a driver of this host are in no file system. */
function isFromKernel({ file }: IotlbEntry): boolean {
  return !fstatSync(file.fd).isFile();
}

/**
 * The buffers of a driver of this host lie at the lowest addresses. They enter the IOTLB with the driver's
 * first request, and the driver waits for that: they are mapped ahead.
 */
function bounceBuffers(device: VduseDevice, regions: readonly ForeignRegion[]): ForeignRegion[] {
  const domain = regions.find(({ fromKernel }) => fromKernel);
  const size = bounceSize(device.name);
  if (domain === undefined || regions.some(({ gpa }) => gpa < size)) return [];
  return [{ gpa: 0, size, fd: domain.fd, fileOffset: 0, fromKernel: true }];
}

function bounceSize(name: string): number {
  try {
    return Number(readFileSync(`/sys/class/vduse/${name}/bounce_size`, 'latin1'));
  } catch {
    return BOUNCE_SIZE;
  }
}
