/**
 * The layout of the arrays that cross to the addon, taken from the addon's own tables, and the check that its lists and those of this code are the
 * same: an addon that was built from other sources would misread every call.
 */

import type { NativeTables } from '../../binding.js';
import { binding } from './binding.js';
import { SdpoError } from './errors.js';
import {
  DTYPES,
  FAILURE_TENSORS,
  LINKS,
  LOG_RATIO_REDUCTIONS,
  METRICS,
  NON_FINITE_POLICIES,
  PAIR_WEIGHTS,
  ROW_STATISTICS,
  SAFEGUARD_SCOPES,
  SCOPES,
  STATUSES,
  TIMESTEP_WEIGHTINGS,
  WEIGHT_RATIOS,
} from './names.js';

/** The lists of this code under the addon's names: those that have types. The others are read by name where they are used. */
export const LISTS = {
  dtypes: DTYPES,
  links: LINKS,
  pairWeights: ['automatic', ...PAIR_WEIGHTS],
  weightRatios: WEIGHT_RATIOS,
  timestepWeightings: TIMESTEP_WEIGHTINGS,
  logRatioReductions: LOG_RATIO_REDUCTIONS,
  scopes: SCOPES,
  safeguardScopes: SAFEGUARD_SCOPES,
  nonFinite: NON_FINITE_POLICIES,
  metrics: ['batchLoss', ...METRICS],
  statuses: STATUSES,
  failureTensors: FAILURE_TENSORS,
} as const satisfies Partial<Record<keyof NativeTables, readonly string[]>>;

/** Throws where a list of the addon is not what this code expects. */
export function checkList(name: string, expected: readonly string[], received: readonly string[] | undefined): void {
  if (received?.join() === expected.join()) return;
  throw otherSources(
    `the addon's table '${name}' to be [${expected.join(', ')}], received [${received?.join(', ') ?? ''}]`,
  );
}

function otherSources(difference: string): SdpoError {
  return new SdpoError(
    'ERR_SDPO_NO_BINARY',
    `Expected ${difference}: the addon was built from other sources; build it again with \`npm run build:native\``,
  );
}

/** Throws where the addon was built from other sources than this code. */
export function checkContract(tables: { readonly [name: string]: readonly string[] }): void {
  for (const [name, expected] of Object.entries(LISTS)) checkList(name, expected, tables[name]);
  checkList('rowOutputs', ROW_STATISTICS, tables.rowOutputs?.slice(0, ROW_STATISTICS.length));
}

checkContract(binding.tables as unknown as { readonly [name: string]: readonly string[] });

/** Positions of the named entries of a table; an error where the addon does not have one. */
function positions<const T extends string>(
  table: keyof NativeTables,
  names: readonly T[],
): { readonly [K in T]: number } {
  const list = binding.tables[table];
  const found = names.map((name) => {
    const index = list.indexOf(name);
    if (index < 0) throw otherSources(`the addon's table '${table}' to have '${name}', received [${list.join(', ')}]`);
    return [name, index] as const;
  });
  return Object.fromEntries(found) as { readonly [K in T]: number };
}

/** Where the fields of a row are in the outputs [fields, rows]. */
export const ROW_OUTPUT = positions('rowOutputs', [
  ...ROW_STATISTICS,
  'deltaChosen',
  'deltaRejected',
  'aChosen',
  'aRejected',
  'bChosen',
  'bRejected',
  'cross',
  'elementSumChosen',
  'elementSumRejected',
  'clipped',
]);
export const ROW_OUTPUT_COUNT = binding.tables.rowOutputs.length;

/** The position of a number per row. */
export function rowInput(name: string): number {
  return positions('rowInputs', [name])[name]!;
}
export const ROW_INPUT_COUNT = binding.tables.rowInputs.length;
export const ROW_SOURCE = positions('rowSources', ['constant', 'list', 'float64', 'float32']);

/** The batch loss comes first in the native metrics, then METRICS in order, then the failure. */
export const METRIC_OFFSET = 1;
export const FAILURE_OFFSET = METRIC_OFFSET + METRICS.length;
export const FAILURE_FIELD = positions('failureFields', ['row', 'branch', 'tensor', 'element']);
export const METRICS_LENGTH = FAILURE_OFFSET + binding.tables.failureFields.length;

export const OPERAND = positions('operands', [
  'policyChosen',
  'referenceChosen',
  'targetChosen',
  'gradientChosen',
  'policyRejected',
  'referenceRejected',
  'targetRejected',
  'gradientRejected',
  'elementWeights',
  'elementWeightsRejected',
]);

/** The fields of the call at the head of a header, and where its other parts start. */
export const HEADER = positions('header', [
  'passes',
  'rows',
  'size',
  'denominator',
  'gradientScale',
  'threads',
  'device',
  'omegaTable',
  'omegaCount',
]);
export const OPTION_OFFSET = binding.tables.header.length;
export const SOURCE_OFFSET = OPTION_OFFSET + binding.tables.options.length;
export const NUMBER_OFFSET = SOURCE_OFFSET + ROW_INPUT_COUNT;
export const DTYPE_OFFSET = NUMBER_OFFSET + ROW_INPUT_COUNT;
export const STRIDE_OFFSET = DTYPE_OFFSET + binding.tables.operands.length;
export const HEADER_LENGTH = STRIDE_OFFSET + binding.tables.operands.length;

/** The passes of a call, as bits. */
export const PASS = { moments: 1, objective: 2, gradients: 4, cross: 8 } as const;
