/** Naive float64 oracle of the objectives without weights and of the safeguard, element by element from the definitions; its gradient is a finite difference. */

import type { BranchName, OracleBatch, OracleCall, PerBranch } from './types.js';

export interface ScoreOptions {
  objective: string;
  beta: number;
  timestepWeighting?: 'constant' | 'elbo';
  logRatioReduction?: 'mean' | 'sum';
  sftWeight?: number;
  sftScope?: 'all' | 'masked';
  klWeight?: number;
  klScope?: 'all' | 'masked';
  dmpoAlpha?: number;
  mapoScale?: number;
  mapoSteps?: number;
  linearFloor?: number;
}

/** What a formula is given of one row. */
interface ScoreRow {
  /** u_θ - u of every element. */
  d: PerBranch<Float64Array>;
  /** u_θ - u_ref of every element; absent without a reference tensor. */
  h: PerBranch<Float64Array | undefined>;
  /** Mean over the elements of a branch, with their weights. */
  mean: (name: BranchName, values: ArrayLike<number>) => number;
  m: PerBranch<number>;
  psi: PerBranch<number>;
}

export interface Formula {
  /** What the loss cannot do without: nothing of the reference, its error alone, or its tensor. */
  reads: 'no reference' | 'reference error' | 'reference tensor';
  logit: (row: ScoreRow, options: ScoreOptions) => number;
  /** `held`: the logit where no gradient flows through it. */
  loss: (row: ScoreRow, options: ScoreOptions, logit: number, held: number) => number;
  /** Whether `held` is read: the gradient is then not that of the loss as a number. */
  stopped?: true;
  /** Option sets to test with; default one without options of its own. */
  variants?: readonly Partial<ScoreOptions>[];
}

const margin = ({ psi }: ScoreRow) => psi.chosen - psi.rejected;

/** Every objective without weights. */
export const formulas: Readonly<Record<string, Formula>> = {
  // Mean over the elements of (d - s h)², s = β σ(-z): the distance of the winner's score from a target that the preference shifts.
  dspo: {
    reads: 'reference tensor',
    logit: margin,
    loss: ({ d, h, mean }, { beta }, z) => {
      const s = beta * sigmoid(-z);
      return mean(
        'chosen',
        d.chosen.map((error, j) => (error - s * (h.chosen as Float64Array)[j]) ** 2),
      );
    },
    variants: [{ beta: 2 }, { beta: 0.5 }],
  },
  // KL divergence of two distributions over 'chosen is better' and 'rejected is better'.
  dmpo: {
    reads: 'reference error',
    logit: margin,
    loss: (_, { dmpoAlpha = 0.01 }, z) => divergence([sigmoid(z), sigmoid(-z)], [1 - dmpoAlpha, dmpoAlpha]),
    variants: [{}, { dmpoAlpha: 0.3 }, { dmpoAlpha: 0.9 }],
  },
  // Odds p/(1-p) of p = e^-x, times x.
  mapo: {
    reads: 'no reference',
    logit: ({ m }, { mapoScale = 0.5, mapoSteps = 1000 }) =>
      mapoSteps * (scaledOdds(mapoScale * m.chosen) - scaledOdds(mapoScale * m.rejected)),
    loss: ({ m }, { beta }, z) => m.chosen + beta * softplus(-z),
    variants: [{ mapoSteps: 8 }, { mapoSteps: 5, mapoScale: 2 }],
  },
  // The difference of the errors, times a line through ½ that stays between a floor and 1 less it.
  'linear-dpo': {
    reads: 'reference error',
    stopped: true,
    logit: margin,
    loss: ({ m }, { linearFloor = 0.01 }, _, held) =>
      Math.min(Math.max(0.5 - 0.4 * held, linearFloor), 1 - linearFloor) * (m.chosen - m.rejected),
    variants: [{ beta: 0.2 }, { linearFloor: 0.3 }, { linearFloor: 0 }],
  },
};

export const objectives: readonly string[] = Object.keys(formulas);

export interface ScoreResult {
  loss: number;
  rows: Record<'loss' | 'logit' | 'mask' | 'rewardChosen' | 'rewardRejected', Float64Array>;
}

