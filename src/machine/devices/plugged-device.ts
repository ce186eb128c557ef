/** What a machine's devices, of whatever kind, are to its power cycles. */
import { InternalError } from '../../host/errors.ts';
import type { GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { SharedState } from '../../state/shared-state.ts';
import type { BoardDevice, DevicePlace } from '../board/board-devices.ts';
import type { DeviceEntry } from '../board/device-places.ts';
import type { RingOptions, TransportName } from '../options.ts';
import type { DeviceCode } from '../user-devices/device-code.ts';
import type { CreatedDevice } from './create-devices.ts';
import { DeviceOwner } from './device-owner.ts';
import { deviceShape } from './device-shape.ts';
import { NicOwner } from './nic-owner.ts';

/** A device with its owner, which outlives power cycles. */
export type PluggedDevice =
  | {
      readonly kind: 'virtio';
      readonly owner: DeviceOwner;
      readonly transport: TransportName;
      readonly ring: RingOptions;
      /** Absent when it cannot change. */
      readonly code?: DeviceCode;
    }
  | { readonly kind: 'e1000'; readonly owner: NicOwner };

/** Gives a device its owner. @param log gets lines for the person who runs the machine */
export function ownDevice(created: CreatedDevice, log: (text: string) => void): PluggedDevice {
  const { kind } = created;
  if (kind === 'e1000') return { kind, owner: new NicOwner(created.device, log) };
  const { device, transport, ring, code } = created;
  const owner = new DeviceOwner(device, log);
  if (code === undefined) return { kind, owner, transport, ring };
  code.attach(owner, log);
  return { kind, owner, transport, ring, code };
}

/** What the board needs to know of a device, as it is now. */
export function deviceEntry(plugged: PluggedDevice): DeviceEntry {
  if (plugged.kind === 'e1000') {
    const { name, macBytes } = plugged.owner.device;
    return { kind: 'e1000', name, mac: macBytes };
  }
  const { owner, transport, ring } = plugged;
  const shape = deviceShape(owner.device, ring, owner.withheld);
  return { kind: 'virtio', transport, shape, pciClass: owner.device.pciClass };
}

function placeText(place: DevicePlace): string {
  if (place.kind === 'window') return `MMIO 0x${place.address.toString(16)}`;
  return `PCI 00:${place.slot.toString(16).padStart(2, '0')}.0`;
}

/** What a device is plugged into besides its place. */
export interface Socket {
  readonly state: SharedState;
  readonly memory: GuestMemoryShare;
  readonly vmFd: number;
}

/** Plugs a device into its place on a board that is about to run. */
export function plugIn(
  plugged: PluggedDevice,
  place: BoardDevice | undefined,
  { state, memory, vmFd }: Socket,
): void {
  if (plugged.kind === 'virtio' && place?.kind === 'virtio') {
    plugged.owner.plug(placeText(place.place), state, place.transport, memory);
  } else if (plugged.kind === 'e1000' && place?.kind === 'e1000') {
    plugged.owner.plug(state, place.pci, memory, vmFd);
  } else {
    throw new InternalError(`a device of kind ${plugged.kind} has no place on the board`);
  }
}
