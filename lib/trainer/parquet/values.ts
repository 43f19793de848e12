/** Checks that the values of a page take exactly the bytes that hold them, in each encoding that can be decoded. */

import { damaged, SMALLER } from './damage.js';
import { deltaEnd, sumOfHybrid } from './runs.js';
import { type Leaf, MAX_DECIMAL_BYTES } from './schema.js';

/** What the columns of a field may still take. */
export interface Budget {
  /** Bytes of unpacked pages, and of what a dictionary or shared prefixes unfold to. */
  bytes: number;
}

/** Zeros that fastparquet leaves behind the values of a page. */
const PADDING = 8;

/** Bytes of each entry. */
export type Dictionary = Float64Array;

export interface PageValues {
  readonly leaf: Leaf;
  /** Values that are there. */
  readonly count: number;
  readonly encoding: string;
  readonly dictionary: Dictionary | undefined;
  readonly budget: Budget;
}

/** Checks the values of a data page, which take the bytes from `begin` on. Throws Damage. */
export function checkValues(page: Uint8Array, begin: number, values: PageValues): void {
  const { leaf, count, encoding, dictionary, budget } = values;
  const { type } = leaf.element;
  if (encoding === 'PLAIN') checkPlain(page, begin, count, leaf);
  else if (encoding === 'RLE' && type === 'BOOLEAN') checkBooleans(page, begin, count);
  else if (encoding === 'RLE_DICTIONARY' || encoding === 'PLAIN_DICTIONARY') {
    if (dictionary === undefined || type === 'BOOLEAN') damaged('indices without a dictionary');
    take(budget, bytesOfIndices(page, begin, count, dictionary));
  } else if (encoding === 'BYTE_STREAM_SPLIT' && leaf.bits !== undefined) checkFixed(page, begin, count, leaf.bits);
  else if (encoding === 'DELTA_BINARY_PACKED' && (type === 'INT32' || type === 'INT64')) {
    deltaEnd(page, [begin, page.length], count);
  } else if (encoding === 'DELTA_LENGTH_BYTE_ARRAY' && type === 'BYTE_ARRAY') {
    const lengths = deltas(page, begin, count);
    checkLengths(page, lengths.end, lengths.values, leaf);
  } else if (encoding === 'DELTA_BYTE_ARRAY' && type?.endsWith('BYTE_ARRAY')) {
    take(budget, checkPrefixes(page, begin, count, leaf));
  } else if (encoding === 'ALP' && (type === 'FLOAT' || type === 'DOUBLE')) {
    // The decoder holds on to the number of values, and reads through a view of the page.
  } else damaged(`values of type ${type} in the encoding ${encoding}`);
}

/** Checks a page of plain values that is a dictionary. Throws Damage. */
export function checkDictionary(page: Uint8Array, count: number, leaf: Leaf): Dictionary {
  const lengths = checkPlain(page, 0, count, leaf);
  return lengths ?? new Float64Array(count).fill((leaf.bits ?? 0) / 8);
}

/** The lengths of byte arrays, where the values are such. */
function checkPlain(page: Uint8Array, begin: number, count: number, leaf: Leaf): Float64Array | undefined {
  if (leaf.bits !== undefined) {
    checkFixed(page, begin, count, leaf.bits);
    return undefined;
  }
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  if (count > (page.length - begin) / 4) damaged(`${count} values in ${page.length - begin} bytes`);
  const lengths = new Float64Array(count);
  let at = begin;
  for (let i = 0; i < count; i++) {
    if (at + 4 > page.length) damaged('values that end early');
    lengths[i] = view.getUint32(at, true);
    at += 4 + lengths[i]!;
  }
  checkEnd(page, begin, at);
  checkDecimals(lengths, leaf);
  return lengths;
}

function checkFixed(page: Uint8Array, begin: number, count: number, bits: number): void {
  checkEnd(page, begin, begin + Math.ceil((count * bits) / 8));
}

function checkEnd(page: Uint8Array, begin: number, end: number): void {
  const rest = page.subarray(end);
  if (end > page.length || rest.length > PADDING || rest.some((byte) => byte !== 0)) {
    damaged(`values of ${end - begin} bytes in ${page.length - begin}`);
  }
}

function checkBooleans(page: Uint8Array, begin: number, count: number): void {
  if (begin + 4 > page.length) damaged('values that end early');
  const end = begin + 4 + new DataView(page.buffer, page.byteOffset).getUint32(begin, true);
  if (end > page.length) damaged('values that end early');
  sumOfHybrid(page, [begin + 4, end], 1, count, [0, 0]);
}

/** Bytes that the values of a page have when the dictionary stands in. */
function bytesOfIndices(page: Uint8Array, begin: number, count: number, dictionary: Dictionary): number {
  if (begin >= page.length) return count === 0 ? 0 : damaged('indices that end early');
  const width = page[begin]!;
  if (count > 0 && dictionary.length === 0) damaged('indices to an empty dictionary');
  // Where there is one entry only, some writers leave the runs out.
  if (width === 0 && begin + 1 === page.length) return count * (dictionary[0] ?? 0);
  return sumOfHybrid(page, [begin + 1, page.length], width, count, dictionary).sum;
}

function checkLengths(page: Uint8Array, begin: number, lengths: Int32Array, leaf: Leaf): void {
  let sum = 0;
  for (const length of lengths) {
    if (length < 0) damaged(`a value of ${length} bytes`);
    sum += length;
  }
  if (sum !== page.length - begin) damaged(`values of ${sum} bytes in ${page.length - begin}`);
  checkDecimals(lengths, leaf);
}

/** Values that share their beginnings with the one before; gives the bytes that they have in full. */
function checkPrefixes(page: Uint8Array, begin: number, count: number, leaf: Leaf): number {
  const prefixes = deltas(page, begin, count);
  const suffixes = deltas(page, prefixes.end, count);
  checkLengths(page, suffixes.end, suffixes.values, leaf);
  let [before, sum] = [0, 0];
  for (let i = 0; i < count; i++) {
    const prefix = prefixes.values[i]!;
    if (prefix < 0 || prefix > before) damaged(`a value that shares ${prefix} bytes with one of ${before}`);
    before = prefix + suffixes.values[i]!;
    if (leaf.element.converted_type === 'DECIMAL' && before > MAX_DECIMAL_BYTES)
      damaged(`a decimal of ${before} bytes`);
    sum += before;
  }
  return sum;
}

function checkDecimals(lengths: ArrayLike<number>, { element }: Leaf): void {
  if (element.converted_type !== 'DECIMAL') return;
  for (let i = 0; i < lengths.length; i++) {
    if (lengths[i]! > MAX_DECIMAL_BYTES) damaged(`a decimal of ${lengths[i]} bytes`);
  }
}

function deltas(page: Uint8Array, begin: number, count: number): { values: Int32Array; end: number } {
  const values = new Int32Array(count);
  return { values, end: deltaEnd(page, [begin, page.length], count, values) };
}

function take(budget: Budget, bytes: number): void {
  budget.bytes -= bytes;
  if (budget.bytes < 0) damaged(`values that unfold to ${bytes} bytes, more than these rows can need${SMALLER}`);
}
