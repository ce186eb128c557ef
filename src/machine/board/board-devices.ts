/**
 * The devices that a board can have beside the platform's own: all that tells them apart for a
 * board and its plan is here.
 */
import type { RegisterRegion } from '../../bus/address-space.ts';
import type { InterruptController, InterruptLines } from '../../bus/interrupt-controller.ts';
import { E1000Pci, type E1000PciPlan } from '../../nic/pci.ts';
import type { PciFunction } from '../../pci/function.ts';
import type { IntxLines } from '../../pci/intx.ts';
import type { SharedState } from '../../state/shared-state.ts';
import type { Breach } from '../../virtio/observe/observation.ts';
import { observeRegisters } from '../../virtio/observe/observe-registers.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import type { DeviceShape, DriverEvents } from '../../virtio/transport/device-contract.ts';
import {
  VIRTIO_MMIO_WINDOW_SIZE,
  VirtioMmio,
  type VirtioMmioPlan,
} from '../../virtio/transport/mmio.ts';
import { VirtioPci, type VirtioPciPlan } from '../../virtio/transport/pci.ts';
import type { VirtioTransport } from '../../virtio/transport/virtio-transport.ts';

/** What a device's registers are and where, by kind; a plain, cloneable message. */
export type DevicePlan =
  | { readonly kind: 'virtio-pci'; readonly plan: VirtioPciPlan }
  | { readonly kind: 'virtio-mmio'; readonly plan: VirtioMmioPlan }
  | { readonly kind: 'e1000'; readonly plan: E1000PciPlan };

/** Where a guest finds a device: as a function on the PCI bus, or in memory at a fixed address. */
export type DevicePlace =
  | { readonly kind: 'function'; readonly slot: number; readonly pciFunction: PciFunction }
  | {
      readonly kind: 'window';
      readonly address: number;
      readonly size: number;
      readonly gsi: number;
      readonly region: RegisterRegion;
    };

/** A device's registers, as each thread has them. */
export type BoardDevice = {
  readonly place: DevicePlace;
  /** Power-on state. */
  reset(): void;
} & (
  | { readonly kind: 'virtio'; readonly transport: VirtioTransport }
  | { readonly kind: 'e1000'; readonly pci: E1000Pci }
);

/** What the guest did to a device that the main thread must act on. */
export type DeviceMessage =
  /** Its registers tell what. There is one such message at most that was not answered. */
  | { readonly kind: 'changed'; readonly device: number }
  | { readonly kind: 'breach'; readonly device: number; readonly breach: Breach };

/** What devices are built upon. */
export interface DeviceGround {
  readonly state: SharedState;
  readonly interrupts: InterruptController;
  /** Of PCI functions. */
  readonly intx: IntxLines;
  /** Of devices in memory. */
  readonly lines: InterruptLines;
  /** Who watches what drivers do in this thread. */
  readonly check: boolean;
  readonly tracer: TraceWriter | undefined;
}

/** Routes of message-signalled interrupts that a device takes. */
export function routesOf(device: DevicePlan): number {
  return device.kind === 'virtio-pci' ? device.plan.vectors.length : 0;
}

/**
 * Builds a device.
 * @param device its number in the board's plan
 * @param post carries a message to the main thread
 */
export function createBoardDevice(
  ground: DeviceGround,
  { kind, plan }: DevicePlan,
  device: number,
  post: (message: DeviceMessage) => void,
): BoardDevice {
  const { state, interrupts, intx, lines } = ground;
  switch (kind) {
    case 'virtio-pci': {
      const pci = new VirtioPci(
        state,
        interrupts,
        intx,
        plan,
        driverEvents(ground, plan, device, post),
      );
      return { kind: 'virtio', transport: pci, ...onBus(plan.slot, pci) };
    }
    case 'virtio-mmio': {
      const events = driverEvents(ground, plan, device, post);
      const transport = new VirtioMmio(state, interrupts, lines, plan, events);
      const place = {
        kind: 'window',
        address: plan.address,
        size: VIRTIO_MMIO_WINDOW_SIZE,
        gsi: lines.gsi(plan.index),
        region: transport.region,
      } as const;
      return { kind: 'virtio', transport, place, reset: () => transport.reset() };
    }
    case 'e1000': {
      const pci = new E1000Pci(state, interrupts, intx, plan, () =>
        post({ kind: 'changed', device }),
      );
      return { kind, pci, ...onBus(plan.slot, pci) };
    }
  }
}

function onBus(slot: number, pci: { readonly pciFunction: PciFunction; reset(): void }) {
  const { pciFunction } = pci;
  return { place: { kind: 'function', slot, pciFunction } as const, reset: () => pci.reset() };
}

/** What a driver makes happen, as messages to the main thread. */
function driverEvents(
  { tracer, check }: DeviceGround,
  { shape, kicks }: { readonly shape: DeviceShape; readonly kicks: readonly number[] },
  device: number,
  post: (message: DeviceMessage) => void,
): DriverEvents {
  const checked = {
    device: { ...shape, kicks },
    breach: (breach: Breach) => post({ kind: 'breach', device, breach }),
  };
  const observer = observeRegisters({ device, tracer, check: check ? checked : undefined });
  return {
    ...(observer === undefined ? {} : { observer }),
    changed: () => post({ kind: 'changed', device }),
  };
}
