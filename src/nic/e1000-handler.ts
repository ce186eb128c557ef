/** The data half of an 82540EM: both rings on one queue of a tap, in the thread that it is made in. */
import { TapQueue } from '../backend/tap-queue.ts';
import { drainEventfd, signalEventfd } from '../host/eventfd.ts';
import * as sys from '../host/syscall.ts';
import { setIrqLine } from '../kvm/vm-ioctl.ts';
import { IntxPin, type IntxPinShare, type LinePort } from '../pci/intx.ts';
import { RegisterLock } from '../state/register-lock.ts';
import { type HandlerContext, type QueueHandler, READABLE, WRITABLE } from '../virtio/device.ts';
import { Receiver } from './receive.ts';
import { RegisterFile } from './register-file.ts';
import { Transmitter } from './transmit.ts';

/** What the control half passes on; cloneable. */
export interface E1000HandlerOptions {
  /** The tap's descriptor. */
  readonly fd: number;
}

/** Where the registers are, from power-on to the next: the first message after each start. */
export interface E1000Socket {
  /** Those of a `RegisterFile`. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** eventfd that is signalled by what a driver writes. */
  readonly kick: number;
  /** The word of the lock that interrupt lines are driven with. */
  readonly lock: Int32Array;
  readonly pin: IntxPinShare;
  readonly vmFd: number;
}

/** Finds the interrupt lines of a VM. */
export type OpenLines = (vmFd: number) => LinePort;

const KICK = 0;
const TAP = 1;

class E1000Handler implements QueueHandler {
  readonly #tap: TapQueue;
  readonly #openLines: OpenLines;
  #context: HandlerContext | null = null;
  #service: Service | null = null;

  constructor({ fd }: E1000HandlerOptions, openLines: OpenLines) {
    this.#tap = new TapQueue(fd);
    this.#openLines = openLines;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    // What comes in has its checksums, and is no longer than the MTU.
    this.#tap.setOffloads(0);
  }

  message(message: unknown): void {
    if (this.#context === null || this.#service !== null) return;
    const socket = message as E1000Socket;
    const pin = new IntxPin(socket.pin, this.#openLines(socket.vmFd));
    this.#service = new Service(this.#context, socket, this.#tap, pin);
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

/** From the message that tells where the registers are to the stop. */
class Service {
  readonly #context: HandlerContext;
  readonly #socket: E1000Socket;
  readonly #tap: TapQueue;
  readonly #pin: IntxPin;
  readonly #lock: RegisterLock;
  readonly #file: RegisterFile;
  readonly #transmitter: Transmitter;
  readonly #receiver: Receiver;
  /** What is waited for on the tap. */
  #watched = 0;
  #failed = false;

  constructor(context: HandlerContext, socket: E1000Socket, tap: TapQueue, pin: IntxPin) {
    this.#context = context;
    this.#socket = socket;
    this.#tap = tap;
    this.#pin = pin;
    this.#lock = new RegisterLock(socket.lock);
    this.#file = new RegisterFile(socket.words);
    this.#transmitter = new Transmitter(context.memory, this.#file, tap);
    this.#receiver = new Receiver(context.memory, this.#file, tap);
  }

  start(): void {
    this.#context.reactor.watch(this.#socket.kick, READABLE, KICK);
    this.#run();
  }

  stop(): void {
    this.#context.reactor.watch(this.#socket.kick, 0, KICK);
    this.#watch(0);
  }

  /** HOT. */
  ready(token: number, events: number): void {
    if (token === KICK) drainEventfd(this.#socket.kick);
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
    if (causes !== 0 && this.#file.raise(causes)) this.#interrupt();
    const fault = transmitter.fault ?? receiver.fault;
    if (fault !== null) {
      this.#file.broken = true;
      this.#context.broken(fault);
      return;
    }
    if (receiver.failure !== 0 && !this.#failed) {
      this.#failed = true;
      const errno = receiver.failure;
      this.#context.log(`receiving from the tap failed (errno ${errno}); was it removed?`);
    }
    if (transmitter.unfinished) signalEventfd(this.#socket.kick);
    this.#watch((receiver.idle ? 0 : READABLE) | (transmitter.blocked ? WRITABLE : 0));
  }

  /** Raises the line, unless a vCPU has acknowledged or masked meanwhile. The gate is not held. */
  #interrupt(): void {
    this.#lock.acquire();
    try {
      this.#pin.set(this.#file.interrupting);
    } finally {
      this.#lock.release();
    }
  }

  #watch(events: number): void {
    if (events === this.#watched) return;
    this.#watched = events;
    this.#context.reactor.watch(this.#tap.fd, events, TAP);
  }
}

/** The lines of a VM in KVM. */
const kvmLines: OpenLines = (vmFd) => ({
  setLine: (gsi, level) => {
    sys.check(setIrqLine(vmFd, gsi, level), 'KVM_IRQ_LINE', `GSI ${gsi}`);
  },
});

/**
 * Makes the data half; called in the thread that serves it.
 * @param openLines tests put in their own
 */
export function createHandler(options: unknown, openLines: OpenLines = kvmLines): QueueHandler {
  return new E1000Handler(options as E1000HandlerOptions, openLines);
}
