/**
 * A network device's receive queue (virtio 1.3 §5.1.6.3, §5.1.6.4): buffers are staged ahead of
 * packets, and the kernel puts each packet straight into guest RAM.
 *
 * A packet's length is not known before it is read. So each read offers all staged buffers, and
 * behind them a spill area of this process: the part of a packet beyond the staged buffers lands there,
 * and is copied once the driver has made enough buffers available.
 *
 * HOT, measured by bench/groups/net.ts.
 */
import { EAGAIN } from '../../../abi/errno.ts';
import { virtio_net_hdr } from '../../../abi/virtio-net.ts';
import type { ReceiveErrors, TapQueue } from '../../../backend/tap-queue.ts';
import type { ActiveQueue } from '../../active-queue.ts';
import type { HandlerContext } from '../../device.ts';
import type { Virtqueue } from '../../queue/virtqueue.ts';
import type { ReceiveFilter } from './net-filter.ts';
import { STAGE_EMPTY, STAGE_FAULT, STAGE_FULL, StagedBuffers } from './net-staging.ts';

/** Packets between two checks of the thread's other events. */
const BUDGET = 64;
/** Bytes that are returned to the driver together, so that it works while we read on. */
const BATCH_BYTES = 256 * 1024;
const NUM_BUFFERS = virtio_net_hdr.num_buffers.offset;
/** Bytes of header, MAC addresses, and VLAN tag: what the filter reads. */
const FILTER_BYTES = virtio_net_hdr.size + 16;
const DESTINATION = virtio_net_hdr.size;
const ETHERTYPE = virtio_net_hdr.size + 12;
const ETH_P_8021Q = 0x8100;

/** From one activation to its end. */
export class ReceiveQueue {
  /** Packets that did not fit into the driver's buffers. */
  dropped = 0;
  /** Packets that the driver's filters rejected. */
  filtered = 0;
  /** The driver has to add buffers before anything can be received. */
  starved = true;
  readonly errors: ReceiveErrors;
  readonly #served: ActiveQueue;
  readonly #virtqueue: Virtqueue;
  readonly #tap: TapQueue;
  readonly #filter: ReceiveFilter;
  readonly #staged: StagedBuffers;
  readonly #mergeable: boolean;
  /** Bytes that one read should have room for without spilling. */
  readonly #wanted: number;
  /** Length of a packet that waits for buffers for its spilled part, or 0. */
  #waiting = 0;
  #unpublished = 0;

  /**
   * @param mergeable VIRTIO_NET_F_MRG_RXBUF: a packet may take several buffers
   * @param largest bytes of the largest packet from the tap, including its header
   */
  constructor(
    served: ActiveQueue,
    tap: TapQueue,
    filter: ReceiveFilter,
    errors: ReceiveErrors,
    context: HandlerContext,
    mergeable: boolean,
    largest: number,
  ) {
    this.#served = served;
    this.#virtqueue = served.virtqueue;
    this.#tap = tap;
    this.#filter = filter;
    this.errors = errors;
    this.#mergeable = mergeable;
    this.#wanted = mergeable ? largest : 1;
    this.#staged = new StagedBuffers(served.virtqueue, context);
  }

  /** Receives the tap's packets. Sets `starved` when the driver's buffers are used up. */
  run(): void {
    const staged = this.#staged;
    for (let budget = BUDGET; budget > 0; budget--) {
      if (this.#waiting > 0 && !this.#unspill()) return;
      if (!this.#stage()) return;
      const length = this.#tap.receive(staged.iovecAddress, staged.offerSpill());
      if (length <= 0) {
        if (length !== -EAGAIN) this.errors.failed(length);
        break;
      }
      this.errors.worked();
      // Without even a header it is not a packet.
      if (length >= virtio_net_hdr.size) this.#received(length);
    }
    this.#publish();
  }

  /** The driver added buffers. Returns true when it is worth running. */
  kicked(): boolean {
    if (!this.starved) return false;
    this.starved = false;
    this.#virtqueue.disableKicks();
    return true;
  }

  /** Gives the staged buffers back to the queue. A packet that waits for more of them is lost. */
  stop(): void {
    if (this.#waiting > 0) this.dropped++;
    this.#waiting = 0;
    this.#publish();
    this.#staged.undo();
    this.errors.close();
  }

  #received(length: number): void {
    const staged = this.#staged;
    if (!this.#filter.promiscuous && !this.#wants(length)) {
      this.filtered++;
    } else if (length <= staged.bytes) {
      this.#deliver(length);
    } else if (this.#mergeable && length - staged.bytes <= staged.spillSize) {
      this.#waiting = length;
    } else {
      this.dropped++;
    }
  }

  /** Stages enough for a packet, or all there is. Returns false when there is nothing. */
  #stage(): boolean {
    const staged = this.#staged;
    while (staged.bytes < this.#wanted) {
      const result = staged.add();
      if (result === STAGE_FAULT) return false;
      if (result !== STAGE_EMPTY && result !== STAGE_FULL) continue;
      if (staged.bytes > 0) return true;
      if (!this.#starve()) return false;
    }
    return true;
  }

  /** Copies the spilled part of the packet that waits. Returns false when that takes more buffers. */
  #unspill(): boolean {
    const staged = this.#staged;
    const length = this.#waiting;
    while (staged.bytes < length) {
      const position = staged.bytes;
      const result = staged.add();
      if (result === STAGE_FAULT) return false;
      if (result === STAGE_FULL) {
        this.#waiting = 0;
        this.dropped++;
        return true;
      }
      if (result !== STAGE_EMPTY) staged.copySpill(position, length);
      else if (!this.#starve()) return false;
    }
    this.#waiting = 0;
    this.#deliver(length);
    return true;
  }

  /** Asks for a kick. Returns true when buffers came meanwhile. */
  #starve(): boolean {
    this.#publish();
    if (this.#virtqueue.enableKicks()) {
      this.#virtqueue.disableKicks();
      return true;
    }
    this.starved = true;
    return false;
  }

  #wants(length: number): boolean {
    const staged = this.#staged;
    if (length < FILTER_BYTES || staged.bytes < FILTER_BYTES) return true;
    let destination = 0;
    for (let i = 0; i < 6; i++) destination = destination * 256 + staged.byteAt(DESTINATION + i);
    let vlan = -1;
    if (staged.byteAt(ETHERTYPE) * 256 + staged.byteAt(ETHERTYPE + 1) === ETH_P_8021Q) {
      vlan = (staged.byteAt(ETHERTYPE + 2) & 0xf) * 256 + staged.byteAt(ETHERTYPE + 3);
    }
    return this.#filter.accepts(destination, vlan);
  }

  /** §5.1.6.4.1: num_buffers is 1 without VIRTIO_NET_F_MRG_RXBUF. */
  #deliver(length: number): void {
    const staged = this.#staged;
    const buffers = staged.count(length);
    staged.setByteAt(NUM_BUFFERS, buffers & 0xff);
    staged.setByteAt(NUM_BUFFERS + 1, buffers >>> 8);
    staged.push(buffers, length);
    this.#unpublished += length;
    if (this.#unpublished >= BATCH_BYTES) this.#publish();
  }

  #publish(): void {
    this.#unpublished = 0;
    this.#served.publish();
  }
}
