/**
 * An 82540EM on the PCI bus (SDM 4): registers behind a memory BAR and behind two ports, INTx. The
 * BAR has no doorbells: each access of a driver is an exit, which is what this device is for.
 */
import * as e1000 from '../abi/e1000.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { drainEventfd, signalEventfd } from '../host/fd.ts';
import { PciFunction } from '../pci/function.ts';
import type { IntxLines, IntxPin, IntxPinShare } from '../pci/intx.ts';
import type { SharedState } from '../state/shared-state.ts';
import { eepromImage } from './eeprom.ts';
import { RegisterFile } from './register-file.ts';
import { E1000Registers } from './registers.ts';

const MEMORY_BAR = 0;
/** Where the card has it; the flash BAR between them is left out. */
const IO_BAR = 2;
/** Ethernet controller. */
const CLASS = 0x02_0000;

/** Where an 82540EM and its file descriptors are; the same in every thread. */
export interface E1000PciPlan {
  readonly name: string;
  readonly slot: number;
  /** Six bytes. */
  readonly mac: Uint8Array;
  /** Addresses that firmware would have given to the BARs. */
  readonly memoryAddress: number;
  readonly ioAddress: number;
  /** eventfd that makes the data half check the registers. */
  readonly kick: number;
}

/** The device's registers, as each thread has them. */
export class E1000Pci {
  readonly pciFunction: PciFunction;
  readonly plan: E1000PciPlan;
  readonly registers: E1000Registers;
  /** Its interrupt pin, for the data half. */
  readonly pinShare: IntxPinShare;
  readonly #pin: IntxPin;

  /** @param revived called when a device that had been stopped as broken was reset */
  constructor(
    state: SharedState,
    interrupts: InterruptController,
    lines: IntxLines,
    plan: E1000PciPlan,
    revived: () => void,
  ) {
    this.plan = plan;
    this.registers = new E1000Registers(new RegisterFile(state.words(RegisterFile.words)), {
      kick: () => signalEventfd(plan.kick),
      interrupt: () => this.#updateInterrupt(),
      revived,
    });
    this.pciFunction = new PciFunction(state, interrupts, plan.name, {
      vendorId: e1000.PCI_VENDOR_ID_INTEL,
      deviceId: e1000.E1000_DEV_ID_82540EM,
      revision: e1000.E1000_REVISION,
      classCode: CLASS,
      subsystemVendorId: e1000.PCI_VENDOR_ID_INTEL,
      subsystemId: e1000.E1000_SUBSYSTEM_ID,
      interruptPin: true,
    });
    const { pciFunction, registers } = this;
    pciFunction.commandWritten = () => this.#updateInterrupt();
    pciFunction.setInterruptLine(lines.gsi(plan.slot));
    this.#pin = lines.pin(plan.slot, pciFunction);
    this.pinShare = lines.share(plan.slot, pciFunction);
    const memory = { kind: 'memory', size: e1000.E1000_MEMORY_SIZE, region: registers } as const;
    pciFunction.addBar(MEMORY_BAR, memory, plan.memoryAddress);
    const io = { kind: 'io', size: e1000.E1000_IO_SIZE, region: registers.ports } as const;
    pciFunction.addBar(IO_BAR, io, plan.ioAddress);
  }

  /** Power-on state. */
  reset(): void {
    this.pciFunction.reset();
    this.registers.powerOn(eepromImage(this.plan.mac));
    drainEventfd(this.plan.kick);
    this.#updateInterrupt();
  }

  /** The interrupt pin is high while a cause is pending that the mask lets through. */
  #updateInterrupt(): void {
    this.#pin.set(this.registers.file.interrupting);
  }
}
