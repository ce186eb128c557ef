/**
 * The data half of a defined device: hands each chain to the queue's function, and answers it when
 * that is done.
 *
 * HOT: `kick`, measured by `nodevmm bench device`.
 */
import { describeError } from '../../host/errors.ts';
import type { ActiveQueue, HandlerContext, QueueHandler } from '../device.ts';
import { hasFeature } from '../features.ts';
import { DescriptorChain } from '../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN } from '../queue/virtqueue.ts';
import { ChainRequest } from './chain-request.ts';
import { ConfigFields } from './config-fields.ts';
import type { DeviceControl, DeviceDefinition, DeviceRequest } from './definition.ts';

/** Requests served before the rest of the thread gets its turn. */
const BUDGET = 64;

/** How long requests that were overtaken may still take when the queues are to be handed over. */
const DRAIN_MS = 1000;

/** To the control half: a field is to change. */
export interface ConfigChange {
  readonly field: string;
  readonly value: number;
}

/** From the control half: the configuration space as it is now, and the field that the driver wrote. */
export interface ConfigSnapshot {
  readonly config: Uint8Array;
  readonly written: string;
}

/** One queue, from an activation to its end. */
interface Lane {
  readonly served: ActiveQueue;
  readonly handle: (request: DeviceRequest, device: DeviceControl) => void | Promise<void>;
  /** Requests taken so far. */
  taken: number;
  /** The latest of them that was answered: what was taken before it cannot be given back. */
  answered: number;
  /** The one whose function runs, or failed. */
  current: ChainRequest | null;
  /** Those that wait for a promise. */
  readonly waiting: Set<ChainRequest>;
  /** Where the next chain goes. */
  chain: DescriptorChain;
  /** More of them, of requests that waited. */
  readonly free: DescriptorChain[];
}

/** Serves the queues of a definition. */
export class DefinedHandler implements QueueHandler {
  readonly #definition: DeviceDefinition;
  readonly #fields: ConfigFields;
  #config: Uint8Array<ArrayBuffer>;
  #context: HandlerContext | null = null;
  #control: DeviceControl | null = null;
  #lanes: (Lane | undefined)[] = [];
  /** No more requests are taken: the device is broken, or about to be handed over. */
  #closed = false;
  /** Resolves a `drain`, once nothing that was overtaken waits. */
  #drained: (() => void) | null = null;
  /** The queues that somebody will serve on. */
  #handedOver: readonly number[] = [];

  constructor(definition: DeviceDefinition) {
    this.#definition = definition;
    this.#fields = new ConfigFields(definition.config);
    this.#config = this.#fields.initial();
  }

