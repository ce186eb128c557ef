/** Devices whose queues another process serves, as a backend of each type; see docs/vhost-user.md. */
import {
  choice,
  flag,
  integer,
  type OptionSchema,
  type OtherOptions,
  options,
  type RequiredOptions,
  text,
} from '../../options/option-schema.ts';
import {
  CARRIED,
  type CarriedOptions,
  type DeviceBackend,
  type DeviceContext,
} from '../device-type.ts';
import type { BackendOffer, Connect, DeviceKind, ShareMode } from '../frontend-device.ts';

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
  /** User ID of a backend that is neither root's nor this user's: it gets access to what `share` says. */
  readonly peerUid?: number;
  /**
   * What the backend gets of the guest's memory: `all` of it, or `shadow`, copies of what the driver puts into the
   * queues, in a memory of their own. Default `all`.
   */
  readonly share?: ShareMode;
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

type OwnOptions<T> = Omit<T, keyof VhostUserOptions>;

/**
 * The backend of a type of device.
 * @param required the options that only this type has, like `others`
 * @param kindOf how such a device differs from others
 * @param socketKey the socket's key on the command line
 */
export function vhostUserBackend<T extends VhostUserOptions>(
  required: RequiredOptions<OwnOptions<T>>,
  others: OtherOptions<OwnOptions<T>>,
  kindOf: (
    backend: BackendOffer,
    options: T,
    context: DeviceContext & { readonly queueSize: number },
  ) => DeviceKind | Promise<DeviceKind>,
  socketKey = 'vhost-user',
): DeviceBackend {
  const vhostUser = options<VhostUserSocket>(
    { socket: text({ key: socketKey, value: 'SOCKET' }) },
    {
      server: flag(),
      timeoutMs: integer(1, 0x7fff_ffff, { key: 'timeout', value: 'MS' }),
      peerUid: integer(0, 0xffff_ffff, { value: 'UID' }),
      share: choice<ShareMode>(['all', 'shadow']),
    },
  );
  const schema = {
    required: { vhostUser, ...required },
    others: { queues: integer(1, QUEUES_MAX), ...others, ...CARRIED },
  };
  return {
    name: 'vhost-user',
    selector: { option: 'vhostUser' },
    ram: (given) => ((given as T).vhostUser.share === 'shadow' ? undefined : 'shared'),
    options: options(schema.required, schema.others, { code: 'E_VHOST_USER' }) as OptionSchema,
    create(wanted: T, context: DeviceContext, connect: Connect) {
      const { server = false, timeoutMs = DEFAULT_TIMEOUT_MS, ...address } = wanted.vhostUser;
      return connect.vhostUser(context.name, { server, timeoutMs, ...address }, async (backend) =>
        kindOf(backend, wanted, { queueSize: DEFAULT_QUEUE_SIZE, ...context }),
      );
    },
  };
}
