/** Names and shapes that the oracle shares with the tests: its own lists, which the contract test compares with those of `lib/` and of the addon. */

import type { OracleSchedule } from './schedule.js';

export const objectives = ['diffusion-dpo', 'dpo-cm', 'sdpo'] as const;
export const links = ['sigmoid', 'hinge', 'ipo'] as const;
export const weightRatios = ['policy/data', 'policy/reference', 'reference/data'] as const;
export const pairWeights = ['geometric', 'min', 'max', 'product'] as const;
export const scopes = ['all', 'masked'] as const;
export const timestepWeightings = ['constant', 'elbo'] as const;
export const logRatioReductions = ['mean', 'sum'] as const;
export const statistics = [
  'loss',
  'logit',
  'mask',
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

export type Statistic = (typeof statistics)[number];
export type BranchName = 'chosen' | 'rejected';
export type PerBranch<T> = { chosen: T; rejected: T };

export interface OracleOptions {
  objective: (typeof objectives)[number];
  beta: number;
  schedule?: OracleSchedule;
  clipRange?: number | readonly [number, number];
  maskThreshold?: number;
  weightSharpness?: number;
  weightRatio?: (typeof weightRatios)[number];
  timestepWeighting?: (typeof timestepWeightings)[number];
  logRatioReduction?: (typeof logRatioReductions)[number];
  link?: (typeof links)[number];
  labelSmoothing?: number;
  weightGradient?: boolean;
  pairWeight?: (typeof pairWeights)[number];
  sftWeight?: number;
  sftScope?: (typeof scopes)[number];
  klWeight?: number;
  klScope?: (typeof scopes)[number];
  nonFinite?: 'throw' | 'skip' | 'propagate';
}

export interface OracleBranch {
  policy: ArrayLike<number>;
  reference?: ArrayLike<number>;
  target: ArrayLike<number>;
  referenceError?: ArrayLike<number>;
}

export interface OracleBatch {
  timesteps: ArrayLike<number> | PerBranch<ArrayLike<number>>;
  chosen: OracleBranch;
  rejected: OracleBranch;
  rowWeights?: ArrayLike<number>;
  elementWeights?: ArrayLike<number> | PerBranch<ArrayLike<number>>;
  transition?: {
    omega: ArrayLike<number> | PerBranch<ArrayLike<number>>;
    offsetChosen?: ArrayLike<number>;
    offsetRejected?: ArrayLike<number>;
  };
  weightNoise?: PerBranch<ArrayLike<number>>;
}

export interface OracleCall {
  denominator?: number;
  gradientScale?: number;
  maskThreshold?: number | ArrayLike<number>;
}

export interface OracleResult {
  loss: number;
  rows: Record<Statistic, Float64Array>;
  metrics: Record<string, number>;
  gradients: PerBranch<Float64Array>;
}
