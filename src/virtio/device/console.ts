/**
 * Console device (virtio 1.3 §5.3): port 0 is the guest's console, the others are named byte
 * streams. Served on the main thread, where the streams are.
 */
import * as abi from '../../abi/virtio-console.ts';
import type { DeviceHost, HandlerContext, QueueHandler, VirtioDevice } from '../device.ts';
import { featureSet, hasFeature } from '../features.ts';
import { DescriptorChain } from '../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, type Virtqueue } from '../queue/virtqueue.ts';
import { ConsolePort, type PortDriver } from './console-port.ts';

const { virtio_console_config: config, virtio_console_control: control } = abi;
const QUEUE_SIZE = 128;
/** Control receive and transmit queue (§5.3.2). */
const CONTROL_RX = 2;
const CONTROL_TX = 3;
/** Communication controller, other. */
const PCI_CLASS = 0x07_8000;
/** Control messages that wait for the driver's buffers; a driver that posts none loses the rest. */
const CONTROL_BACKLOG = 256;

/** Receive queue of a port; its transmit queue is the next one. */
function receiveQueue(port: number): number {
  return port === 0 ? 0 : 2 + 2 * port;
}

/** The port that a queue belongs to. */
function portOf(queue: number): number {
  return queue < 2 ? 0 : (queue >> 1) - 1;
}

/** A console device with its ports. */
export class ConsoleDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = abi.VIRTIO_ID_CONSOLE;
  readonly pciClass: number = PCI_CLASS;
  readonly features: bigint = featureSet(
    abi.VIRTIO_CONSOLE_F_SIZE,
    abi.VIRTIO_CONSOLE_F_MULTIPORT,
    abi.VIRTIO_CONSOLE_F_EMERG_WRITE,
  );
  readonly queues;
  readonly config = new Uint8Array(config.size);
  readonly configWriteMask = new Uint8Array(config.size);
  readonly placement = { thread: 'main' } as const;
  /** Port 0 first. */
  readonly ports: readonly ConsolePort[];
  #host: DeviceHost | undefined;
  #handler: ConsoleHandler | undefined;
  #columns = 80;
  #rows = 25;

  /** @param portNames names of the ports after the console itself */
  constructor(name: string, portNames: readonly string[]) {
    this.name = name;
    this.ports = ['', ...portNames].map((portName, index) => new ConsolePort(index, portName));
    const names = this.ports.flatMap(({ index }) => [`receive ${index}`, `transmit ${index}`]);
    names.splice(2, 0, 'control receive', 'control transmit');
    this.queues = names.map((queue) => ({ name: queue, maxSize: QUEUE_SIZE }));
    const view = new DataView(this.config.buffer);
    view.setUint16(config.cols.offset, this.#columns, true);
    view.setUint16(config.rows.offset, this.#rows, true);
    view.setUint32(config.max_nr_ports.offset, this.ports.length, true);
    this.configWriteMask.fill(0xff, config.emerg_wr.offset, config.emerg_wr.offset + 4);
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  createHandler(): QueueHandler {
    this.#handler = new ConsoleHandler(this.ports, () => ({
      columns: this.#columns,
      rows: this.#rows,
    }));
    return this.#handler;
  }

  /** Emergency write: a byte without queues, as early consoles print (§5.3.4.1). */
  configWritten(offset: number): void {
    if (offset !== config.emerg_wr.offset || this.#host === undefined) return;
    const byte = this.#host.readConfig()[offset] ?? 0;
    this.ports[0]?.deliver(Uint8Array.of(byte));
  }

  /** Tells the guest the size of the terminal that shows the console. */
  resize(columns: number, rows: number): void {
    this.#columns = columns;
    this.#rows = rows;
    this.#host?.updateConfig((view) => {
      view.setUint16(config.cols.offset, columns, true);
      view.setUint16(config.rows.offset, rows, true);
    });
    this.#handler?.resized();
  }

  reset(): void {
    for (const port of this.ports) {
      port.guestOpen = false;
      if (port.index > 0) port.dropInput();
    }
  }

  close(): void {
    for (const port of this.ports) {
      port.push(null);
      port.destroy();
    }
  }
}

/** The data half. */
class ConsoleHandler implements QueueHandler, PortDriver {
  readonly #ports: readonly ConsolePort[];
  readonly #size: () => { columns: number; rows: number };
  readonly #control: Uint8Array[] = [];
  /** By port: how much of the transmit chain in `#chain` was delivered; -1 when none is held. */
  readonly #held: number[];
  readonly #chains: DescriptorChain[] = [];
  #context: HandlerContext | undefined;
  #chain: DescriptorChain | undefined;

  constructor(ports: readonly ConsolePort[], size: () => { columns: number; rows: number }) {
    this.#ports = ports;
    this.#size = size;
    this.#held = ports.map(() => -1);
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#chain = new DescriptorChain(context.memory, QUEUE_SIZE);
    for (const port of this.#ports) {
      this.#chains[port.index] = new DescriptorChain(context.memory, QUEUE_SIZE);
      port.driver = this;
    }
  }

  kick(queue: number): void {
    if (queue === CONTROL_RX) this.#sendControl();
    else if (queue === CONTROL_TX) this.#receiveControl();
    else this.wake(portOf(queue));
  }

  ready(): void {}

