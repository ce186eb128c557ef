/**
 * The device models that a board can have besides the platform's own. Everything that differs between
 * them on a board is here: one line in `Plans`, in `Registers` and in `MODELS`.
 */
import type { RegisterRegion } from '../../bus/address-space.ts';
import type { InterruptController, InterruptLines } from '../../bus/interrupt-controller.ts';
import { E1000Pci, type E1000PciPlan } from '../../nic/pci.ts';
import type { PciFunction } from '../../pci/function.ts';
import type { IntxLines } from '../../pci/intx.ts';
import type { SharedState } from '../../state/shared-state.ts';
import { VfioPci, type VfioPciPlan } from '../../vfio/pci.ts';
import type { Breach } from '../../virtio/observe/observation.ts';
import { observeRegisters } from '../../virtio/observe/observe.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import {
  VIRTIO_MMIO_WINDOW_SIZE,
  VirtioMmio,
  type VirtioMmioPlan,
} from '../../virtio/transport/mmio.ts';
import { VirtioPci, type VirtioPciPlan } from '../../virtio/transport/pci.ts';
import type { DeviceShape, DriverEvents } from '../../virtio/transport/transport.ts';
import { WatchdogPci, type WatchdogPciPlan } from '../../watchdog/pci.ts';

interface Plans {
  readonly 'virtio-pci': VirtioPciPlan;
  readonly 'virtio-mmio': VirtioMmioPlan;
  readonly e1000: E1000PciPlan;
  readonly vfio: VfioPciPlan;
  readonly i6300esb: WatchdogPciPlan;
}

interface Registers {
  readonly 'virtio-pci': VirtioPci;
  readonly 'virtio-mmio': VirtioMmio;
  readonly e1000: E1000Pci;
  readonly vfio: VfioPci;
  readonly i6300esb: WatchdogPci;
}

/** What a device's registers look like to a guest. */
export type DeviceModel = keyof Plans;

/** A device's model, addresses and file descriptors; a plain, cloneable message. */
export type DevicePlan<M extends DeviceModel = DeviceModel> = {
  readonly [K in M]: { readonly model: K; readonly plan: Plans[K] };
}[M];

/** Where a guest finds a device: as a function on the PCI bus, or in memory at a fixed address. */
export type DeviceAddress =
  | { readonly kind: 'function'; readonly slot: number; readonly pciFunction: PciFunction }
  | {
      readonly kind: 'window';
      readonly address: number;
      readonly size: number;
      readonly gsi: number;
      readonly region: RegisterRegion;
    };

/** A device's registers, as each thread has them. */
export interface BoardDevice<M extends DeviceModel = DeviceModel> {
  readonly address: DeviceAddress;
  readonly registers: Registers[M];
}

/** What the guest did to a device that the main thread must act on. */
export type DeviceMessage =
  /** Its registers hold the details. At most one such message is unanswered. */
  | { readonly kind: 'changed'; readonly device: number }
  | { readonly kind: 'breach'; readonly device: number; readonly breach: Breach };

/** What device models are built with. */
export interface BoardContext {
  readonly state: SharedState;
  readonly vmFd: number;
  readonly interrupts: InterruptController;
  /** For PCI functions. */
  readonly intx: IntxLines;
  /** For devices in memory. */
  readonly lines: InterruptLines;
  /** Traces what drivers do in this thread. */
  readonly check: boolean;
  readonly tracer: TraceWriter | undefined;
}

/** Carries a message to the main thread. */
type Post = (message: DeviceMessage) => void;

const MODELS: {
  readonly [M in DeviceModel]: (
    context: BoardContext,
    plan: Plans[M],
    device: number,
    post: Post,
  ) => BoardDevice<M>;
} = {
  'virtio-pci': (context, plan, device, post) => {
    const { state, interrupts, intx, vmFd } = context;
    const events = driverEvents(context, plan, device, post);
    const registers = new VirtioPci(state, interrupts, intx, plan, events, vmFd);
    return { address: functionAddress(plan.slot, registers), registers };
  },
  'virtio-mmio': (context, plan, device, post) => {
    const { state, interrupts, lines } = context;
    const events = driverEvents(context, plan, device, post);
    const registers = new VirtioMmio(state, interrupts, lines, plan, events);
    const address: DeviceAddress = {
      kind: 'window',
      address: plan.address,
      size: VIRTIO_MMIO_WINDOW_SIZE,
      gsi: lines.gsi(plan.index),
      region: registers.region,
    };
    return { address, registers };
  },
  e1000: ({ state, interrupts, intx }, plan, device, post) => {
    const changed = (): void => post({ kind: 'changed', device });
    const registers = new E1000Pci(state, interrupts, intx, plan, changed);
    return { address: functionAddress(plan.slot, registers), registers };
  },
  vfio: ({ state, interrupts, intx, vmFd }, plan, device, post) => {
    const changed = (): void => post({ kind: 'changed', device });
    const registers = new VfioPci(state, interrupts, intx, vmFd, plan, changed);
    return { address: functionAddress(plan.slot, registers), registers };
  },
  i6300esb: ({ state, interrupts }, plan, device, post) => {
    const changed = (): void => post({ kind: 'changed', device });
    const registers = new WatchdogPci(state, interrupts, plan, changed);
    return { address: functionAddress(plan.slot, registers), registers };
  },
};

/**
 * Builds a device's registers.
 * @param device its index in the board's plan
 * @param post carries a message to the main thread
 */
export function createBoardDevice<M extends DeviceModel>(
  context: BoardContext,
  { model, plan }: DevicePlan<M>,
  device: number,
  post: Post,
): BoardDevice<M> {
  return MODELS[model](context, plan, device, post);
}

/** An address in human-readable form. */
export function addressText(address: DeviceAddress): string {
  if (address.kind === 'window') return `MMIO 0x${address.address.toString(16)}`;
  return `PCI 00:${address.slot.toString(16).padStart(2, '0')}.0`;
}

function functionAddress(
  slot: number,
  { pciFunction }: { readonly pciFunction: PciFunction },
): DeviceAddress {
  return { kind: 'function', slot, pciFunction };
}

/** Messages to the main thread about what a driver does. */
function driverEvents(
  { tracer, check }: BoardContext,
  { shape, kicks }: { readonly shape: DeviceShape; readonly kicks: readonly number[] },
  device: number,
  post: Post,
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
