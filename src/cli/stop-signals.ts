/** Signals and keys by which a person ends a run: the first one asks, the second one does not. */
import { constants as os } from 'node:os';
import { endAtOnce } from '../host/exit-wake.ts';

const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/** The exit status that tells of a signal. */
export function signalStatus(signal: NodeJS.Signals): number {
  return 128 + os.signals[signal];
}

/** Listens from `watch` on, until disposed of. */
export class StopSignals implements Disposable {
  readonly #undos: (() => void)[] = [];
  #asked = false;

  /**
   * @param first gets the first signal
   * @param atOnce called before the second one ends the process, whatever still runs in it
   */
  watch(first: (signal: NodeJS.Signals) => void, atOnce: () => void = () => {}): void {
    for (const signal of SIGNALS) {
      const listener = (): void =>
        this.ask(
          () => first(signal),
          () => {
            atOnce();
            endAtOnce(signalStatus(signal));
          },
        );
      process.on(signal, listener);
      this.#undos.push(() => process.removeListener(signal, listener));
    }
  }

  /** Somebody wants an end, by a signal or otherwise. */
  ask(first: () => void, again: () => void): void {
    if (this.#asked) {
      again();
      return;
    }
    this.#asked = true;
    first();
  }

  [Symbol.dispose](): void {
    for (const undo of this.#undos.splice(0)) undo();
  }
}
