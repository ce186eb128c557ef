/** `nodevmm serve`: one device for another VMM, over vhost-user. */

import { InvalidArgumentError } from 'commander';
import { UsageError } from '../host/errors.ts';
import { DEVICE_TYPES } from '../machine/devices/device-types.ts';
import { createDevice } from '../machine/devices/machine-devices.ts';
import { deviceShape } from '../machine/devices/virtio-plan.ts';
import { resolveDevices } from '../machine/resolve-options.ts';
import { DeviceCode } from '../machine/user-devices/device-code.ts';
import { E1000Device } from '../nic/device.ts';
import { alternatives } from '../options/option-schema.ts';
import { ConnectingBackend, ListeningBackend } from '../vhost-user/backend/backend.ts';
import { BackendDevice } from '../vhost-user/backend/backend-device.ts';
import { ConsoleDevice } from '../virtio/device/console/console.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { RingOptions } from '../virtio/device-type.ts';
import { EXIT_OK, type RegisterCommand } from './exit-status.ts';
import { parseDevice } from './run/device-options.ts';
import { StopSignals } from './stop-signals.ts';
import { MESSAGES } from './terminal/messages.ts';
import { hurry } from './terminal/standard-streams.ts';

const EXAMPLES = `
Examples:
  nodevmm serve blk disk.raw,queues=2 --socket $XDG_RUNTIME_DIR/blk.sock
  nodevmm serve net tap0 --socket $XDG_RUNTIME_DIR/net.sock
  nodevmm serve fs /srv --socket $XDG_RUNTIME_DIR/fs.sock
  nodevmm serve rng --socket $XDG_RUNTIME_DIR/rng.sock
  nodevmm serve ./my-device.ts,key=value --socket $XDG_RUNTIME_DIR/own.sock

QEMU uses the first one with:
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=ram,size=1G,share=on \\
    -machine q35,memory-backend=ram -chardev socket,id=c0,path=$XDG_RUNTIME_DIR/blk.sock \\
    -device vhost-user-blk-pci,chardev=c0`;

/** Adds `serve`. */
export const registerServeCommand: RegisterCommand = (program, finish) => {
  program
    .command('serve')
    .description('serve a device to another VMM, as a vhost-user backend')
    .argument('<device>', `${servedTypes().join(', ')}, or a file with a device of your own`)
    .argument(
      '[options]',
      'what follows --disk, --net and the like of run; fs: FOLDER and its keys',
    )
    .requiredOption('--socket <path>', 'unix socket between frontend and backend')
    .option('--connect', 'frontends listen there; call them, and again when they leave')
    .option('--peer-uid <uid>', 'also serve VMMs of this user, besides root and you', parseUid)
    .option('--poll', 'never sleep: poll the rings all the time')
    .option('--no-poll', 'sleep as soon as the rings are empty (default: poll for 50 us more)')
    .addHelpText('after', EXAMPLES)
    .action(async (kind: string, text: string | undefined, flags: ServeFlags) => {
      finish(await serve(kind, text, flags));
    });
};

function parseUid(text: string): number {
  if (!/^[0-9]{1,10}$/.test(text))
    throw new InvalidArgumentError('It must be a number, such as from "id -u".');
  return Number(text);
}

interface ServeFlags {
  readonly socket: string;
  readonly connect?: boolean;
  readonly peerUid?: number;
  readonly poll?: boolean;
}

async function serve(kind: string, text: string | undefined, flags: ServeFlags): Promise<number> {
  const log = (line: string): void => {
    MESSAGES.say(line);
  };
  const { device, ring } = await createServedDevice(kind, text);
  using signals = new StopSignals();
  const poll = flags.poll === undefined ? 'adaptive' : flags.poll ? 'always' : 'never';
  const shape = deviceShape(device, { packed: true, ringReset: false, ...ring });
  await using backendDevice = new BackendDevice(
    device,
    shape.features,
    shape.queueSizes,
    log,
    poll,
  );
  if (flags.connect === true) {
    await using _backend = new ConnectingBackend(flags.socket, backendDevice, flags.peerUid);
    return await signalled(signals);
  }
  await using backend = new ListeningBackend(flags.socket, backendDevice, flags.peerUid);
  log(`${device.name}: listening on ${backend.path}`);
  return await signalled(signals);
}

/** Resolves with the exit status once the process is asked to end. */
function signalled(signals: StopSignals): Promise<number> {
  return new Promise((resolve) =>
    signals.watch(() => {
      hurry();
      resolve(EXIT_OK);
    }),
  );
}

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
