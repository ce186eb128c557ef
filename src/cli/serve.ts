/** `nodevmm serve`: one device for another VMM, over vhost-user. */
import { type Command, InvalidArgumentError } from 'commander';
import { deviceShape } from '../machine/devices/virtio-plan.ts';
import { ConnectingBackend, ListeningBackend } from '../vhost-user/backend/backend.ts';
import { BackendDevice } from '../vhost-user/backend/backend-device.ts';
import { EXIT_OK } from './exit-status.ts';
import { createServedDevice, servedTypes } from './served-device.ts';
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

/**
 * Adds `serve`.
 * @param finish gets the exit status
 */
export function registerServeCommand(program: Command, finish: (status: number) => void): void {
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
}

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
