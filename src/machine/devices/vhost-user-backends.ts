/** Devices whose queues another process serves, as backends of their types; see docs/vhost-user.md. */
import { VHOST_USER_MAX_CONFIG_SIZE } from '../../abi/vhost-user.ts';
import {
  flag,
  integer,
  type OptionSchema,
  type OtherOptions,
  options,
  type RequiredOptions,
  text,
} from '../../options/option-schema.ts';
import type { FrontendSession } from '../../vhost-user/frontend/frontend-session.ts';
import { VhostUserDevice } from '../../vhost-user/frontend/vhost-user-device.ts';
import { blkKind } from '../../virtio/device/blk/frontend-blk.ts';
import { fsKind } from '../../virtio/device/fs/frontend-fs.ts';
import { isTag, TAG } from '../../virtio/device/fs/fs-type.ts';
import { netKind } from '../../virtio/device/net/frontend-net.ts';
import {
  CARRIED,
  type CarriedOptions,
  type DeviceBackend,
  type DeviceContext,
} from '../../virtio/device-type.ts';
import { type DeviceKind, otherKind } from '../../virtio/frontend-device.ts';

const DEFAULT_TIMEOUT_MS = 10_000;
const DEFAULT_QUEUE_SIZE = 256;
/** Also as pairs no more than a message can name (VHOST_USER_VRING_IDX_MASK). */
const QUEUES_MAX = 64;

/** How to reach the process that serves a device. */
export interface VhostUserSocket {
  /** Path of the unix socket between the two. */
  readonly socket: string;
  /** Listen on the socket, and wait for the backend to connect. Default false: it listens. */
  readonly server?: boolean;
  /** How long the backend may take to reply, in milliseconds. Default 10000. */
  readonly timeoutMs?: number;
  /** User ID of a backend that is neither root's nor this user's: it gets access to all guest memory. */
  readonly peerUid?: number;
}

/** A device that another process serves over the vhost-user protocol; guest RAM is then a file that it maps. */
export interface VhostUserOptions extends CarriedOptions {
  readonly vhostUser: VhostUserSocket;
  /**
   * A network interface's queue pairs, request queues of a disk or a file system, else all queues.
   * Default: for a disk, what the backend's configuration specifies, else 1.
   */
  readonly queues?: number;
}

/** A network interface that another process serves. */
export interface VhostUserNetOptions extends VhostUserOptions {
  /** Default: the backend's, else one derived from the socket's path. */
  readonly mac?: string;
}

/** A file system that another process serves. */
export interface VhostUserFsOptions extends VhostUserOptions {
  /** The tag that the guest mounts it by, at most 36 bytes. */
  readonly tag: string;
}

/** Any device that another process serves. */
export interface VhostUserDeviceOptions extends VhostUserOptions {
  /** Device ID (virtio 1.3 §5). */
  readonly deviceId: number;
  /** Bytes of the configuration space, which the backend holds. Default 0. */
  readonly configSize?: number;
}

interface KindContext extends DeviceContext {
  readonly queueSize: number;
}

/** A vhost-user backend: what is specific to a type of device. */
function vhostUserBackend<T extends VhostUserOptions>(
  socketKey: string,
  required: RequiredOptions<Omit<T, keyof VhostUserOptions>>,
  others: OtherOptions<Omit<T, keyof VhostUserOptions>>,
  kindOf: (
    session: FrontendSession,
    options: T,
    context: KindContext,
  ) => DeviceKind | Promise<DeviceKind>,
): DeviceBackend {
  const vhostUser = options<VhostUserSocket>(
    { socket: text({ key: socketKey, value: 'SOCKET' }) },
    {
      server: flag(),
      timeoutMs: integer(1, 0x7fff_ffff, { key: 'timeout', value: 'MS' }),
      peerUid: integer(0, 0xffff_ffff, { value: 'UID' }),
    },
  );
  const schema = {
    required: { vhostUser, ...required },
    others: { queues: integer(1, QUEUES_MAX), ...others, ...CARRIED },
  };
  return {
    name: 'vhost-user',
    selector: { option: 'vhostUser' },
    sharesMemory: true,
    options: options(schema.required, schema.others, { code: 'E_VHOST_USER' }) as OptionSchema,
    create(wanted: T, context: DeviceContext) {
      const { server = false, timeoutMs = DEFAULT_TIMEOUT_MS, ...address } = wanted.vhostUser;
      return VhostUserDevice.open(
        context.name,
        { server, timeoutMs, ...address },
        async (session) => kindOf(session, wanted, { queueSize: DEFAULT_QUEUE_SIZE, ...context }),
      );
    },
  };
}

export const vhostUserBlk: DeviceBackend = vhostUserBackend<VhostUserOptions>(
  'vhost-user',
  {},
  {},
  (session, { queues }, { name, queueSize }) => blkKind(name, session, queues, queueSize),
);

export const vhostUserNet: DeviceBackend = vhostUserBackend<VhostUserNetOptions>(
  'vhost-user',
  {},
  { mac: text({ value: 'MAC' }) },
  (session, { queues = 1, mac, vhostUser }, { queueSize }) => {
    const address = mac === undefined ? {} : { mac };
    return netKind(session, { pairs: queues, ...address, seed: vhostUser.socket, queueSize });
  },
);

export const vhostUserFs: DeviceBackend = vhostUserBackend<VhostUserFsOptions>(
  'vhost-user',
  { tag: text(TAG, isTag) },
  {},
  (_, { tag, queues = 1 }, { queueSize }) => fsKind(tag, queues, queueSize),
);

export const vhostUserDevice: DeviceBackend = {
  ...vhostUserBackend<VhostUserDeviceOptions>(
    'socket',
    {
      deviceId: integer(1, 63, {
        key: 'type',
        value: 'ID',
        expected: 'a device ID from 1 to 63',
      }),
    },
    { configSize: integer(0, VHOST_USER_MAX_CONFIG_SIZE) },
    (session, { deviceId, queues = 1, configSize = 0 }, { queueSize }) =>
      otherKind(session, { deviceId, queues, queueSize, configSize }),
  ),
  cliName: 'vhost-user',
  prefix: (wanted) => `virtio${(wanted as VhostUserDeviceOptions).deviceId}-`,
};
