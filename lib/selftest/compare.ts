/** How the self-test compares results, and how far they may be apart. */

import type { Evaluation } from '../loss/result.js';
import { ROW_STATISTICS } from '../native/names.js';
import type { DType } from '../tensor/dtypes.js';
import type { Tensor } from '../tensor/tensor.js';

/** Unit roundoff of a dtype. */
const ROUNDOFF: { readonly [T in DType]: number } = {
  float64: 2 ** -53,
  float32: 2 ** -24,
  float16: 2 ** -11,
  bfloat16: 2 ** -8,
};

/** Half the spacing of the smallest numbers: what rounding can do to a number near zero. */
const SMALLEST: { readonly [T in DType]: number } = {
  float64: 0,
  float32: 2 ** -150,
  float16: 2 ** -25,
  bfloat16: 2 ** -134,
};

export interface Tolerance {
  /** Of moments, relative to their scale of 1. */
  moment: number;
  /** Of everything behind a logit. */
  logit: number;
  /** Of a gradient, relative to its largest element, and absolute. */
  gradient: number;
  smallest: number;
}

/**
 * Bounds for terms of the order of 1: a sum in the compute type may be off by this many roundoffs (a backend adds at most that many terms of
 * a lane before it goes on in float64); a logit is two moments times ψ's scale; a slope moves by as much as the logit.
 */
const TERMS = 256;

export function toleranceOf(compute: 'float64' | 'float32', gradient: DType, psiScale: number): Tolerance {
  const moment = TERMS * ROUNDOFF[compute];
  const logit = 2 * psiScale * moment;
  return { moment, logit, gradient: moment + logit + ROUNDOFF[gradient], smallest: SMALLEST[gradient] };
}

/** Throws where two lists differ by more than `tolerance` times 1 + |expected|. NaN equals NaN. */
export function close(name: string, actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  if (actual.length !== expected.length) throw new Error(`${name}: ${actual.length} numbers for ${expected.length}`);
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    if (Math.abs(actual[i]! - expected[i]!) <= tolerance * (1 + Math.abs(expected[i]!))) continue;
    throw new Error(`${name}[${i}] is ${actual[i]}, expected ${expected[i]} within ${tolerance.toExponential(1)}`);
  }
}

/** Throws where a gradient differs by more than its tolerance, relative to the largest element. */
export function closeGradient(name: string, actual: Tensor, expected: Float64Array, tolerance: Tolerance): void {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const bound = tolerance.gradient * largest + tolerance.smallest;
  const values = actual.toFloat64();
  for (let i = 0; i < expected.length; i++) {
    if (!(Math.abs(values[i]! - expected[i]!) <= bound)) {
      throw new Error(`${name}[${i}] is ${values[i]}, expected ${expected[i]} within ${bound.toExponential(1)}`);
    }
  }
}

/** Throws where two results are not the same bits. */
export function identical(
  name: string,
  actual: Evaluation<Tensor, Tensor>,
  expected: Evaluation<Tensor, Tensor>,
): void {
  const lists = (result: Evaluation<Tensor, Tensor>): [string, ArrayLike<number>][] => [
    ['loss', [result.loss]],
    ...ROW_STATISTICS.map((key): [string, ArrayLike<number>] => [`rows.${key}`, result.rows[key]]),
    ['metrics', Object.values(result.metrics)],
    ['gradients.chosen', result.gradients.chosen.toHost()],
    ['gradients.rejected', result.gradients.rejected.toHost()],
  ];
  const other = lists(expected);
  for (const [k, [key, values]] of lists(actual).entries()) {
    for (let i = 0; i < values.length; i++) {
      if (!Object.is(values[i], other[k]![1][i])) {
        throw new Error(`${name}: ${key}[${i}] is ${values[i]}, expected the same bits as ${other[k]![1][i]}`);
      }
    }
  }
}

/** Throws unless `run` throws an error with this code and these fields. */
export async function throws(
  name: string,
  run: () => unknown,
  code: string,
  fields: Record<string, unknown> = {},
): Promise<void> {
  let thrown: unknown;
  try {
    await run();
  } catch (error) {
    thrown = error;
  }
  if (thrown === undefined) throw new Error(`${name}: nothing was thrown, expected ${code}`);
  for (const [key, value] of Object.entries({ code, ...fields })) {
    const actual = (thrown as Record<string, unknown>)[key];
    if (actual !== value)
      throw new Error(`${name}: ${key} is ${String(actual)}, expected ${String(value)} (${thrown})`);
  }
}
