/** A socket device's queues, a driver that a test plays, and the host's programs in memory. */
import { Buffer } from 'node:buffer';
import { type Duplex, duplexPair } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import * as abi from '../../../src/abi/virtio-vsock.ts';
import { DeviceRig } from '../../../src/testing/index.ts';
import type { Patience } from '../../../src/virtio/device/vsock/vsock-connection.ts';
import { VsockHandler } from '../../../src/virtio/device/vsock/vsock-handler.ts';
import { HEADER_SIZE, PacketHeader } from '../../../src/virtio/device/vsock/vsock-packet.ts';
import { type HostSide, VsockSwitch } from '../../../src/virtio/device/vsock/vsock-switch.ts';

export const RX = 0;
export const TX = 1;
export const EVENT = 2;
export const GUEST = 42;
export const STREAM = featureSet(VIRTIO_F_VERSION_1, abi.VIRTIO_VSOCK_F_STREAM);
/** The driver's own credit, unless a test changes it. */
const PEER_BUFFER = 65536;

const OPS: Readonly<Record<string, number>> = {
  REQUEST: abi.VIRTIO_VSOCK_OP_REQUEST,
  RESPONSE: abi.VIRTIO_VSOCK_OP_RESPONSE,
  RST: abi.VIRTIO_VSOCK_OP_RST,
  SHUTDOWN: abi.VIRTIO_VSOCK_OP_SHUTDOWN,
  RW: abi.VIRTIO_VSOCK_OP_RW,
  CREDIT_UPDATE: abi.VIRTIO_VSOCK_OP_CREDIT_UPDATE,
  CREDIT_REQUEST: abi.VIRTIO_VSOCK_OP_CREDIT_REQUEST,
};

/** The header's fields but the op; what is left out has an honest value. */
export type Fields = Partial<
  Pick<
    PacketHeader,
    'srcCid' | 'dstCid' | 'srcPort' | 'dstPort' | 'len' | 'type' | 'flags' | 'bufAlloc' | 'fwdCnt'
  >
>;

/** A packet that the driver got. */
export interface Packet {
  readonly op: string;
  readonly header: PacketHeader;
  readonly payload: Buffer;
}

/** See the file. */
export class VsockRig implements Disposable, HostSide {
  readonly rig = new DeviceRig();
  readonly switch: VsockSwitch;
  readonly handler: VsockHandler;
  /** Ports that a program of the host listens on, and the streams that it got. */
  readonly listening = new Map<number, Duplex[]>();
  /** The device's ends of all streams, latest last. */
  readonly devices: Duplex[] = [];
  readonly features: bigint;

  constructor(features = STREAM, patience: Patience = { answer: 60_000, close: 60_000 }) {
    this.features = features;
    this.switch = new VsockSwitch(GUEST, this, patience);
    this.handler = new VsockHandler(this.switch);
    this.rig.start(this.handler, features, [256, 256, 16]);
  }

  connect(port: number, accepted: () => void): Duplex {
    const [device, program] = this.#pair();
    const streams = this.listening.get(port);
    if (streams === undefined) device.destroy(new Error('connection refused'));
    else {
      streams.push(program);
      setImmediate(accepted);
    }
    return device;
  }

  /** A program of the host connects to a port of the guest. @returns its end */
  dial(port: number): Duplex {
    const [device, program] = this.#pair();
    this.switch.connectGuest(device, port);
    return program;
  }

  /** The driver sends a packet, by default from port 1000 of the guest to port 52 of the host. */
  send(op: string | number, fields: Fields = {}, payload: Uint8Array = Buffer.alloc(0)): void {
    const header = new PacketHeader();
    Object.assign(header, {
      srcCid: GUEST,
      dstCid: abi.VMADDR_CID_HOST,
      srcPort: 1000,
      dstPort: 52,
      len: payload.length,
      bufAlloc: PEER_BUFFER,
      ...fields,
      op: typeof op === 'number' ? op : OPS[op],
    });
    header.encode();
    const view = new DataView(header.bytes.buffer);
    view.setUint32(4, Math.floor(header.srcCid / 2 ** 32), true);
    view.setUint32(12, Math.floor(header.dstCid / 2 ** 32), true);
    this.sendBytes(Buffer.concat([header.bytes, payload]));
  }

  /** The driver sends bytes that need not be a packet. */
  sendBytes(...segments: Uint8Array[]): void {
    this.rig.queue(TX).completed();
    this.rig.queue(TX).add({ readable: segments });
    this.rig.kick(TX);
  }

  /** The driver posts receive buffers. */
  post(count: number, length = 4096): void {
    for (let i = 0; i < count; i++) this.rig.queue(RX).add({ writable: [length] });
    this.rig.kick(RX);
  }

  /** Lets the streams and the device do all that they can. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 4; quiet++) {
      await turn();
      if (this.rig.pump() > 0) quiet = 0;
    }
  }

  /** The packets that the driver got since the last call, with new buffers for as many. */
  async packets(buffers = 16): Promise<Packet[]> {
    this.post(buffers);
    await this.settle();
    return this.taken();
  }

  /** The same without new buffers. */
  taken(): Packet[] {
    return this.rig
      .queue(RX)
      .completed()
      .map(({ data }) => {
        const header = new PacketHeader();
        header.bytes.set(data.subarray(0, HEADER_SIZE));
        header.decode();
        const op = Object.keys(OPS).find((name) => OPS[name] === header.op) ?? `${header.op}`;
        return { op, header, payload: Buffer.from(data.subarray(HEADER_SIZE)) };
      });
  }

  /** A connection that the guest requested: the program's end. */
  async open(fields: Fields = {}): Promise<Duplex> {
    const port = fields.dstPort ?? 52;
    if (!this.listening.has(port)) this.listening.set(port, []);
    this.send('REQUEST', fields);
    const [response] = await this.packets(1);
    if (response?.op !== 'RESPONSE') throw new Error(`the guest got ${response?.op}`);
    return this.listening.get(port)?.at(-1) as Duplex;
  }

  /** Stops and starts the handler, as a pause does. */
  handOver(): void {
    this.rig.handOver(this.handler, this.features);
  }

  #pair(): [device: Duplex, program: Duplex] {
    const [device, program] = duplexPair({ allowHalfOpen: true });
    this.devices.push(device);
    device.once('close', () => {
      if (!device.writableFinished) program.destroy();
    });
    return [device, program];
  }

  /** The packets' queues go elsewhere, as to the kernel: the device keeps the event queue. */
  moveAway(): void {
    this.rig.handOver(this.handler, this.features, [EVENT]);
  }

  /** Events that the driver got since the last call. */
  events(): number[] {
    return this.rig
      .queue(EVENT)
      .completed()
      .map(({ data }) => Buffer.from(data).readUInt32LE(0));
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.switch.close();
  }
}

/** The packets sent, by op. */
export const ops = (packets: readonly Packet[]): string[] => packets.map(({ op }) => op);

/** All payloads as one. */
export const payloadOf = (packets: readonly Packet[]): Buffer =>
  Buffer.concat(packets.map(({ payload }) => payload));

/** What a program reads until its stream ends. */
export async function readAll(stream: Duplex): Promise<string> {
  let text = '';
  stream.on('data', (part: Buffer) => {
    text += part.toString('latin1');
  });
  await new Promise((resolve) => stream.once('end', resolve).once('close', resolve));
  return text;
}

/** What waits in a program's stream. */
export function waiting(stream: Duplex): string {
  const bytes = stream.read() as Buffer | null;
  return bytes === null ? '' : bytes.toString('latin1');
}