  start(context: HandlerContext): void {
    this.#context = context;
    if (context.config !== undefined) this.#config = Uint8Array.from(context.config);
    this.#closed = false;
    this.#handedOver = [];
    this.#control = this.#createControl(context);
    this.#lanes = Object.values(this.#definition.queues).map(({ handle }, index) => {
      const served = context.queues[index];
      if (served === undefined) return undefined;
      return {
        served,
        handle,
        taken: 0,
        answered: 0,
        current: null,
        waiting: new Set(),
        chain: new DescriptorChain(context.memory),
        free: [],
      };
    });
    this.#definition.start?.(this.#control);
  }

  kick(queue: number): void {
    const lane = this.#lanes[queue];
    const control = this.#control;
    if (lane === undefined || control === null || this.#closed) return;
    const { virtqueue } = lane.served;
    let served = 0;
    do {
      let popped = virtqueue.pop(lane.chain);
      while (popped === POP_CHAIN) {
        this.#serve(lane, control);
        if (++served === BUDGET) break;
        popped = virtqueue.pop(lane.chain);
      }
      if (virtqueue.publish()) lane.served.interrupt();
      if (popped < 0) {
        this.#break(faultText(popped));
        return;
      }
    } while (served < BUDGET && virtqueue.enableKicks());
    if (served === BUDGET) lane.served.kickAgain();
  }

  ready(): void {}

  message(message: unknown): void {
    const { config, written } = message as ConfigSnapshot;
    this.#config = Uint8Array.from(config);
    const control = this.#control;
    if (control === null) return;
    this.#definition.configWritten?.(written, control.getConfig(written), control);
  }

  /**
   * A queue can take back only what was taken last. So requests that others overtook are waited
   * for, and `stop` gives back the rest.
   */
  drain(queues: readonly number[]): Promise<void> | undefined {
    this.#closed = true;
    this.#handedOver = queues;
    if (!this.#hasOvertaken()) return undefined;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, DRAIN_MS);
      this.#drained = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Requests without an answer go back to the queue, to be handled anew by whoever serves it next. */
  stop(): void {
    this.#closed = true;
    this.#drained = null;
    if (this.#hasOvertaken()) {
      // Given back it cannot be, and half an answer would be taken for a whole one.
      this.#context?.broken(
        'a request that later ones overtook was still without an answer when its queue was to be served elsewhere',
      );
    }
    for (const lane of this.#lanes) {
      if (lane !== undefined) giveBack(lane);
    }
    this.#lanes = [];
    this.#control = null;
    this.#definition.stop?.();
  }

  #serve(lane: Lane, control: DeviceControl): void {
    const request = new ChainRequest(lane.chain, ++lane.taken);
    lane.current = request;
    const promise = lane.handle(request, control);
    lane.current = null;
    if (promise === undefined) this.#answer(lane, request);
    else this.#await(lane, request, promise);
  }

  #await(lane: Lane, request: ChainRequest, promise: Promise<void>): void {
    lane.waiting.add(request);
    lane.chain = lane.free.pop() ?? new DescriptorChain(request.chain.memory);
    promise.then(
      () => {
        if (!lane.waiting.delete(request)) return;
        this.#answer(lane, request);
        lane.free.push(request.chain);
        if (lane.served.virtqueue.publish()) lane.served.interrupt();
        if (this.#drained !== null && !this.#hasOvertaken()) this.#drained();
      },
      (error: unknown) => {
        // It stays among those that wait, to be given back.
        if (lane.waiting.has(request)) this.#break(`its code failed: ${describeError(error)}`);
      },
    );
  }

  #answer(lane: Lane, request: ChainRequest): void {
    request.end('this request was answered already');
    if (request.order > lane.answered) lane.answered = request.order;
    const { chain } = request;
    lane.served.virtqueue.push(chain.id, chain.slots, request.written);
  }

  /** On the queues that are handed over. */
  #hasOvertaken(): boolean {
    return this.#lanes.some(
      (lane, index) =>
        lane !== undefined &&
        this.#handedOver.includes(index) &&
        [...lane.waiting].some(({ order }) => order < lane.answered),
    );
  }

  #break(reason: string): void {
    this.#closed = true;
    this.#context?.broken(reason);
  }

  #createControl(context: HandlerContext): DeviceControl {
    const { features = {} } = this.#definition;
    return {
      has: (name) => hasFeature(context.features, features[name] ?? -1),
      getConfig: (field) => this.#fields.get(new DataView(this.#config.buffer), field),
      setConfig: (field, value) => {
        this.#fields.set(new DataView(this.#config.buffer), field, value);
        context.post({ field, value } satisfies ConfigChange, field);
      },
      log: (text) => context.log(text),
    };
  }
}

/** Latest first, as far as none of them was answered; the others are lost to a driver that goes on. */
function giveBack(lane: Lane): void {
  const { virtqueue } = lane.served;
  const left = [...lane.waiting, ...(lane.current === null ? [] : [lane.current])];
  for (const request of left.sort((a, b) => b.order - a.order)) {
    request.end('this request was given back when the device stopped');
    if (request.order > lane.answered) virtqueue.undoPop(request.chain);
  }
  lane.waiting.clear();
  if (virtqueue.publish()) lane.served.interrupt();
}
