/** The device of `nodevmm serve`, from its command line. */
import { InternalError, UsageError } from '../host/errors.ts';
import type { RingOptions } from '../machine/options.ts';
import { createOwnDevices } from '../machine/user-devices/user-devices.ts';
import { createBlkDevice } from '../virtio/device/blk/blk.ts';
import { ConsoleDevice } from '../virtio/device/console/console.ts';
import { createFsDevice } from '../virtio/device/fs/fs.ts';
import { createNetDevice } from '../virtio/device/net/net.ts';
import { createNetMemoryDevice } from '../virtio/device/net/net-memory.ts';
import { createRngDevice } from '../virtio/device/rng.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import { KeyValues } from './key-values.ts';
import {
  parseDisk,
  parseNet,
  parseOwnDevice,
  parseRng,
  parseServedFs,
} from './run/device-options.ts';
import { MESSAGES } from './terminal/messages.ts';

/** A device, and what was said of its rings. */
export interface ServedDevice {
  readonly device: VirtioDevice;
  readonly ring: RingOptions;
}

/**
 * Makes it.
 * @param kind `blk`, `net`, `rng`, `console`, `fs`, or a file and its options
 * @throws UsageError or HostError when it cannot be had
 */
export async function createServedDevice(
  kind: string,
  text: string | undefined,
): Promise<ServedDevice> {
  switch (kind) {
    case 'blk': {
      if (text === undefined) throw new UsageError('E_OPTION', 'serve blk names no disk; give one');
      const { ring = {}, transport: _, ...disk } = parseDisk(text);
      const size = ring.queueSize === undefined ? {} : { queueSize: ring.queueSize };
      const device = createBlkDevice({ serial: 'nodevmm-0', ...disk, ...size, name: 'blk0' });
      return { device, ring };
    }
    case 'net': {
      const memory = text === undefined ? undefined : parseMemoryNet(text);
      if (memory !== undefined) return memory;
      const { ring = {}, transport: _, vhost: __, model, ...net } = parseNet(text ?? 'auto');
      if (model === 'e1000') {
        throw new UsageError('E_NET_MODEL', 'vhost-user carries virtio devices only, no e1000');
      }
      return { device: createNetDevice({ ...net, name: 'net0' }), ring };
    }
    case 'rng': {
      const { ring = {} } = text === undefined ? {} : parseRng(text);
      return { device: createRngDevice({ name: 'rng0' }), ring };
    }
    case 'fs': {
      if (text === undefined)
        throw new UsageError('E_OPTION', 'serve fs names no folder; give one');
      const { ring = {}, transport: _, ...fs } = parseServedFs(text);
      const size = ring.queueSize === undefined ? {} : { queueSize: ring.queueSize };
      return { device: createFsDevice({ ...fs, ...size, name: 'fs0' }), ring };
    }
    case 'console': {
      const device = new ConsoleDevice('console0', []);
      const [port] = device.ports;
      if (port !== undefined) {
        port.dropping = () =>
          MESSAGES.say('console0: its output is not being read: beyond 1 MiB it is dropped');
        process.stdin.pipe(port, { end: false });
        port.pipe(process.stdout, { end: false });
      }
      return { device, ring: {} };
    }
  }
  if (!/[./]/.test(kind)) {
    throw new UsageError(
      'E_OPTION',
      `there is no device ${kind} to serve; take blk, net, rng, console, fs, or a file`,
    );
  }
  const options = parseOwnDevice(text === undefined ? kind : `${kind},${text}`);
  const [made] = await createOwnDevices([options]);
  if (made === undefined) throw new InternalError('a device that was not made');
  return { device: made.device, ring: made.ring ?? {} };
}

/** `backend=sink|source|echo[,frame=N][,mac=M][,packed=off]`: no tap, a network in memory. */
function parseMemoryNet(text: string): ServedDevice | undefined {
  if (!text.startsWith('backend=')) return undefined;
  const values = new KeyValues('serve net', text, 'backend');
  const network = values.choice('backend', ['sink', 'source', 'echo']) ?? 'sink';
  const frame = values.count('frame');
  const mac = values.text('mac');
  const packed = values.flag('packed');
  values.finish(['backend', 'frame', 'mac', 'packed']);
  const device = createNetMemoryDevice({
    name: 'net0',
    network,
    ...(frame === undefined ? {} : { frame }),
    ...(mac === undefined ? {} : { mac }),
  });
  return { device, ring: packed === undefined ? {} : { packed } };
}
