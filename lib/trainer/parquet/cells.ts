/** Makes the fields of a pair of what a Parquet column holds in a row. */

import type { ParquetParsers } from 'hyparquet';
import { checkConfidence, checkFinite, failData } from '../data-pair.js';

/** Stands for bytes that are not what their column says: an error of the rows that have them, not of all that are decoded together. */
class Unreadable {
  constructor(readonly what: string) {}
}

const decoder = new TextDecoder('utf-8', { fatal: true });

/** How the decoder makes text and JSON of bytes. */
export const PARSERS: Pick<ParquetParsers, 'stringFromBytes' | 'jsonFromBytes'> = {
  stringFromBytes: textOf,
  jsonFromBytes(bytes) {
    const text = textOf(bytes);
    if (typeof text !== 'string') return text;
    try {
      return JSON.parse(text);
    } catch (error) {
      return new Unreadable(`JSON with an error: ${(error as Error).message}`);
    }
  },
};

function textOf(bytes: Uint8Array | undefined): string | undefined | Unreadable {
  try {
    return bytes && decoder.decode(bytes);
  } catch {
    return new Unreadable('text that is not UTF-8');
  }
}

/**
 * Writes the elements of a latent into `out`, which has as many as the shape.
 *
 * @param value the bytes of little-endian float32, a list of all elements, or lists within lists of the lengths of the shape
 */
export function readLatents(
  what: string,
  value: unknown,
  shape: readonly number[],
  out: Float32Array,
  nonFinite: 'throw' | 'propagate',
): void {
  if (value instanceof Uint8Array) {
    if (value.length !== out.byteLength) {
      failData(what, `${out.byteLength} bytes (${out.length} float32)`, `${value.length} bytes`);
    }
    new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(value);
  } else if (!isList(value)) failData(what, 'a list of numbers, or the bytes of float32', value);
  else if (isList(value[0])) readNested(what, value, shape, out);
  else readFlat(what, value, out);
  if (nonFinite === 'throw') checkFinite(what, out);
}

function isList(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || ArrayBuffer.isView(value);
}

function readFlat(what: string, list: ArrayLike<unknown>, out: Float32Array): void {
  if (list.length !== out.length) failData(what, `of length ${out.length}`, list);
  for (let i = 0; i < out.length; i++) {
    const element = list[i];
    if (typeof element !== 'number') failData(`element ${i} of ${what}`, 'a number', element);
    out[i] = element;
  }
}

function readNested(what: string, value: unknown, [length, ...inner]: readonly number[], out: Float32Array): void {
  if (!isList(value) || value.length !== length) failData(what, `a list of ${length}`, value);
  const size = out.length / length;
  for (let i = 0; i < length; i++) {
    const part = out.subarray(i * size, (i + 1) * size);
    if (inner.length > 1) readNested(`[${i}] of ${what}`, value[i], inner, part);
    else if (inner.length === 1 && isList(value[i]))
      readFlat(`[${i}] of ${what}`, value[i] as ArrayLike<unknown>, part);
    else failData(`[${i}] of ${what}`, inner.length === 0 ? 'a number' : `a list of ${inner[0]}`, value[i]);
  }
}

export function readId(what: string, value: unknown): string {
  if (value instanceof Unreadable) failUnreadable(what, value);
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint') return String(value);
  return failData(what, 'a string or a number', value);
}

export function readConfidence(what: string, value: unknown): number {
  return checkConfidence(what, typeof value === 'bigint' ? Number(value) : value);
}

/** JSON nested deeper is no condition of anything, and would exhaust the stack of whoever walks over it. */
const MAX_DEPTH = 256;

/** A value as JSON has it: 64-bit integers as numbers, dates as ISO text, bytes as lists. */
export function readCondition(what: string, value: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH) failData(what, `nested at most ${MAX_DEPTH} deep`, 'more');
  if (value === undefined) return null;
  if (typeof value === 'bigint') {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : failData(what, 'an integer that a number holds exactly', value);
  }
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Unreadable) failUnreadable(what, value);
  if (value instanceof Uint8Array) return Array.from(value);
  if (value instanceof Date) {
    return Number.isNaN(value.getTime()) ? failData(what, 'a date', 'one out of range') : value.toISOString();
  }
  if (Array.isArray(value)) return value.map((entry) => readCondition(what, entry, depth + 1));
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, entry]) => entry !== undefined)
      .map(([name, entry]) => [name, readCondition(what, entry, depth + 1)]),
  );
}

function failUnreadable(what: string, { what: received }: Unreadable): never {
  failData(what, 'readable', received);
}
