/** Keeps a fraction of the rows during training: the mask threshold follows a quantile of the log weights seen last. */

import { isDeepStrictEqual } from 'node:util';
import type { RowStatistics } from '../loss/result.js';
import {
  checkInteger,
  checkNumber,
  checkNumberBetween,
  checkNumberList,
  checkOptions,
  failType,
  failValue,
} from '../native/validate.js';
import { binOf, checkEdges } from './timestep-bins.js';

export interface ThresholdTrackerOptions {
  /** Fraction of rows to keep, in (0, 1). */
  keep: number;
  /** Inner edges of the timestep bins, each of which has a threshold of its own; `timestepEdges` makes some. Default none: one threshold for all. */
  edges?: readonly number[] | undefined;
  /** How many rows of a bin decide its threshold: the last ones. Default 512. */
  window?: number | undefined;
  /** Until a bin has seen this many rows its threshold is `initial`. Default 32, at most `window`. */
  warmup?: number | undefined;
  /** τ in [0, 1] during the warm-up. Default 0, no mask. */
  initial?: number | undefined;
}

/** State of a tracker as plain JSON; a log weight of -∞ stands as null. */
export interface ThresholdTrackerState {
  readonly keep: number;
  readonly edges: readonly number[];
  readonly window: number;
  readonly warmup: number;
  readonly initial: number;
  /** Log weights of each bin, the oldest first. */
  readonly values: readonly (readonly (number | null)[])[];
}

/** The least τ that still masks: ln τ = -744.4. At τ = 0 rows without a density ratio would be kept as well. */
const LEAST_THRESHOLD = Number.MIN_VALUE;

/**
 * A threshold τ per row, for `maskThreshold` of a call, such that about the fraction `keep` of rows has both weights at or above it.
 *
 * A row counts by λ = min(λ_c, λ_r), which decides whether it is kept. Each bin holds the last `window` of them, and its ln τ is their quantile
 * at 1 - keep in the definition p = k/(n+1), interpolated linearly (definition 6 of Hyndman and Fan, The American Statistician 50, 1996): among
 * continuous distributions it is the one that the next row exceeds with probability `keep` whatever the distribution is. The window is exact,
 * deterministic and needs no scale of λ, which spans orders of magnitude over timesteps and models; methods that keep a few numbers only, such as
 * P² (Jain and Chlamtac, CACM 28, 1985), never forget, while the weights fall as the policy moves. Cost of the window: the fraction has a standard
 * deviation of √(keep (1-keep) / window), 1.8 % by default, and a drift is followed one window behind.
 *
 * Rows with λ = -∞ (transitions without a density ratio, ω = ∞) count as rows that are always removed: the others of their bin make up for them
 * as far as they reach. NaN and +∞ are left out. τ lies in [5e-324, 1] after the warm-up, so a row with λ below -744 is removed in any case (a
 * smaller `weightSharpness` mends that), and with `weightRatio: 'policy/reference'`, where λ can exceed 0, more rows may stay than asked for.
 */
export class ThresholdTracker {
  readonly keep: number;
  readonly edges: readonly number[];
  readonly window: number;
  readonly warmup: number;
  readonly initial: number;
  #values: number[][];
  /** τ of each bin; undefined where rows came since it was worked out. */
  readonly #thresholds: (number | undefined)[];

  constructor(options: ThresholdTrackerOptions) {
    options = checkOptions('options', options, ['keep', 'edges', 'window', 'warmup', 'initial']);
    this.keep = checkNumberBetween('options.keep', options.keep, 0, 1);
    this.edges = checkEdges('options.edges', options.edges ?? []);
    this.window = checkInteger('options.window', options.window ?? 512, 1);
    this.warmup = checkInteger('options.warmup', options.warmup ?? Math.min(32, this.window), 1, this.window);
    this.initial = checkNumber('options.initial', options.initial ?? 0, 0, 1);
    this.#values = Array.from({ length: this.edges.length + 1 }, () => []);
    this.#thresholds = this.#values.map(() => undefined);
  }

