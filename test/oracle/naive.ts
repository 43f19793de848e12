/** The losses as one would first write them in a given dtype, every operation rounded to it: the yardstick for the errors of the package. */

import { uniformNumbers } from '../helpers/cases.js';
import { largestError, type Tolerance } from '../helpers/close.js';
import { type DType, epsilonOf, mapped, rounding } from '../helpers/dtypes.js';
import { type BranchName, type OracleBatch, type OracleOptions, oracle, type PerBranch } from './oracle.js';

/** The statistics that the naive formula has too, and its gradients. */
export interface NaiveResult {
  loss: number;
  rows: Record<NaiveStatistic, Float64Array>;
  gradients: PerBranch<Float64Array>;
}

export const naiveStatistics = [
  'loss',
  'logit',
  'rewardChosen',
  'rewardRejected',
  'logWeightChosen',
  'logWeightRejected',
  'weightChosen',
  'weightRejected',
  'errorChosen',
  'errorRejected',
  'referenceErrorChosen',
  'referenceErrorRejected',
  'driftChosen',
  'driftRejected',
] as const;
type NaiveStatistic = (typeof naiveStatistics)[number];

/** Arithmetic whose every result is rounded. */
class Rounded {
  readonly of: (value: number) => number;
  constructor(dtype: DType) {
    this.of = rounding(dtype);
  }
  add = (a: number, b: number) => this.of(a + b);
  sub = (a: number, b: number) => this.of(a - b);
  mul = (a: number, b: number) => this.of(a * b);
  div = (a: number, b: number) => this.of(a / b);
  exp = (a: number) => this.of(Math.exp(a));
  log1p = (a: number) => this.of(Math.log1p(a));

  /** The mean of squared differences by one running sum, as a loop or a textbook would have it. */
  meanSquare(left: ArrayLike<number>, right: ArrayLike<number>, start: number, order: ArrayLike<number>): number {
    let sum = 0;
    for (let k = 0; k < order.length; k++) {
      const at = start + order[k];
      const d = this.sub(this.of(left[at]), this.of(right[at]));
      sum = this.add(sum, this.mul(d, d));
    }
    return this.div(sum, order.length);
  }
}

/** A batch as `randomBatch` makes it, without the optional fields. */
type PlainBatch = OracleBatch & { transition: { omega: PerBranch<ArrayLike<number>> } };

/** Means of squares, differences of means, then the formulas of the loss. The mask is the one of the exact result: a row more or less is not a rounding error. */
export function naive(
  batch: PlainBatch,
  options: OracleOptions,
  dtype: DType,
  mask: ArrayLike<number>,
  order: ArrayLike<number> = Uint32Array.from({ length: batch.chosen.policy.length / mask.length }, (_, j) => j),
): NaiveResult {
  const r = new Rounded(dtype);
  const count = mask.length;
  const size = batch.chosen.policy.length / count;
  const rows = Object.fromEntries(
    naiveStatistics.map((name) => [name, new Float64Array(count)]),
  ) as NaiveResult['rows'];
  const gradients = { chosen: new Float64Array(count * size), rejected: new Float64Array(count * size) };
  let loss = 0;
  for (let i = 0; i < count; i++) {
    const branches = {
      chosen: branchOf(r, batch, options, 'chosen', i, order),
      rejected: branchOf(r, batch, options, 'rejected', i, order),
    };
    const keep = mask[i] === 1;
    const row = rowOf(r, options, branches.chosen, branches.rejected, keep);
    const last = r.div(row.loss, count);
    loss = r.add(loss, last);
    for (const [name, suffix] of [
      ['chosen', 'Chosen'],
      ['rejected', 'Rejected'],
    ] as const) {
      const branch = branches[name];
      rows[`error${suffix}`][i] = branch.m;
      rows[`referenceError${suffix}`][i] = branch.r;
      rows[`drift${suffix}`][i] = branch.q;
      rows[`reward${suffix}`][i] = branch.psi;
      rows[`logWeight${suffix}`][i] = branch.lambda;
      rows[`weight${suffix}`][i] = r.exp(branch.lambda);
      const slope = row[name];
      const { policy, reference, target } = batch[name];
      for (let j = i * size; j < (i + 1) * size; j++) {
        const d = r.sub(r.of(policy[j]), r.of(target[j]));
        const h = r.sub(r.of(policy[j]), r.of((reference as ArrayLike<number>)[j]));
        const total = r.add(r.mul(slope.m, d), slope.q === 0 ? 0 : r.mul(slope.q, h));
        gradients[name][j] = r.div(r.mul(2, total), r.mul(size, count));
      }
    }
    rows.loss[i] = row.loss;
    rows.logit[i] = row.z;
  }
  return { loss, rows, gradients };
}

interface NaiveBranch {
  m: number;
  r: number;
  q: number;
  psi: number;
  psiScale: number;
  lambda: number;
  lambdaScale: number;
}

