/**
 * The file of a VFIO device, as every thread of the process can use it: reads and writes of its regions
 * (which VFIO passes on to the device, or answers itself where the host must stay safe), interrupts, reset.
 */
import * as abi from '../abi/vfio.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

const ALL_ONES: readonly number[] = [0, 0xff, 0xffff, 0, 0xffff_ffff];
/** struct iovec: address and length. */
const IOVEC_SIZE = 16;

/** One thread's use of the file, whose owner is the main thread. */
export class VfioFile {
  readonly fd: number;
  readonly #buffer = new NativeMemory(4);
  readonly #iovec = new NativeMemory(IOVEC_SIZE);

  constructor(fd: number) {
    this.fd = fd;
    this.#iovec.view.setBigUint64(0, BigInt(this.#buffer.address), true);
  }

  /**
   * Reads a register; all ones when the device does not answer, as on a PCI bus.
   * @param position in the file
   * @param size 1, 2 or 4
   */
  read(position: number, size: number): number {
    this.#iovec.view.setUint32(8, size, true);
    if (sys.preadv(this.fd, this.#iovec.address, 1, position) !== size) return ALL_ONES[size] ?? 0;
    const { view } = this.#buffer;
    if (size === 1) return view.getUint8(0);
    return size === 2 ? view.getUint16(0, true) : view.getUint32(0, true);
  }

  /** Writes a register; lost when the device does not answer. */
  write(position: number, size: number, value: number): void {
    this.#buffer.view.setUint32(0, value, true);
    this.#iovec.view.setUint32(8, size, true);
    sys.pwritev(this.fd, this.#iovec.address, 1, position);
  }

  /**
   * VFIO_DEVICE_SET_IRQS: which eventfds interrupts signal.
   * @param eventfds -1 for none
   * @returns 0, a negative errno, or how many vectors there could be
   */
  setEventfds(
    index: number,
    start: number,
    eventfds: readonly number[],
    action: number = abi.VFIO_IRQ_SET_ACTION_TRIGGER,
  ): number {
    const { size } = abi.vfio_irq_set;
    const set = new StructMemory(abi.vfio_irq_set, eventfds.length * 4);
    set.set('argsz', set.bytes.length);
    set.set('flags', abi.VFIO_IRQ_SET_DATA_EVENTFD | action);
    set.set('index', index);
    set.set('start', start);
    set.set('count', eventfds.length);
    eventfds.forEach((fd, at) => {
      set.view.setInt32(size + at * 4, fd, true);
    });
    return sys.ioctl(this.fd, abi.VFIO_DEVICE_SET_IRQS, set.address);
  }

  /** Switches the interrupts of an index off; one that is not on is left alone. */
  disableInterrupts(index: number): void {
    const set = new StructMemory(abi.vfio_irq_set);
    set.set('argsz', abi.vfio_irq_set.size);
    set.set('flags', abi.VFIO_IRQ_SET_DATA_NONE | abi.VFIO_IRQ_SET_ACTION_TRIGGER);
    set.set('index', index);
    sys.ioctl(this.fd, abi.VFIO_DEVICE_SET_IRQS, set.address);
  }

  /** VFIO_DEVICE_RESET. Returns 0, or a negative errno. */
  reset(): number {
    return sys.ioctl(this.fd, abi.VFIO_DEVICE_RESET, 0);
  }
}
