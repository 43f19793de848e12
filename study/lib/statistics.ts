/**
 * Intervals of means and of paired differences. Bootstrap percentile intervals decide; with a handful of replicates they are too narrow, so every
 * difference says as well whether Student's interval agrees.
 */

import { createRandom } from 'sdpo';
import { bisect, mean, quantileSorted, sampleStandardDeviation } from 'simple-statistics';

/** Share of intervals that are meant to hold the true mean. */
export const CONFIDENCE = 0.95;

const RESAMPLES = 4000;
const SEED = 1;

export interface Interval {
  readonly mean: number;
  /** Bounds; NaN where there are fewer than two replicates. */
  readonly low: number;
  readonly high: number;
  /** Replicates. */
  readonly count: number;
}

export type Verdict = 'better' | 'worse' | 'undecided' | 'no data';

export interface Difference extends Interval {
  /** Student's interval over the replicates that have every cell. */
  readonly student: { readonly low: number; readonly high: number };
  /** Pairs of runs that the difference is made of. */
  readonly pairs: number;
  /** By the bootstrap interval: better or worse where it excludes 0. */
  readonly verdict: Verdict;
  /** Whether Student's interval gives the same verdict. */
  readonly confirmed: boolean;
}

const resamplesOf = new Map<number, readonly Uint32Array[]>();

/** The same resamples of `count` replicates in every call, so that an interval depends on its numbers only. */
function resamples(count: number): readonly Uint32Array[] {
  let known = resamplesOf.get(count);
  if (known === undefined) {
    const random = createRandom(SEED);
    known = Array.from({ length: RESAMPLES }, () =>
      Uint32Array.from({ length: count }, () => Math.floor(random() * count)),
    );
    resamplesOf.set(count, known);
  }
  return known;
}

/** Percentile interval of an estimate that is a function of which replicates there are; NaN estimates are left out. */
function percentiles(count: number, estimate: (replicates: ArrayLike<number>) => number) {
  if (count < 2) return { low: Number.NaN, high: Number.NaN };
  const estimates = resamples(count).map(estimate);
  const sorted = estimates.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  if (sorted.length === 0) return { low: Number.NaN, high: Number.NaN };
  return { low: quantileSorted(sorted, (1 - CONFIDENCE) / 2), high: quantileSorted(sorted, (1 + CONFIDENCE) / 2) };
}

/** Mean with the bootstrap percentile interval over replicates. Values that are not finite are left out; `count` is of those that are left. */
export function meanInterval(values: readonly number[]): Interval {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0) return { mean: Number.NaN, low: Number.NaN, high: Number.NaN, count: 0 };
  const bounds = percentiles(finite.length, (replicates) => meanAt(finite, replicates));
  return { mean: mean(finite), ...bounds, count: finite.length };
}

/** A number of every replicate that a cell has. */
type CellValues = ReadonlyMap<string, number>;

/**
 * Mean over cells, each with the same weight however many replicates it has. Whole replicates are resampled, since what they share (base, pairs,
 * noise) makes their cells alike.
 */
export function meanOverCells(cells: readonly CellValues[]): Interval {
  return estimateOver(cells).interval;
}

function estimateOver(cells: readonly CellValues[]) {
  const filled = cells.filter(({ size }) => size > 0);
  const replicates = [...new Set(filled.flatMap((cell) => [...cell.keys()]))];
  const columns = filled.map((cell) => replicates.map((replicate) => cell.get(replicate) ?? Number.NaN));
  const estimate = (chosen: ArrayLike<number>) =>
    meanOfFinite(columns.map((column) => meanAt(column, chosen)).filter((value) => !Number.isNaN(value)));
  const center = estimate(replicates.map((_, i) => i));
  const bounds = percentiles(replicates.length, estimate);
  /** Means of the replicates that have every cell. */
  const complete = replicates.map((_, i) => mean(columns.map((column) => column[i]!))).filter(Number.isFinite);
  return { interval: { mean: center, ...bounds, count: replicates.length }, complete };
}

/** Mean of paired differences as {@link meanOverCells} forms it, with what it decides. `cells` gives the differences of each cell by replicate. */
export function pairedDifference(cells: readonly CellValues[]): Difference {
  const { interval, complete } = estimateOver(cells);
  const student = studentInterval(interval.mean, complete);
  const pairs = cells.reduce((sum, { size }) => sum + size, 0);
  const verdict = verdictOf(pairs, interval);
  return { ...interval, student, pairs, verdict, confirmed: verdict === verdictOf(pairs, student) };
}

function verdictOf(pairs: number, { low, high }: { low: number; high: number }): Verdict {
  if (pairs === 0) return 'no data';
  return low > 0 ? 'better' : high < 0 ? 'worse' : 'undecided';
}

function meanOfFinite(values: readonly number[]): number {
  return values.length === 0 ? Number.NaN : mean([...values]);
}

/** Mean of the values at these places, without those that are NaN; NaN where none is left. */
function meanAt(values: ArrayLike<number>, places: ArrayLike<number>): number {
  let sum = 0;
  let count = 0;
  for (let i = 0; i < places.length; i++) {
    const value = values[places[i]!]!;
    if (Number.isNaN(value)) continue;
    sum += value;
    count++;
  }
  return sum / count;
}

/** center ± t · s/√n. */
function studentInterval(center: number, values: readonly number[]): { low: number; high: number } {
  if (values.length < 2) return { low: Number.NaN, high: Number.NaN };
  const half = (studentQuantile(values.length - 1) * sampleStandardDeviation([...values])) / Math.sqrt(values.length);
  return { low: center - half, high: center + half };
}

/** t with P(|T| <= t) = CONFIDENCE for Student's distribution with so many degrees of freedom. */
export function studentQuantile(degrees: number): number {
  // In θ = atan(t/√ν) the probability is finite sums of powers of cos θ, and θ is bounded.
  const angle = bisect((theta) => centralProbability(theta, degrees) - CONFIDENCE, 0, Math.PI / 2, 200, 1e-15);
  return Math.sqrt(degrees) * Math.tan(angle);
}

/** P(|T| <= √ν tan θ), Abramowitz and Stegun 26.7.3 and 26.7.4. */
function centralProbability(theta: number, degrees: number): number {
  const [sine, cosine] = [Math.sin(theta), Math.cos(theta)];
  const odd = degrees % 2 === 1;
  let term = odd ? cosine : 1;
  let sum = degrees > 1 ? term : 0;
  for (let k = odd ? 3 : 2; k < degrees; k += 2) {
    term *= (cosine * cosine * (k - 1)) / k;
    sum += term;
  }
  return odd ? (2 / Math.PI) * (theta + sine * sum) : sine * sum;
}
