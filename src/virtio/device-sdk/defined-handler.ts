/**
 * The data half of a defined device: passes each chain to the queue's function, and answers it when
 * the function is done.
 *
 * HOT: `kick`, measured by `nodevmm bench device`.
 */

import { hasFeature } from '../../abi/virtio-ring.ts';
import { describeError } from '../../host/errors.ts';
import { type ActiveQueue, KEEP_CHAIN } from '../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../device.ts';
import type { DescriptorChain } from '../queue/descriptor-chain.ts';
import { ChainRequest } from './chain-request.ts';
import { ConfigFields } from './config-fields.ts';
import type { DeviceControl, DeviceDefinition, DeviceRequest } from './definition.ts';

/** Requests served before the rest of the thread gets its turn. */
const BUDGET = 64;

/** How long overtaken requests may still take when the queues are handed over. */
const DRAIN_MS = 1000;

/** To the control half: change a field. */
export interface ConfigChange {
  readonly field: string;
  readonly value: number;
}

/** From the control half: the current configuration space, and the field that the driver wrote. */
export interface ConfigSnapshot {
  readonly config: Uint8Array;
  readonly written: string;
}

/** One queue, from an activation to its end. */
interface Lane {
  readonly queue: ActiveQueue;
  readonly handle: (request: DeviceRequest, device: DeviceControl) => void | Promise<void>;
  /** Requests taken so far. */
  taken: number;
  /** The latest of them that was answered: those taken before it cannot be given back. */
  answered: number;
  /** The request whose function runs, or failed. */
  current: ChainRequest | null;
  /** Those that await a promise. */
  readonly waiting: Set<ChainRequest>;
  /** Serves one chain. */
  readonly serve: (chain: DescriptorChain) => number;
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
  /** Resolves a `drain`, once no overtaken request is pending. */
  #drained: (() => void) | null = null;
  /** The queues that will continue to be served. */
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
    this.#drained = null;
    this.#handedOver = [];
    const control = this.#createControl(context);
    this.#control = control;
    this.#lanes = Object.values(this.#definition.queues).map(({ handle }, index) => {
      const queue = context.queues[index];
      if (queue === undefined) return undefined;
      const lane: Lane = {
        queue,
        handle,
        taken: 0,
        answered: 0,
        current: null,
        waiting: new Set(),
        serve: (chain) => this.#serve(lane, chain, control),
      };
      return lane;
    });
    this.#definition.start?.(control);
  }

  kick(queue: number): void {
    if (!this.#closed)
      this.#lanes[queue]?.queue.serve(BUDGET, this.#lanes[queue].serve, this.#isOpen);
  }

  message(message: unknown): void {
    const { config, written } = message as ConfigSnapshot;
    this.#config = Uint8Array.from(config);
    const control = this.#control;
    if (control === null) return;
    this.#definition.configWritten?.(written, control.getConfig(written), control);
  }

  /**
   * A queue can take back only the latest chains. So overtaken requests are waited
   * for, and `stop` returns the rest.
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

  /** Unanswered requests return to the queue, to be handled again by its next datapath. */
  stop(): void {
    this.#closed = true;
    this.#drained = null;
    if (this.#hasOvertaken()) {
      // It cannot be given back, and half an answer would pass for a whole one.
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

  readonly #isOpen = (): boolean => !this.#closed;

  #serve(lane: Lane, chain: DescriptorChain, control: DeviceControl): number {
    const request = new ChainRequest(chain, ++lane.taken);
    lane.current = request;
    const promise = lane.handle(request, control);
    lane.current = null;
    if (promise === undefined) return this.#answer(lane, request);
    this.#await(lane, request, promise);
    return KEEP_CHAIN;
  }

  #await(lane: Lane, request: ChainRequest, promise: Promise<void>): void {
    lane.waiting.add(request);
    promise.then(
      () => {
        if (!lane.waiting.delete(request)) return;
        lane.queue.complete(request.chain, this.#answer(lane, request));
        lane.queue.publish();
        if (this.#drained !== null && !this.#hasOvertaken()) this.#drained();
      },
      (error: unknown) => {
        // It stays among the pending ones, to be given back.
        if (lane.waiting.has(request)) this.#break(`its code failed: ${describeError(error)}`);
      },
    );
  }

  /** @returns the bytes that were written */
  #answer(lane: Lane, request: ChainRequest): number {
    request.end('this request was answered already');
    if (request.order > lane.answered) lane.answered = request.order;
    return request.written;
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

/** Latest first, until one was answered; a driver that continues loses the others. */
function giveBack(lane: Lane): void {
  const { virtqueue } = lane.queue;
  const left = [...lane.waiting, ...(lane.current === null ? [] : [lane.current])];
  for (const request of left.sort((a, b) => b.order - a.order)) {
    request.end('this request was given back when the device stopped');
    if (request.order > lane.answered) virtqueue.undoPop(request.chain);
  }
  lane.waiting.clear();
  lane.queue.publish();
}
