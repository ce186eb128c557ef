/**
 * The kinds of PCI functions that a machine has beside the host bridge: all that tells them apart
 * for a board and its plan is here.
 */
import type { MachinePort } from '../bus/machine-port.ts';
import { E1000Pci, type E1000PciPlan } from '../nic/pci.ts';
import type { PciFunction } from '../pci/function.ts';
import type { IntxLines } from '../pci/intx.ts';
import type { SharedState } from '../state/shared-state.ts';
import { VirtioPci, type VirtioPciPlan } from '../virtio/transport/pci.ts';

/** Where a function is, by kind; a plain, cloneable message. */
export type PciDevicePlan =
  | { readonly kind: 'virtio'; readonly plan: VirtioPciPlan }
  | { readonly kind: 'e1000'; readonly plan: E1000PciPlan };

/** A function's registers, by kind, as each thread has them. */
export type PciDevice =
  | { readonly kind: 'virtio'; readonly pci: VirtioPci }
  | { readonly kind: 'e1000'; readonly pci: E1000Pci };

/** What the guest did to a device that the main thread must act on. */
export type PciDeviceMessage =
  | {
      readonly kind: 'driver-ok' | 'reset' | 'interrupts-changed';
      readonly device: number;
    }
  | {
      readonly kind: 'queue-enabled' | 'queue-reset';
      readonly device: number;
      readonly queue: number;
    }
  | {
      readonly kind: 'config-written';
      readonly device: number;
      readonly offset: number;
      readonly length: number;
      readonly value: number;
    };

/** What functions are built upon. */
export interface PciGround {
  readonly state: SharedState;
  readonly port: MachinePort;
  readonly lines: IntxLines;
}

/** Routes of message-signalled interrupts that a function takes. */
export function routesOf(device: PciDevicePlan): number {
  return device.kind === 'virtio' ? device.plan.vectors.length : 0;
}

/**
 * Builds a function.
 * @param device its number in the board's plan
 * @param post carries a message to the main thread
 */
export function createPciDevice(
  ground: PciGround,
  { kind, plan }: PciDevicePlan,
  device: number,
  post: (message: PciDeviceMessage) => void,
): PciDevice {
  const { state, port, lines } = ground;
  if (kind === 'e1000') {
    const pci = new E1000Pci(state, port, lines, plan, () => post({ kind: 'reset', device }));
    return { kind, pci };
  }
  const pci = new VirtioPci(state, port, lines, plan, {
    driverOk: () => post({ kind: 'driver-ok', device }),
    reset: () => post({ kind: 'reset', device }),
    queueEnabled: (queue) => post({ kind: 'queue-enabled', device, queue }),
    queueReset: (queue) => post({ kind: 'queue-reset', device, queue }),
    interruptsChanged: () => post({ kind: 'interrupts-changed', device }),
    configWritten: (offset, length, value) =>
      post({ kind: 'config-written', device, offset, length, value }),
  });
  return { kind, pci };
}

/** What a device looks like from the bus. */
export function functionOf(device: PciDevice): PciFunction {
  return device.pci.pciFunction;
}
