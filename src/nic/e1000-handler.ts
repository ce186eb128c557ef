/** The data half of an 82540EM: both rings on one queue of a tap, in the thread that it is made in. */

import { RCTL, RCTL_EN, TCTL, TCTL_EN } from '../abi/e1000.ts';
import { ReceiveErrors, TapQueue } from '../backend/tap-queue.ts';
import type { LineController } from '../bus/interrupt-controller.ts';
import { drainEventfd, signalEventfd } from '../host/fd.ts';
import * as sys from '../host/syscall.ts';
import { setIrqLine } from '../kvm/vm-ioctl.ts';
import { IntxPin, type IntxPinShare } from '../pci/intx.ts';
import { RegisterLock } from '../state/shared-state.ts';
import { type HandlerContext, type QueueHandler, READABLE, WRITABLE } from '../virtio/device.ts';
import { Interrupts } from './interrupts.ts';
import { Receiver } from './receive.ts';
import { RegisterFile } from './register-file.ts';
import { Transmitter } from './transmit.ts';

/** What the control half passes on; cloneable. */
export interface E1000HandlerOptions {
  /** The tap's descriptor. */
  readonly fd: number;
}

/** Where the registers are, from power-on to the next: the first message after each start. */
export interface E1000Location {
  /** Those of a `RegisterFile`. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** eventfd signaled by the driver's register writes. */
  readonly kick: number;
  /** The word of the lock that interrupt lines are driven with. */
  readonly lock: Int32Array;
  readonly pin: IntxPinShare;
  readonly vmFd: number;
}

/** The dependencies of a data half; tests inject their own. */
export interface E1000Context {
  /** A tap's queue by its descriptor. */
  tap(fd: number): TapQueue;
  /** The interrupt lines of a VM. */
  lines(vmFd: number): LineController;
  /** Milliseconds of a clock that never goes back. */
  now(): number;
}

const KICK = 0;
const TAP = 1;
const TIMER = 2;
const REST = 3;

class E1000Handler implements QueueHandler {
  readonly #tap: TapQueue;
  readonly #machine: E1000Context;
  #context: HandlerContext | null = null;
  #service: Service | null = null;

  constructor({ fd }: E1000HandlerOptions, machine: E1000Context) {
    this.#tap = machine.tap(fd);
    this.#machine = machine;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    // Received packets have their checksums, and fit the MTU.
    this.#tap.setOffloads(0);
  }

  message(message: unknown): void {
    if (this.#context === null || this.#service !== null) return;
    const location = message as E1000Location;
    this.#service = new Service(this.#context, location, this.#tap, this.#machine);
    this.#service.start();
  }

  kick(): void {
    // It has no virtqueues.
  }

  ready(token: number, events: number): void {
    this.#service?.ready(token, events);
  }

  stop(): void {
    this.#service?.stop();
    this.#service = null;
    this.#context = null;
  }
}

/** From the message with the registers' location to the stop. */
class Service {
  readonly #context: HandlerContext;
  readonly #location: E1000Location;
  readonly #tap: TapQueue;
  readonly #file: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #transmitter: Transmitter;
  readonly #receiver: Receiver;
  readonly #errors: ReceiveErrors;
  /** What is waited for on the tap. */
  #watched = 0;
  /** The timer of a rest that is waited for, or -1. */
  #restFd = -1;

  constructor(
    context: HandlerContext,
    location: E1000Location,
    tap: TapQueue,
    machine: E1000Context,
  ) {
    this.#context = context;
    this.#location = location;
    this.#tap = tap;
    this.#file = new RegisterFile(location.words);
    const pin = new IntxPin(location.pin, machine.lines(location.vmFd));
    const lock = new RegisterLock(location.lock);
    this.#interrupts = new Interrupts(this.#file, lock, pin, machine.now);
    this.#transmitter = new Transmitter(context.memory, this.#file, tap);
    this.#errors = new ReceiveErrors((text) => context.log(text));
    this.#receiver = new Receiver(context.memory, this.#file, tap, this.#errors);
  }

  start(): void {
    const { reactor } = this.#context;
    reactor.watch(this.#location.kick, READABLE, KICK);
    reactor.watch(this.#interrupts.timerFd, READABLE, TIMER);
    this.#run();
  }

  stop(): void {
    const { reactor } = this.#context;
    reactor.watch(this.#location.kick, 0, KICK);
    reactor.watch(this.#interrupts.timerFd, 0, TIMER);
    this.#watch(0);
    this.#watchRest(-1);
    this.#errors.close();
    this.#interrupts.close();
  }

  /** HOT. */
  ready(token: number, events: number): void {
    if (token === TIMER) {
      this.#interrupts.expired();
      return;
    }
    if (token === REST) this.#errors.rested();
    else if (token === KICK) drainEventfd(this.#location.kick);
    else if ((events & WRITABLE) !== 0) this.#transmitter.blocked = false;
    this.#run();
  }

  #run(): void {
    const transmitter = this.#transmitter;
    const receiver = this.#receiver;
    const { gate } = this.#file;
    let causes = 0;
    gate.acquire();
    try {
      causes = transmitter.run() | receiver.run();
    } finally {
      gate.release();
    }
    if (this.#isDisabled()) this.#interrupts.forget();
    else this.#interrupts.raise(causes);
    const fault = transmitter.fault ?? receiver.fault;
    if (fault !== null) {
      this.#file.broken = true;
      this.#context.broken(fault);
      return;
    }
    if (transmitter.unfinished) signalEventfd(this.#location.kick);
    this.#watch((receiver.idle ? 0 : READABLE) | (transmitter.blocked ? WRITABLE : 0));
    this.#watchRest(this.#errors.resting ? this.#errors.timerFd : -1);
  }

  #watchRest(fd: number): void {
    if (fd === this.#restFd) return;
    const { reactor } = this.#context;
    if (this.#restFd >= 0) reactor.watch(this.#restFd, 0, REST);
    if (fd >= 0) reactor.watch(fd, READABLE, REST);
    this.#restFd = fd;
  }

  #isDisabled(): boolean {
    const enabled = (this.#file.get(RCTL) & RCTL_EN) | (this.#file.get(TCTL) & TCTL_EN);
    return enabled === 0;
  }

  #watch(events: number): void {
    if (events === this.#watched) return;
    this.#watched = events;
    this.#context.reactor.watch(this.#tap.fd, events, TAP);
  }
}

const KVM_CONTEXT: E1000Context = {
  tap: (fd) => new TapQueue(fd),
  lines: (vmFd) => ({
    setLine: (gsi, level) => {
      sys.check(setIrqLine(vmFd, gsi, level), 'KVM_IRQ_LINE', `GSI ${gsi}`);
    },
  }),
  now: () => performance.now(),
};

/** Makes the data half; called in the thread that serves it. */
export function createHandler(options: unknown, machine: E1000Context = KVM_CONTEXT): QueueHandler {
  return new E1000Handler(options as E1000HandlerOptions, machine);
}
