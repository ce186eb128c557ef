/** `nodevmm device mount`: a disk in a page of code as a disk of this host, over VDUSE and virtio_vdpa. */
import { basename } from 'node:path';
import { VIRTIO_ID_BLOCK } from '../abi/virtio-blk.ts';
import { UsageError } from '../host/errors.ts';
import { findDisk, loadDiskDrivers } from '../vduse/host-disk.ts';
import { createBackendDevice, serveHost } from './serve.ts';
import { StopSignals } from './stop-signals.ts';

/**
 * Serves the device until the process is asked to end.
 * @param text a file, and options: `./disk.ts,key=value`
 * @returns the exit status
 * @throws UsageError in one line when it is no disk, or this host cannot have it
 */
export async function mountDevice(text: string, name?: string): Promise<number> {
  const [file = ''] = text.split(',', 1);
  // A name without a dot or a slash is that of a device of ours elsewhere (`nodevmm serve`).
  const kind = /[./]/.test(file) ? text : `./${text}`;
  using signals = new StopSignals();
  await using device = await createBackendDevice(kind, undefined);
  const { deviceId } = device.device;
  if (deviceId !== VIRTIO_ID_BLOCK) {
    throw new UsageError(
      'E_VDUSE',
      `${file} is a device of type ${deviceId}, which cannot be mounted`,
      `mount a disk, of type ${VIRTIO_ID_BLOCK}`,
    );
  }
  await loadDiskDrivers();
  const vdpa = name ?? basename(file).replace(/\.\w+$/, '');
  const searching = new AbortController();
  try {
    return await serveHost(vdpa, device, signals, async (added) => {
      await added.bind('virtio_vdpa');
      process.stdout.write(`${await findDisk(vdpa, searching.signal)}\n`);
    });
  } finally {
    searching.abort();
  }
}
