/** Signals and keys by which a person ends a run: the first one asks, the second one does not. */
import { constants as os } from 'node:os';
import { endAtOnce } from '../host/threads.ts';

const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/** The exit status that tells of a signal. */
export function signalStatus(signal: NodeJS.Signals): number {
  return 128 + os.signals[signal];
}

type Listener = (signal: NodeJS.Signals) => void;

/** Who gets signals, the newest first. */
const listeners: Listener[] = [];
let installed = false;

/**
 * Takes the signals over for the rest of the process. One listener that is never removed: Node delivers a
 * signal in its event loop, and would lose one that has come by then if its listener were gone.
 */
function install(): void {
  if (installed) return;
  installed = true;
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      const listener = listeners.at(-1);
      // Nobody is left who would end the process in good order.
      if (listener === undefined) endAtOnce(signalStatus(signal));
      else listener(signal);
    });
  }
}

/** Listens from `watch` on, until disposed of; a signal after that ends the process. */
export class StopSignals implements Disposable {
  #listener: Listener | undefined;
  #asked = false;

  /**
   * @param first gets the first signal
   * @param atOnce called before the second one ends the process, whatever still runs in it
   */
  watch(first: (signal: NodeJS.Signals) => void, atOnce: () => void = () => {}): void {
    install();
    this.#listener = (signal) =>
      this.ask(
        () => first(signal),
        () => {
          atOnce();
          endAtOnce(signalStatus(signal));
        },
      );
    listeners.push(this.#listener);
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
    const at = this.#listener === undefined ? -1 : listeners.indexOf(this.#listener);
    if (at >= 0) listeners.splice(at, 1);
  }
}
