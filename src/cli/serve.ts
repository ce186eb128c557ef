/** `nodevmm serve`: one device for another VMM, over vhost-user, or for this host, over VDUSE. */

import { InvalidArgumentError } from 'commander';
import { UsageError } from '../host/errors.ts';
import { DEVICE_TYPES } from '../machine/devices/device-types.ts';
import { createDevice } from '../machine/devices/machine-devices.ts';
import { deviceShape } from '../machine/devices/virtio-plan.ts';
import { resolveDevices } from '../machine/resolve-options.ts';
import { DeviceCode } from '../machine/user-devices/device-code.ts';
import { E1000Device } from '../nic/device.ts';
import { alternatives } from '../options/option-schema.ts';
import { VdpaDevice } from '../vduse/vdpa-device.ts';
import { VduseBackend } from '../vduse/vduse-backend.ts';
import { VfioDevice } from '../vfio/device.ts';
import { ConnectingBackend, ListeningBackend } from '../vhost-user/backend/backend.ts';
import { BackendDevice } from '../vhost-user/backend/backend-device.ts';
import { ConsoleDevice } from '../virtio/device/console/console.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { PollMode, RingOptions } from '../virtio/device-type.ts';
import { WatchdogDevice } from '../watchdog/watchdog-type.ts';
import { EXIT_OK, type RegisterCommand } from './exit-status.ts';
import { parseDevice } from './run/device-options.ts';
import { StopSignals } from './stop-signals.ts';
import { MESSAGES } from './terminal/messages.ts';
import { hurry } from './terminal/standard-streams.ts';

const EXAMPLES = `
Examples:
  nodevmm serve blk disk.raw,queues=2 --socket $XDG_RUNTIME_DIR/blk.sock
  nodevmm serve net tap0,poll=always --socket $XDG_RUNTIME_DIR/net.sock
  nodevmm serve fs /srv --socket $XDG_RUNTIME_DIR/fs.sock
  nodevmm serve rng --socket $XDG_RUNTIME_DIR/rng.sock
  nodevmm serve blk disk.raw --vduse disk0      a disk of this host, /dev/vda; see docs/vdpa.md
  nodevmm serve ./my-device.ts,key=value --socket $XDG_RUNTIME_DIR/own.sock
  nodevmm serve ./my-disk.ts --vduse disk1      the same as of "nodevmm device mount ./my-disk.ts"

QEMU uses the first one with:
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=ram,size=1G,share=on \\
    -machine q35,memory-backend=ram -chardev socket,id=c0,path=$XDG_RUNTIME_DIR/blk.sock \\
    -device vhost-user-blk-pci,chardev=c0`;

/** Adds `serve`. */
export const registerServeCommand: RegisterCommand = (program, finish) => {
  program
    .command('serve')
    .description("serve a device to another VMM, as a vhost-user backend, or to this host's kernel")
    .argument('<device>', `${servedTypes().join(', ')}, or a file with a device of your own`)
    .argument(
      '[options]',
      'what follows --disk, --net and the like of run; fs: FOLDER and its keys',
    )
    .option('--socket <path>', 'unix socket between frontend and backend')
    .option(
      '--vduse <name>',
      "instead of --socket: the device becomes this host's own, as a vDPA device of that name",
    )
    .option('--connect', 'frontends listen there; call them, and again when they leave')
    .option('--peer-uid <uid>', 'also serve VMMs of this user, besides root and you', parseUid)
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
  readonly socket?: string;
  readonly vduse?: string;
  readonly connect?: boolean;
  readonly peerUid?: number;
}

/** Another VMM, or this host. @throws UsageError unless it is one of them */
function consumerOf({
  socket,
  vduse,
}: ServeFlags): { readonly socket: string } | { readonly vduse: string } {
  if (socket !== undefined && vduse === undefined) return { socket };
  if (socket === undefined && vduse !== undefined) return { vduse };
  throw new UsageError(
    'E_OPTION',
    'a device is served on --socket, or to this host by --vduse',
    'give one of the two',
  );
}

async function serve(kind: string, text: string | undefined, flags: ServeFlags): Promise<number> {
  const consumer = consumerOf(flags);
  using signals = new StopSignals();
  await using device = await createBackendDevice(kind, text);
  if ('vduse' in consumer) {
    const { vduse } = consumer;
    return await serveHost(vduse, device, signals, async () => {
      device.log(`this host has it as the vDPA device ${vduse}`);
    });
  }
  const { socket } = consumer;
  if (flags.connect === true) {
    await using _backend = new ConnectingBackend(socket, device, flags.peerUid);
    return await signalled(signals);
  }
  await using backend = new ListeningBackend(socket, device, flags.peerUid);
  device.log(`listening on ${backend.path}`);
  return await signalled(signals);
}

/**
 * Makes a device this host's own until the process is asked to end.
 * @param added called when it is a vDPA device; its result is not awaited once the process is asked to end
 * @returns the exit status
 */
export async function serveHost(
  name: string,
  device: BackendDevice,
  signals: StopSignals,
  added: (vdpa: VdpaDevice) => Promise<void>,
): Promise<number> {
  const ended = signalled(signals);
  // The kernel does not wait long for an answer.
  const status = await Promise.race([device.datapath.ready?.(), ended]);
  if (status !== undefined) return status;
  await using backend = new VduseBackend(name, device);
  await using vdpa = new VdpaDevice(name, () => backend.fail('it is to end'));
  const add = async (): Promise<number> => {
    if (backend.resumed) vdpa.adopt();
    else await vdpa.add('vduse');
    await added(vdpa);
    return await ended;
  };
  return await Promise.race([add(), ended, backend.lost]);
}

/**
 * A device to be served.
 * @throws as `createServedDevice`
 */
export async function createBackendDevice(
  kind: string,
  text: string | undefined,
): Promise<BackendDevice> {
  const { device, ring, poll } = await createServedDevice(kind, text);
  const shape = deviceShape(device, { packed: true, ringReset: false, ...ring });
  const log = (line: string): void => {
    MESSAGES.say(line);
  };
  return new BackendDevice(device, shape.features, shape.queueSizes, log, poll);
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

/** A device, and those of its options that concern its queues. */
export interface ServedDevice {
  readonly device: VirtioDevice;
  readonly ring: RingOptions;
  readonly poll: PollMode;
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
      `there is no device ${kind} to serve`,
      `take ${alternatives([...servedTypes(), 'a file'])}`,
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
  const isVirtio = !(
    made instanceof E1000Device ||
    made instanceof VfioDevice ||
    made instanceof WatchdogDevice
  );
  if (asked === undefined || made === undefined || !isVirtio) {
    throw new UsageError('E_OPTION', `${kind} with ${backend.name} cannot be served`);
  }
  const device = made instanceof DeviceCode ? made.device : made;
  if (device instanceof ConsoleDevice) connectConsole(device);
  return { device, ring: asked.ring, poll: asked.poll };
}

function connectConsole({ ports: [port] }: ConsoleDevice): void {
  if (port === undefined) return;
  port.dropping = () =>
    MESSAGES.say('console0: its output is not being read: beyond 1 MiB it is dropped');
  process.stdin.pipe(port, { end: false });
  port.pipe(process.stdout, { end: false });
}
