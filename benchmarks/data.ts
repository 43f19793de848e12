/** The batch of a case and what its result has to be: periodic latents, so that the float64 oracle of the tests judges every element at any size. */

import { normalNumbers } from '../test/helpers/cases.js';
import { roundingOf } from '../test/helpers/close.js';
import { decode, encode, rounding } from '../test/helpers/dtypes.js';
import { naiveTolerances } from '../test/oracle/naive.js';
import { type OracleOptions, oracle } from '../test/oracle/oracle.js';
import type { BenchDType, Case } from './cases.js';

export const branches = ['chosen', 'rejected'] as const;
export const tensors = ['policy', 'reference', 'target'] as const;
type BranchName = (typeof branches)[number];
type TensorName = (typeof tensors)[number];
type PerBranch<T> = Record<BranchName, T>;
export type Stored = Float32Array | Uint16Array;

export const beta = 500;
export const clipRange = 0.1;
export const maskThreshold = 0.9;

/** Timestep and ω of each distinct row; the transitions are those of the schedule that every provider is given as numbers. */
const omegas = [0.05, 0.2];

/** With float16 the loss is scaled as every trainer does, or the gradients of a large latent would vanish. */
export function gradientScaleOf(dtype: BenchDType): number {
  return dtype === 'float16' ? 2 ** 12 : 1;
}

interface Expected {
  loss: number;
  lossTolerance: number;
  /** Entry (row, element) is at [(row mod distinct) · period + element mod period]. */
  gradients: PerBranch<Float64Array>;
  gradientTolerance: PerBranch<Float64Array>;
}

/** The numbers of a case, before they are laid out in memory. */
interface Content {
  /** How many rows differ; row i repeats row i mod distinct. */
  distinct: number;
  /** A divisor of D: the elements of a row repeat after so many. */
  period: number;
  stored: PerBranch<Record<TensorName, Stored>>;
  expected: Expected;
}

const longestPeriod = 5000;

function periodOf(size: number): number {
  let period = Math.min(size, longestPeriod);
  while (size % period !== 0) period--;
  return period;
}

const known = new Map<string, Content>();

/**
 * Distinct rows of one period each, and what the oracle says about them. A row of k periods has the moments of one period, and 1/k of its
 * gradient per element.
 */
function contentOf(c: Case): Content {
  const distinct = Math.min(c.rows, omegas.length);
  const period = periodOf(c.size);
  const key = [distinct, period, c.dtype, c.objective].join();
  let content = known.get(key);
  if (content === undefined) {
    content = makeContent(distinct, period, c);
    known.set(key, content);
  }
  return content;
}

function makeContent(distinct: number, period: number, c: Case): Content {
  const normal = normalNumbers(distinct + period);
  const round = rounding(c.dtype);
  const fill = (make: (at: number) => number) => new Float64Array(distinct * period).map((_, at) => round(make(at)));
  const branch = () => {
    const target = fill(() => normal());
    const policy = fill((at) => target[at] + 0.1 * normal());
    return { policy, reference: fill((at) => policy[at] + 0.02 * normal()), target };
  };
  const omega = omegas.slice(0, distinct);
  const batch = {
    timesteps: omega.map((_, i) => 500 + i),
    chosen: branch(),
    rejected: branch(),
    transition: { omega: { chosen: omega, rejected: omega } },
  };
  const options: OracleOptions = {
    objective: c.objective,
    beta,
    ...(c.objective !== 'diffusion-dpo' && { clipRange, maskThreshold }),
  };
  const exact = oracle(batch, options);
  if (exact.rows.mask.includes(0)) throw new Error('benchmark data: a removed row would be written without being read');
  // Inputs are exact in their dtype, so whatever is more than float32 arithmetic and one last rounding is an error.
  const single = naiveTolerances(batch, options, 'float32');
  const stored = (name: BranchName) => ({
    policy: encode(c.dtype, batch[name].policy) as Stored,
    reference: encode(c.dtype, batch[name].reference) as Stored,
    target: encode(c.dtype, batch[name].target) as Stored,
  });
  return {
    distinct,
    period,
    stored: { chosen: stored('chosen'), rejected: stored('rejected') },
    expected: {
      loss: exact.loss,
      lossTolerance: (single.loss.absolute as Float64Array)[0],
      gradients: exact.gradients,
      gradientTolerance: {
        chosen: single.gradients.chosen.absolute as Float64Array,
        rejected: single.gradients.rejected.absolute as Float64Array,
      },
    },
  };
}

/** The arrays of a case, all rows in full. */
export interface Batch {
  case: Case;
  content: Content;
  omega: Float64Array;
  timesteps: Float64Array;
  inputs: PerBranch<Record<TensorName, Stored>>;
}

/** Memory that the cases of a run share, one block per tensor, so that pages are mapped once. */
export class Arena {
  readonly #blocks = new Map<string, ArrayBuffer>();

