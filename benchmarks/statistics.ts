/** Summaries of timings: medians with the intervals that order statistics give, since timings have long tails and no known distribution. */

import { interquartileRange, median } from 'simple-statistics';

/** One entry per round; null where a slow provider sat the round out. */
export type Rounds = readonly (number | null)[];

export function present(rounds: Rounds): number[] {
  return rounds.filter((value): value is number => value !== null);
}

export interface Summary {
  count: number;
  median: number;
  /** Interquartile range over median. */
  spread: number;
}

export function summarize(values: readonly number[]): Summary {
  const middle = median([...values]);
  return { count: values.length, median: middle, spread: interquartileRange([...values]) / middle };
}

/** Ratios of two providers in the rounds that both took part in: what disturbs a round disturbs both and cancels. */
export function pairedRatios(over: Rounds, under: Rounds): number[] {
  const ratios: number[] = [];
  for (let i = 0; i < Math.min(over.length, under.length); i++) {
    const [a, b] = [over[i], under[i]];
    if (a !== null && b !== null) ratios.push(a / b);
  }
  return ratios;
}

export interface Interval {
  low: number;
  median: number;
  high: number;
  /** The probability that such an interval holds the median of what was sampled. */
  confidence: number;
}

/**
 * An interval for the median from the order statistics: the number of values below the true median is binomial with probability ½, whatever
 * the distribution. The narrowest symmetric one of at least the confidence asked for, or all values where they are too few for that.
 */
export function medianInterval(values: readonly number[], confidence = 0.99): Interval {
  const sorted = [...values].sort((a, b) => a - b);
  const n = sorted.length;
  const below = lowerTails(n);
  let cut = 0;
  while (cut + 1 < n - 1 - cut && 1 - 2 * below[cut + 1] >= confidence) cut++;
  return {
    low: sorted[cut],
    median: median(sorted),
    high: sorted[n - 1 - cut],
    confidence: Math.max(0, 1 - 2 * below[cut]),
  };
}

/** P(X ≤ k) of a binomial X with n trials and probability ½, by k. */
function lowerTails(n: number): number[] {
  const tails: number[] = [];
  let term = 0.5 ** n;
  let total = 0;
  for (let k = 0; k <= n; k++) {
    total += term;
    tails.push(total);
    term *= (n - k) / (k + 1);
  }
  return tails;
}
