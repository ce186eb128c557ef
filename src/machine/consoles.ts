/** What a guest prints, and what is typed for it: the virtio console with its ports, and the serial port. */
import { InternalError } from '../host/errors.ts';
import { ConsoleDevice } from '../virtio/device/console/console.ts';
import type { ConsolePort } from '../virtio/device/console/console-port.ts';
import { OutputTail } from './output-tail.ts';
import { SerialStream } from './serial-stream.ts';

/** They outlive reboots. */
export class Consoles {
  readonly device: ConsoleDevice;
  /** Port 0: hvc0. */
  readonly console: ConsolePort;
  /** ttyS0. */
  readonly serial: SerialStream;
  /** The last of what was printed on either. */
  readonly tail: OutputTail = new OutputTail();

  /**
   * @param agentPort name of the port that the agent listens on; undefined for none
   * @param log gets a line when output begins to be dropped
   */
  constructor(agentPort: string | undefined, log: (text: string) => void) {
    const observe = (bytes: Uint8Array): void => this.tail.add(bytes);
    this.device = new ConsoleDevice('console0', agentPort === undefined ? [] : [agentPort]);
    const [console] = this.device.ports;
    if (console === undefined) throw new InternalError('a console without ports');
    console.observe = observe;
    console.dropping = () => log(unread('console'));
    this.console = console;
    this.serial = new SerialStream(observe, () => log(unread('serial port')));
  }

  /** The port that the agent listens on. */
  get agentPort(): ConsolePort | undefined {
    return this.device.ports[1];
  }

  /** Bytes that were dropped, because nobody read them. */
  get dropped(): { readonly console: number; readonly serial: number } {
    return { console: this.console.dropped, serial: this.serial.dropped };
  }

  /** Throws output away that nobody listens to. */
  flow(): void {
    for (const stream of [this.serial, ...this.device.ports]) {
      if (stream.readableFlowing === null) stream.resume();
    }
  }
}

function unread(what: string): string {
  return `the output of the guest's ${what} is not being read: beyond 1 MiB it is dropped`;
}
