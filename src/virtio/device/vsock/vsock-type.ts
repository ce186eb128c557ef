/** The socket device, as a type of device. */
import { GUEST_CID_MAX, GUEST_CID_MIN } from '../../../abi/virtio-vsock.ts';
import { UsageError } from '../../../host/errors.ts';
import { integer, options, text } from '../../../options/option-schema.ts';
import {
  CARRIED,
  type CarriedOptions,
  type DeviceType,
  VHOST,
  type VhostMode,
} from '../../device-type.ts';
import { createVsockDevice } from './vsock.ts';

/** A socket device: stream connections between programs of the guest and of the host. */
export interface VsockOptions extends CarriedOptions {
  /** The guest's context ID, 3 to 2^32 - 2. */
  readonly cid: number;
  /**
   * Unix socket to create: clients that connect and write `CONNECT PORT\n` reach that port of the
   * guest. Guests that connect to port N of the host reach the listener on `PATH_N`. May be left
   * out with `vhost: 'on'`. Only this user and root can connect to it.
   */
  readonly path?: string;
  /** User ID that may listen on `PATH_N`, besides root and this user. */
  readonly peerUid?: number;
  /**
   * Whether the host kernel's vhost-vsock serves the device: programs of the host then use AF_VSOCK,
   * and the unix sockets refuse. `auto`: if possible. Default `off`.
   */
  readonly vhost?: VhostMode;
}

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** Default none. */
    readonly vsock?: VsockOptions;
  }
}

export const vsockType: DeviceType = {
  name: 'vsock',
  summary:
    'a socket device; CONNECT PORT on the unix socket at path reaches the guest, and the guest path_PORT; with vhost: AF_VSOCK',
  key: 'vsock',
  number: 'on-request',
  cli: { option: '--vsock', value: 'cid=n,...' },
  firstKey: 'cid',
  backends: [
    {
      name: 'unix',
      options: options<VsockOptions>(
        { cid: integer(GUEST_CID_MIN, GUEST_CID_MAX, { code: 'E_CID', value: 'N' }) },
        {
          path: text({ value: 'SOCKET', path: 'file' }),
          peerUid: integer(0, 0xffff_ffff),
          vhost: VHOST,
          ...CARRIED,
        },
      ),
      check({ path, vhost }: Partial<VsockOptions>) {
        if (path !== undefined || vhost === 'on') return;
        throw new UsageError(
          'E_VSOCK',
          'host programs cannot reach the socket device',
          'set its path, or use vhost=on',
        );
      },
      create: ({ cid, path, peerUid }: VsockOptions, { name }) =>
        createVsockDevice({
          name,
          cid,
          ...(path === undefined ? {} : { path }),
          ...(peerUid === undefined ? {} : { peerUid }),
        }),
    },
  ],
};
