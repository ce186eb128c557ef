/** Messages to another thread of which at most one batch is under way, whatever a guest does. */

/**
 * While the receiver has not taken the last batch, what comes waits; of those that wait with the same
 * key only the last is kept.
 */
export class LatestMessages {
  readonly #send: (messages: readonly unknown[]) => void;
  readonly #waiting = new Map<string, unknown>();
  /** Batches that the receiver has not taken. */
  #underWay = 0;

  constructor(send: (messages: readonly unknown[]) => void) {
    this.#send = send;
  }

  /** @param key one of a few: what it says replaces what was said by the same one */
  post(message: unknown, key: string): void {
    // Replaced ones move to the end: the order is that of the last of each.
    this.#waiting.delete(key);
    this.#waiting.set(key, message);
    if (this.#underWay === 0) this.flush();
  }

  /** The receiver has taken a batch. */
  taken(): void {
    this.#underWay--;
    if (this.#underWay === 0) this.flush();
  }

  /** Sends what waits, taken or not: for what must come before an order that follows. */
  flush(): void {
    if (this.#waiting.size === 0) return;
    const messages = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#underWay++;
    this.#send(messages);
  }
}
