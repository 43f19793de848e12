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

/** What the logit goes through: docs/mathematics.md, section 4. @useDeclaredType */
export type Link = (typeof LINKS)[number];
/** How the weights of the two branches become one. @useDeclaredType */
export type PairWeight = (typeof PAIR_WEIGHTS)[number];
/** Which density ratio the weight is. @useDeclaredType */
export type WeightRatio = (typeof WEIGHT_RATIOS)[number];
/** Whether ψ scales with ω. @useDeclaredType */
export type TimestepWeighting = (typeof TIMESTEP_WEIGHTINGS)[number];
/** Whether ω is per element or per row. @useDeclaredType */
export type LogRatioReduction = (typeof LOG_RATIO_REDUCTIONS)[number];
/** The rows that an anchor acts on; masked are the removed ones. @useDeclaredType */
export type Scope = (typeof SCOPES)[number];
/** Whether the safeguard has a factor per pair or one for the batch. @useDeclaredType */
export type SafeguardScope = (typeof SAFEGUARD_SCOPES)[number];
/** What a non-finite value does. @useDeclaredType */
export type NonFinitePolicy = (typeof NON_FINITE_POLICIES)[number];
/** Element type of a tensor, named as in PyTorch. @useDeclaredType */
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