/** Loss and row statistics of a batch; `at` is where stopped gradients are held fast, else the batch itself. */
export function scoreLoss(batch: OracleBatch, options: ScoreOptions, call: OracleCall = {}, at = batch): ScoreResult {
  const { logit, loss: formula } = formulas[options.objective];
  const { timesteps, rowWeights } = batch;
  const count = 'chosen' in timesteps ? timesteps.chosen.length : timesteps.length;
  const column = () => new Float64Array(count);
  const rows = { loss: column(), logit: column(), mask: column(), rewardChosen: column(), rewardRejected: column() };
  let total = 0;
  for (let i = 0; i < count; i++) {
    const row = scoreRow(batch, options, i, count);
    const z = logit(row, options);
    const kept = !(Number.isNaN(row.psi.chosen) || Number.isNaN(row.psi.rejected));
    const inScope = (scope = 'all') => scope === 'all' || !kept;
    const held = at === batch ? z : logit(scoreRow(at, options, i, count), options);
    let loss = kept ? formula(row, options, z, held) : 0;
    if (options.sftWeight && inScope(options.sftScope)) loss += options.sftWeight * row.m.chosen;
    if (options.klWeight && inScope(options.klScope)) {
      const drift = (name: BranchName) =>
        row.mean(
          name,
          (row.h[name] as Float64Array).map((value) => value ** 2),
        );
      loss += options.klWeight * (drift('chosen') + drift('rejected'));
    }
    rows.loss[i] = loss * (rowWeights ? rowWeights[i] : 1);
    rows.logit[i] = z;
    rows.mask[i] = kept ? 1 : 0;
    rows.rewardChosen[i] = row.psi.chosen;
    rows.rewardRejected[i] = row.psi.rejected;
    total += rows.loss[i];
  }
  return { loss: total / (call.denominator ?? count), rows };
}

/** u_θ - u of both branches of a row, as the safeguard's formula reads them. */
export function errorsOf(batch: OracleBatch, i: number, count: number): PerBranch<Float64Array> {
  const error = (name: BranchName) => {
    const { policy, target } = batch[name];
    const size = policy.length / count;
    return new Float64Array(size).map((_, j) => policy[i * size + j] - target[i * size + j]);
  };
  return { chosen: error('chosen'), rejected: error('rejected') };
}

/** The factor on the loser's gradient, from the gradients of the two mean squared errors with respect to the predictions; e are element weights. */
export function safeguardFactor(
  mu: number,
  winner: ArrayLike<number>,
  loser: ArrayLike<number>,
  e: ArrayLike<number> = new Float64Array(winner.length).fill(1),
): number {
  let own = 0;
  let inner = 0;
  let total = 0;
  for (let j = 0; j < winner.length; j++) total += e[j];
  for (let j = 0; j < winner.length; j++) {
    // With weights the inner product is the one in which (2/Σe) d is the gradient: Σ e a b.
    own += e[j] * ((2 * winner[j]) / total) ** 2;
    inner += (e[j] * (2 * winner[j] * 2 * loser[j])) / total ** 2;
  }
  return inner > 0 ? Math.min(Math.max(((1 - mu) * own) / inner, 0), 1) : 1;
}

function scoreRow(batch: OracleBatch, options: ScoreOptions, i: number, count: number): ScoreRow {
  const d = errorsOf(batch, i, count);
  const size = d.chosen.length;
  const weight = (name: BranchName, j: number) => {
    const given = batch.elementWeights;
    if (!given) return 1;
    const e = 'chosen' in given ? given[name] : given;
    return e[e.length === size ? j : i * size + j];
  };
  const sum = (name: BranchName, value: (j: number) => number) =>
    d.chosen.reduce((soFar, _, j) => soFar + weight(name, j) * value(j), 0);
  const mean = (name: BranchName, values: ArrayLike<number>) => sum(name, (j) => values[j]) / sum(name, () => 1);
  const h = (name: BranchName) => {
    const { policy, reference } = batch[name];
    return reference && d[name].map((_, j) => policy[i * size + j] - reference[i * size + j]);
  };
  const m = (name: BranchName) =>
    mean(
      name,
      d[name].map((value) => value ** 2),
    );
  const r = (name: BranchName) => {
    const { reference, referenceError, target } = batch[name];
    if (reference)
      return mean(
        name,
        d[name].map((_, j) => (reference[i * size + j] - target[i * size + j]) ** 2),
      );
    return referenceError ? referenceError[i] : 0;
  };
  const psi = (name: BranchName) => {
    if (options.timestepWeighting !== 'elbo') return (-options.beta / 2) * (m(name) - r(name));
    const given = batch.transition?.omega as ArrayLike<number> | PerBranch<ArrayLike<number>>;
    const omega = ('chosen' in given ? given[name] : given)[i];
    if (omega === Infinity) return Number.NaN;
    const times = options.logRatioReduction === 'sum' ? sum(name, () => 1) : 1;
    return -options.beta * omega * times * (m(name) - r(name));
  };
  const both = <T>(make: (name: BranchName) => T) => ({ chosen: make('chosen'), rejected: make('rejected') });
  return { d, h: both(h), mean, m: both(m), psi: both(psi) };
}

function divergence(p: readonly number[], q: readonly number[]): number {
  return p.reduce((sum, each, k) => sum + (each === 0 ? 0 : each * Math.log(each / q[k])), 0);
}

/** x/(e^x - 1); e^x - 1 by its power series where the subtraction would cancel. */
export function scaledOdds(x: number): number {
  if (x === 0) return 1;
  if (x >= 1) return x / (Math.exp(x) - 1);
  let [series, term] = [0, 1];
  for (let k = 1; k < 30; k++) {
    term *= x / k;
    series += term;
  }
  return x / series;
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

function softplus(x: number): number {
  return x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x));
}
