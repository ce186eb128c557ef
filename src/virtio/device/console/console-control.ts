/**
 * The messages on a console's control queues (virtio 1.3 §5.3.6.2), from one reset to the next.
 */
import * as abi from '../../../abi/virtio-console.ts';
import type { ConsolePort } from './console-port.ts';

const { virtio_console_control: control, virtio_console_resize: resize } = abi;

/** Bytes of a control message without what follows it. */
export const CONTROL_SIZE: number = control.size;
/** Messages that wait for the driver's buffers; a driver that posts none loses the rest. */
const BACKLOG = 256;

/** The device's side of the protocol. */
export class ControlSession {
  /** Size of the terminal that shows the console. */
  columns = 80;
  rows = 25;
  readonly #ports: readonly ConsolePort[];
  readonly #waiting: Uint8Array[] = [];
  /** The driver was notified of the ports, which §5.3.6.2.1 forbids to repeat. */
  #announced = false;

  constructor(ports: readonly ConsolePort[]) {
    this.#ports = ports;
  }

  /** No message was sent yet. */
  reset(): void {
    this.#waiting.length = 0;
    this.#announced = false;
  }

  /** True when there is a message for the driver. */
  get hasMessage(): boolean {
    return this.#waiting.length > 0;
  }

  /** Takes the next message for the driver. */
  take(): Uint8Array {
    return this.#waiting.shift() ?? new Uint8Array(0);
  }

  /**
   * Handles the driver's message about a port.
   * @param message at least CONTROL_SIZE bytes
   * @returns the port, if it is one that the driver opened or closed
   */
  hear(message: Uint8Array): ConsolePort | undefined {
    const view = new DataView(message.buffer, message.byteOffset, CONTROL_SIZE);
    const event = view.getUint16(control.event.offset, true);
    const value = view.getUint16(control.value.offset, true);
    if (event === abi.VIRTIO_CONSOLE_DEVICE_READY) {
      if (value === 1) this.#announce();
      return undefined;
    }
    const port = this.#ports[view.getUint32(control.id.offset, true)];
    if (port === undefined) return undefined;
    if (event === abi.VIRTIO_CONSOLE_PORT_READY && value === 1) this.#introduce(port);
    if (event !== abi.VIRTIO_CONSOLE_PORT_OPEN) return undefined;
    port.guestOpen = value === 1;
    return port;
  }

  /** The terminal was resized; of several pending sizes only the last is sent. */
  resized(): void {
    const stale = this.#waiting.findIndex((waiting) => {
      const view = new DataView(waiting.buffer);
      return view.getUint16(control.event.offset, true) === abi.VIRTIO_CONSOLE_RESIZE;
    });
    const message = build(0, abi.VIRTIO_CONSOLE_RESIZE, 0, resize.size);
    const view = new DataView(message.buffer);
    view.setUint16(control.size + resize.cols.offset, this.columns, true);
    view.setUint16(control.size + resize.rows.offset, this.rows, true);
    if (stale >= 0) this.#waiting[stale] = message;
    else this.#say(message);
  }

  /** Nothing in the guest holds a port open. */
  closePorts(): void {
    for (const port of this.#ports) {
      if (!port.guestOpen) continue;
      port.guestOpen = false;
      if (port.index > 0) port.dropInput();
    }
  }

  /** A driver that has just been loaded asks for its ports; one that has only slept does not. */
  #announce(): void {
    if (this.#announced) return;
    this.#announced = true;
    this.closePorts();
    for (const { index } of this.#ports) {
      this.#say(build(index, abi.VIRTIO_CONSOLE_DEVICE_ADD, 1));
    }
  }

  #introduce(port: ConsolePort): void {
    if (port.index === 0) {
      this.#say(build(0, abi.VIRTIO_CONSOLE_CONSOLE_PORT, 1));
      this.resized();
    } else {
      const name = Buffer.from(port.portName);
      const message = build(port.index, abi.VIRTIO_CONSOLE_PORT_NAME, 1, name.length);
      message.set(name, control.size);
      this.#say(message);
    }
    this.#say(build(port.index, abi.VIRTIO_CONSOLE_PORT_OPEN, 1));
  }

  #say(message: Uint8Array): void {
    if (this.#waiting.length < BACKLOG) this.#waiting.push(message);
  }
}

function build(id: number, event: number, value: number, extra = 0): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(control.size + extra);
  const view = new DataView(message.buffer);
  view.setUint32(control.id.offset, id, true);
  view.setUint16(control.event.offset, event, true);
  view.setUint16(control.value.offset, value, true);
  return message;
}