function branchOf(
  a: Rounded,
  batch: PlainBatch,
  options: OracleOptions,
  name: BranchName,
  i: number,
  order: ArrayLike<number>,
): NaiveBranch {
  const { policy, reference, target } = batch[name];
  const size = order.length;
  const m = a.meanSquare(policy, target, i * size, order);
  const r = a.meanSquare(reference as ArrayLike<number>, target, i * size, order);
  const q = a.meanSquare(policy, reference as ArrayLike<number>, i * size, order);
  const reduced = options.logRatioReduction === 'sum' ? size : 1;
  const omega = a.mul(a.of(batch.transition.omega[name][i]), reduced);
  const beta = a.of(options.beta);
  const psiScale = options.timestepWeighting === 'elbo' ? a.mul(beta, omega) : a.mul(0.5, beta);
  const lambdaScale = a.mul(a.of(options.weightSharpness ?? 1), omega);
  const moment = { 'policy/data': m, 'policy/reference': a.sub(m, r), 'reference/data': r }[
    options.weightRatio ?? 'policy/data'
  ];
  const psi = psiScale === Infinity ? Number.NaN : -a.mul(psiScale, a.sub(m, r));
  const lambda = lambdaScale === Infinity ? -Infinity : -a.mul(lambdaScale, moment);
  return { m, r, q, psi, psiScale, lambda, lambdaScale };
}

interface NaiveRow {
  loss: number;
  z: number;
  chosen: { m: number; q: number };
  rejected: { m: number; q: number };
}

function rowOf(a: Rounded, options: OracleOptions, c: NaiveBranch, r: NaiveBranch, keep: boolean): NaiveRow {
  const { objective, clipRange = 0.1 } = options;
  const [low, high] = typeof clipRange === 'number' ? [1 - clipRange, 1 + clipRange] : clipRange;
  const clip = (lambda: number) => Math.min(Math.max(a.exp(lambda), a.of(low)), a.of(high));
  const clipSlope = (lambda: number) => (a.exp(lambda) > low && a.exp(lambda) < high ? a.exp(lambda) : 0);
  const pairOf = {
    geometric: a.mul(0.5, a.add(c.lambda, r.lambda)),
    min: Math.min(c.lambda, r.lambda),
    max: Math.max(c.lambda, r.lambda),
    product: a.add(c.lambda, r.lambda),
  };
  const pairWeight = options.pairWeight ?? 'geometric';
  const logPair = pairOf[pairWeight];
  const share = {
    geometric: [0.5, 0.5],
    product: [1, 1],
    min: c.lambda <= r.lambda ? [1, 0] : [0, 1],
    max: c.lambda >= r.lambda ? [1, 0] : [0, 1],
  }[pairWeight];
  const weighted = objective === 'sdpo';
  const [wc, wr] = weighted ? [clip(c.lambda), clip(r.lambda)] : [1, 1];
  const pair = objective === 'dpo-cm' ? clip(logPair) : 1;
  const z = a.sub(a.mul(wc, c.psi), a.mul(wr, r.psi));
  const link = linkOf(a, options, z);

  const slope = keep ? a.mul(pair, link.slope) : 0;
  let mc = slope === 0 ? 0 : -a.mul(a.mul(slope, wc), c.psiScale);
  let mr = slope === 0 ? 0 : a.mul(a.mul(slope, wr), r.psiScale);
  if (options.weightGradient && keep && options.weightRatio !== 'reference/data') {
    const through = weighted
      ? [a.mul(a.mul(slope, c.psi), clipSlope(c.lambda)), -a.mul(a.mul(slope, r.psi), clipSlope(r.lambda))]
      : share.map((part) => a.mul(a.mul(part, link.value), clipSlope(logPair)));
    if (through[0] !== 0) mc = a.sub(mc, a.mul(through[0], c.lambdaScale));
    if (through[1] !== 0) mr = a.sub(mr, a.mul(through[1], r.lambdaScale));
  }
  let loss = keep ? a.mul(pair, link.value) : 0;
  const anchor = (weight = 0, scope = 'all') => (scope === 'all' || !keep ? a.of(weight) : 0);
  const sft = anchor(options.sftWeight, options.sftScope);
  const kl = anchor(options.klWeight, options.klScope);
  loss = a.add(loss, a.mul(sft, c.m));
  loss = a.add(loss, a.mul(kl, a.add(c.q, r.q)));
  return { loss, z, chosen: { m: a.add(mc, sft), q: kl }, rejected: { m: mr, q: kl } };
}