  take(name: string, dtype: BenchDType, length: number): Stored {
    const bytes = length * (dtype === 'float32' ? 4 : 2);
    let block = this.#blocks.get(name);
    if (block === undefined || block.byteLength < bytes) {
      block = new ArrayBuffer(bytes);
      this.#blocks.set(name, block);
    }
    return dtype === 'float32' ? new Float32Array(block, 0, length) : new Uint16Array(block, 0, length);
  }

  /** Gives the memory back, before cases that need most of it for something else. */
  clear(): void {
    this.#blocks.clear();
  }
}

export function makeBatch(c: Case, arena: Arena): Batch {
  const content = contentOf(c);
  const lay = (branch: BranchName, tensor: TensorName) => {
    const out = arena.take(`${branch}.${tensor}`, c.dtype, c.rows * c.size);
    repeatRows(content.stored[branch][tensor], content, c, out);
    return out;
  };
  const branch = (name: BranchName) => ({
    policy: lay(name, 'policy'),
    reference: lay(name, 'reference'),
    target: lay(name, 'target'),
  });
  const perRow = (make: (i: number) => number) => Float64Array.from({ length: c.rows }, (_, i) => make(i));
  return {
    case: c,
    content,
    omega: perRow((i) => omegas[i % content.distinct]),
    timesteps: perRow((i) => 500 + (i % content.distinct)),
    inputs: { chosen: branch('chosen'), rejected: branch('rejected') },
  };
}

function repeatRows(pattern: Stored, { distinct, period }: Content, c: Case, out: Stored): void {
  for (let row = 0; row < Math.min(distinct, c.rows); row++) {
    out.set(pattern.subarray(row * period, (row + 1) * period), row * c.size);
    const whole = out.subarray(row * c.size, (row + 1) * c.size);
    for (let filled = period; filled < c.size; filled *= 2)
      whole.copyWithin(filled, 0, Math.min(filled, c.size - filled));
  }
  const unit = distinct * c.size;
  for (let filled = unit; filled < out.length; filled *= 2) {
    out.copyWithin(filled, 0, Math.min(filled, out.length - filled));
  }
}

/** What a provider computed. */
export interface Outcome {
  loss: number;
  gradients?: PerBranch<Stored>;
}

/** How far off a provider may be, in units of what a careful implementation needs. */
export interface Verdict {
  /** Largest error of the loss and of a gradient entry, each in units of its tolerance. */
  loss: number;
  gradient: number;
}

/**
 * Errors of an outcome against the oracle, in units of the tolerance: twice the error of the formula done naively in float32 over one
 * period, and the rounding of the gradient to its dtype. `growth` multiplies the former.
 */
export function judge({ case: c, content }: Batch, outcome: Outcome, growth: number): Verdict {
  const { distinct, period, expected } = content;
  const verdict: Verdict = {
    loss: excess(Math.abs(outcome.loss - expectedLoss(c, content)), growth * expected.lossTolerance),
    gradient: 0,
  };
  if (outcome.gradients === undefined) return verdict;
  const scale = (gradientScaleOf(c.dtype) * period * distinct) / (c.size * c.rows);
  const rounded = roundingOf(c.dtype);
  const read = reader(c.dtype);
  for (const name of branches) {
    const values = outcome.gradients[name];
    if (values.length !== c.rows * c.size) return { ...verdict, gradient: Infinity };
    const exact = expected.gradients[name].map((value) => value * scale);
    const allowed = exact.map(
      (value, at) =>
        growth * expected.gradientTolerance[name][at] * scale +
        Math.abs(value) * rounded.relative +
        (rounded.absolute as number),
    );
    for (let row = 0; row < c.rows; row++) {
      const from = (row % distinct) * period;
      for (let j = 0, at = from, i = row * c.size; j < c.size; j++, i++, at++) {
        if (at === from + period) at = from;
        const error = Math.abs(read(values[i]) - exact[at]);
        if (!(error <= verdict.gradient * allowed[at])) verdict.gradient = excess(error, allowed[at]);
      }
    }
  }
  return verdict;
}

function excess(error: number, tolerance: number): number {
  const ratio = error / tolerance;
  return Number.isNaN(ratio) ? (error === 0 ? 0 : Infinity) : ratio;
}

/** The mean over rows of the losses of the distinct rows, which repeat in turn. */
function expectedLoss(c: Case, { distinct, expected }: Content): number {
  if (c.rows % distinct !== 0) throw new Error('benchmark data: rows must be a multiple of the distinct rows');
  return expected.loss;
}

function reader(dtype: BenchDType): (stored: number) => number {
  if (dtype === 'float32') return (value) => value;
  const table = halfTable(dtype);
  return (bits) => table[bits];
}

const tables = new Map<BenchDType, Float64Array>();

/** The number of each of the 65,536 patterns of a 16-bit format. */
function halfTable(dtype: 'bfloat16' | 'float16'): Float64Array {
  let table = tables.get(dtype);
  if (table === undefined) {
    table = decode(
      dtype,
      Uint16Array.from({ length: 65536 }, (_, bits) => bits),
    );
    tables.set(dtype, table);
  }
  return table;
}
