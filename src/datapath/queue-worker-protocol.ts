/** The messages between the two ends of a queue worker. */
import { describeError, NodeVmmError } from '../host/errors.ts';
import type { DeniedAccess } from '../memory/guest-memory.ts';
import type { Breach } from '../virtio/observe/observation.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation } from './datapath.ts';

/** What a queue worker is started with. */
export interface QueueWorkerData {
  /** The device's name; the thread's name too. */
  readonly name: string;
  /** URL of the module with `createHandler(options)`. */
  readonly module: string;
  readonly options: unknown;
  /** Signaled when `port` and `steer` have news. */
  readonly controlFd: number;
  /** STEER_ words. */
  readonly steer: Int32Array<SharedArrayBuffer>;
}

/** Words that steer a worker: not 0 when the process ends; */
export const STEER_QUIT = 0;
/** not 0 while there is a message that the worker has not read. */
export const STEER_MESSAGE = 1;
/** the thread's id, once it runs. */
export const STEER_TID = 2;
export const STEER_WORDS = 3;

/** To the worker; each is followed by a signal on the control eventfd. */
export type ToQueueWorker =
  | { readonly op: 'start'; readonly id: number; readonly activation: Activation }
  | { readonly op: 'stop'; readonly id: number; readonly continuing: readonly number[] }
  | { readonly op: 'reset'; readonly id: number }
  | { readonly op: 'states'; readonly id: number }
  | { readonly op: 'post'; readonly messages: readonly unknown[] }
  /** The last batch of messages was received. */
  | { readonly op: 'taken' }
  | { readonly op: 'close' };

/** An error that crosses threads: a structured clone would lose its class. */
export interface CarriedError {
  readonly name: string;
  readonly code: string;
  readonly problem: string;
  readonly remedy: string | undefined;
}

/** @param error what was caught in the worker */
export function carriedError(error: unknown): CarriedError {
  const name = error instanceof Error ? error.name : 'Error';
  if (!(error instanceof NodeVmmError)) {
    return { name, code: 'E_INTERNAL', problem: describeError(error), remedy: undefined };
  }
  const { code, problem, remedy } = error;
  return { name, code, problem, remedy };
}

/** From the worker. */
export type FromQueueWorker =
  | { readonly op: 'done'; readonly id: number; readonly states: ReadonlyMap<number, VringState> }
  | { readonly op: 'failed'; readonly id: number; readonly error: CarriedError }
  | { readonly op: 'broken'; readonly reason: string; readonly denied: DeniedAccess | undefined }
  | { readonly op: 'log'; readonly text: string }
  | { readonly op: 'post'; readonly messages: readonly unknown[] }
  | { readonly op: 'taken' }
  | { readonly op: 'breach'; readonly breach: Breach };

/**
 * Messages to the other thread, with at most one batch in flight, whatever a guest does. While the
 * receiver has not taken the last batch, further messages wait; of those with the same key, only
 * the last is kept.
 */
export class LatestMessages {
  readonly #send: (messages: readonly unknown[]) => void;
  readonly #waiting = new Map<string, unknown>();
  /** Batches that the receiver has not taken. */
  #underWay = 0;

  constructor(send: (messages: readonly unknown[]) => void) {
    this.#send = send;
  }

  /** @param key one of a few: a message replaces a waiting one with the same key */
  post(message: unknown, key: string): void {
    // Replaced ones move to the end: the order is that of the last of each.
    this.#waiting.delete(key);
    this.#waiting.set(key, message);
    if (this.#underWay === 0) this.flush();
  }

  /** The receiver took a batch. */
  taken(): void {
    this.#underWay--;
    if (this.#underWay === 0) this.flush();
  }

  /** Sends what waits, taken or not, ahead of a request that follows. */
  flush(): void {
    if (this.#waiting.size === 0) return;
    const messages = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#underWay++;
    this.#send(messages);
  }
}