  wake(index: number): void {
    const port = this.#ports[index];
    if (port === undefined || this.#context === undefined) return;
    this.#transmit(port);
    this.#receive(port);
  }

  stop(): void {
    for (const port of this.#ports) {
      port.driver = undefined;
      const chain = this.#chains[port.index];
      if (chain === undefined || this.#held[port.index] === -1) continue;
      this.#held[port.index] = -1;
      const queue = this.#context?.queues[receiveQueue(port.index) + 1];
      queue?.virtqueue.push(chain.id, chain.slots, 0);
      queue?.virtqueue.publish();
    }
    this.#context = undefined;
  }

  /** The terminal has another size. */
  resized(): void {
    if (this.#context === undefined) return;
    const { columns, rows } = this.#size();
    const message = controlMessage(0, abi.VIRTIO_CONSOLE_RESIZE, 0, 4);
    const view = new DataView(message.buffer);
    view.setUint16(control.size + abi.virtio_console_resize.cols.offset, columns, true);
    view.setUint16(control.size + abi.virtio_console_resize.rows.offset, rows, true);
    this.#queueControl(message);
  }

  /** Guest to host. */
  #transmit(port: ConsolePort): void {
    const queue = this.#context?.queues[receiveQueue(port.index) + 1];
    const chain = this.#chains[port.index];
    if (queue === undefined || chain === undefined) return;
    const { virtqueue } = queue;
    let used = false;
    while (!port.outputFull) {
      let position = this.#held[port.index] ?? -1;
      if (position === -1) {
        if (!this.#pop(virtqueue, chain)) break;
        position = 0;
      }
      const piece = Buffer.alloc(Math.min(chain.readableLength - position, ConsolePort.pieceSize));
      chain.read(position, piece);
      position += piece.length;
      if (piece.length > 0) port.deliver(piece);
      if (position < chain.readableLength) {
        this.#held[port.index] = position;
        continue;
      }
      this.#held[port.index] = -1;
      virtqueue.push(chain.id, chain.slots, 0);
      used = true;
    }
    if (used && virtqueue.publish()) queue.interrupt();
  }

  /** Host to guest. */
  #receive(port: ConsolePort): void {
    const queue = this.#context?.queues[receiveQueue(port.index)];
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    if (port.index > 0 && !port.guestOpen) return;
    const { virtqueue } = queue;
    let used = false;
    while (port.waiting > 0 && this.#pop(virtqueue, chain)) {
      const written = chain.write(0, port.peek(chain.writableLength));
      virtqueue.push(chain.id, chain.slots, written);
      used = true;
      port.consume(written);
    }
    if (used && virtqueue.publish()) queue.interrupt();
  }

  #pop(virtqueue: Virtqueue, chain: DescriptorChain): boolean {
    for (;;) {
      const found = virtqueue.pop(chain);
      if (found === POP_CHAIN) return true;
      if (found < 0) this.#context?.broken(`queue ${virtqueue.index}: ${faultText(found)}`);
      if (found < 0 || !virtqueue.enableKicks()) return false;
    }
  }

  #receiveControl(): void {
    const queue = this.#context?.queues[CONTROL_TX];
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    const message = new Uint8Array(control.size);
    const view = new DataView(message.buffer);
    let used = false;
    while (this.#pop(queue.virtqueue, chain)) {
      const length = chain.read(0, message);
      queue.virtqueue.push(chain.id, chain.slots, 0);
      used = true;
      if (length < control.size) continue;
      this.#controlled(
        view.getUint32(control.id.offset, true),
        view.getUint16(control.event.offset, true),
        view.getUint16(control.value.offset, true),
      );
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
    this.#sendControl();
  }

  /** §5.3.6.2: what the driver says of a port. */
  #controlled(id: number, event: number, value: number): void {
    if (event === abi.VIRTIO_CONSOLE_DEVICE_READY) {
      if (value !== 1) return;
      for (const { index } of this.#ports) {
        this.#queueControl(controlMessage(index, abi.VIRTIO_CONSOLE_DEVICE_ADD, 1));
      }
      return;
    }
    const port = this.#ports[id];
    if (port === undefined) return;
    if (event === abi.VIRTIO_CONSOLE_PORT_READY && value === 1) this.#introduce(port);
    if (event !== abi.VIRTIO_CONSOLE_PORT_OPEN) return;
    port.guestOpen = value === 1;
    if (port.guestOpen) this.wake(id);
    else if (port.index > 0) port.dropInput();
  }

  #introduce(port: ConsolePort): void {
    if (port.index === 0) {
      this.#queueControl(controlMessage(0, abi.VIRTIO_CONSOLE_CONSOLE_PORT, 1));
      this.resized();
    } else {
      const name = Buffer.from(port.portName);
      const message = controlMessage(port.index, abi.VIRTIO_CONSOLE_PORT_NAME, 1, name.length);
      message.set(name, control.size);
      this.#queueControl(message);
    }
    this.#queueControl(controlMessage(port.index, abi.VIRTIO_CONSOLE_PORT_OPEN, 1));
  }

  #queueControl(message: Uint8Array): void {
    const context = this.#context;
    if (context === undefined) return;
    if (!hasFeature(context.features, abi.VIRTIO_CONSOLE_F_MULTIPORT)) return;
    if (this.#control.length < CONTROL_BACKLOG) this.#control.push(message);
    this.#sendControl();
  }

  #sendControl(): void {
    const queue = this.#context?.queues[CONTROL_RX];
    const chain = this.#chain;
    if (queue === undefined || chain === undefined) return;
    let used = false;
    while (this.#control.length > 0 && this.#pop(queue.virtqueue, chain)) {
      const message = this.#control.shift() ?? new Uint8Array(0);
      const written = chain.write(0, message);
      queue.virtqueue.push(chain.id, chain.slots, written);
      used = true;
    }
    if (used && queue.virtqueue.publish()) queue.interrupt();
  }
}

function controlMessage(
  id: number,
  event: number,
  value: number,
  extra = 0,
): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(control.size + extra);
  const view = new DataView(message.buffer);
  view.setUint32(control.id.offset, id, true);
  view.setUint16(control.event.offset, event, true);
  view.setUint16(control.value.offset, value, true);
  return message;
}
