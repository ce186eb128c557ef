/** KVM underneath the register files: irqfd, ioeventfd and GSI routes, changed inline by any thread. */
import { EEXIST, ENOENT } from '../../abi/errno.ts';
import type { InterruptController } from '../../bus/interrupt-controller.ts';
import { drainEventfd, isReadable } from '../../host/fd.ts';
import * as sys from '../../host/syscall.ts';
import type { GsiRouting } from '../../kvm/gsi-routing.ts';
import * as vm from '../../kvm/vm-ioctl.ts';
import type { RegisterLock } from '../../state/shared-state.ts';

/** A thread's way to the VM's interrupt controllers and I/O buses. */
export class KvmInterrupts implements InterruptController {
  readonly #vmFd: number;
  readonly #routing: GsiRouting;
  readonly #lock: RegisterLock;

  /** @param routing this thread's view of the shared routing table */
  constructor(vmFd: number, routing: GsiRouting, lock: RegisterLock) {
    this.#vmFd = vmFd;
    this.#routing = routing;
    this.#lock = lock;
  }

  setLine(gsi: number, level: boolean): void {
    sys.check(vm.setIrqLine(this.#vmFd, gsi, level), 'KVM_IRQ_LINE', `GSI ${gsi}`);
  }

  connectMsi(gsi: number, eventfd: number, address: number, data: number): void {
    const high = Math.floor(address / 2 ** 32);
    if (this.#routing.setMsi(gsi, address % 2 ** 32, high, data)) {
      sys.check(this.#routing.commit(this.#vmFd), 'KVM_SET_GSI_ROUTING', `GSI ${gsi}`);
    }
    sys.check(vm.assignIrqfd(this.#vmFd, gsi, eventfd), 'KVM_IRQFD', `GSI ${gsi}`);
    // KVM injected what was pending at this assignment, but the count stays until it is read.
    drainEventfd(eventfd);
  }

  disconnectMsi(gsi: number, eventfd: number): void {
    sys.check(vm.deassignIrqfd(this.#vmFd, gsi, eventfd), 'KVM_IRQFD', `GSI ${gsi}`);
  }

  addDoorbell(address: number, isPort: boolean, eventfd: number, value?: number): void {
    const match =
      value === undefined
        ? ({ address, length: 0, pio: isPort } as const)
        : ({ address, length: 4, pio: isPort, datamatch: value } as const);
    const result = vm.assignIoeventfd(this.#vmFd, match, eventfd);
    // A guest that maps two BARs at one address gets the first one's doorbells; the second one's
    // notifications still arrive, by exits.
    if (result === -EEXIST) return;
    sys.check(result, 'KVM_IOEVENTFD', `0x${address.toString(16)}`);
  }

  removeDoorbell(address: number, isPort: boolean, eventfd: number): void {
    const match = { address, length: 0, pio: isPort } as const;
    const result = vm.deassignIoeventfd(this.#vmFd, match, eventfd);
    if (result === -ENOENT) return;
    sys.check(result, 'KVM_IOEVENTFD', `0x${address.toString(16)}`);
  }

  isSignalled(eventfd: number): boolean {
    return isReadable(eventfd);
  }

  waitWhile(words: Int32Array, index: number, value: number): void {
    this.#lock.waitWhile(words, index, value);
  }
}
