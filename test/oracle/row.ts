/** One row of the oracle: from tensors to moments, log weights, rewards and loss, each by its definition. */

import { type OracleSchedule, transitionWeight } from './schedule.js';
import type { BranchName, OracleBatch, OracleCall, OracleOptions, PerBranch } from './types.js';

/** What stop-gradients hold constant while a finite difference moves the predictions: the mask, and the weights unless `weightGradient` is on. */
export type Frozen = Pick<Row, 'keep' | 'clipped' | 'pair'>;

/** Everything that the definitions name for one row. */
export interface Row {
  skipped: boolean;
  keep: boolean;
  omega: PerBranch<number>;
  weightSum: PerBranch<number>;
  m: PerBranch<number>;
  r: PerBranch<number>;
  q: PerBranch<number>;
  noiseTerm: PerBranch<number>;
  lambda: PerBranch<number>;
  clipped: PerBranch<number>;
  logPair: number;
  pair: number;
  psi: PerBranch<number>;
  z: number;
  loss: number;
}

export type Settings = Required<Omit<OracleOptions, 'schedule'>> & { schedule?: OracleSchedule };

export function evaluateRow(batch: OracleBatch, settings: Settings, call: OracleCall, i: number, frozen?: Frozen): Row {
  const size = batch.chosen.policy.length / rowCount(batch);
  const weights = both((name) => elementWeightsOf(batch, name, i, size));
  const weightSum = both((name) => sum(weights[name]));
  const average = (name: BranchName, values: Float64Array) =>
    sum(values.map((value, j) => weights[name][j] * value)) / weightSum[name];
  const omega = both((name) => omegaOf(batch, settings, name, i));
  const error = both((name) => differences(batch[name].policy, batch[name].target, i, size));
  const m = both((name) => average(name, squares(error[name])));
  const r = both((name) => {
    const { reference, target, referenceError } = batch[name];
    return reference
      ? average(name, squares(differences(reference, target, i, size)))
      : (referenceError as ArrayLike<number>)[i];
  });
  const q = both((name) => {
    const { policy, reference } = batch[name];
    return reference ? average(name, squares(differences(policy, reference, i, size))) : Number.NaN;
  });
  const skipped = settings.nonFinite === 'skip' && !finiteRow(batch, i, size);
  const moments = { omega, weightSum, m, r, q };

  const noiseTerm = both((name) => noiseOf(batch, settings, moments, name, i));
  const lambda = both((name) => logWeight(batch, settings, moments, noiseTerm[name], name, i));
  const logPair = logPairWeight(settings, lambda);
  const live = settings.weightGradient || !frozen;
  const clipped = live ? both((name) => clip(settings, Math.exp(lambda[name]))) : frozen.clipped;
  const pair = live ? clip(settings, Math.exp(logPair)) : frozen.pair;

  const psi = both((name) => reward(settings, moments, name));
  const z =
    settings.objective === 'sdpo'
      ? clipped.chosen * psi.chosen - clipped.rejected * psi.rejected
      : psi.chosen - psi.rejected;
  const keep = frozen ? frozen.keep : !skipped && kept(settings, call, omega, lambda, i);

  let loss = 0;
  if (keep) loss += (settings.objective === 'dpo-cm' ? pair : 1) * linkValue(settings, z);
  if (inScope(settings.sftWeight, settings.sftScope, keep)) loss += settings.sftWeight * m.chosen;
  if (inScope(settings.klWeight, settings.klScope, keep)) loss += settings.klWeight * (q.chosen + q.rejected);
  loss = skipped ? 0 : loss * (batch.rowWeights?.[i] ?? 1);
  return { skipped, keep, ...moments, noiseTerm, lambda, clipped, logPair, pair, psi, z, loss };
}

type Moments = Pick<Row, 'omega' | 'weightSum' | 'm' | 'r' | 'q'>;

/** λ = κ (offset - ω m) for the policy against the data, or the same difference of log densities for another pair of distributions. */
function logWeight(
  batch: OracleBatch,
  settings: Settings,
  { omega, weightSum, m, r }: Moments,
  noiseTerm: number,
  name: BranchName,
  i: number,
): number {
  if (omega[name] === Infinity) return -Infinity;
  const offset = batch.transition?.[name === 'chosen' ? 'offsetChosen' : 'offsetRejected']?.[i] ?? 0;
  const scale = settings.weightSharpness * (settings.logRatioReduction === 'sum' ? weightSum[name] : 1);
  switch (settings.weightRatio) {
    case 'policy/data':
      return scale * (offset - omega[name] * m[name]) + noiseTerm;
    case 'reference/data':
      return scale * (offset - omega[name] * r[name]) + noiseTerm;
    case 'policy/reference':
      return scale * (offset - omega[name] * (m[name] - r[name])) + noiseTerm;
  }
}

/** The sampled part of λ: the log-ratio at x_p ~ q has the standard deviation √(2 ω D m) as a sum over elements. */
function noiseOf(
  batch: OracleBatch,
  settings: Settings,
  { omega, weightSum, m }: Moments,
  name: BranchName,
  i: number,
): number {
  const xi = batch.weightNoise?.[name][i];
  if (xi === undefined || omega[name] === Infinity) return 0;
  const asSum = Math.sqrt(2 * omega[name] * weightSum[name] * m[name]) * xi;
  return settings.weightSharpness * (settings.logRatioReduction === 'sum' ? asSum : asSum / weightSum[name]);
}

