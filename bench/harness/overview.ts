/** All rows of a group by all of its measures, in one picture: who is good at what, and what that costs. */
import { figure, type Headline, type Result, timesAsGood } from './measure.ts';
import { figureText } from './statistics.ts';

/** A row's value of a measure. */
export interface OverviewCell {
  /** How good it is: 1 is the best of its measure. */
  readonly share: number;
  /** The value, and what else the same runs yield. */
  readonly lines: readonly string[];
}

/** A picture. */
export interface Overview {
  readonly title: string;
  /** Of the measures, each with its unit. */
  readonly heads: readonly string[];
  /** A cell is undefined where a row does not take part. */
  readonly rows: readonly (readonly [name: string, cells: readonly (OverviewCell | undefined)[]])[];
}

/** Fewer measures are as clear in their tables. */
const FEWEST = 3;

/** The picture of each group that has enough measures. */
export function overviewsOf(all: readonly Headline[]): Overview[] {
  const groups = new Set(all.map(({ result }) => result.group));
  return [...groups].flatMap((group) => {
    const own = all.filter(({ result }) => result.group === group);
    return own.length < FEWEST ? [] : [overviewOf(group, own)];
  });
}

function overviewOf(group: string, all: readonly Headline[]): Overview {
  const names = new Set(all.flatMap(({ result }) => result.rows.map(({ subject }) => subject)));
  return {
    title: `${group}: all in one`,
    heads: all.map(({ result: { measure } }) => `${measure.name}, ${measure.unit}`),
    rows: [...names].map((name) => [name, all.map((headline) => cellOf(headline, name))]),
  };
}

function cellOf({ result, aspects }: Headline, name: string): OverviewCell | undefined {
  const { measure } = result;
  const medianOf = (one: Result): number =>
    figure(one.measure, one.rows.find(({ subject }) => subject === name)?.samples ?? []);
  const own = medianOf(result);
  if (!Number.isFinite(own)) return undefined;
  const all = result.rows.map(({ samples }) => figure(measure, samples)).filter(Number.isFinite);
  const best = measure.better === 'lower' ? Math.min(...all) : Math.max(...all);
  const more = aspects.flatMap((one) => {
    const value = medianOf(one);
    const { aspect, unit } = one.measure;
    const label = aspect?.label ?? '';
    if (!Number.isFinite(value)) return [];
    return `${label} ${figureText(value)}${unit.startsWith('/') ? '' : ' '}${unit}`;
  });
  return { share: timesAsGood(measure, own, best), lines: [figureText(own), ...more] };
}
