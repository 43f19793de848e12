/** Keeps the size of the logit during training: β follows the mean size of the logits seen last. */

import { isDeepStrictEqual } from 'node:util';
import type { RowStatistics } from '../loss/result.js';
import {
  checkInteger,
  checkNumberAbove,
  checkNumberList,
  checkOptions,
  failType,
  failValue,
} from '../native/validate.js';

export interface BetaTrackerOptions {
  /** Mean of |z| over the rows that are kept, z the logit that the link is applied to; > 0. */
  target: number;
  /** How many rows decide β: the last ones. Default 512. */
  window?: number | undefined;
  /** Until so many rows were seen β is that of the loss. Default 32, at most `window`. */
  warmup?: number | undefined;
  /** Smallest and largest factor of the loss's β, 0 < low <= high. Default [0.1, 10]. */
  range?: readonly [low: number, high: number] | undefined;
}

/** State of a tracker as plain JSON. */
export interface BetaTrackerState {
  readonly target: number;
  readonly window: number;
  readonly warmup: number;
  readonly range: readonly number[];
  /** |z| of the rows at the loss's own β, the oldest first. */
  readonly values: readonly number[];
}

const SETTINGS = ['target', 'window', 'warmup', 'range'] as const;

/**
 * A factor s of the loss's β, for `betaScale`, such that the mean of |z| over the rows is about `target`: z is β s times a number that does not know
 * β, so s = target / mean(|z|/s) over the last `window` rows that were kept. At |z| = 1 the sigmoid's slope has fallen to 0.27 of 1; far above, it trains
 * on what is still wrong alone, far below, β only scales the gradient.
 *
 * At the start the policy is the reference and z = 0, so s begins at `range`'s upper end after the warm-up and falls as the policy moves away: the upper end
 * is how far the anchor to the reference may be loosened meanwhile, and should be near 1 where that matters. A drift is followed one window behind.
 * NaN, infinite logits and removed rows are left out.
 */
export class BetaTracker {
  readonly target: number;
  readonly window: number;
  readonly warmup: number;
  readonly range: readonly [low: number, high: number];
  #values: number[] = [];

  constructor(options: BetaTrackerOptions) {
    options = checkOptions('options', options, SETTINGS);
    this.target = checkNumberAbove('options.target', options.target, 0);
    this.window = checkInteger('options.window', options.window ?? 512, 1);
    this.warmup = checkInteger('options.warmup', options.warmup ?? Math.min(32, this.window), 1, this.window);
    this.range = checkRange('options.range', options.range ?? [0.1, 10]);
  }

  /** s, from the rows observed so far. */
  scale(): number {
    if (this.#values.length < this.warmup) return 1;
    const [low, high] = this.range;
    const mean = this.#values.reduce((sum, value) => sum + value, 0) / this.#values.length;
    return Math.min(high, Math.max(low, this.target / mean));
  }

  /** Takes the rows of an update that was made at this scale. */
  observe(rows: Pick<RowStatistics, 'logit' | 'mask'>, scale: number): void {
    const logits = checkNumberList('rows.logit', rows.logit);
    const mask = checkNumberList('rows.mask', rows.mask, logits.length);
    checkNumberAbove('scale', scale, 0);
    for (let row = 0; row < logits.length; row++) {
      const size = Math.abs(logits[row] ?? NaN) / scale;
      if (mask[row] !== 0 && Number.isFinite(size)) this.#values.push(size);
    }
    this.#values = this.#values.slice(-this.window);
  }

  /** Everything that decides later scales. */
  state(): BetaTrackerState {
    const { target, window, warmup, range } = this;
    return { target, window, warmup, range: [...range], values: [...this.#values] };
  }

  /**
   * Goes on from a state.
   *
   * @throws RangeError where it is the state of a tracker with other options
   */
  load(state: BetaTrackerState): void {
    state = checkOptions('state', state, [...SETTINGS, 'values']);
    for (const name of SETTINGS) {
      if (isDeepStrictEqual(state[name], this[name])) continue;
      failValue(`state.${name}`, `${JSON.stringify(this[name])}, as this tracker has it`, JSON.stringify(state[name]));
    }
    const { values } = state;
    if (!Array.isArray(values)) failType('state.values', 'an array of numbers', values);
    if (values.length > this.window || !values.every((value: unknown) => typeof value === 'number' && value >= 0)) {
      failValue('state.values', `a list of at most ${this.window} numbers >= 0`, values);
    }
    this.#values = [...values];
  }
}

function checkRange(argument: string, range: unknown): readonly [low: number, high: number] {
  if (!Array.isArray(range)) failType(argument, 'two numbers [low, high]', range);
  const low = checkNumberAbove(`${argument}[0]`, range[0], 0);
  const high = checkNumberAbove(`${argument}[1]`, range[1], 0);
  if (range.length !== 2 || low > high) failValue(argument, '[low, high] with low <= high', range);
  return [low, high];
}
