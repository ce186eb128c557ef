/** Which rows are measured: those that were requested and that this host can run. */
import type { Selectable } from './subject.ts';

/** The user's selection. */
export interface Wanted {
  /** Names of rows, or parts of names; empty: all except variants. */
  readonly subjects: readonly string[];
  /** Variants as well. */
  readonly variants: boolean;
}

/** True for a row whose name was given, or contains a given text that is no row's name. */
function isWanted(
  { name, variant = false }: Selectable,
  all: readonly Selectable[],
  { subjects, variants }: Wanted,
): boolean {
  if (subjects.length === 0) return variants || !variant;
  const own = name.toLowerCase();
  return subjects.some((text) => {
    const asked = text.toLowerCase();
    const exact = all.some((other) => other.name.toLowerCase() === asked);
    return exact ? own === asked : own.includes(asked);
  });
}

/**
 * The rows to measure.
 * @param omit called for each requested row that this host lacks something for
 */
export function select<S extends Selectable>(
  all: readonly S[],
  wanted: Wanted,
  omit: (name: string, why: string) => void,
): S[] {
  return all.filter((one) => {
    if (!isWanted(one, all, wanted)) return false;
    const why = one.lacking?.();
    if (why !== undefined) omit(one.name, why);
    return why === undefined;
  });
}
