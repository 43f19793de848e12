/** Ladders of noise levels that samplers descend: their names, and the spacings and conversions that several classes share. */

import { betaQuantile } from './beta-quantile.js';

/**
 * `scheduler`: the levels that the scheduler's class makes for n steps by itself. `uniform`: steps of ⌊T/n⌋ timesteps, or of 1/n in the unshifted
 * time of a flow, as pipelines that pass their own sigmas from 1 to 1/n take them. `linear-quadratic`: for flows, small equal steps at high noise
 * and growing ones below (the linear-quadratic schedule of arXiv 2410.13720, which Mochi runs).
 */
export const LADDERS = ['scheduler', 'uniform', 'linear-quadratic'] as const;
/** Name of a ladder: where transitions end. @useDeclaredType */
export type LadderName = (typeof LADDERS)[number];

export const SPACINGS = ['linspace', 'leading', 'trailing'] as const;
export type Spacing = (typeof SPACINGS)[number];

/** Ways in which a ladder can be laid between its highest and its lowest level. */
export type Conversion = 'karras' | 'exponential' | 'beta';

/** Evenly spaced values from `start` to exactly `end`, or `start` alone. */
export function evenly(start: number, end: number, count: number): Float64Array {
  const step = (end - start) / (count - 1);
  return Float64Array.from({ length: count }, (_, i) => (i === 0 ? start : i === count - 1 ? end : start + i * step));
}

/** The nearest integer; the even one of two. */
export function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/**
 * Timesteps of an n-step sampler, falling.
 *
 * @param steps timesteps to space over, 0 … steps - 1
 * @param parts into how many parts they are cut: n, or n + 1 for solvers that leave out the last point
 * @param stride of `trailing`, which is T/n also where fewer timesteps are spaced
 */
export function spaced(
  spacing: Spacing,
  steps: number,
  count: number,
  parts: number,
  stride: number,
  offset: number,
  rounded: boolean,
): Float64Array {
  switch (spacing) {
    case 'linspace': {
      // Counted from 0 up, as NumPy does: the rounding of halves depends on it.
      const points = evenly(0, steps - 1, parts)
        .reverse()
        .subarray(0, count);
      return rounded ? points.map(roundHalfEven) : points;
    }
    case 'leading': {
      const step = Math.floor(steps / parts);
      return Float64Array.from({ length: count }, (_, i) => Math.min((parts - 1 - i) * step + offset, steps - 1));
    }
    case 'trailing': {
      // NumPy's arange multiplies the rounded difference of its first two values.
      const step = steps - stride - steps;
      const length = Math.min(count, Math.ceil(steps / stride));
      return Float64Array.from({ length }, (_, i) => Math.max(roundHalfEven(steps + i * step) - 1, 0));
    }
  }
}

/** Levels from `high` down to `low`: evenly in σ^(1/7) (arXiv 2206.00364, equation 5), in log σ, or by the quantiles of a beta distribution. */
export function convertedLevels(conversion: Conversion, high: number, low: number, count: number): Float64Array {
  switch (conversion) {
    case 'karras': {
      const [from, to] = [high ** (1 / 7), low ** (1 / 7)];
      return evenly(0, 1, count).map((x) => (from + x * (to - from)) ** 7);
    }
    case 'exponential':
      return evenly(Math.log(high), Math.log(low), count).map(Math.exp);
    case 'beta':
      return evenly(0, 1, count).map((x) => low + betaQuantile(1 - x) * (high - low));
  }
}
