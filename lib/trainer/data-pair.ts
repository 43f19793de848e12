/** What every source of preference pairs checks of a pair before it gives it to the trainer. */

import { typedArray } from '../native/arrays.js';
import { SdpoError } from '../native/errors.js';
import { checkInteger, checkOneOf, checkOptions, describe, failType, failValue } from '../native/validate.js';
import type { PreferencePair } from './types.js';

const NON_FINITE_LATENTS = ['throw', 'propagate'] as const;

/** Options that every source of pairs has. */
export interface PairOptions {
  /**
   * What happens where a latent holds NaN or ±Infinity: 'throw' (default) names pair, branch and element; 'propagate' gives the pair as it is
   * and leaves it to the `nonFinite` of the loss.
   */
  nonFinite?: (typeof NON_FINITE_LATENTS)[number] | undefined;
}

export function checkNonFinite(value: unknown): 'throw' | 'propagate' {
  return checkOneOf('options.nonFinite', value ?? 'throw', NON_FINITE_LATENTS);
}

/** The shape of one sample: a list of integers >= 1. */
export function checkSampleShape(value: unknown): readonly number[] {
  if (!Array.isArray(value)) failType('options.shape', 'an array of integers >= 1', value);
  value.forEach((size, axis) => {
    checkInteger(`options.shape[${axis}]`, size, 1);
  });
  if (value.length === 0) failValue('options.shape', 'of at least one axis', value, 'ERR_SDPO_INVALID_LENGTH');
  return Object.freeze([...(value as number[])]);
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The index of a pair of a data set. */
export function checkIndex(index: unknown, length: number): number {
  return checkInteger('index', index, 0, length - 1);
}

/** Names of tensors or columns by field. */
export function checkNames<const F extends string>(
  argument: string,
  value: unknown = {},
  fields: readonly F[],
): { readonly [K in F]?: string } {
  const given = checkOptions(argument, value, fields);
  for (const [field, name] of Object.entries(given)) {
    if (name !== undefined && typeof name !== 'string') failType(`${argument}.${field}`, 'a name', name);
  }
  return given as { readonly [K in F]?: string };
}

/** The part of a data set, a shard or a row group, that holds a pair: the last one that begins at or before it. */
export function partOf<T extends { readonly first: number }>(parts: readonly T[], index: number): T {
  let [low, high] = [0, parts.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (parts[middle]!.first <= index) low = middle;
    else high = middle - 1;
  }
  return parts[low]!;
}

/** Throws the message shape of the package for data that do not fit; `what` names the value and where it stands. */
export function failData(what: string, expected: string, received: unknown, cause?: unknown): never {
  throw new SdpoError('ERR_SDPO_DATA', `Expected ${what} to be ${expected}, received ${describe(received)}`, { cause });
}

const PAIR_FIELDS: readonly string[] = ['id', 'chosen', 'rejected', 'condition', 'confidence'];

/**
 * Checks a pair that user code made. A field that nobody reads is refused: a prompt under another name than `condition` would never reach the policy.
 *
 * @param where names it in an error: `pairs[3]`, `the pair at position 3`
 * @param size elements of a sample
 * @returns what was checked; each field of `value` has been read once
 * @throws SdpoError `ERR_SDPO_DATA`
 */
export function checkPair<C>(
  where: string,
  value: unknown,
  size: number,
  nonFinite: 'throw' | 'propagate',
): PreferencePair<C> {
  if (typeof value !== 'object' || value === null) failData(where, 'a preference pair', value);
  // Once for each pair of each batch: no list of the names is made.
  for (const field in value) {
    if (!PAIR_FIELDS.includes(field) && Object.hasOwn(value, field)) {
      throw new SdpoError(
        'ERR_SDPO_DATA',
        `Expected ${where} to have only the fields ${PAIR_FIELDS.join(', ')}, received ${JSON.stringify(field)}`,
      );
    }
  }
  const { id, chosen, rejected, condition, confidence } = value as PreferencePair<C>;
  if (typeof id !== 'string') failData(`id of ${where}`, 'a string', id);
  const named = `${where} (${id})`;
  checkLatents(`chosen of ${named}`, chosen, size, nonFinite);
  checkLatents(`rejected of ${named}`, rejected, size, nonFinite);
  if (confidence !== undefined) checkConfidence(`confidence of ${named}`, confidence);
  return { id, chosen, rejected, condition, confidence };
}

function checkLatents(what: string, value: unknown, size: number, nonFinite: 'throw' | 'propagate'): void {
  const latents = typedArray(value);
  if (!(latents instanceof Float32Array)) failData(what, 'a Float32Array', value);
  if (latents.length !== size) failData(what, `of length ${size}`, value);
  if (nonFinite === 'throw') checkFinite(what, latents);
}

/** Throws for the first element that is not finite. */
export function checkFinite(what: string, values: Float32Array): void {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) failData(`element ${i} of ${what}`, 'finite', values[i]);
  }
}

export function checkConfidence(what: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) failData(what, 'a finite number >= 0', value);
  return value;
}
