/**
 * Walks over the encodings that say how often something repeats, before the decoder follows them: levels and dictionary indices (the hybrid of
 * runs and packed bits), and integers by their differences.
 *
 * Source: apache/parquet-format, Encodings.md, "RLE" and "DELTA_BINARY_PACKED".
 */

import { damaged } from './damage.js';
import { zigzag } from './thrift.js';

/** The most bits of a value that the decoder unpacks rightly; a dictionary of 16 million entries needs no more. */
const MAX_WIDTH = 24;
/** Values beyond the last one that a packed run may hold: it is filled up to a multiple of 8, by some writers to one of their blocks. */
const PADDING = 512;

/**
 * The sum of the weights of `count` values from the hybrid encoding in [begin, end), which is the number of values of a kind, or of the bytes that
 * indices refer to; and the first value.
 *
 * @param width bits per value
 * @param weights by value; one without a weight is damage
 */
export function sumOfHybrid(
  bytes: Uint8Array,
  [begin, end]: readonly [number, number],
  width: number,
  count: number,
  weights: ArrayLike<number>,
): { sum: number; first: number | undefined } {
  if (width > MAX_WIDTH) damaged(`values of ${width} bits`);
  const valueBytes = Math.ceil(width / 8);
  const mask = 2 ** width - 1;
  let [at, seen, sum] = [begin, 0, 0];
  let first: number | undefined;
  while (seen < count) {
    const { value: header, next } = varint(bytes, at, end);
    at = next;
    const left = count - seen;
    if (header % 2 === 1) {
      const groups = (header - 1) / 2;
      const packed = groups * 8;
      const taken = Math.min(packed, left);
      if (groups === 0 || packed >= left + PADDING) damaged(`a run of ${packed} packed values where ${left} are left`);
      if (at + Math.ceil((taken * width) / 8) > end) damaged('packed values that end early');
      for (let i = 0; i < taken; i++) {
        const bit = i * width;
        const from = at + (bit >>> 3);
        // The last bytes of a word may lie behind the page.
        const byte = (i: number) => bytes[from + i] ?? 0;
        const word = byte(0) | (byte(1) << 8) | (byte(2) << 16) | (byte(3) << 24);
        const value = (word >>> (bit & 7)) & mask;
        if (value >= weights.length) damaged(`the value ${value} where there are ${weights.length}`);
        first ??= value;
        sum += weights[value]!;
      }
      at += groups * width;
      seen += taken;
    } else {
      const run = header / 2;
      if (run > left) damaged(`a run of ${run} values where ${left} are left`);
      if (at + valueBytes > end) damaged('runs that end early');
      let value = 0;
      for (let i = 0; i < valueBytes; i++) value += bytes[at++]! * 2 ** (8 * i);
      if (value >= weights.length) damaged(`the value ${value} where there are ${weights.length}`);
      if (run > 0) first ??= value;
      sum += run * weights[value]!;
      seen += run;
    }
  }
  return { sum, first };
}

/**
 * Where `count` integers of the delta encoding that begins at `begin` end; they take whole blocks.
 *
 * @param out takes the integers, of 32 bits
 */
export function deltaEnd(
  bytes: Uint8Array,
  [begin, end]: readonly [number, number],
  count: number,
  out?: Int32Array,
): number {
  const blockSize = varint(bytes, begin, end);
  const miniblocks = varint(bytes, blockSize.next, end);
  const total = varint(bytes, miniblocks.next, end);
  const first = varint(bytes, total.next, end, 10);
  const perMiniblock = blockSize.value / miniblocks.value;
  if (blockSize.value % 128 !== 0 || perMiniblock % 32 !== 0 || !(perMiniblock > 0)) {
    damaged(`blocks of ${blockSize.value} differences in ${miniblocks.value} parts`);
  }
  if (total.value !== count) damaged(`${total.value} differences where ${count} values are`);
  const mostBits = out === undefined ? 64 : 32;
  let value = zigzag(first.value);
  if (out !== undefined && count > 0) out[0] = value;
  let at = first.next;
  for (let seen = 1; seen < count; ) {
    const least = varint(bytes, at, end, 10);
    at = least.next + miniblocks.value;
    if (at > end) damaged('differences that end early');
    const smallest = zigzag(least.value);
    for (let i = 0; i < miniblocks.value && seen < count; i++) {
      const width = bytes[least.next + i]!;
      if (width > mostBits) damaged(`differences of ${width} bits`);
      const miniblockEnd = at + (perMiniblock * width) / 8;
      if (miniblockEnd > end) damaged('differences that end early');
      const taken = Math.min(perMiniblock, count - seen);
      for (let k = 0; out !== undefined && k < taken; k++) {
        value = (value + smallest + bitsAt(bytes, at, k * width, width)) | 0;
        out[seen + k] = value;
      }
      at = miniblockEnd;
      seen += taken;
    }
  }
  return at;
}

/** An integer of at most 32 bits, least significant bit first. */
function bitsAt(bytes: Uint8Array, begin: number, bit: number, width: number): number {
  let value = 0;
  for (let i = 0; i < width; i++) {
    const at = bit + i;
    if ((bytes[begin + (at >>> 3)]! >>> (at & 7)) & 1) value += 2 ** i;
  }
  return value;
}

function varint(bytes: Uint8Array, begin: number, end: number, most = 5): { value: number; next: number } {
  let value = 0;
  for (let i = 0; i < most; i++) {
    if (begin + i >= end) break;
    const byte = bytes[begin + i]!;
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) {
      // The decoder counts in 32 bits with a sign.
      if (most === 5 && value >= 2 ** 31) damaged(`a count of ${value}`);
      return { value, next: begin + i + 1 };
    }
  }
  return damaged('a count that does not end');
}
