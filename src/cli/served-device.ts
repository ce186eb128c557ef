/** The device of `nodevmm serve`, from its command line. */
import { UsageError } from '../host/errors.ts';
import { createDevice } from '../machine/devices/create-devices.ts';
import { DEVICE_TYPES } from '../machine/devices/device-types.ts';
import { resolveDevices } from '../machine/resolve-options.ts';
import { DeviceCode } from '../machine/user-devices/device-code.ts';
import { E1000Device } from '../nic/device.ts';
import { alternatives } from '../options/option-schema.ts';
import { ConsoleDevice } from '../virtio/device/console/console.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { RingOptions } from '../virtio/device-type.ts';
import { parseDevice } from './run/device-options.ts';
import { MESSAGES } from './terminal/messages.ts';

/** A device, and its ring options. */
export interface ServedDevice {
  readonly device: VirtioDevice;
  readonly ring: RingOptions;
}

/** What can be served, besides a file. */
export function servedTypes(): string[] {
  const types = DEVICE_TYPES.filter(
    ({ key, backends }) => key !== 'devices' && backends.some(({ served }) => served !== undefined),
  );
  return types.map(({ name }) => name);
}

/**
 * Makes it.
 * @param kind the name of a device type, or a file
 * @throws UsageError or HostError when it cannot be made
 */
export async function createServedDevice(
  kind: string,
  text: string | undefined,
): Promise<ServedDevice> {
  const isFile = /[./]/.test(kind);
  const type = DEVICE_TYPES.find(({ name, key }) => (isFile ? key === 'devices' : name === kind));
  if (type === undefined || (!isFile && type.key === 'devices')) {
    throw new UsageError(
      'E_OPTION',
      `there is no device ${kind} to serve; take ${alternatives([...servedTypes(), 'a file'])}`,
    );
  }
  const said = isFile && text !== undefined ? `${kind},${text}` : isFile ? kind : text;
  const { backend, options } = parseDevice(type, said, {
    option: isFile ? 'serve' : `serve ${kind}`,
    firstKey: type.servedFirstKey ?? type.firstKey,
    defaults: ({ served }) => served ?? {},
  });
  const [asked] = backend.served === undefined ? [] : resolveDevices(type, [options], 'pci');
  const made = asked && (await createDevice(asked));
  if (asked === undefined || made === undefined || made instanceof E1000Device) {
    throw new UsageError('E_OPTION', `${kind} with ${backend.name} cannot be served`);
  }
  const device = made instanceof DeviceCode ? made.device : made;
  if (device instanceof ConsoleDevice) connectConsole(device);
  return { device, ring: asked.ring };
}

function connectConsole({ ports: [port] }: ConsoleDevice): void {
  if (port === undefined) return;
  port.dropping = () =>
    MESSAGES.say('console0: its output is not being read: beyond 1 MiB it is dropped');
  process.stdin.pipe(port, { end: false });
  port.pipe(process.stdout, { end: false });
}
