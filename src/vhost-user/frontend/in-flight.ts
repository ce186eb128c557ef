/**
 * Which buffers of a split ring are in flight, from the two rings alone.
 *
 * Each ring shows its last entries, as many as it has room for. What is not seen is when a buffer
 * became available between two uses: `reach(q)`, how many had become available when the q-th was
 * used. Each head becomes available and is used in turn, so that a guess whether its last
 * place in the available ring was used pairs all of its entries, and bounds `reach`: the paired
 * place came before that use, the head's next place after it. `reach` never falls, and is above q.
 * A guess that these bounds forbid is wrong, the other one right, and bounds `reach` further.
 */

/** The last entries of both rings: heads, the oldest first. */
export interface RingHistory {
  /** Position of the first entry; positions count both rings' entries alike. */
  readonly availStart: number;
  readonly avail: readonly number[];
  readonly usedStart: number;
  readonly used: readonly number[];
  /** The most buffers that can be in flight. */
  readonly size: number;
}

/** The places of one head in either ring, the oldest first. */
interface Places {
  readonly avail: number[];
  readonly used: number[];
}

/** Bounds of `reach` at one use: at least, at most. */
type Bound = readonly [use: number, least: number, most: number];

/**
 * The heads that are in flight, in the order in which they became available; undefined when the
 * rings leave it open.
 * Limit: a buffer that a whole ring of others overtook left no trace.
 */
export function headsInFlight(history: RingHistory): number[] | undefined {
  const { availStart, avail, usedStart, used } = history;
  const count = availStart + avail.length - (usedStart + used.length);
  const reach = new Reach(history);
  const open = placesOf(history);
  const inFlight = new Set<number>();
  for (let settled = true; settled; ) {
    settled = false;
    for (const [head, places] of open) {
      const lastWasUsed = bounds(places, 0, usedStart);
      const lastIsInFlight = bounds(places, 1, usedStart);
      const canBeUsed = reach.allows(lastWasUsed);
      const canBeInFlight = reach.allows(lastIsInFlight);
      if (canBeUsed && canBeInFlight) continue;
      // A driver that breaks the rules wrote this.
      if (!canBeUsed && !canBeInFlight) return undefined;
      open.delete(head);
      settled = true;
      if (canBeInFlight) inFlight.add(head);
      reach.narrow(canBeInFlight ? lastIsInFlight : lastWasUsed);
    }
  }
  if (inFlight.size + open.size === count) for (const head of open.keys()) inFlight.add(head);
  if (inFlight.size !== count) return undefined;
  // Each head at its last place.
  const last = new Map(avail.map((head, place) => [head, place]));
  return [...inFlight].sort((a, b) => (last.get(a) ?? 0) - (last.get(b) ?? 0));
}

/**
 * What follows for `reach` if a head's last use is that of its last place but `later`.
 * @param first position of the first use that is seen
 */
function bounds({ avail, used }: Places, later: 0 | 1, first: number): Bound[] {
  const found: Bound[] = [];
  let place = avail.length - 1 - later;
  for (let i = used.length - 1; i >= 0 && place >= -1; i--, place--) {
    const least = place < 0 ? 0 : (avail[place] ?? 0) + 1;
    found.push([used[i] ?? 0, least, avail[place + 1] ?? Number.POSITIVE_INFINITY]);
  }
  // The use of this place came before those that are seen, which so came after it.
  if (place >= 0) found.push([first, (avail[place] ?? 0) + 1, Number.POSITIVE_INFINITY]);
  return found;
}

/** What is known of how many buffers had become available at each use. */
class Reach {
  readonly #start: number;
  readonly #least: number[];
  readonly #most: number[];

  constructor({ availStart, avail, usedStart, used, size }: RingHistory) {
    const end = availStart + avail.length;
    this.#start = usedStart;
    this.#least = used.map((_, i) => usedStart + i + 1);
    this.#most = used.map((_, i) => Math.min(end, usedStart + i + size));
  }

  allows(bounds: readonly Bound[]): boolean {
    return bounds.every(([use, least, most]) => {
      const at = use - this.#start;
      const from = Math.max(least, this.#least[at] ?? 0);
      return from <= Math.min(most, this.#most[at] ?? Number.POSITIVE_INFINITY);
    });
  }

  narrow(bounds: readonly Bound[]): void {
    const low = this.#least;
    const high = this.#most;
    for (const [use, least, most] of bounds) {
      const at = use - this.#start;
      if (at >= low.length) continue;
      low[at] = Math.max(low[at] ?? 0, least);
      high[at] = Math.min(high[at] ?? 0, most);
    }
    for (let at = 1; at < low.length; at++) low[at] = Math.max(low[at] ?? 0, low[at - 1] ?? 0);
    for (let at = high.length - 2; at >= 0; at--) {
      high[at] = Math.min(high[at] ?? 0, high[at + 1] ?? 0);
    }
  }
}

function placesOf({ availStart, avail, usedStart, used }: RingHistory): Map<number, Places> {
  const all = new Map<number, Places>();
  for (const [i, head] of avail.entries()) {
    const places = all.get(head);
    if (places === undefined) all.set(head, { avail: [availStart + i], used: [] });
    else places.avail.push(availStart + i);
  }
  for (const [i, head] of used.entries()) all.get(head)?.used.push(usedStart + i);
  return all;
}