  /** τ of each row, from the rows observed so far. */
  threshold(timesteps: ArrayLike<number>): Float64Array {
    const list = checkNumberList('timesteps', timesteps);
    return Float64Array.from(list, (timestep) => this.#thresholdOf(binOf(this.edges, timestep)));
  }

  /** Takes the log weights of evaluated rows, kept ones and removed ones alike. */
  observe(timesteps: ArrayLike<number>, rows: Pick<RowStatistics, 'logWeightChosen' | 'logWeightRejected'>): void {
    const list = checkNumberList('timesteps', timesteps);
    const chosen = checkNumberList('rows.logWeightChosen', rows.logWeightChosen, list.length);
    const rejected = checkNumberList('rows.logWeightRejected', rows.logWeightRejected, list.length);
    for (let row = 0; row < list.length; row++) {
      const logWeight = Math.min(chosen[row]!, rejected[row]!);
      if (Number.isNaN(logWeight) || logWeight === Infinity) continue;
      const bin = binOf(this.edges, list[row]!);
      const values = this.#values[bin]!;
      values.push(logWeight);
      if (values.length > this.window) values.shift();
      this.#thresholds[bin] = undefined;
    }
  }

  /** Everything that decides later thresholds. */
  state(): ThresholdTrackerState {
    const { keep, edges, window, warmup, initial } = this;
    const values = this.#values.map((list) => list.map((value) => (value === -Infinity ? null : value)));
    return { keep, edges: [...edges], window, warmup, initial, values };
  }

  /**
   * Goes on from a state.
   *
   * @throws RangeError where it is the state of a tracker with other options
   */
  load(state: ThresholdTrackerState): void {
    state = checkOptions('state', state, ['keep', 'edges', 'window', 'warmup', 'initial', 'values']);
    for (const name of ['keep', 'edges', 'window', 'warmup', 'initial'] as const) {
      if (isDeepStrictEqual(state[name], this[name])) continue;
      failValue(`state.${name}`, `${JSON.stringify(this[name])}, as this tracker has it`, JSON.stringify(state[name]));
    }
    if (!Array.isArray(state.values)) failType('state.values', 'an array of arrays of numbers', state.values);
    const bins = this.edges.length + 1;
    if (state.values.length !== bins) {
      failValue('state.values', `of length ${bins}, one list per bin`, state.values, 'ERR_SDPO_INVALID_LENGTH');
    }
    const values = state.values.map((list: unknown, bin) => {
      const valid = (value: unknown) => value === null || (typeof value === 'number' && Number.isFinite(value));
      if (!Array.isArray(list) || list.length > this.window || !list.every(valid)) {
        failValue(`state.values[${bin}]`, `a list of at most ${this.window} numbers or null`, list);
      }
      return list.map((value: number | null) => value ?? -Infinity);
    });
    this.#values = values;
    this.#thresholds.fill(undefined);
  }

  #thresholdOf(bin: number): number {
    const values = this.#values[bin]!;
    if (values.length < this.warmup) return this.initial;
    this.#thresholds[bin] ??= Math.min(1, Math.max(LEAST_THRESHOLD, Math.exp(exceededBy(values, this.keep))));
    return this.#thresholds[bin];
  }
}

/** The value that the next of a sequence exceeds with probability `keep`; -∞ where that is among the values that are. */
function exceededBy(values: readonly number[], keep: number): number {
  const sorted = Float64Array.from(values).sort();
  const position = Math.min(Math.max((1 - keep) * (sorted.length + 1), 1), sorted.length);
  const below = sorted[Math.floor(position) - 1]!;
  const above = sorted[Math.ceil(position) - 1]!;
  // Between -∞ and a number only the number is a threshold that removes the one and keeps the other.
  if (below === -Infinity) return above;
  return below + (position - Math.floor(position)) * (above - below);
}
