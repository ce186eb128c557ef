/**
 * Objects that are closed, and what is to be undone, last first: the standard's DisposableStack and AsyncDisposableStack, which
 * Node 20 lacks. One difference: what is added to a CleanupStack that was disposed is undone at once
 * and not an error, because a signal may dispose of a stack that is still being filled.
 *
 * A function that opens several things and hands them on:
 *
 *     using stack = new CleanupStack();
 *     const ram = stack.use(new Ram(size));
 *     const vm = stack.use(new Vm(ram));
 *     return new Machine(vm, stack.move());
 */

import { InternalError } from './errors.ts';

/** An object that holds something until it is closed, which `using` does as well. */
export abstract class Closeable implements Disposable {
  /** Releases what it holds. */
  abstract close(): void;

  /** As `close`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** The same for what takes a while to close: `await using`. */
export abstract class AsyncCloseable implements AsyncDisposable {
  /** Releases what it holds. */
  abstract close(): Promise<void>;

  /** As `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Undoes each thing once. If some throw, the others are undone all the same; the first error is thrown. */
export class CleanupStack implements Disposable {
  #undos: (() => void)[] = [];
  #disposed = false;

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Adds a resource. @returns the resource */
  use<T extends Disposable | null | undefined>(resource: T): T {
    if (resource != null) this.defer(() => resource[Symbol.dispose]());
    return resource;
  }

  /** Adds a value and what undoes it. @returns the value */
  adopt<T>(value: T, undo: (value: T) => void): T {
    this.defer(() => undo(value));
    return value;
  }

  defer(undo: () => void): void {
    if (this.#disposed) undo();
    else this.#undos.push(undo);
  }

  /** Hands everything to a new stack; this one is disposed, and undoes nothing. */
  move(): CleanupStack {
    const moved = new CleanupStack();
    moved.#undos = this.#undos.splice(0);
    moved.#disposed = this.#disposed;
    this.#disposed = true;
    return moved;
  }

  dispose(): void {
    this.#disposed = true;
    const errors: unknown[] = [];
    for (let undo = this.#undos.pop(); undo !== undefined; undo = this.#undos.pop()) {
      try {
        undo();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The same for what is undone asynchronously, one thing after the other. */
export class AsyncCleanupStack implements AsyncDisposable {
  #undos: (() => void | PromiseLike<void>)[] = [];
  #disposed = false;

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Adds a resource. @returns the resource */
  use<T extends AsyncDisposable | Disposable | null | undefined>(resource: T): T {
    if (resource == null) return resource;
    if (Symbol.asyncDispose in resource) this.defer(() => resource[Symbol.asyncDispose]());
    else this.defer(() => resource[Symbol.dispose]());
    return resource;
  }

  /** Adds a value and what undoes it. @returns the value */
  adopt<T>(value: T, undo: (value: T) => void | PromiseLike<void>): T {
    this.defer(() => undo(value));
    return value;
  }

  /** @throws InternalError after the end, when it would not be awaited */
  defer(undo: () => void | PromiseLike<void>): void {
    if (this.#disposed) throw new InternalError('the cleanup stack is disposed');
    this.#undos.push(undo);
  }

  /** Hands everything to a new stack; this one is disposed, and undoes nothing. */
  move(): AsyncCleanupStack {
    const moved = new AsyncCleanupStack();
    moved.#undos = this.#undos.splice(0);
    moved.#disposed = this.#disposed;
    this.#disposed = true;
    return moved;
  }

  async disposeAsync(): Promise<void> {
    this.#disposed = true;
    const errors: unknown[] = [];
    for (let undo = this.#undos.pop(); undo !== undefined; undo = this.#undos.pop()) {
      try {
        await undo();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disposeAsync();
  }
}
