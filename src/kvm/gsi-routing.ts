/**
 * The GSI routing table, laid out as KVM_SET_GSI_ROUTING takes it, in memory that all threads of
 * the machine share: the holder of the machine's register lock may change a route and hand the
 * table to KVM. The PIC's and IOAPIC's pins come first and stay, GSI n at pin n as in
 * KVM's default table (so the MADT needs no interrupt source override); MSI routes follow, one for each GSI.
 */
import {
  kvm_irq_routing,
  kvm_irq_routing_entry,
  kvm_irq_routing_irqchip,
  kvm_irq_routing_msi,
} from '../abi/kvm.ts';
import * as request from '../abi/kvm-ioctl.ts';
import { addressOf } from '../host/native-memory.ts';
import { setGsiRouting } from './vm-ioctl.ts';

const NR = kvm_irq_routing.nr.offset;
const ENTRIES = kvm_irq_routing.size;
const ENTRY = kvm_irq_routing_entry.size;
const GSI = kvm_irq_routing_entry.gsi.offset;
const TYPE = kvm_irq_routing_entry.type.offset;
const IRQCHIP = kvm_irq_routing_irqchip.irqchip.offset;
const PIN = kvm_irq_routing_irqchip.pin.offset;
const ADDRESS_LO = kvm_irq_routing_msi.address_lo.offset;
const ADDRESS_HI = kvm_irq_routing_msi.address_hi.offset;
const DATA = kvm_irq_routing_msi.data.offset;

/** The two 8259s have 8 pins each, GSI 0 to 15. */
const PIC_PINS = 16;
const PIC_PINS_PER_CHIP = 8;
/** The master's cascade pin has no GSI. */
const PIC_CASCADE_PIN = 2;
/** MSI to APIC id 0xfe, which no vCPU has. Intel SDM volume 3A §11.11.1. */
const UNUSED_ADDRESS = 0xfeef_e000;
/** GSI of the first MSI route. */
export const FIRST_MSI_GSI = request.KVM_IOAPIC_NUM_PINS;

/** Entries that the pins of PIC and IOAPIC take. */
const PIN_ROUTES = PIC_PINS - 1 + request.KVM_IOAPIC_NUM_PINS;

/** A view of the table. Make one in each thread over the same memory. */
export class GsiRouting {
  readonly #view: DataView;
  readonly #address: number;
  readonly #msiRoutes: number;

  /** Bytes that a table with so many MSI routes takes. */
  static bytes(msiRoutes: number): number {
    return ENTRIES + (PIN_ROUTES + msiRoutes) * ENTRY;
  }

  /**
   * @param view the table's memory, a DataView on a SharedArrayBuffer or on a NativeMemory; stays
   *   referenced by this object
   * @param msiRoutes MSI routes; their GSIs are FIRST_MSI_GSI and up
   */
  constructor(view: DataView, msiRoutes: number) {
    if (view.byteLength < GsiRouting.bytes(msiRoutes)) {
      throw new RangeError('GSI routing table does not fit');
    }
    this.#view = view;
    this.#address = addressOf(view);
    this.#msiRoutes = msiRoutes;
  }

  /**
   * Writes the pins' routes and disables all MSI routes. Once, by the machine's owner.
   * @param used MSI routes that KVM is handed at first. Default: all
   */
  initialize(used: number = this.#msiRoutes): void {
    let entry = 0;
    for (let gsi = 0; gsi < request.KVM_IOAPIC_NUM_PINS; gsi++) {
      if (gsi < PIC_PINS && gsi !== PIC_CASCADE_PIN) {
        const slave = gsi >= PIC_PINS_PER_CHIP;
        const chip = slave ? request.KVM_IRQCHIP_PIC_SLAVE : request.KVM_IRQCHIP_PIC_MASTER;
        this.#writePin(entry++, gsi, chip, gsi % PIC_PINS_PER_CHIP);
      }
      this.#writePin(entry++, gsi, request.KVM_IRQCHIP_IOAPIC, gsi);
    }
    for (let msi = 0; msi < this.#msiRoutes; msi++) this.clearMsi(FIRST_MSI_GSI + msi);
    this.#view.setUint32(NR, PIN_ROUTES, true);
    this.use(used);
  }

  /** From the next `commit` on KVM is handed at least so many MSI routes: each costs it time. */
  use(msiRoutes: number): void {
    if (msiRoutes > this.#msiRoutes) throw new RangeError(`no room for ${msiRoutes} MSI routes`);
    const nr = Math.max(this.#view.getUint32(NR, true), PIN_ROUTES + msiRoutes);
    this.#view.setUint32(NR, nr, true);
  }

  /**
   * Sends a GSI as an MSI from the next `commit` on. Returns false when it is sent so already.
   * @throws RangeError for a GSI of no MSI route
   */
  setMsi(gsi: number, addressLow: number, addressHigh: number, data: number): boolean {
    const at = this.#msiOffset(gsi);
    const same =
      this.#view.getUint32(at + GSI, true) === gsi &&
      this.#view.getUint32(at + ADDRESS_LO, true) === addressLow >>> 0 &&
      this.#view.getUint32(at + ADDRESS_HI, true) === addressHigh >>> 0 &&
      this.#view.getUint32(at + DATA, true) === data >>> 0;
    if (same) return false;
    this.#view.setUint32(at + GSI, gsi, true);
    this.#view.setUint32(at + TYPE, request.KVM_IRQ_ROUTING_MSI, true);
    this.#view.setUint32(at + ADDRESS_LO, addressLow, true);
    this.#view.setUint32(at + ADDRESS_HI, addressHigh, true);
    this.#view.setUint32(at + DATA, data, true);
    return true;
  }

  /** Makes a GSI's signals go nowhere: an MSI to a local APIC that is not there. */
  clearMsi(gsi: number): void {
    this.setMsi(gsi, UNUSED_ADDRESS, 0, 0);
  }

  /** Hands the table to KVM. Returns 0 or a negative errno. */
  commit(vmFd: number): number {
    return setGsiRouting(vmFd, this.#address);
  }

  #msiOffset(gsi: number): number {
    const msi = gsi - FIRST_MSI_GSI;
    if (msi < 0 || msi >= this.#msiRoutes) throw new RangeError(`GSI ${gsi} has no MSI route`);
    return ENTRIES + (PIN_ROUTES + msi) * ENTRY;
  }

  #writePin(entry: number, gsi: number, irqchip: number, pin: number): void {
    const at = ENTRIES + entry * ENTRY;
    this.#view.setUint32(at + GSI, gsi, true);
    this.#view.setUint32(at + TYPE, request.KVM_IRQ_ROUTING_IRQCHIP, true);
    this.#view.setUint32(at + IRQCHIP, irqchip, true);
    this.#view.setUint32(at + PIN, pin, true);
  }
}
