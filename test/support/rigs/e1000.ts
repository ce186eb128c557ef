/** An 82540EM without a VM or threads: a test plays the guest's driver, and the wire. */
import * as e1000 from '../../../src/abi/e1000.ts';
import * as pci from '../../../src/abi/pci.ts';
import { AddressSpace } from '../../../src/bus/address-space.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createHandler, type E1000Location } from '../../../src/nic/e1000-handler.ts';
import { E1000Pci } from '../../../src/nic/pci.ts';
import { PciBus } from '../../../src/pci/bus.ts';
import { IntxLines } from '../../../src/pci/intx.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { PumpReactor } from '../../../src/testing/device-rig.ts';
import type { QueueHandler } from '../../../src/virtio/device.ts';
import { FakeInterrupts } from '../fakes/interrupts.ts';
import { FaultyTapQueue, PacketPair } from '../fakes/tap.ts';

export const SLOT = 1;
/** The line of slot 1. */
export const LINE = 17;
export const MAC = Uint8Array.of(0x52, 0x54, 0x00, 0x12, 0x34, 0x56);
/** What the tap has in front of a packet. */
export const VNET_HEADER = 12;

const MEMORY_BASE = 0xc000_0000;
const IO_BASE = 0x1000;
const ECAM = 0xe000_0000;
const RAM_SIZE = 8 * MiB;
/** Where things lie in guest memory. */
export const TX_RING = 0x1_0000;
export const RX_RING = 0x2_0000;
export const TX_BUFFERS = 0x10_0000;
export const RX_BUFFERS = 0x40_0000;

/** A receive descriptor as the driver reads it. */
export interface ReceivedPart {
  readonly length: number;
  readonly status: number;
  readonly special: number;
  readonly bytes: Uint8Array;
}

/** The card in slot 1, its data half, and both ends of what it is plugged into. */
export class E1000Rig implements Disposable {
  readonly port = new FakeInterrupts();
  readonly state = new SharedState(SharedState.allocate(0x1_0000));
  readonly ports = new AddressSpace();
  readonly memory = new AddressSpace();
  readonly bus = new PciBus(this.state, this.ports, this.memory);
  readonly lines = new IntxLines(this.state, this.port, 16, 4);
  readonly wire = new PacketPair();
  readonly tap = new FaultyTapQueue(this.wire.fd);
  readonly ram = new Ram(RAM_SIZE);
  readonly kick = new Eventfd();
  readonly card: E1000Pci;
  readonly logs: string[] = [];
  broken: string | undefined;
  /** Milliseconds. */
  time = 1000;
  /** How often a reset revived the card. */
  revived = 0;
  readonly #reactor = new PumpReactor((token, events) => this.#handler?.ready?.(token, events));
  #handler: QueueHandler | undefined;

  constructor() {
    const plan = {
      name: 'test0',
      slot: SLOT,
      mac: MAC,
      memoryAddress: MEMORY_BASE,
      ioAddress: IO_BASE,
      kick: this.kick.fd,
    };
    this.card = new E1000Pci(this.state, this.port, this.lines, plan, () => {
      this.revived++;
    });
    this.memory.add(ECAM, 0x10_0000, this.bus.ecam);
    this.bus.add(SLOT, this.card.pciFunction);
    this.bus.reset();
    this.card.reset();
    this.setCommand(pci.PCI_COMMAND_IO | pci.PCI_COMMAND_MEMORY | pci.PCI_COMMAND_MASTER);
    this.port.take();
  }

  /** Starts the data half, as its owner does. */
  start(): void {
    const handler = createHandler(
      { fd: this.wire.fd },
      { tap: () => this.tap, lines: () => this.port, now: () => this.time },
    );
    this.#handler = handler;
    this.broken = undefined;
    handler.start({
      memory: this.ram.memory,
      features: 0n,
      queues: [],
      reactor: {
        watch: (fd, events, token) => {
          if (this.broken === undefined || events === 0) this.#reactor.watch(fd, events, token);
        },
      },
      broken: (reason) => {
        this.broken ??= reason;
        this.#reactor.clear();
      },
      log: (text) => this.logs.push(text),
      post: () => {},
    });
    const { words } = this.card.registers.file;
    const { pinShare: pin } = this.card;
    const socket = { words, kick: this.kick.fd, lock: this.state.lock.word, pin, vmFd: -1 };
    handler.message?.(socket satisfies E1000Location);
  }

  stop(): void {
    this.#handler?.stop();
    this.#handler = undefined;
    this.#reactor.clear();
  }

  [Symbol.dispose](): void {
    this.stop();
    this.wire[Symbol.dispose]();
    this.ram[Symbol.dispose]();
    this.kick.close();
  }

