/** Devices that the caller brings: written by a person, in a file or in the calling program. */
import { messageOf, UsageError } from '../host/errors.ts';
import { DefinedDevice } from '../virtio/define/defined-device.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { CreatedDevice } from './create-devices.ts';
import { type LoadedHandlerOptions, loadDevice } from './load-device.ts';
import type { OwnDeviceOptions, TransportName } from './options.ts';

/**
 * Makes them all, or none.
 * @param transport of those that do not say
 * @throws UsageError when a file cannot be loaded, or what it defines cannot be carried
 */
export async function createOwnDevices(
  devices: readonly OwnDeviceOptions[],
  transport: TransportName,
): Promise<CreatedDevice[]> {
  const made: CreatedDevice[] = [];
  try {
    for (const [index, options] of devices.entries()) {
      const device = await createOwnDevice(`own${index}`, options);
      const ring = options.ring ?? {};
      const carried = { transport: options.transport ?? transport, ring, vhost: 'off' } as const;
      made.push({ kind: 'virtio', device, ...carried });
    }
    return made;
  } catch (error) {
    for (const { device } of made) device.close();
    throw error;
  }
}

async function createOwnDevice(name: string, from: OwnDeviceOptions): Promise<VirtioDevice> {
  if ('device' in from) return from.device;
  const options = from.options ?? {};
  if ('definition' in from) return new DefinedDevice(name, from.definition(options));
  const loaded = await loadDevice(from.module);
  try {
    const definition = loaded.define(options);
    const onClose = (): void => loaded[Symbol.dispose]();
    if (from.thread !== 'worker') return new DefinedDevice(name, definition, { onClose });
    const handlerOptions: LoadedHandlerOptions = { options };
    const placement = { thread: 'worker', module: loaded.url, options: handlerOptions } as const;
    return new DefinedDevice(name, definition, { onClose, placement });
  } catch (error) {
    loaded[Symbol.dispose]();
    if (error instanceof UsageError) throw error;
    const text = messageOf(error);
    throw new UsageError('E_DEVICE', `${from.module}: ${text}`, { cause: error });
  }
}
