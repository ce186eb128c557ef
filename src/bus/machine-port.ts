/**
 * What register files may ask of the machine beneath them, with the lock held. KVM's side of it is
 * wired in by the machine; tests put in their own.
 */

/** Interrupts and doorbells. */
export interface MachinePort {
  /** Drives a level-triggered interrupt line. */
  setLine(gsi: number, level: boolean): void;
  /** Couples an eventfd to a message-signalled interrupt, `gsi` being the route it takes. */
  connectMsi(gsi: number, eventfd: number, address: number, data: number): void;
  /** Undoes `connectMsi`: signals stay pending in the eventfd. */
  disconnectMsi(gsi: number, eventfd: number): void;
  /**
   * Lets guest writes to an address land on an eventfd without an exit.
   * @param value only 32-bit writes of this value; default: all writes of any width
   */
  addDoorbell(address: number, isPort: boolean, eventfd: number, value?: number): void;
  removeDoorbell(address: number, isPort: boolean, eventfd: number): void;
  /** True when an eventfd holds a signal that nobody took yet. */
  isSignalled(eventfd: number): boolean;
  /** Lets go of the register lock until a shared word has another value, and takes it again. */
  waitWhile(words: Int32Array, index: number, value: number): void;
}
