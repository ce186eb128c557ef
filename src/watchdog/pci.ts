/** A 6300ESB watchdog timer on the PCI bus: registers behind a memory BAR, and two in configuration space. */
import { PCI_VENDOR_ID_INTEL } from '../abi/e1000.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { monotonicMs } from '../host/clock.ts';
import { PciFunction } from '../pci/function.ts';
import type { SharedState } from '../state/shared-state.ts';
import {
  CONFIGURATION,
  CONFIGURATION_WRITABLE,
  LOCK,
  LOCK_WRITABLE,
  WatchdogRegisters,
} from './registers.ts';

const DEVICE_ID = 0x25ab;
/** Other system peripheral. */
const CLASS = 0x08_8000;
const MEMORY_BAR = 0;
/** Bytes of the BAR. */
export const WATCHDOG_MEMORY_SIZE = 16;

/** Where the watchdog is; the same in every thread. */
export interface WatchdogPciPlan {
  readonly name: string;
  readonly slot: number;
  /** Address that firmware would have given to the BAR. */
  readonly memoryAddress: number;
  /** The watchdog has caused the last reset. */
  readonly timedOut: boolean;
}

/** The device, as each thread has it. */
export class WatchdogPci {
  readonly pciFunction: PciFunction;
  readonly plan: WatchdogPciPlan;
  readonly registers: WatchdogRegisters;

  /** @param changed has the owner look at the registers' deadline */
  constructor(
    state: SharedState,
    interrupts: InterruptController,
    plan: WatchdogPciPlan,
    changed: () => void,
  ) {
    this.plan = plan;
    this.registers = new WatchdogRegisters(state, { monotonicMs, changed });
    this.pciFunction = new PciFunction(state, interrupts, plan.name, {
      vendorId: PCI_VENDOR_ID_INTEL,
      deviceId: DEVICE_ID,
      revision: 0,
      classCode: CLASS,
      subsystemVendorId: 0,
      subsystemId: 0,
      interruptPin: false,
    });
    const { pciFunction, registers } = this;
    const { config } = pciFunction;
    const spec = { kind: 'memory', size: WATCHDOG_MEMORY_SIZE, region: registers } as const;
    pciFunction.addBar(MEMORY_BAR, spec, plan.memoryAddress);
    pciFunction.addRegister(CONFIGURATION, CONFIGURATION_WRITABLE, () => {
      registers.configure(config.getUint8(CONFIGURATION));
    });
    pciFunction.addRegister(LOCK, LOCK_WRITABLE, () => {
      config.setUint8(LOCK, registers.lock(config.getUint8(LOCK)));
    });
  }

  /** Power-on state. */
  reset(): void {
    this.pciFunction.reset();
    this.registers.powerOn(this.plan.timedOut);
  }
}
