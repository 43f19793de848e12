/** The moments of rows: what the first pass gives, how those of parts are joined, and what the objective reads. */

import type { ROW_OUTPUT } from '../native/contract.js';
import { SdpoRangeError } from '../native/errors.js';
import { checkNumber, checkNumbers, checkOptions, failType, failValue, isNumberList } from '../native/validate.js';
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

/** How many elements each row has: D, or the sum of its element weights; a list for each branch where each has its own weights. */
export type RowElements<L extends ArrayLike<number> = Float64Array> = L | { chosen: L; rejected: L };

/** Means over the elements of each row. */
export interface Moments<E extends RowElements = RowElements> {
  chosen: BranchMoments;
  rejected: BranchMoments;
  /** x = mean d_c d_r per row; present where it was asked for. Not with element weights of each branch. */
  cross?: Float64Array;
  elements: E;
}

type Output = keyof typeof ROW_OUTPUT;
const FIELDS = {
  chosen: { error: 'errorChosen', delta: 'deltaChosen', drift: 'driftChosen' },
  rejected: { error: 'errorRejected', delta: 'deltaRejected', drift: 'driftRejected' },
} as const satisfies { [branch: string]: { [K in keyof BranchMoments]: Output } };
const NAMES = ['error', 'delta', 'drift'] as const satisfies readonly (keyof BranchMoments)[];

const ELEMENTS = {
  chosen: 'elementSumChosen',
  rejected: 'elementSumRejected',
} as const satisfies { [branch: string]: Output };

/** The elements of a branch. */
function elementsOf<L extends ArrayLike<number>>(elements: RowElements<L>, branch: BranchName): L {
  return isPerBranch(elements) ? elements[branch] : elements;
}

function isPerBranch<L extends ArrayLike<number>>(elements: RowElements<L>): elements is { chosen: L; rejected: L } {
  return typeof elements === 'object' && elements !== null && !isNumberList(elements);
}

/**
 * What the moments pass has left in a result.
 *
 * @param apart whether each branch has its own element weights
 */
export function momentsOf(result: ResultBuffers, cross: boolean, apart: boolean): Moments {
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
    elements: apart
      ? { chosen: column(ELEMENTS.chosen), rejected: column(ELEMENTS.rejected) }
      : column(ELEMENTS.chosen),
  };
}

/** Checks moments of the caller and gives their number of rows. */
export function checkMoments(argument: string, moments: unknown): number {
  checkOptions(argument, moments, ['chosen', 'rejected', 'cross', 'elements']);
  const rows = checkElements(`${argument}.elements`, moments.elements);
  if (moments.cross !== undefined && isPerBranch(moments.elements as RowElements)) {
    failValue(
      `${argument}.cross`,
      'left out where elements has a list for each branch, since the mean of d_c d_r pairs their elements',
      moments.cross,
    );
  }
  for (const branch of BRANCHES) {
    const part = moments[branch];
    checkOptions(`${argument}.${branch}`, part, NAMES);
    for (const name of NAMES) checkNumbers(`${argument}.${branch}.${name}`, part[name], rows);
  }
  if (moments.cross !== undefined) checkNumbers(`${argument}.cross`, moments.cross, rows);
  return rows;
}

/** Checks elements per row, of both branches or of each, and gives their number of rows. */
function checkElements(argument: string, elements: unknown, rows?: number): number {
  if (!isPerBranch(elements as RowElements)) return checkNumbers(argument, elements, rows).length;
  checkOptions(argument, elements, BRANCHES);
  const { length } = checkNumbers(`${argument}.chosen`, elements.chosen, rows);
  return checkNumbers(`${argument}.rejected`, elements.rejected, length).length;
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
    for (let i = 0; i < reference.length; i++) reference[i] = error[i] - delta[i];
  }
  if (moments.cross !== undefined) ResultBuffers.column(result, 'cross').set(moments.cross);
  else if (options.safeguard !== undefined) {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      isPerBranch(moments.elements)
        ? 'Expected moments.elements to be one list for both branches where options.safeguard is given, since the mean of d_c d_r that it needs pairs their elements, received { chosen, rejected }'
        : 'Expected moments.cross to be given, since the safeguard needs it (moments of a loss with a safeguard have it), received none',
    );
  }
  writeElements(result, 'moments.elements', moments.elements);
}

/** Says how many elements the whole of each row has. */
export function writeElements(result: ResultBuffers, argument: string, elements: unknown): void {
  checkElements(argument, elements, ResultBuffers.raw(result).count);
  const given = elements as RowElements<ArrayLike<number>>;
  for (const branch of BRANCHES) {
    const column = ResultBuffers.column(result, ELEMENTS[branch]);
    const name = isPerBranch(given) ? `${argument}.${branch}` : argument;
    column.set(elementsOf(given, branch));
    for (let i = 0; i < column.length; i++) {
      checkNumber(`${name}[${i}]`, column[i]);
      if (column[i] <= 0) failValue(`${name}[${i}]`, 'a number > 0: every row has elements', column[i]);
    }
  }
}

/**
 * The moments of rows whose elements are cut into parts, from the moments of the parts: Σ n_k m_k / Σ n_k with n_k the elements of part k
 * (docs/mathematics.md, section 7). Parts may lie on different devices or ranks, and may be several tensors of one sample.
 *
 * @param parts moments of the same rows, in any order; a part without elements (n = 0) is left out
 * @throws TypeError or RangeError where the parts have different numbers of rows, or only some have `cross`
 */
export function combineMoments<E extends RowElements>(parts: readonly Moments<E>[]): Moments<E> {
  if (!Array.isArray(parts) || parts.length === 0) failType('parts', 'an array of one or more moments', parts);
  const counts = parts.map((part, k) => checkMoments(`parts[${k}]`, part));
  const rows = counts[0];
  const crosses = parts.filter(({ cross }) => cross !== undefined).length;
  for (const [k, count] of counts.entries()) {
    if (count !== rows) {
      failValue(`parts[${k}]`, `of ${rows} rows, as parts[0]`, `moments of ${count} rows`, 'ERR_SDPO_INVALID_LENGTH');
    }
  }
  if (crosses !== 0 && crosses !== parts.length) failValue('parts', 'all with cross, or all without', parts);
  const totals = { chosen: new Float64Array(rows), rejected: new Float64Array(rows) };
  for (const name of BRANCHES) {
    for (const part of parts) for (let i = 0; i < rows; i++) totals[name][i] += elementsOf(part.elements, name)[i];
  }
  const mean = (name: BranchName, of: (part: Moments) => ArrayLike<number>): Float64Array =>
    totals[name].map((total, i) => {
      let sum = 0;
      for (const part of parts) {
        const count = elementsOf(part.elements, name)[i];
        if (count > 0) sum += count * of(part)[i];
      }
      return sum / total;
    });
  const branch = (name: BranchName): BranchMoments => ({
    error: mean(name, (part) => part[name].error),
    delta: mean(name, (part) => part[name].delta),
    drift: mean(name, (part) => part[name].drift),
  });
  return {
    chosen: branch('chosen'),
    rejected: branch('rejected'),
    ...(crosses > 0 ? { cross: mean('chosen', (part) => part.cross!) } : {}),
    elements: (parts.some((part) => isPerBranch(part.elements)) ? totals : totals.chosen) as E,
  };
}
