/** A console device with one named port, a driver that a test plays, and what the host sees. */
import { Buffer } from 'node:buffer';
import * as abi from '../../../src/abi/virtio-console.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../src/testing/index.ts';
import { ConsoleDevice } from '../../../src/virtio/device/console/console.ts';
import type { ConsolePort } from '../../../src/virtio/device/console/console-port.ts';

const { virtio_console_control: control } = abi;

export const RX = 0;
export const TX = 1;
export const CONTROL_RX = 2;
export const CONTROL_TX = 3;
/** Queues of the named port. */
export const PORT_RX = 4;
export const PORT_TX = 5;

export const BASE = featureSet(VIRTIO_F_VERSION_1, abi.VIRTIO_CONSOLE_F_SIZE);
export const MULTIPORT = BASE | featureSet(abi.VIRTIO_CONSOLE_F_MULTIPORT);

/** A control message, decoded. */
export interface ControlMessage {
  readonly id: number;
  readonly event: number;
  readonly value: number;
  /** What follows the header. */
  readonly rest: Buffer;
}

/** See the file. */
export class ConsoleRig implements Disposable {
  readonly rig = new DeviceRig();
  readonly device = new ConsoleDevice('console0', ['org.test.port']);
  readonly features: bigint;
  /** Configuration space as the driver would see it. */
  readonly config: DataView;
  /** How many configuration changes were signaled. */
  configChanges = 0;

  constructor(features = MULTIPORT) {
    this.features = features;
    const { buffer, byteOffset, length } = this.device.config;
    this.config = new DataView(buffer, byteOffset, length);
    this.device.attach({
      updateConfig: (change) => {
        change(this.config);
        this.configChanges++;
      },
      readConfig: () => Uint8Array.from(this.device.config),
      post: () => {},
    });
  }

  /** Starts the data half with its queues, or with the first `queues` of them. */
  start(queues = 6): this {
    const sizes = this.device.queues.map((_, index) => (index < queues ? 16 : undefined));
    this.rig.start(this.device.createHandler(), this.features, sizes);
    return this;
  }

  /** The console, and the named port. */
  get console(): ConsolePort {
    return this.device.ports[0] as ConsolePort;
  }
  get port(): ConsolePort {
    return this.device.ports[1] as ConsolePort;
  }

  /** The guest prints, in one chain with these segments. */
  print(queue: number, ...segments: (string | Uint8Array)[]): void {
    this.rig.queue(queue).add({ readable: segments.map((segment) => Buffer.from(segment)) });
    this.rig.kick(queue);
  }

  /** The guest posts buffers for input. */
  post(queue: number, ...lengths: number[]): void {
    for (const length of lengths) this.rig.queue(queue).add({ writable: [length] });
    this.rig.kick(queue);
  }

  /** What came back on a queue since the last call, as text. */
  received(queue: number): string[] {
    return this.rig
      .queue(queue)
      .completed()
      .map(({ data }) => Buffer.from(data).toString('latin1'));
  }

  /** The driver sends a control message. */
  sendControl(id: number, event: number, value: number): void {
    const message = new DataView(new ArrayBuffer(control.size));
    message.setUint32(control.id.offset, id, true);
    message.setUint16(control.event.offset, event, true);
    message.setUint16(control.value.offset, value, true);
    this.print(CONTROL_TX, new Uint8Array(message.buffer));
    this.rig.queue(CONTROL_TX).completed();
  }

  /** Control messages that the driver got since the last call, after posting `buffers` again. */
  takeControl(buffers = 8): ControlMessage[] {
    const queue = this.rig.queue(CONTROL_RX);
    const room = Math.min(buffers, queue.free);
    this.post(CONTROL_RX, ...new Array<number>(room).fill(64));
    return queue.completed().map(({ data }) => {
      const view = new DataView(data.buffer, data.byteOffset, data.length);
      return {
        id: view.getUint32(control.id.offset, true),
        event: view.getUint16(control.event.offset, true),
        value: view.getUint16(control.value.offset, true),
        rest: Buffer.from(data.subarray(control.size)),
      };
    });
  }

  /** The driver brings the named port up and opens it. */
  openPort(): void {
    this.sendControl(0xffff_ffff, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
    this.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
    this.sendControl(1, abi.VIRTIO_CONSOLE_PORT_OPEN, 1);
    this.takeControl();
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.device.close();
  }
}

/** Everything that waits in a stream. */
export function drain(port: ConsolePort): string {
  const parts: Buffer[] = [];
  for (let part: unknown = port.read(); part !== null; part = port.read()) {
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts).toString('latin1');
}