  /** Lets everything happen that is due. @param timeoutMs how long to wait for the first of it */
  pump(timeoutMs = 0): void {
    for (let wait = timeoutMs; this.broken === undefined && this.#reactor.pump(wait) > 0; wait = 0);
  }

  /** Waits until something happens, which it does. */
  wait(): void {
    this.#reactor.pump(-1);
  }

  config(offset: number, size: number): number {
    return this.#locked(() => this.memory.read(ECAM + (SLOT << 15) + offset, size));
  }

  setConfig(offset: number, size: number, value: number): void {
    this.#locked(() => this.memory.write(ECAM + (SLOT << 15) + offset, size, value));
  }

  setCommand(value: number): void {
    this.setConfig(pci.pci_type0_header.command.offset, 2, value);
  }

  read(offset: number, size = 4): number {
    return this.#locked(() => this.memory.read(MEMORY_BASE + offset, size));
  }

  write(offset: number, value: number, size = 4): void {
    this.#locked(() => this.memory.write(MEMORY_BASE + offset, size, value));
  }

  readPort(offset: number, size = 4): number {
    return this.#locked(() => this.ports.read(IO_BASE + offset, size));
  }

  writePort(offset: number, value: number, size = 4): void {
    this.#locked(() => this.ports.write(IO_BASE + offset, size, value));
  }

  get line(): boolean {
    return this.port.lines.get(LINE) ?? false;
  }

  /** Bytes of guest RAM. */
  bytes(gpa: number, length: number): Uint8Array {
    return this.ram.memory.bytes(this.ram.memory.offset(gpa, length), length);
  }

  view(gpa: number, length: number): DataView {
    const { buffer, byteOffset } = this.bytes(gpa, length);
    return new DataView(buffer, byteOffset, length);
  }

  /** Gives the card a transmit ring and enables it. */
  enableTransmit(count = 8, tctl = e1000.TCTL_EN): void {
    this.write(e1000.TDBAL, TX_RING);
    this.write(e1000.TDBAH, 0);
    this.write(e1000.TDLEN, count * 16);
    this.write(e1000.TDH, 0);
    this.write(e1000.TDT, 0);
    this.write(e1000.TCTL, tctl);
  }

  /** Writes a descriptor, the bytes into a buffer of its own when there are any. */
  describe(index: number, lower: number, upper = 0, bytes?: Uint8Array): void {
    const gpa = TX_BUFFERS + index * 0x1_0000;
    if (bytes !== undefined) this.bytes(gpa, bytes.length).set(bytes);
    const view = this.view(TX_RING + index * 16, 16);
    view.setBigUint64(0, BigInt(gpa), true);
    view.setUint32(8, lower, true);
    view.setUint32(12, upper, true);
  }

  /** Whether the card gave a transmit descriptor back. */
  isDone(index: number): boolean {
    return (this.view(TX_RING + index * 16, 16).getUint8(12) & e1000.TXD_STAT_DD) !== 0;
  }

  /** Moves the tail and lets the card see it. Returns the packets that came out. */
  send(tail: number): Uint8Array[] {
    this.write(e1000.TDT, tail);
    const packets: Uint8Array[] = [];
    // What does not fit into the wire at once comes when there is room again.
    for (let before = -1; before !== packets.length; ) {
      before = packets.length;
      this.pump();
      for (let packet = this.wire.receive(); packet !== null; packet = this.wire.receive()) {
        packets.push(packet);
      }
    }
    return packets;
  }

  /** Gives the card a receive ring, with buffers in all descriptors but one, and enables it. */
  enableReceive(rctl: number, count = 8, tail = count - 1): void {
    for (let i = 0; i < count; i++) {
      const view = this.view(RX_RING + i * 16, 16);
      view.setBigUint64(0, BigInt(RX_BUFFERS + i * 0x4000), true);
      view.setBigUint64(8, 0n, true);
    }
    this.write(e1000.RDBAL, RX_RING);
    this.write(e1000.RDBAH, 0);
    this.write(e1000.RDLEN, count * 16);
    this.write(e1000.RDH, 0);
    this.write(e1000.RDT, tail);
    this.write(e1000.RCTL, rctl | e1000.RCTL_EN);
  }

  /** A packet from the wire. */
  arrive(packet: Uint8Array): void {
    const whole = new Uint8Array(VNET_HEADER + packet.length);
    whole.set(packet, VNET_HEADER);
    this.wire.send(whole);
    this.pump();
  }

  /** A receive descriptor and what its buffer has. */
  received(index: number): ReceivedPart {
    const view = this.view(RX_RING + index * 16, 16);
    const length = view.getUint16(8, true);
    return {
      length,
      status: view.getUint8(12),
      special: view.getUint16(14, true),
      bytes: this.bytes(RX_BUFFERS + index * 0x4000, length).slice(),
    };
  }

  #locked<T>(step: () => T): T {
    return this.state.lock.with(() => {
      this.bus.refresh();
      return step();
    });
  }
}

/** A packet to an address, with a payload of distinct bytes. */
export function frame(destination: Iterable<number>, length = 100): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => (i * 7) & 0xff);
  bytes.set([...destination], 0);
  bytes.set([2, 0, 0, 0, 0, 9], 6);
  bytes.set([0x08, 0x00], 12);
  return bytes;
}