function logPairWeight(settings: Settings, { chosen, rejected }: PerBranch<number>): number {
  switch (settings.pairWeight) {
    case 'geometric':
      return (chosen + rejected) / 2;
    case 'min':
      return Math.min(chosen, rejected);
    case 'max':
      return Math.max(chosen, rejected);
    case 'product':
      return chosen + rejected;
  }
}

function reward(settings: Settings, { omega, weightSum, m, r }: Moments, name: BranchName): number {
  if (settings.timestepWeighting === 'constant') return (-settings.beta / 2) * (m[name] - r[name]);
  if (omega[name] === Infinity) return Number.NaN;
  const total = omega[name] * (settings.logRatioReduction === 'sum' ? weightSum[name] : 1);
  return -settings.beta * total * (m[name] - r[name]);
}

function kept(
  settings: Settings,
  call: OracleCall,
  omega: PerBranch<number>,
  lambda: PerBranch<number>,
  i: number,
): boolean {
  const worst = Math.max(omega.chosen, omega.rejected);
  if (settings.timestepWeighting === 'elbo' && worst === Infinity) return false;
  if (settings.objective === 'diffusion-dpo') return true;
  const given = call.maskThreshold ?? settings.maskThreshold;
  const floor = Math.log(typeof given === 'number' ? given : given[i]);
  return lambda.chosen >= floor && lambda.rejected >= floor;
}

export function clip(settings: Settings, weight: number): number {
  const [low, high] = clipBounds(settings);
  return Math.min(Math.max(weight, low), high);
}

export function clipBounds({ clipRange }: Settings): readonly [number, number] {
  return typeof clipRange === 'number' ? [1 - clipRange, 1 + clipRange] : clipRange;
}

export function inScope(weight: number, scope: string, keep: boolean): boolean {
  return weight !== 0 && (scope === 'all' || !keep);
}

export function linkValue({ link, labelSmoothing, beta }: Settings, z: number): number {
  switch (link) {
    case 'sigmoid':
      return (1 - labelSmoothing) * softplus(-z) + labelSmoothing * softplus(z);
    case 'hinge':
      return Math.max(0, 1 - z);
    case 'ipo':
      return (z / beta - 1 / (2 * beta)) ** 2;
  }
}

function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

export function withDefaults(options: OracleOptions): Settings {
  return {
    clipRange: 0.1,
    maskThreshold: 0.9,
    weightSharpness: 1,
    weightRatio: 'policy/data',
    timestepWeighting: 'constant',
    logRatioReduction: 'mean',
    link: 'sigmoid',
    labelSmoothing: 0,
    weightGradient: false,
    pairWeight: 'geometric',
    sftWeight: 0,
    sftScope: 'all',
    klWeight: 0,
    klScope: 'all',
    nonFinite: 'throw',
    ...options,
  };
}

function omegaOf(batch: OracleBatch, settings: Settings, name: BranchName, i: number): number {
  if (batch.transition) return pick(batch.transition.omega, name)[i];
  return transitionWeight(settings.schedule as OracleSchedule, pick(batch.timesteps, name)[i]);
}

function pick(list: ArrayLike<number> | PerBranch<ArrayLike<number>>, name: BranchName): ArrayLike<number> {
  return 'chosen' in list ? list[name] : list;
}

export function rowCount(batch: OracleBatch): number {
  return pick(batch.timesteps, 'chosen').length;
}

export function elementWeightsOf(batch: OracleBatch, name: BranchName, i: number, size: number): Float64Array {
  const weights = new Float64Array(size).fill(1);
  if (!batch.elementWeights) return weights;
  const given = pick(batch.elementWeights, name);
  const start = given.length === size ? 0 : i * size;
  return weights.map((_, j) => given[start + j]);
}

function finiteRow(batch: OracleBatch, i: number, size: number): boolean {
  return [batch.chosen, batch.rejected].every(({ policy, reference, target, referenceError }) => {
    if (referenceError && !Number.isFinite(referenceError[i])) return false;
    return [policy, reference, target].every((tensor) => {
      for (let j = 0; tensor && j < size; j++) if (!Number.isFinite(tensor[i * size + j])) return false;
      return true;
    });
  });
}

function differences(left: ArrayLike<number>, right: ArrayLike<number>, i: number, size: number): Float64Array {
  const start = i * size;
  return new Float64Array(size).map((_, j) => left[start + j] - right[start + j]);
}

function squares(values: Float64Array): Float64Array {
  return values.map((value) => value * value);
}

/** Compensated (Neumaier) sum, so that the oracle's own rounding stays below what it is asked to judge. */
export function sum(values: ArrayLike<number>): number {
  let total = 0;
  let lost = 0;
  for (let at = 0; at < values.length; at++) {
    const value = values[at];
    const next = total + value;
    lost += Math.abs(total) >= Math.abs(value) ? total - next + value : value - next + total;
    total = next;
  }
  return Number.isFinite(lost) ? total + lost : total;
}

export function both<T>(make: (name: BranchName) => T): PerBranch<T> {
  return { chosen: make('chosen'), rejected: make('rejected') };
}