function linkOf(a: Rounded, { link = 'sigmoid', labelSmoothing = 0, beta }: OracleOptions, z: number) {
  const sigmoid = (x: number) => a.div(1, a.add(1, a.exp(-x)));
  const softplus = (x: number) => a.add(Math.max(x, 0), a.log1p(a.exp(-Math.abs(x))));
  const alpha = a.of(labelSmoothing);
  switch (link) {
    case 'sigmoid':
      return {
        value: a.add(a.mul(a.sub(1, alpha), softplus(-z)), a.mul(alpha, softplus(z))),
        slope: a.sub(a.mul(alpha, sigmoid(z)), a.mul(a.sub(1, alpha), sigmoid(-z))),
      };
    case 'hinge':
      return { value: Math.max(0, a.sub(1, z)), slope: z < 1 ? -1 : 0 };
    case 'ipo': {
      const rest = a.sub(a.div(z, beta), a.div(1, a.mul(2, beta)));
      return { value: a.mul(rest, rest), slope: a.div(a.mul(2, rest), beta) };
    }
  }
}

/** What an implementation may be off by: twice the naive formula's error, for the loss, each row's statistics and each row's gradients. */
export interface NaiveTolerances {
  loss: Tolerance;
  rows: Record<NaiveStatistic, Tolerance>;
  gradients: PerBranch<Tolerance>;
}

/** How often the naive formula is run; its error on one input can be zero by luck. */
const draws = 8;

/**
 * Twice the largest error of the naive formula against float64 over several draws, each with another order of summation and with its inputs
 * moved at random by up to half a unit in the last place (what rounding them to the dtype does). At least the rounding of the result itself.
 * Gradients get one bound per row and branch.
 */
export function naiveTolerances(batch: PlainBatch, options: OracleOptions, dtype: DType): NaiveTolerances {
  const exact = oracle(batch, options);
  const mask = exact.rows.mask;
  const size = batch.chosen.policy.length / mask.length;
  const loss = new WorstError(Float64Array.of(exact.loss), 1, dtype);
  const rows = perStatistic((name) => new WorstError(exact.rows[name], 1, dtype));
  const gradients = {
    chosen: new WorstError(exact.gradients.chosen, size, dtype),
    rejected: new WorstError(exact.gradients.rejected, size, dtype),
  };
  for (let draw = 0; draw < draws; draw++) {
    const result = naive(dithered(batch, dtype, draw), options, dtype, mask, shuffled(size, draw));
    loss.see(Float64Array.of(result.loss));
    for (const name of naiveStatistics) rows[name].see(result.rows[name]);
    gradients.chosen.see(result.gradients.chosen);
    gradients.rejected.see(result.gradients.rejected);
  }
  return {
    loss: loss.doubled(),
    rows: perStatistic((name) => rows[name].doubled()),
    gradients: { chosen: gradients.chosen.doubled(), rejected: gradients.rejected.doubled() },
  };
}

/** The largest error so far of each run of `size` entries. */
class WorstError {
  readonly #exact: Float64Array;
  readonly #size: number;
  readonly #worst: Float64Array;

  constructor(exact: Float64Array, size: number, dtype: DType) {
    this.#exact = exact;
    this.#size = size;
    this.#worst = exact.map((value) => (Number.isFinite(value) ? (Math.abs(value) * epsilonOf(dtype)) / 2 : 0));
  }

  see(actual: Float64Array): void {
    for (let start = 0; start < actual.length; start += this.#size) {
      const end = start + this.#size;
      const error = largestError(actual.subarray(start, end), this.#exact.subarray(start, end));
      for (let at = start; at < end; at++) this.#worst[at] = Math.max(this.#worst[at], error);
    }
  }

  doubled(): Tolerance {
    return { relative: 0, absolute: this.#worst.map((error) => 2 * error) };
  }
}

function perStatistic<T>(make: (name: NaiveStatistic) => T): Record<NaiveStatistic, T> {
  return Object.fromEntries(naiveStatistics.map((name) => [name, make(name)])) as Record<NaiveStatistic, T>;
}

/** The first draw takes the inputs and their order as they are. */
function dithered(batch: PlainBatch, dtype: DType, draw: number): PlainBatch {
  if (draw === 0) return batch;
  const uniform = uniformNumbers(draw);
  const half = epsilonOf(dtype) / 2;
  const moved = (values: ArrayLike<number>) => mapped(values, (value) => value * (1 + half * (2 * uniform() - 1)));
  const branch = (name: BranchName) => ({
    policy: moved(batch[name].policy),
    reference: moved(batch[name].reference as ArrayLike<number>),
    target: moved(batch[name].target),
  });
  return { ...batch, chosen: branch('chosen'), rejected: branch('rejected') };
}

function shuffled(size: number, draw: number): Uint32Array {
  const order = Uint32Array.from({ length: size }, (_, j) => j);
  if (draw === 0) return order;
  const uniform = uniformNumbers(draw + draws);
  for (let j = size - 1; j > 0; j--) {
    const other = Math.floor(uniform() * (j + 1));
    [order[j], order[other]] = [order[other], order[j]];
  }
  return order;
}
