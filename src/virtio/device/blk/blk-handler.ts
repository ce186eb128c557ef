/**
 * The block device's data half: takes requests off the queues, hands them to the disk's engine,
 * and returns what completed.
 *
 * HOT: bench/groups/device.ts.
 */
import {
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from '../../../abi/virtio-blk.ts';
import { hasFeature } from '../../../abi/virtio-ring.ts';
import type { DiskEngine } from '../../../backend/disk-engine.ts';
import { openDiskEngine } from '../../../backend/ring-disk.ts';
import { errnoName } from '../../../host/syscall.ts';
import type { ActiveQueue } from '../../active-queue.ts';
import { type HandlerContext, type QueueHandler, READABLE } from '../../device.ts';
import { faultText, POP_CHAIN } from '../../queue/virtqueue.ts';
import { BlkDisk, type BlkHandlerOptions, MAX_WEIGHT } from './blk-disk.ts';
import {
  BlkRequest,
  REQUEST_DONE,
  REQUEST_MALFORMED,
  REQUEST_PARKED,
  REQUEST_PENDING,
  REQUEST_READY,
} from './blk-request.ts';

const COMPLETIONS = 0;

/** Requests of one queue that are processed before other queues and events get their turn. */
const KICK_BUDGET = 256;
/** A longer request counts as this many more: 16 MiB a turn. */
const REQUEST_BYTES = 64 * 1024;
/** The cost of requests between two checks of `isInterrupted`: 512 KiB, or 8 short ones. */
const LOOK_COST = 8;
/** The driver is notified after this many requests, so that it can work in parallel. */
const PUBLISH_BATCH = 16;

/** Makes the disk's engine; tests substitute their own. */
export type OpenEngine = typeof openDiskEngine;

/** One queue: its free request slots, and what is not published yet. */
class RequestQueue {
  readonly served: ActiveQueue;
  /** Slots that hold no request; made as the driver's depth grows, at most one per descriptor. */
  readonly free: BlkRequest[] = [];
  slots = 0;
  unpublished = 0;
  /** Chains may be waiting that found no free slot, or had to wait for a long request. */
  starved = false;

  constructor(served: ActiveQueue) {
    this.served = served;
  }

  publish(): void {
    if (this.unpublished === 0) return;
    this.unpublished = 0;
    this.served.publish();
  }

  /** After completions: publishes them, and continues with the chains that had to wait for them. */
  completed(): void {
    this.publish();
    if (!this.starved) return;
    if (this.free.length === 0 && this.slots === this.served.virtqueue.size) return;
    this.starved = false;
    this.served.kickAgain();
  }
}

/** Serves a block device's queues; see `createHandler` in blk.ts. */
export class BlkHandler implements QueueHandler {
  readonly #options: BlkHandlerOptions;
  readonly #open: OpenEngine;
  #queues: (RequestQueue | undefined)[] = [];
  /** By token. */
  #requests: BlkRequest[] = [];
  #inFlight = 0;
  /** Bytes of the requests in flight. */
  #weight = 0;
  /** In flight, and above the limit for all: none is taken after it. */
  #heavy: BlkRequest | null = null;
  /** Left unfinished, and the last that was taken: none is taken before it is done. */
  #parked: BlkRequest | null = null;
  #isInterrupted: () => boolean = () => false;
  #broken = false;
  #context: HandlerContext | null = null;
  #disk: BlkDisk | null = null;
  #engine: DiskEngine | null = null;

  constructor(options: BlkHandlerOptions, open: OpenEngine = openDiskEngine) {
    this.#options = options;
    this.#open = open;
  }

  start(context: HandlerContext): void {
    const { features, memory } = context;
    this.#queues = [];
    this.#requests = [];
    this.#broken = false;
    let depth = 0;
    for (const served of context.queues) {
      this.#queues.push(served && new RequestQueue(served));
      depth += served?.virtqueue.size ?? 0;
    }
    this.#context = context;
    this.#isInterrupted = context.isInterrupted ?? this.#isInterrupted;
    const negotiated = {
      flushes: hasFeature(features, VIRTIO_BLK_F_FLUSH),
      toggles: hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE),
      discard: hasFeature(features, VIRTIO_BLK_F_DISCARD),
      writeZeroes: hasFeature(features, VIRTIO_BLK_F_WRITE_ZEROES),
    };
    this.#disk = new BlkDisk(memory, this.#options, negotiated, this.#isInterrupted);
    this.#engine = this.#open(this.#options.disk, depth, (text) => context.log(text));
    const { completionFd } = this.#engine;
    this.#disk.blocks = completionFd < 0;
    if (completionFd >= 0) context.reactor.watch(completionFd, READABLE, COMPLETIONS);
  }

  kick(index: number): void {
    const queue = this.#queues[index];
    const engine = this.#engine;
    if (queue === undefined || engine === null || this.#broken) return;
    if (this.#parked !== null) this.#goOn(this.#parked);
    const { virtqueue } = queue.served;
    let budget = KICK_BUDGET;
    virtqueue.disableKicks();
    do {
      budget -= this.#take(queue, engine, budget);
      engine.submit();
      const { starved } = queue;
      // The page cache's contents are complete already.
      this.#reap(engine);
      if (this.#broken || starved) return;
      if (budget <= 0) {
        queue.served.kickAgain();
        return;
      }
    } while (virtqueue.enableKicks());
  }

  ready(_token: number, _events: number): void {
    if (this.#engine !== null) this.#reap(this.#engine);
  }

  /** The driver switched `writeback` off: its recent writes are made stable, too. */
  message(_message: unknown): void {
    const result = this.#engine?.flushNow() ?? 0;
    if (result >= 0) return;
    const name = errnoName(-result);
    this.#context?.log(`the disk could not be flushed for writethrough (${name})`);
  }

  stop(): void {
    const engine = this.#engine;
    if (engine === null) return;
    if (this.#disk !== null) this.#disk.stopping = true;
    while (this.#inFlight > 0) {
      engine.wait();
      this.#reap(engine);
    }
    this.#giveBack();
    if (engine.completionFd >= 0) this.#context?.reactor.watch(engine.completionFd, 0, COMPLETIONS);
    engine.close();
    this.#engine = null;
  }

  /** Continues the unfinished request. */
  #goOn(request: BlkRequest): void {
    this.#parked = null;
    this.#started(this.#queues[request.queue] as RequestQueue, request, request.start());
    if (this.#parked === null) for (const queue of this.#queues) queue?.completed();
  }

  /** An unfinished request belongs to the queue's next datapath. */
  #giveBack(): void {
    const request = this.#parked;
    if (request === null) return;
    this.#parked = null;
    this.#queues[request.queue]?.served.virtqueue.undoPop(request.chain);
  }

  /** Takes requests off a queue, up to a cost of `budget`. Returns their cost. */
  #take(queue: RequestQueue, engine: DiskEngine, budget: number): number {
    const { virtqueue } = queue.served;
    let taken = 0;
    let look = LOOK_COST;
    while (taken < budget) {
      if (taken >= look) {
        // A pending command must not wait for everything a driver has queued.
        if (this.#isInterrupted()) {
          taken = budget;
          break;
        }
        look = taken + LOOK_COST;
      }
      if (this.#heavy !== null || this.#parked !== null) {
        queue.starved = true;
        break;
      }
      const request = queue.free.pop() ?? this.#addSlot(queue, engine);
      queue.starved = request === undefined;
      if (request === undefined) break;
      const popped = virtqueue.pop(request.chain);
      if (popped !== POP_CHAIN) {
        queue.free.push(request);
        if (popped < 0) this.#break(faultText(popped));
        break;
      }
      const prepared = request.prepare();
      if (prepared === REQUEST_READY) {
        if (this.#weight > 0 && this.#weight + request.weight > MAX_WEIGHT) {
          virtqueue.undoPop(request.chain);
          queue.free.push(request);
          queue.starved = true;
          break;
        }
        taken++;
        if (request.weight >= REQUEST_BYTES) taken += Math.floor(request.weight / REQUEST_BYTES);
        const progress = request.start();
        if (progress === REQUEST_DONE) this.#complete(queue, request);
        else this.#started(queue, request, progress);
        continue;
      }
      taken++;
      if (prepared === REQUEST_DONE) {
        this.#complete(queue, request);
      } else if (prepared === REQUEST_MALFORMED) {
        virtqueue.push(request.chain.id, request.chain.slots, 0);
        queue.free.push(request);
        queue.unpublished++;
        this.#break('a block request has no room for its status (§5.2.6)');
        break;
      }
    }
    queue.publish();
    return taken;
  }

  #started(queue: RequestQueue, request: BlkRequest, progress: number): void {
    if (progress === REQUEST_DONE) {
      this.#complete(queue, request);
    } else if (progress === REQUEST_PARKED) {
      this.#parked = request;
      queue.served.kickAgain();
    } else {
      this.#inFlight++;
      this.#weight += request.weight;
      if (request.weight > MAX_WEIGHT) this.#heavy = request;
    }
  }

  #reap(engine: DiskEngine): void {
    if (this.#inFlight === 0) return;
    while (engine.reap()) {
      const request = this.#requests[engine.token] as BlkRequest;
      const progress = request.resume(engine.result);
      if (progress === REQUEST_PENDING) continue;
      this.#inFlight--;
      this.#weight -= request.weight;
      if (request === this.#heavy) this.#heavy = null;
      if (progress === REQUEST_PARKED) this.#parked = request;
      else this.#complete(this.#queues[request.queue] as RequestQueue, request);
    }
    engine.submit();
    for (const queue of this.#queues) queue?.completed();
  }

  #complete(queue: RequestQueue, request: BlkRequest): void {
    queue.served.virtqueue.push(request.chain.id, request.chain.slots, request.written);
    queue.free.push(request);
    if (++queue.unpublished >= PUBLISH_BATCH) queue.publish();
  }

  #addSlot(queue: RequestQueue, engine: DiskEngine): BlkRequest | undefined {
    const { virtqueue } = queue.served;
    const disk = this.#disk;
    if (queue.slots === virtqueue.size || disk === null) return undefined;
    queue.slots++;
    const token = this.#requests.length;
    const segments = Math.max(virtqueue.size, this.#options.chainLength ?? 0);
    const request = new BlkRequest(token, virtqueue.index, disk, engine, segments);
    this.#requests.push(request);
    return request;
  }

  #break(reason: string): void {
    this.#broken = true;
    this.#context?.broken(reason);
  }
}
