/** Asynchronous work that must not overlap: strictly one step after the other. */
export class StepQueue {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs a step once those before it have ended, however they did. */
  run<T>(step: () => Promise<T>): Promise<T> {
    const done = this.#last.then(step);
    this.#last = done.catch(() => {});
    return done;
  }

  /** Resolves when all steps so far have ended. */
  async ended(): Promise<void> {
    await this.#last;
  }
}
