/** Network interfaces, as a type of device. */

import { E1000Device, type E1000Options } from '../../../nic/device.ts';
import { choice, flag, integer, options, text } from '../../../options/option-schema.ts';
import type { VirtioDevice } from '../../device.ts';
import {
  type DeviceBackend,
  type DeviceType,
  POLLED,
  type PolledOptions,
  VHOST,
  type VhostMode,
} from '../../device-type.ts';
import { type VdpaOptions, vdpaBackend } from '../vdpa-type.ts';
import { type VhostUserOptions, vhostUserBackend } from '../vhost-user-type.ts';
import { netKind, vdpaNet } from './frontend-net.ts';
import { createNetDevice, type NetDeviceOptions } from './net.ts';
import { createNetMemoryDevice, type NetMemoryDeviceOptions } from './net-memory.ts';

type TapOptions = Omit<NetDeviceOptions, 'name' | 'queueSize'>;

/** A network interface on a tap. */
export interface NetOptions extends TapOptions, PolledOptions {
  /**
   * The device that the guest sees: virtio, or an Intel 82540EM, each of whose register accesses is
   * an exit; the latter takes `tap`, `mac`, `hostAddress` and `mtu` only. Default `virtio`.
   */
  readonly model?: 'virtio' | 'e1000';
  /**
   * Whether the host kernel's vhost-net moves the packets, once the driver is up; `auto`: if
   * possible. Ring features that it cannot serve are not offered then. Default `off`.
   */
  readonly vhost?: VhostMode;
}

const MAC = text({ value: 'MAC' });
/** §5.1.4.2. */
const MTU_MIN = 68;
/** A packet and its Ethernet header must fit 65535 bytes (Linux's dev_set_mtu). */
const MTU_MAX = 65521;
/** The longest packet that Linux's e1000 driver takes, less what is not payload. */
const E1000_MTU_MAX = 16110;
const TAP = {
  tap: text({ value: 'TAP', unset: 'auto' }),
  mac: MAC,
  hostAddress: text({ key: 'address', value: 'ADDRESS/LENGTH' }),
};

const tapBackend: DeviceBackend = {
  name: 'tap',
  options: options<NetOptions>(
    {},
    {
      ...TAP,
      model: choice(['virtio', 'e1000'], { code: 'E_NET_MODEL' }),
      queues: integer(1, 8, { code: 'E_NET_QUEUES' }),
      mtu: integer(MTU_MIN, MTU_MAX, { code: 'E_NET_MTU' }),
      vhost: VHOST,
      offloads: flag({ on: true }),
      mergeableBuffers: flag({ on: true }),
      ...POLLED,
    },
  ),
  served: { poll: 'adaptive' },
  create: ({ model: _, ...net }: TapOptions & NetOptions, { name }) =>
    createNetDevice({ ...net, name }),
};

/** A network in memory, to measure everything around it. */
interface MemoryNetOptions extends Omit<NetMemoryDeviceOptions, 'name' | 'network'>, PolledOptions {
  readonly backend: NetMemoryDeviceOptions['network'];
}

const memoryBackend: DeviceBackend = {
  name: 'memory',
  selector: { option: 'backend' },
  options: options<MemoryNetOptions>(
    { backend: choice(['sink', 'source', 'echo']) },
    { frame: integer(60, 9018, { code: 'E_NET_FRAME' }), mac: MAC, ...POLLED },
  ),
  served: { poll: 'adaptive' },
  create: ({ backend, ...net }: MemoryNetOptions, { name }) =>
    createNetMemoryDevice({ ...net, name, network: backend }),
};

/** The reason to allow it: every register access is an exit (docs/net.md). */
const e1000Backend: DeviceBackend<E1000Device> = {
  name: 'e1000',
  selector: { option: 'model', value: 'e1000' },
  options: options<Omit<E1000Options, 'name'> & { readonly model: 'e1000' }>(
    { model: choice(['e1000']) },
    { ...TAP, mtu: integer(MTU_MIN, E1000_MTU_MAX, { code: 'E_NET_MTU' }) },
    { code: 'E_NET_MODEL' },
  ),
  create: ({ model: _, ...card }: Omit<E1000Options, 'name'> & { model: string }, { name }) =>
    new E1000Device({ ...card, name }),
};

/** A network interface that another process serves. */
export interface VhostUserNetOptions extends VhostUserOptions {
  /** Default: the backend's, else one derived from the socket's path. */
  readonly mac?: string;
}

const vhostUser: DeviceBackend = vhostUserBackend<VhostUserNetOptions>(
  {},
  { mac: MAC },
  (backend, { queues = 1, mac, vhostUser }, { queueSize }) => {
    const address = mac === undefined ? {} : { mac };
    return netKind(backend, { pairs: queues, ...address, seed: vhostUser.socket, queueSize });
  },
);

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** Network interfaces. */
    readonly nets?: readonly (NetOptions | VhostUserNetOptions | VdpaOptions)[];
  }
}

export const netType: DeviceType<VirtioDevice | E1000Device> = {
  name: 'net',
  summary: 'a network interface on a tap; auto makes one',
  key: 'nets',
  number: 'any',
  cli: { option: '--net', value: 'tap,...' },
  firstKey: 'tap',
  backends: [tapBackend, memoryBackend, e1000Backend, vhostUser, vdpaBackend([vdpaNet])],
};
