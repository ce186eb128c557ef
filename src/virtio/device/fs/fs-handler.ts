/** The file system device's data half: takes requests off the queues, and answers each at once. HOT. */
import type { ActiveQueue } from '../../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import { faultText, POP_CHAIN } from '../../queue/virtqueue.ts';
import { FileSystem, type FsHandlerOptions } from './file-system.ts';
import { ANSWER, FuseRequest, REQUEST_MALFORMED } from './fuse-request.ts';
import { INTERRUPTED, NO_ANSWER } from './operations/operation.ts';
import { carryOut, isUnanswered } from './operations.ts';

/** Requests of one queue that are processed before other queues and events get their turn. */
const KICK_BUDGET = 64;
/** The driver is notified after this many requests, so that it can work in parallel. */
const PUBLISH_BATCH = 8;

/** Serves all queues, including the high priority one (§5.11.6.2), alike: each kick has its budget. */
export class FsHandler implements QueueHandler {
  readonly #options: FsHandlerOptions;
  /** The guest's state, from one reset to the next. */
  #fs: FileSystem;
  #context: HandlerContext | null = null;
  #request: FuseRequest | null = null;
  #broken = false;

  /** @throws HostError when the shared folder cannot be accessed */
  constructor(options: FsHandlerOptions) {
    this.#options = options;
    this.#fs = new FileSystem(options);
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#broken = false;
    this.#fs.isInterrupted = context.isInterrupted ?? (() => false);
    this.#request = new FuseRequest(context.memory);
  }

  kick(index: number): void {
    const queue = this.#context?.queues[index];
    const request = this.#request;
    if (queue === undefined || request === null || this.#broken) return;
    const { virtqueue } = queue;
    let budget = KICK_BUDGET;
    virtqueue.disableKicks();
    do {
      budget -= this.#serve(queue, request, budget);
      if (this.#broken) return;
      if (budget <= 0) {
        queue.kickAgain();
        return;
      }
    } while (virtqueue.enableKicks());
  }

  stop(): void {
    this.#context = null;
    this.#request = null;
  }

  /** The control half closed what the guest held. */
  reset(): void {
    this.#fs = new FileSystem(this.#options);
  }

  /** Processes up to `budget` requests. Returns how many there were. */
  #serve(queue: ActiveQueue, request: FuseRequest, budget: number): number {
    const { virtqueue } = queue;
    const { chain } = request;
    let taken = 0;
    while (taken < budget) {
      // A pending command must not wait for everything a driver has queued.
      if (taken > 0 && this.#fs.isInterrupted()) {
        taken = budget;
        break;
      }
      const popped = virtqueue.pop(chain);
      if (popped !== POP_CHAIN) {
        if (popped < 0) this.#break(faultText(popped));
        break;
      }
      taken++;
      const written = this.#carryOut(request);
      if (written === INTERRUPTED) {
        virtqueue.undoPop(chain);
        taken = budget;
        break;
      }
      if (written < 0) {
        virtqueue.undoPop(chain);
        this.#break('a request has no header, or no room for that of its answer (§5.11.6)');
        break;
      }
      virtqueue.push(chain.id, chain.slots, written);
      if (taken % PUBLISH_BATCH === 0) queue.publish();
    }
    queue.publish();
    return taken;
  }

  /** Returns how many bytes were written, -1 or INTERRUPTED. */
  #carryOut(request: FuseRequest): number {
    const begun = request.begin();
    if (begun === REQUEST_MALFORMED) return -1;
    if (!isUnanswered(request.opcode) && request.chain.writableLength < ANSWER) return -1;
    const result = begun < 0 ? begun : carryOut(this.#fs, request);
    if (result === INTERRUPTED) return result;
    return result === NO_ANSWER || isUnanswered(request.opcode) ? 0 : request.answer(result);
  }

  #break(reason: string): void {
    this.#broken = true;
    this.#context?.broken(reason);
  }
}
