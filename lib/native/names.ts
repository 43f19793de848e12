/** Closed lists of names that have public types, in the order of the addon's tables; contract.ts compares the two. */

export const LINKS = ['sigmoid', 'hinge', 'ipo'] as const;
export const PAIR_WEIGHTS = ['geometric', 'min', 'max', 'product'] as const;
export const WEIGHT_RATIOS = ['policy/data', 'policy/reference', 'reference/data'] as const;
export const TIMESTEP_WEIGHTINGS = ['constant', 'elbo'] as const;
export const LOG_RATIO_REDUCTIONS = ['mean', 'sum'] as const;
export const SCOPES = ['all', 'masked'] as const;
export const SAFEGUARD_SCOPES = ['pair', 'batch'] as const;
export const NON_FINITE_POLICIES = ['throw', 'skip', 'propagate'] as const;
/** Element types of tensors, named as in PyTorch. */
export const DTYPES = ['float64', 'float32', 'float16', 'bfloat16'] as const;

export type Link = (typeof LINKS)[number];
export type PairWeight = (typeof PAIR_WEIGHTS)[number];
export type WeightRatio = (typeof WEIGHT_RATIOS)[number];
export type TimestepWeighting = (typeof TIMESTEP_WEIGHTINGS)[number];
export type LogRatioReduction = (typeof LOG_RATIO_REDUCTIONS)[number];
export type Scope = (typeof SCOPES)[number];
export type SafeguardScope = (typeof SAFEGUARD_SCOPES)[number];
export type NonFinitePolicy = (typeof NON_FINITE_POLICIES)[number];
export type DType = (typeof DTYPES)[number];

/** Statistics of a row that have a public name and a mean in the metrics. */
// biome-ignore format: names read best in rows
export const ROW_STATISTICS = [
  'loss', 'logit', 'mask', 'rewardChosen', 'rewardRejected', 'logWeightChosen', 'logWeightRejected', 'weightChosen',
  'weightRejected', 'errorChosen', 'errorRejected', 'referenceErrorChosen', 'referenceErrorRejected', 'driftChosen',
  'driftRejected',
] as const;

/** Means over rows and counts, behind the loss of the batch. */
// biome-ignore format: names read best in rows
export const METRICS = [
  ...ROW_STATISTICS, 'implicitAccuracy', 'rewardMargin', 'maskFraction', 'clipFraction', 'logRatioClipFraction',
  'nonFiniteRows',
] as const;

export const STATUSES = ['ok', 'non_finite', 'element_weights', 'aborted', 'out_of_memory', 'device'] as const;
export const FAILURE_TENSORS = ['policy', 'reference', 'target', 'referenceError', 'row', 'gradient', 'batch'] as const;

export type RowStatistic = (typeof ROW_STATISTICS)[number];
export type MetricName = (typeof METRICS)[number];
export type Status = (typeof STATUSES)[number];
