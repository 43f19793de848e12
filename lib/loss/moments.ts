/** The moments of rows: what the first pass gives, how those of parts are joined, and what the objective reads. */

import { isArray } from '../native/arrays.js';
import type { ROW_OUTPUT } from '../native/contract.js';
import { SdpoRangeError } from '../native/errors.js';
import { checkNumber, checkNumbers, checkOptions, failType, failValue } from '../native/validate.js';
import type { BranchName } from './batch.js';
import { BRANCHES } from './columns.js';
import { type ResolvedOptions, TRAITS } from './options.js';
import { ResultBuffers } from './result.js';

/** The moments of a branch, one entry per row. */
export interface BranchMoments {
  /** m: mean squared error of the policy. */
  error: Float64Array;
  /** δ = m - r, accumulated without cancellation. */
  delta: Float64Array;
  /** q: mean squared distance to the reference; NaN with a `referenceError`. */
  drift: Float64Array;
}

/** Means over the elements of each row. */
export interface Moments {
  chosen: BranchMoments;
  rejected: BranchMoments;
  /** x = mean d_c d_r per row; present where it was asked for. */
  cross?: Float64Array;
  /** How many elements each row has: D, or the sum of its element weights. */
  elements: Float64Array;
}

type Output = keyof typeof ROW_OUTPUT;
const FIELDS = {
  chosen: { error: 'errorChosen', delta: 'deltaChosen', drift: 'driftChosen' },
  rejected: { error: 'errorRejected', delta: 'deltaRejected', drift: 'driftRejected' },
} as const satisfies { [branch: string]: { [K in keyof BranchMoments]: Output } };
const NAMES = ['error', 'delta', 'drift'] as const satisfies readonly (keyof BranchMoments)[];

/** What the moments pass has left in a result. */
export function momentsOf(result: ResultBuffers, cross: boolean): Moments {
  const column = (name: Output) => ResultBuffers.column(result, name);
  const branch = ({ error, delta, drift }: (typeof FIELDS)['chosen' | 'rejected']): BranchMoments => ({
    error: column(error),
    delta: column(delta),
    drift: column(drift),
  });
  return {
    chosen: branch(FIELDS.chosen),
    rejected: branch(FIELDS.rejected),
    ...(cross ? { cross: column('cross') } : {}),
    elements: column('elementSum'),
  };
}

/** Moments of the caller as lists of numbers, each read once. */
export function readMoments(argument: string, value: unknown): Moments {
  const given = checkOptions(argument, value, ['chosen', 'rejected', 'cross', 'elements']);
  const elements = checkNumbers(`${argument}.elements`, given.elements);
  const list = (name: string, numbers: unknown) => checkNumbers(`${argument}.${name}`, numbers, elements.length);
  const branch = (name: BranchName) => {
    const part = checkOptions(`${argument}.${name}`, given[name], NAMES);
    return Object.fromEntries(NAMES.map((moment) => [moment, list(`${name}.${moment}`, part[moment])]));
  };
  return {
    chosen: branch('chosen'),
    rejected: branch('rejected'),
    ...(given.cross !== undefined && { cross: list('cross', given.cross) }),
    elements,
  } as unknown as Moments;
}

/** Puts moments where the objective reads them. */
export function writeMoments(result: ResultBuffers, moments: Moments, options: ResolvedOptions): void {
  const user = options.klWeight !== 0 ? 'klWeight' : TRAITS[options.objective].drift ? 'the objective' : undefined;
  for (const branch of BRANCHES) {
    for (const name of NAMES) ResultBuffers.column(result, FIELDS[branch][name]).set(moments[branch][name]);
    if (user !== undefined && Array.prototype.some.call(moments[branch].drift, Number.isNaN)) {
      throw new SdpoRangeError(
        'ERR_SDPO_INVALID_OPTION',
        `Expected moments.${branch}.drift to be known in every row, since ${user} needs it and only a reference tensor gives it, received NaN`,
      );
    }
    const reference = ResultBuffers.column(
      result,
      branch === 'chosen' ? 'referenceErrorChosen' : 'referenceErrorRejected',
    );
    const { error, delta } = moments[branch];
    for (let i = 0; i < reference.length; i++) reference[i] = error[i]! - delta[i]!;
  }
  if (moments.cross !== undefined) ResultBuffers.column(result, 'cross').set(moments.cross);
  else if (options.safeguard !== undefined) {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      'Expected moments.cross to be given, since the safeguard needs it (moments of a loss with a safeguard have it), received none',
    );
  }
  writeElements(result, 'moments.elements', moments.elements);
}

/** Says how many elements the whole of each row has. */
export function writeElements(result: ResultBuffers, argument: string, elements: unknown): void {
  const column = ResultBuffers.column(result, 'elementSum');
  column.set(checkNumbers(argument, elements, column.length));
  for (let i = 0; i < column.length; i++) {
    checkNumber(`${argument}[${i}]`, column[i]);
    if (column[i]! <= 0) failValue(`${argument}[${i}]`, 'a number > 0: every row has elements', column[i]);
  }
}

/**
 * The moments of rows whose elements are cut into parts, from the moments of the parts: Σ n_k m_k / Σ n_k with n_k the elements of part k
 * (docs/mathematics.md, section 7). Parts may lie on different devices or ranks, and may be several tensors of one sample.
 *
 * @param given moments of the same rows, in any order; a part without elements (n = 0) is left out
 * @throws TypeError or RangeError where the parts have different numbers of rows, or only some have `cross`
 */
export function combineMoments(given: readonly Moments[]): Moments {
  if (!isArray(given) || given.length === 0) failType('parts', 'an array of one or more moments', given);
  const parts = Array.from(given, (part, k) => readMoments(`parts[${k}]`, part));
  const counts = parts.map(({ elements }) => elements.length);
  const rows = counts[0]!;
  const crosses = parts.filter(({ cross }) => cross !== undefined).length;
  for (const [k, count] of counts.entries()) {
    if (count !== rows) {
      failValue(`parts[${k}]`, `of ${rows} rows, as parts[0]`, `moments of ${count} rows`, 'ERR_SDPO_INVALID_LENGTH');
    }
  }
  if (crosses !== 0 && crosses !== parts.length) failValue('parts', 'all with cross, or all without', parts);
  const elements = new Float64Array(rows);
  for (const part of parts) for (let i = 0; i < rows; i++) elements[i]! += part.elements[i]!;
  const mean = (of: (part: Moments) => ArrayLike<number>): Float64Array =>
    elements.map((total, i) => {
      let sum = 0;
      for (const part of parts) if (part.elements[i]! > 0) sum += part.elements[i]! * of(part)[i]!;
      return sum / total;
    });
  const branch = (name: 'chosen' | 'rejected'): BranchMoments => ({
    error: mean((part) => part[name].error),
    delta: mean((part) => part[name].delta),
    drift: mean((part) => part[name].drift),
  });
  return {
    chosen: branch('chosen'),
    rejected: branch('rejected'),
    ...(crosses > 0 ? { cross: mean((part) => part.cross!) } : {}),
    elements,
  };
}
