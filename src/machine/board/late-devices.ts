/**
 * What is in the slots of the PCI bus, as one thread's board has it: the functions of power-on, and those that come and go
 * while the guest runs. A late one is announced to each thread in a message; words in the state buffer say which of
 * them is in each slot now, and each thread follows them before its next access to a register.
 */
import { InternalError } from '../../host/errors.ts';
import type { PciBus } from '../../pci/bus.ts';
import { PCI_SLOTS } from '../../platform/layout.ts';
import type { SharedState, StatePart } from '../../state/shared-state.ts';
import type { BoardDevice, DevicePlan } from './board-devices.ts';

/** A device that comes after power-on; a plain, cloneable message. */
export interface LatePlan {
  readonly slot: number;
  /** No other late device of this board has it. */
  readonly serial: number;
  /** Its number among the machine's devices. */
  readonly number: number;
  readonly plan: DevicePlan;
}

const NOTHING = 0;
/** The device of power-on. */
const FIRST = -1;

interface Occupant {
  readonly serial: number;
  readonly plan: DevicePlan;
  readonly device: BoardDevice;
}

/** Builds a device's registers over a part of the state buffer. */
type Build = (late: LatePlan, part: StatePart) => BoardDevice;

/** All methods but the constructor run with the register lock held. */
export class LateDevices {
  readonly #bus: PciBus;
  readonly #build: Build;
  readonly #receive: () => LatePlan | undefined;
  /** By slot: the serial of what is there. */
  readonly #serials: Int32Array;
  readonly #parts: readonly StatePart[];
  readonly #here: (Occupant | undefined)[] = [];
  readonly #announced = new Map<number, LatePlan>();
  #lastSerial = NOTHING;

  /**
   * @param size bytes of state for a late device
   * @param receive takes the next message from the main thread, if there is one
   */
  constructor(
    state: SharedState,
    size: number,
    bus: PciBus,
    build: Build,
    receive: () => LatePlan | undefined,
  ) {
    this.#bus = bus;
    this.#build = build;
    this.#receive = receive;
    this.#serials = state.words(PCI_SLOTS);
    const { lock } = state;
    this.#parts = Array.from({ length: PCI_SLOTS }, () => ({ bytes: state.bytes(size), lock }));
  }

  /** A device of power-on. */
  first(slot: number, plan: DevicePlan, device: BoardDevice): void {
    this.#here[slot] = { serial: FIRST, plan, device };
  }

  /** Power-on state; once, by the main thread. */
  reset(): void {
    this.#here.forEach((occupant, slot) => {
      if (occupant !== undefined) this.#serials[slot] = FIRST;
    });
  }

  /** The device built from a plan, if it is there. */
  find(plan: DevicePlan): BoardDevice | undefined {
    return this.#here.find((occupant) => occupant?.plan === plan)?.device;
  }

  /** The device in a slot. */
  in(slot: number): BoardDevice | undefined {
    return this.#here[slot]?.device;
  }

  /**
   * Puts a device into an empty slot. By the main thread only.
   * @param announce sends the plan to all other threads
   */
  plug(
    slot: number,
    number: number,
    plan: DevicePlan,
    announce: (late: LatePlan) => void,
  ): BoardDevice {
    if (this.#here[slot] !== undefined) throw new InternalError(`PCI slot ${slot} is taken`);
    this.#lastSerial++;
    const late: LatePlan = { slot, serial: this.#lastSerial, number, plan };
    const device = this.#put(late);
    device.registers.reset();
    announce(late);
    this.#serials[slot] = late.serial;
    this.#bus.changed();
    return device;
  }

  /** Empties a slot. By the main thread only. */
  unplug(slot: number): void {
    const occupant = this.#here[slot];
    if (occupant === undefined) return;
    // Doorbells and interrupts are disconnected; a vCPU that waits for the end of a reset continues.
    occupant.device.registers.reset();
    this.#serials[slot] = NOTHING;
    this.#take(slot);
    this.#bus.changed();
    if (occupant.serial !== FIRST) this.#parts[slot]?.bytes.fill(0);
  }

  /** Follows what the main thread did. */
  renew(): void {
    for (let slot = 0; slot < PCI_SLOTS; slot++) {
      const wanted = this.#serials[slot] ?? NOTHING;
      if ((this.#here[slot]?.serial ?? NOTHING) === wanted) continue;
      this.#take(slot);
      if (wanted !== NOTHING) this.#put(this.#planOf(wanted));
    }
  }

  #put(late: LatePlan): BoardDevice {
    const { slot, serial, plan } = late;
    const part = this.#parts[slot];
    if (part === undefined) throw new InternalError(`there is no PCI slot ${slot}`);
    const device = this.#build(late, part);
    const { address } = device;
    if (address.kind !== 'function') throw new InternalError('a late device off the PCI bus');
    this.#bus.add(slot, address.pciFunction);
    this.#here[slot] = { serial, plan, device };
    return device;
  }

  #take(slot: number): void {
    if (this.#here[slot] === undefined) return;
    this.#here[slot] = undefined;
    this.#bus.remove(slot);
  }

  /** The message was sent before the word was written. */
  #planOf(serial: number): LatePlan {
    for (let late = this.#receive(); late !== undefined; late = this.#receive()) {
      this.#announced.set(late.serial, late);
    }
    const late = this.#announced.get(serial);
    if (late === undefined) throw new InternalError(`no plan of late device ${serial}`);
    // Those before it have left their slots, or were put there.
    for (const known of this.#announced.keys()) {
      if (!this.#serials.includes(known) || known === serial) this.#announced.delete(known);
    }
    return late;
  }
}
