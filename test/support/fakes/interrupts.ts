/** An interrupt controller that records what register files ask for, and behaves as KVM does with eventfds. */
import type { InterruptController } from '../../../src/bus/interrupt-controller.ts';
import { drainEventfd, isReadable } from '../../../src/host/fd.ts';

/** Where a message-signaled interrupt goes. */
export interface MsiRoute {
  readonly eventfd: number;
  readonly address: number;
  readonly data: number;
}

/** The state of interrupt lines, MSI routes and doorbells, and every change in order. */
export class FakeInterrupts implements InterruptController {
  /** One line for each call. */
  readonly calls: string[] = [];
  readonly lines = new Map<number, boolean>();
  readonly routes = new Map<number, MsiRoute>();
  /** eventfd by `io:1000` or `memory:c0000000`, with `=1` for writes of that value only. */
  readonly doorbells = new Map<string, number>();
  /** Interrupts that were injected because they were pending when a route was connected. */
  readonly injected: number[] = [];

  setLine(gsi: number, level: boolean): void {
    this.calls.push(`line ${gsi} ${level ? 'up' : 'down'}`);
    this.lines.set(gsi, level);
  }

  connectMsi(gsi: number, eventfd: number, address: number, data: number): void {
    this.calls.push(`connect ${gsi}`);
    if (this.routes.has(gsi)) throw new Error(`GSI ${gsi} is connected twice`);
    this.routes.set(gsi, { eventfd, address, data });
    if (drainEventfd(eventfd)) this.injected.push(gsi);
  }

  disconnectMsi(gsi: number, eventfd: number): void {
    this.calls.push(`disconnect ${gsi}`);
    if (this.routes.get(gsi)?.eventfd !== eventfd) throw new Error(`GSI ${gsi} is not connected`);
    this.routes.delete(gsi);
  }

  addDoorbell(address: number, isPort: boolean, eventfd: number, value?: number): void {
    const key = doorbellKey(address, isPort) + (value === undefined ? '' : `=${value}`);
    this.calls.push(`doorbell ${key}`);
    if (!this.doorbells.has(key)) this.doorbells.set(key, eventfd);
  }

  removeDoorbell(address: number, isPort: boolean, eventfd: number): void {
    const key = doorbellKey(address, isPort);
    this.calls.push(`no doorbell ${key}`);
    if (this.doorbells.get(key) === eventfd) this.doorbells.delete(key);
  }

  isSignalled(eventfd: number): boolean {
    return isReadable(eventfd);
  }

  /** What the thread that is waited for does; what it leaves undone is not waited for. */
  meanwhile: () => void = () => {};

  waitWhile(words: Int32Array, index: number, value: number): void {
    if (words[index] !== value) return;
    this.calls.push('wait');
    this.meanwhile();
  }

  /** The calls since the last time this was asked. */
  take(): string[] {
    return this.calls.splice(0);
  }
}

function doorbellKey(address: number, isPort: boolean): string {
  return `${isPort ? 'io' : 'memory'}:${address.toString(16)}`;
}
