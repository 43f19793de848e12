/** The layout of the arrays that cross to the addon, and the check that this code and the addon speak of the same layout. */

import { LINKS, NON_FINITE_POLICIES, OBJECTIVES, PAIR_WEIGHTS, SCOPES, WEIGHT_RATIOS } from '../loss/options.js';
import { DTYPES } from '../tensor/dtypes.js';
import { binding } from './binding.js';
import { SdpoError } from './errors.js';

/** Statistics of a row that have a public name and a mean in the metrics. */
// biome-ignore format: names read best in rows
export const ROW_STATISTICS = [
  'loss', 'logit', 'mask', 'rewardChosen', 'rewardRejected', 'logWeightChosen', 'logWeightRejected', 'weightChosen',
  'weightRejected', 'errorChosen', 'errorRejected', 'referenceErrorChosen', 'referenceErrorRejected', 'driftChosen',
  'driftRejected',
] as const;

// biome-ignore format: names read best in rows
const ROW_OUTPUTS = [
  ...ROW_STATISTICS, 'deltaChosen', 'deltaRejected', 'aChosen', 'aRejected', 'bChosen', 'bRejected', 'cross',
  'elementSum', 'clipped', 'nonFinite',
] as const;

// biome-ignore format: names read best in rows
const ROW_INPUTS = [
  'psiScaleChosen', 'psiScaleRejected', 'weightScaleChosen', 'weightScaleRejected', 'weightOffsetChosen',
  'weightOffsetRejected', 'weightNoiseChosen', 'weightNoiseRejected', 'referenceErrorChosen', 'referenceErrorRejected',
  'logMaskFloor', 'logClipLow', 'logClipHigh', 'rowWeight',
] as const;

/** Means over rows and counts, behind the loss of the batch. */
// biome-ignore format: names read best in rows
export const METRICS = [
  ...ROW_STATISTICS, 'implicitAccuracy', 'rewardMargin', 'maskFraction', 'clipFraction', 'nonFiniteRows',
] as const;

// biome-ignore format: names read best in rows
const HEADER = [
  'passes', 'rows', 'size', 'objective', 'link', 'pairWeight', 'weightRatio', 'sftScope', 'klScope', 'weightGradient',
  'sumWeight', 'sumPsi', 'beta', 'labelSmoothing', 'sftWeight', 'klWeight', 'nonFinite', 'denominator', 'gradientScale',
  'threads', 'safeguard', 'dmpoAlpha', 'mapoScale', 'mapoSteps', 'device',
] as const;

// biome-ignore format: names read best in rows
const OPERANDS = [
  'policyChosen', 'referenceChosen', 'targetChosen', 'gradientChosen', 'policyRejected', 'referenceRejected',
  'targetRejected', 'gradientRejected', 'elementWeights',
] as const;

const STATUSES = ['ok', 'non_finite', 'element_weights', 'aborted', 'out_of_memory', 'device'] as const;
const FAILURE_TENSORS = ['policy', 'reference', 'target', 'referenceError', 'row'] as const;
const FAILURE_FIELDS = ['row', 'branch', 'tensor', 'element'] as const;
const ROW_FACTORS = ['none', 'omega', 'root'] as const;
const ROW_CHECKS = ['any', 'finite', 'notNegative'] as const;

type IndexOf<T extends readonly string[]> = { readonly [K in T[number]]: number };

function indices<const T extends readonly string[]>(names: T): IndexOf<T> {
  return Object.fromEntries(names.map((name, index) => [name, index])) as IndexOf<T>;
}

export type RowStatistic = (typeof ROW_STATISTICS)[number];
export type MetricName = (typeof METRICS)[number];
export type Status = (typeof STATUSES)[number];

/** Positions of fields in the flat arrays. */
export const ROW_INPUT = indices(ROW_INPUTS);
export const ROW_OUTPUT = indices(ROW_OUTPUTS);
export const HEADER_FIELD = indices(HEADER);
export const OPERAND = indices(OPERANDS);
/** The batch loss comes first in the native metrics, then METRICS in order, then the failure. */
export const METRIC_OFFSET = 1;
export const FAILURE_OFFSET = METRIC_OFFSET + METRICS.length;
export const FAILURE_FIELD = indices(FAILURE_FIELDS);
export const FAILURE_TENSOR_NAMES = FAILURE_TENSORS;
export const STATUS_NAMES = STATUSES;
export const ROW_FACTOR = indices(ROW_FACTORS);
export const ROW_CHECK = indices(ROW_CHECKS);

export const ROW_INPUT_COUNT = ROW_INPUTS.length;
export const ROW_OUTPUT_COUNT = ROW_OUTPUTS.length;
export const METRICS_LENGTH = FAILURE_OFFSET + FAILURE_FIELDS.length;
export const HEADER_LENGTH = HEADER.length + 2 * OPERANDS.length;
/** Where the dtypes and the row strides of the operands start in the header. */
export const DTYPE_OFFSET = HEADER.length;
export const STRIDE_OFFSET = HEADER.length + OPERANDS.length;

/** The passes of a call, as bits. */
export const PASS = { moments: 1, objective: 2, gradients: 4, cross: 8 } as const;

/** Every list as this code has it, under the addon's names. */
export const TABLES = {
  dtypes: DTYPES,
  objectives: OBJECTIVES,
  links: LINKS,
  pairWeights: PAIR_WEIGHTS,
  weightRatios: WEIGHT_RATIOS,
  scopes: SCOPES,
  nonFinite: NON_FINITE_POLICIES,
  rowInputs: ROW_INPUTS,
  rowOutputs: ROW_OUTPUTS,
  metrics: ['batchLoss', ...METRICS],
  header: HEADER,
  operands: OPERANDS,
  statuses: STATUSES,
  failureTensors: FAILURE_TENSORS,
  failureFields: FAILURE_FIELDS,
  rowFactors: ROW_FACTORS,
  rowChecks: ROW_CHECKS,
} as const;

/** Throws where the addon was built from other sources than this code: calls would misread each other's arrays. */
export function checkContract(native: { readonly [name: string]: readonly string[] }): void {
  for (const [name, expected] of Object.entries(TABLES)) {
    const received = native[name];
    if (received === undefined || received.join() !== expected.join()) {
      throw new SdpoError(
        'ERR_SDPO_NO_BINARY',
        `Expected the addon's table '${name}' to be [${expected.join(', ')}], received [${received?.join(', ') ?? ''}]: the addon was built from other sources; build it again with \`npm run build:native\``,
      );
    }
  }
}

checkContract(binding.tables as unknown as { readonly [name: string]: readonly string[] });
