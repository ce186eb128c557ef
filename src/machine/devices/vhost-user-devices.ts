/** Devices that other processes serve: connected to before the guest runs, for what they can do. */

import { blkKind } from '../../vhost-user/frontend/blk-kind.ts';
import { fsKind } from '../../vhost-user/frontend/fs-kind.ts';
import type { DeviceKind } from '../../vhost-user/frontend/kind.ts';
import type { Session } from '../../vhost-user/frontend/link.ts';
import { netKind } from '../../vhost-user/frontend/net-kind.ts';
import { otherKind } from '../../vhost-user/frontend/other-kind.ts';
import { VhostUserDevice } from '../../vhost-user/frontend/vhost-user-device.ts';
import type { CarriedOptions, VhostUserOptions } from '../options.ts';
import type { ResolvedOptions } from '../resolve-options.ts';

const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_QUEUE_SIZE = 256;

/**
 * Makes them all, or none.
 * @throws UsageError when a backend is not there, or not what is wanted
 */
export async function createVhostUserDevices(
  options: ResolvedOptions,
): Promise<(CarriedOptions & { readonly device: VhostUserDevice })[]> {
  const made: (CarriedOptions & { readonly device: VhostUserDevice })[] = [];
  const names = namesOf(options);
  try {
    for (const wanted of options.vhostUser) {
      const { transport, ring } = wanted;
      const { socket, server = false, timeoutMs = DEFAULT_TIMEOUT_MS, peerUid } = wanted;
      const name = names(wanted.type);
      const address = { socket, server, timeoutMs, peerUid };
      const device = await VhostUserDevice.open(name, address, (session) =>
        kindOf(name, session, wanted),
      );
      made.push({
        device,
        ...(transport === undefined ? {} : { transport }),
        ...(ring === undefined ? {} : { ring }),
      });
    }
    return made;
  } catch (error) {
    for (const { device } of made) device.close();
    throw error;
  }
}

async function kindOf(
  name: string,
  session: Session,
  options: VhostUserOptions,
): Promise<DeviceKind> {
  const { type, queues, ring, socket, mac, tag = '', configSize = 0 } = options;
  const queueSize = ring?.queueSize ?? DEFAULT_QUEUE_SIZE;
  switch (type) {
    case 'blk':
      return await blkKind(name, session, queues, queueSize);
    case 'net':
      return await netKind(session, {
        pairs: queues ?? 1,
        ...(mac === undefined ? {} : { mac }),
        seed: socket,
        queueSize,
      });
    case 'fs':
      return fsKind(tag, queues ?? 1, queueSize);
    default:
      return await otherKind(session, {
        deviceId: type,
        queues: queues ?? 1,
        queueSize,
        configSize,
      });
  }
}

/** Names that go on where those of the machine's other devices end. */
function namesOf({
  disks,
  nets,
  fileSystems,
}: ResolvedOptions): (type: VhostUserOptions['type']) => string {
  const next = new Map<string, number>([
    ['blk', disks.length],
    ['net', nets.length],
    ['fs', fileSystems.length],
  ]);
  return (type) => {
    const prefix = typeof type === 'number' ? `virtio${type}-` : type;
    const number = next.get(prefix) ?? 0;
    next.set(prefix, number + 1);
    return `${prefix}${number}`;
  };
}
