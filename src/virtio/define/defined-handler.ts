/**
 * The data half of a defined device: hands each chain to the queue's function, and answers it when
 * that is done.
 *
 * HOT: `kick`. Requests that are answered at once take one object a queue; only those that wait
 * for a promise have their own.
 */
import { describeError, UsageError } from '../../host/errors.ts';
import type { HandlerContext, QueueHandler, ServedQueue } from '../device.ts';
import { hasFeature } from '../features.ts';
import { DescriptorChain } from '../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN } from '../queue/virtqueue.ts';
import { ConfigFields } from './config-fields.ts';
import type { DeviceControl, DeviceDefinition, DeviceRequest } from './definition.ts';

/** Requests served before the rest of the thread gets its turn. */
const BUDGET = 64;

/** To the control half: a field is to change. */
export interface ConfigChange {
  readonly field: string;
  readonly value: number;
}

/** From the control half: the configuration space as it is now, and what the driver wrote. */
export interface ConfigSnapshot {
  readonly config: Uint8Array;
  readonly written: readonly string[];
}

/** A chain that is being served. */
class ChainRequest implements DeviceRequest {
  readonly chain: DescriptorChain;
  /** How far the device has written. */
  written = 0;
  #answered = false;

  constructor(chain: DescriptorChain) {
    this.chain = chain;
  }

  reuse(): void {
    this.written = 0;
    this.#answered = false;
  }

  answered(): void {
    this.#answered = true;
  }

  get readableLength(): number {
    return this.chain.readableLength;
  }

  get writableLength(): number {
    return this.chain.writableLength;
  }

  read(position = 0, length = this.chain.readableLength - position): Uint8Array {
    this.#check();
    const bytes = new Uint8Array(
      Math.max(0, Math.min(length, this.chain.readableLength - position)),
    );
    this.chain.read(position, bytes);
    return bytes;
  }

  write(bytes: Uint8Array, position = this.written): void {
    this.#check();
    const end = position + bytes.length;
    if (!(position >= 0) || end > this.chain.writableLength) {
      throw new UsageError(
        'E_REQUEST',
        `a write of bytes ${position} to ${end} into a request that has room for ${this.chain.writableLength}`,
      );
    }
    this.chain.write(position, bytes);
    this.written = Math.max(this.written, end);
  }

  /** The driver may have reused the memory. */
  #check(): void {
    if (this.#answered) throw new UsageError('E_REQUEST', 'this request was answered already');
  }
}

/** One queue, from an activation to its end. */
interface Lane {
  readonly served: ServedQueue;
  readonly handle: (request: DeviceRequest, device: DeviceControl) => void | Promise<void>;
  /** For requests that are answered at once; replaced when one has to wait. */
  request: ChainRequest;
  /** Those whose wait is over. */
  readonly free: ChainRequest[];
}

/** Serves the queues of a definition. */
export class DefinedHandler implements QueueHandler {
  readonly #definition: DeviceDefinition;
  readonly #fields: ConfigFields;
  #config: Uint8Array<ArrayBuffer>;
  #context: HandlerContext | null = null;
  #control: DeviceControl | null = null;
  #lanes: (Lane | undefined)[] = [];
  /** Requests that wait, with how to give each back. */
  readonly #waiting = new Map<ChainRequest, Lane>();

  /** @param config what the control half last said of the configuration space */
  constructor(definition: DeviceDefinition, config?: Uint8Array) {
    this.#definition = definition;
    this.#fields = new ConfigFields(definition.config);
    this.#config = config === undefined ? this.#fields.initial() : Uint8Array.from(config);
  }

  start(context: HandlerContext): void {
    this.#context = context;
    this.#control = this.#createControl(context);
    this.#lanes = Object.values(this.#definition.queues).map(({ handle }, index) => {
      const served = context.queues[index];
      if (served === undefined) return undefined;
      const chain = new DescriptorChain(context.memory);
      return { served, handle, request: new ChainRequest(chain), free: [] };
    });
    this.#definition.start?.(this.#control);
  }

  kick(queue: number): void {
    const lane = this.#lanes[queue];
    const control = this.#control;
    if (lane === undefined || control === null) return;
    const { virtqueue } = lane.served;
    let served = 0;
    do {
      let popped = virtqueue.pop(lane.request.chain);
      while (popped === POP_CHAIN) {
        this.#serve(lane, control);
        if (this.#lanes[queue] === undefined) return;
        if (++served === BUDGET) break;
        popped = virtqueue.pop(lane.request.chain);
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
    for (const field of written) {
      this.#definition.configWritten?.(field, control.getConfig(field), control);
    }
  }

  /**
   * Requests that wait are answered with what was written so far: who is to answer them would
   * come too late.
   */
  stop(): void {
    for (const [request, lane] of this.#waiting) this.#answer(lane, request);
    this.#waiting.clear();
    for (const lane of this.#lanes) {
      if (lane?.served.virtqueue.publish() === true) lane.served.interrupt();
    }
    this.#lanes = [];
    this.#control = null;
    this.#definition.stop?.();
  }

  #serve(lane: Lane, control: DeviceControl): void {
    const { request } = lane;
    request.reuse();
    const promise = lane.handle(request, control);
    if (promise === undefined) {
      this.#answer(lane, request);
      return;
    }
    this.#waiting.set(request, lane);
    lane.request = lane.free.pop() ?? new ChainRequest(new DescriptorChain(request.chain.memory));
    promise.then(
      () => {
        if (!this.#waiting.delete(request)) return;
        this.#answer(lane, request);
        lane.free.push(request);
        if (lane.served.virtqueue.publish()) lane.served.interrupt();
      },
      (error: unknown) => {
        if (this.#waiting.delete(request)) this.#break(`its code failed: ${describeError(error)}`);
      },
    );
  }

  #answer({ served }: Lane, request: ChainRequest): void {
    request.answered();
    served.virtqueue.push(request.chain.id, request.chain.slots, request.written);
  }

  #break(reason: string): void {
    this.#lanes = [];
    this.#context?.broken(reason);
  }

  #createControl(context: HandlerContext): DeviceControl {
    const { features = {} } = this.#definition;
    return {
      has: (name) => hasFeature(context.features, features[name] ?? -1),
      getConfig: (field) => this.#fields.get(new DataView(this.#config.buffer), field),
      setConfig: (field, value) => {
        this.#fields.set(new DataView(this.#config.buffer), field, value);
        context.post({ field, value } satisfies ConfigChange);
      },
      log: (text) => context.log(text),
    };
  }
}
