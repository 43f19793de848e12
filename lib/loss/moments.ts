/** The moments of rows: what the first pass gives, how those of parts are joined, and what the objective reads. */

import { isArray } from '../native/arrays.js';
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

/** Moments of the caller as lists of numbers, each read once. */
export function readMoments(argument: string, value: unknown): Moments {
  const given = checkOptions(argument, value, ['chosen', 'rejected', 'cross', 'elements']);
  const elements = readElements(`${argument}.elements`, given.elements);
  if (given.cross !== undefined && isPerBranch(elements)) {
    failValue(
      `${argument}.cross`,
      'left out where elements has a list for each branch, since the mean of d_c d_r pairs their elements',
      given.cross,
    );
  }
  const rows = elementsOf(elements, 'chosen').length;
  const list = (name: string, numbers: unknown) => checkNumbers(`${argument}.${name}`, numbers, rows);
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

/** Elements per row, of both branches or of each, as lists of numbers that are read once. */
function readElements(argument: string, value: unknown, rows?: number): RowElements<ArrayLike<number>> {
  if (!isPerBranch(value as RowElements)) return checkNumbers(argument, value, rows);
  const given = checkOptions(argument, value, BRANCHES);
  const chosen = checkNumbers(`${argument}.chosen`, given.chosen, rows);
  return { chosen, rejected: checkNumbers(`${argument}.rejected`, given.rejected, chosen.length) };
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
      isPerBranch(moments.elements)
        ? 'Expected moments.elements to be one list for both branches where options.safeguard is given, since the mean of d_c d_r that it needs pairs their elements, received { chosen, rejected }'
        : 'Expected moments.cross to be given, since the safeguard needs it (moments of a loss with a safeguard have it), received none',
    );
  }
  writeElements(result, 'moments.elements', moments.elements);
}

/** Says how many elements the whole of each row has. */
export function writeElements(result: ResultBuffers, argument: string, elements: unknown): void {
  const given = readElements(argument, elements, ResultBuffers.raw(result).count);
  for (const branch of BRANCHES) {
    const column = ResultBuffers.column(result, ELEMENTS[branch]);
    const name = isPerBranch(given) ? `${argument}.${branch}` : argument;
    column.set(elementsOf(given, branch));
    for (const [i, count] of column.entries()) {
      checkNumber(`${name}[${i}]`, count);
      if (count <= 0) failValue(`${name}[${i}]`, 'a number > 0: every row has elements', count);
    }
  }
}

/**
 * The moments of rows whose elements are cut into parts, from the moments of the parts: Σ n_k m_k / Σ n_k with n_k the elements of part k
 * (docs/mathematics.md, section 7). Parts may lie on different devices or ranks, and may be several tensors of one sample.
 *
 * @param given moments of the same rows, in any order; a part without elements (n = 0) is left out
 * @throws TypeError or RangeError where the parts have different numbers of rows, only some have `cross`, or elements are below 0 or not finite
 */
export function combineMoments<E extends RowElements>(given: readonly Moments<E>[]): Moments<E> {
  if (!isArray(given) || given.length === 0) failType('parts', 'an array of one or more moments', given);
  const parts = Array.from(given, (part, k) => readMoments(`parts[${k}]`, part));
  const counts = parts.map(({ elements }) => elementsOf(elements, 'chosen').length);
  const rows = counts[0]!;
  const crosses = parts.filter(({ cross }) => cross !== undefined).length;
  for (const [k, count] of counts.entries()) {
    if (count !== rows) {
      failValue(`parts[${k}]`, `of ${rows} rows, as parts[0]`, `moments of ${count} rows`, 'ERR_SDPO_INVALID_LENGTH');
    }
  }
  if (crosses !== 0 && crosses !== parts.length) failValue('parts', 'all with cross, or all without', parts);
  const totals = { chosen: new Float64Array(rows), rejected: new Float64Array(rows) };
  for (const name of BRANCHES) {
    for (const [k, { elements }] of parts.entries()) {
      const counts = elementsOf(elements, name);
      const argument = `parts[${k}].elements${isPerBranch(elements) ? `.${name}` : ''}`;
      for (let i = 0; i < rows; i++) totals[name][i]! += checkNumber(`${argument}[${i}]`, counts[i], 0);
    }
  }
  const mean = (name: BranchName, of: (part: Moments) => ArrayLike<number>): Float64Array =>
    totals[name].map((total, i) => {
      let sum = 0;
      for (const part of parts) {
        const count = elementsOf(part.elements, name)[i]!;
        if (count > 0) sum += count * of(part)[i]!;
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
