/** Devices whose queues a vDPA device of this host serves, as a backend of each type; see docs/vdpa.md. */
import { parentPlace } from '../../backend/parent-place.ts';
import { isManagedInHardware } from '../../backend/vdpa-devices.ts';
import { UsageError } from '../../host/errors.ts';
import { type OptionSchema, options, text } from '../../options/option-schema.ts';
import { CARRIED, type CarriedOptions, type DeviceBackend } from '../device-type.ts';
import {
  type DeviceKind,
  otherKind,
  type ParentAddress,
  type ParentOffer,
} from '../frontend-device.ts';

/** More than this costs guests memory for nothing. */
const QUEUE_SIZE_MAX = 1024;
/** Parents on PCI report the size of the window, a page, of which no device has as much; each byte is an access to it. */
const CONFIG_SIZE_MAX = 256;

/** A device that a vDPA device of this host serves: its configuration, features, and queues are that one's. */
export interface VdpaOptions extends CarriedOptions {
  /** Its file, such as `/dev/vhost-vdpa-0`; `auto`: one is made, and removed at the end. */
  readonly vdpa: string;
  /** With `auto`, required: the management device that makes it, as `vdpa mgmtdev show` names it. */
  readonly mgmtdev?: string;
  /** With `auto`: its name on this host. Default: made from the process's ID. */
  readonly name?: string;
}

/** Its name is a part of paths. */
const NAME = /^\w[\w.-]{0,63}$/;

/** What a type of device adds to what its parents report. */
export interface VdpaType {
  readonly deviceId: number;
  /** 24 bits. */
  readonly pciClass: number;
  /** For messages: `a disk`. */
  readonly what: string;
  /** The names of its queues. @param count how many the parent has */
  queueNames(count: number): readonly string[];
  /** Which bytes of the configuration space the driver may write. Absent: none. */
  writable?(features: bigint): readonly number[];
}

/**
 * The backend of a type of device.
 * @param types what its parents may be
 * @param any they may be anything else as well
 */
export function vdpaBackend(types: readonly VdpaType[], any = false): DeviceBackend {
  return {
    name: 'vdpa',
    selector: { option: 'vdpa' },
    ram: (given: object) => (isInHardware(given as VdpaOptions) ? 'locked' : 'shared'),
    options: options<VdpaOptions>(
      { vdpa: text({ value: 'FILE' }) },
      {
        mgmtdev: text({ value: 'NAME' }),
        name: text(
          { value: 'NAME', expected: '1 to 64 letters, digits, dots, dashes, and underscores' },
          (name) => NAME.test(name),
        ),
        ...CARRIED,
      },
      { code: 'E_VDPA' },
    ) as OptionSchema,
    check: (given: object) => checkAuto(given as VdpaOptions),
    create: (given: VdpaOptions, { name, queueSize = QUEUE_SIZE_MAX }, connect) =>
      connect.vdpa(name, addressOf(given), vdpaKind(types, queueSize, any)),
  };
}

function checkAuto({ vdpa, mgmtdev, name }: VdpaOptions): void {
  if (vdpa === 'auto' && mgmtdev === undefined) {
    const remedy = 'add mgmtdev=NAME, one of those of "vdpa mgmtdev show"';
    throw new UsageError('E_VDPA', 'vdpa=auto needs a management device', remedy);
  }
  if (vdpa === 'auto' || (mgmtdev === undefined && name === undefined)) return;
  const key = mgmtdev === undefined ? 'name' : 'mgmtdev';
  throw new UsageError('E_VDPA', `${key} goes with vdpa=auto, not with vdpa=${vdpa}`);
}

/** Simulators and processes read guest RAM as another process does. */
function isInHardware({ vdpa, mgmtdev }: VdpaOptions): boolean {
  return mgmtdev === undefined ? parentPlace(vdpa) === 'hardware' : isManagedInHardware(mgmtdev);
}

/** How many this process has asked for: several machines of it may have a `net0`. */
let asked = 0;

function addressOf({ vdpa, mgmtdev, name }: VdpaOptions): ParentAddress {
  if (mgmtdev === undefined) return { path: vdpa };
  asked += 1;
  return { mgmtdev, name: name ?? `nodevmm-${process.pid}-${asked}` };
}

/**
 * Finds out what a parent is.
 * @param types what it may be
 * @param queueSize the most descriptors of a queue, whatever the parent takes
 * @param any it may be anything else as well
 */
export function vdpaKind(
  types: readonly VdpaType[],
  queueSize: number,
  any = false,
): (parent: ParentOffer) => Promise<DeviceKind> {
  return async (parent) => {
    const { deviceId, queueCount } = parent;
    const configSize = Math.min(parent.configSize, CONFIG_SIZE_MAX);
    const maxSize = Math.min(2 ** Math.floor(Math.log2(parent.queueSize)), queueSize);
    const shape = { deviceId, queues: queueCount, queueSize: maxSize, configSize };
    const type = types.find((known) => known.deviceId === deviceId);
    if (type === undefined) {
      if (any) return await otherKind(parent, shape);
      const names = types.map(({ what }) => what).join(' or ');
      throw new UsageError(
        'E_VDPA',
        `${parent.path} is not ${names}, but a device of type ${deviceId}`,
        'use it for a device of its type, or with --device',
      );
    }
    const kind = await otherKind(parent, shape);
    const configWriteMask = new Uint8Array(configSize);
    for (const at of type.writable?.(parent.features) ?? []) configWriteMask[at] = 0xff;
    const queues = type.queueNames(queueCount).map((name) => ({ name, maxSize }));
    return { ...kind, pciClass: type.pciClass, queues, configWriteMask };
  };
}
