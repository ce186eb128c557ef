/** Things to undo at the end of a run, in reverse order. (Node 20 has no DisposableStack.) */

/** Undoes each thing once; what comes after the end is undone at once. */
export class CleanUp implements Disposable {
  readonly #undos: (() => void)[] = [];
  #ended = false;

  defer(undo: () => void): void {
    if (this.#ended) undo();
    else this.#undos.push(undo);
  }

  use(resource: Disposable): void {
    this.defer(() => resource[Symbol.dispose]());
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    for (let undo = this.#undos.pop(); undo !== undefined; undo = this.#undos.pop()) undo();
  }
}
