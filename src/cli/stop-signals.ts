/** Signals and keys by which the user ends a run: the first one asks, the second one forces. */
import { endAtOnce } from '../host/threads.ts';
import { signalStatus } from './exit-status.ts';

export const STOP_SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

type Listener = (signal: NodeJS.Signals) => void;

/** The receivers of signals, the newest first. */
const listeners: Listener[] = [];
let installed = false;

/**
 * Handles the signals for the rest of the process. One listener that is never removed: Node delivers a
 * signal in its event loop, and would lose one that is pending when its listener is removed.
 */
function install(): void {
  if (installed) return;
  installed = true;
  for (const signal of STOP_SIGNALS) {
    process.on(signal, () => {
      const listener = listeners.at(-1);
      // Nothing is left that would end the process cleanly.
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
   * @param atOnce called before the second one ends the process, whatever is still running in it
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

  /** Requests the end, by a signal or otherwise. */
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
