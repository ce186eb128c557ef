/**
 * Console device (virtio 1.3 §5.3): port 0 is the guest's console, the others are named byte
 * streams. Served on the main thread, where the streams are.
 */
import * as abi from '../../../abi/virtio-console.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import { options } from '../../../options/option-schema.ts';
import type { DeviceHost, QueueHandler, QueueSpec, VirtioDevice } from '../../device.ts';
import { CARRIED, type CarriedOptions, type DeviceType } from '../../device-type.ts';
import { ControlSession } from './console-control.ts';
import { ConsoleHandler, QUEUE_SIZE } from './console-handler.ts';
import { ConsolePort } from './console-port.ts';

const { virtio_console_config: config } = abi;
/** Communication controller, other. */
const PCI_CLASS = 0x07_8000;

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
  readonly queues: readonly QueueSpec[];
  readonly config = new Uint8Array(config.size);
  readonly configWriteMask = new Uint8Array(config.size);
  readonly emergencyWrite: number = config.emerg_wr.offset;
  readonly thread = { kind: 'main' } as const;
  readonly backend = { name: 'streams of this process' };
  /** Port 0 first. */
  readonly ports: readonly ConsolePort[];
  readonly #session: ControlSession;
  #host: DeviceHost | undefined;
  #handler: ConsoleHandler | undefined;

  /** @param portNames names of the ports after the console itself */
  constructor(name: string, portNames: readonly string[]) {
    this.name = name;
    this.ports = ['', ...portNames].map((portName, index) => new ConsolePort(index, portName));
    const names = this.ports.flatMap(({ index }) => [`receive ${index}`, `transmit ${index}`]);
    names.splice(2, 0, 'control receive', 'control transmit');
    this.queues = names.map((queue) => ({ name: queue, maxSize: QUEUE_SIZE }));
    this.#session = new ControlSession(this.ports);
    const view = new DataView(this.config.buffer);
    view.setUint16(config.cols.offset, this.#session.columns, true);
    view.setUint16(config.rows.offset, this.#session.rows, true);
    view.setUint32(config.max_nr_ports.offset, this.ports.length, true);
    this.configWriteMask.fill(0xff, config.emerg_wr.offset, config.emerg_wr.offset + 4);
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  createHandler(): QueueHandler {
    this.#handler = new ConsoleHandler(this.ports, this.#session);
    return this.#handler;
  }

  /** Emergency writes: bytes without queues, for early consoles (§5.3.4, §5.3.5.1). */
  emergencyWritten(bytes: Uint8Array): void {
    if (bytes.length > 0) this.ports[0]?.deliver(bytes);
  }

  /** Sends the guest the size of the terminal that shows the console. */
  resize(columns: number, rows: number): void {
    this.#host?.updateConfig((view) => {
      view.setUint16(config.cols.offset, columns, true);
      view.setUint16(config.rows.offset, rows, true);
    });
    this.#session.columns = columns;
    this.#session.rows = rows;
    this.#handler?.resized();
  }

  /** Ports stay open: a driver resets its device before the guest sleeps, and keeps using its ports afterwards. */
  reset(): void {
    this.#session.reset();
  }

  /** The guest and its driver are gone: nothing holds a port open any more. */
  closePorts(): void {
    this.#session.closePorts();
  }

  close(): void {
    for (const port of this.ports) {
      port.push(null);
      port.destroy();
    }
  }
}

/** Options of the console. */
export type ConsoleOptions = CarriedOptions;

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** The transport and ring features of the console. */
    readonly console?: ConsoleOptions;
  }
}

export const consoleType: DeviceType = {
  name: 'console',
  summary: 'the console',
  key: 'console',
  number: 'always',
  firstKey: 'transport',
  backends: [
    {
      name: 'stream',
      options: options<CarriedOptions>({}, CARRIED),
      served: {},
      create: (_, { name }) => new ConsoleDevice(name, []),
    },
  ],
};
