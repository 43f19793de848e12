/** Comparison of numbers for tests: tolerances that follow from the dtype, and a report that shows the first mismatches. */

import type { Test } from 'tap';
import { type DType, epsilonOf, smallestNormal } from './dtypes.js';

export interface Tolerance {
  /** Allowed difference per unit of the expected value. */
  relative: number;
  /** Allowed difference whatever the expected value: one number, or one per element. */
  absolute?: number | ArrayLike<number>;
}

/** What the golden cases are held to in float64. */
export const goldenTolerance = 1e-9;

/** Float64 against float64, summed in another order: three quarters of the digits of every entry, all of them relative to the largest. */
export function float64Tolerance(values: ArrayLike<number>): Tolerance {
  return { relative: Number.EPSILON ** 0.75, absolute: Number.EPSILON * largest(values) };
}

/**
 * The step at which truncation (h⁴) and rounding (ε/h) of a central difference of fourth order balance, ε^(1/5) times the length over
 * which the function bends: in the cases of this folder the logit moves by several units per unit of the predictions.
 */
export const differenceStep = Number.EPSILON ** (1 / 5) / 4;

/** What such a difference leaves, ε^(4/5), with two digits for higher derivatives; `scale` is the size of what is compared. */
export function differenceTolerance(scale: number): Tolerance {
  return { relative: 0, absolute: 100 * Number.EPSILON ** (4 / 5) * Math.max(1, Math.abs(scale)) };
}

/** Rounding of a result to its dtype: half a unit in the last place, and half the spacing of subnormal numbers. */
export function roundingOf(dtype: DType): Tolerance {
  return { relative: epsilonOf(dtype) / 2, absolute: (smallestNormal(dtype) * epsilonOf(dtype)) / 2 };
}

/** The largest finite magnitude. */
export function largest(values: ArrayLike<number>): number {
  let found = 0;
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) found = Math.max(found, Math.abs(values[i]));
  }
  return found;
}

/** The largest difference over entries that are finite on both sides; Infinity where only one side is finite. */
export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let found = 0;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    const difference = Math.abs(actual[i] - expected[i]);
    found = Math.max(found, Number.isNaN(difference) ? Infinity : difference);
  }
  return found;
}

interface Mismatches {
  total: number;
  nan: number;
  infinite: number;
  first: string[];
}

const shown = 5;

/** Empty where everything agrees; otherwise a report with the counts, and index and both values of the first mismatches. */
function mismatchReport(
  label: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): string {
  if (actual.length !== expected.length) return `${label}: length ${actual.length}, expected ${expected.length}`;
  const found: Mismatches = { total: 0, nan: 0, infinite: 0, first: [] };
  const { absolute = 0 } = tolerance;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i];
    const e = expected[i];
    if (a === e || (Number.isNaN(a) && Number.isNaN(e))) continue;
    const allowed = tolerance.relative * Math.abs(e) + (typeof absolute === 'number' ? absolute : absolute[i]);
    const difference = Math.abs(a - e);
    if (Number.isFinite(a) && Number.isFinite(e) && difference <= allowed) continue;
    found.total++;
    if (Number.isNaN(a) || Number.isNaN(e)) found.nan++;
    else if (!Number.isFinite(a) || !Number.isFinite(e)) found.infinite++;
    if (found.first.length < shown) {
      found.first.push(
        `  [${i}] ${a}, expected ${e}: difference ${difference.toExponential(2)}, allowed ${allowed.toExponential(2)}`,
      );
    }
  }
  if (found.total === 0) return '';
  const kinds = `${found.nan} with NaN on one side, ${found.infinite} with an infinity on one side`;
  return [`${label}: ${found.total} of ${expected.length} differ (${kinds})`, ...found.first].join('\n');
}

/** One assertion per array; the report becomes the diagnostics. */
export function close(
  t: Test,
  label: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): void {
  const report = mismatchReport(label, actual, expected, tolerance);
  if (report) t.fail(label, { report });
  else t.pass(label);
}

/** Collects the mismatches of many comparisons into one assertion, so that thousands of cases cost one line of output. */
export class Comparison {
  readonly #reports: string[] = [];
  #count = 0;

  check(label: string, actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: Tolerance): void {
    this.#count++;
    const report = mismatchReport(label, actual, expected, tolerance);
    if (report) this.#reports.push(report);
  }

  /** Asserts that there were comparisons and that none failed. */
  end(t: Test, label: string): void {
    const what = `${label} (${this.#count} comparisons)`;
    if (this.#count === 0) t.fail(`${label}: nothing was compared`);
    else if (this.#reports.length === 0) t.pass(what);
    else t.fail(what, { failed: this.#reports.length, reports: this.#reports.slice(0, shown) });
  }
}

/**
 * Central difference of fourth order of `f` at 0 along a line, for a step that the caller has scaled to the size of the argument:
 * (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h.
 */
export function slopeAtZero(f: (x: number) => number, h: number): number {
  return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h);
}
