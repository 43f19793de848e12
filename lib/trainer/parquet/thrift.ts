/**
 * Reads and writes structs of Thrift's compact protocol. Reading has all bounds that hyparquet's reader does not have: lists as long as
 * their bytes allow, integers of no more bytes than their type has, and no deeper than Parquet's own structs.
 *
 * Source: apache/thrift, doc/specs/thrift-compact-protocol.md.
 */

import { damaged } from './damage.js';

const [STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12];
const MAX_DEPTH = 32;
/** Bytes that a number of 32 and of 64 bits takes at seven bits each. */
const [BYTES_OF_32, BYTES_OF_64] = [5, 10];

/** Fields by their number; the last one counts where a number comes twice, as for hyparquet. */
export type ThriftStruct = ReadonlyMap<number, ThriftValue>;
export type ThriftValue = boolean | number | Uint8Array | readonly ThriftValue[] | ThriftStruct;

/** The struct that begins at `at`, and where it ends. Throws Damage. Integers beyond 2^53 are rounded. */
export function readStruct(bytes: Uint8Array, at: number): { fields: ThriftStruct; end: number } {
  const reader = new Reader(bytes, at);
  return { fields: reader.struct(0), end: reader.at };
}

class Reader {
  readonly #bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  struct(depth: number): ThriftStruct {
    if (depth > MAX_DEPTH) damaged(`a header nested more than ${MAX_DEPTH} deep`);
    const fields = new Map<number, ThriftValue>();
    for (let id = 0; ; ) {
      const head = this.#byte();
      const type = head & 0x0f;
      if (type === STOP) return fields;
      // Without a difference to the field before, its number follows.
      const step = head >> 4;
      id = step === 0 ? zigzag(this.#varint(BYTES_OF_32)) : id + step;
      fields.set(id, type === TRUE || type === FALSE ? type === TRUE : this.#element(type, depth));
    }
  }

  #element(type: number, depth: number): ThriftValue {
    if (type === BYTE) return (this.#byte() << 24) >> 24;
    if (type === I16 || type === I32) return zigzag(this.#varint(BYTES_OF_32));
    if (type === I64) return zigzag(this.#varint(BYTES_OF_64));
    if (type === DOUBLE) {
      const bytes = this.#take(8);
      return new DataView(bytes.buffer, bytes.byteOffset).getFloat64(0, true);
    }
    if (type === BINARY) return this.#take(this.#varint(BYTES_OF_32));
    if (type === LIST) return this.#list(depth + 1);
    if (type === STRUCT) return this.struct(depth + 1);
    return damaged(`a header with a field of type ${type}`);
  }

  #list(depth: number): ThriftValue[] {
    if (depth > MAX_DEPTH) damaged(`a header nested more than ${MAX_DEPTH} deep`);
    const head = this.#byte();
    const type = head & 0x0f;
    const count = head >> 4 === 15 ? this.#varint(BYTES_OF_32) : head >> 4;
    // Nothing in a list takes less than a byte.
    if (count > this.#bytes.length - this.at) damaged(`a list of ${count} in a header`);
    const values: ThriftValue[] = [];
    for (let i = 0; i < count; i++) {
      values.push(type === TRUE || type === FALSE ? this.#byte() === 1 : this.#element(type, depth));
    }
    return values;
  }

  #varint(most: number): number {
    let value = 0;
    for (let i = 0; i < most; i++) {
      const byte = this.#byte();
      value += (byte & 0x7f) * 2 ** (7 * i);
      if (byte < 0x80) return value;
    }
    return damaged(`an integer of more than ${most} bytes in a header`);
  }

  #byte(): number {
    if (this.at >= this.#bytes.length) damaged('a header that does not end');
    return this.#bytes[this.at++]!;
  }

  #take(count: number): Uint8Array {
    const begin = this.at;
    this.at += count;
    if (this.at > this.#bytes.length) damaged('a header that does not end');
    return this.#bytes.subarray(begin, this.at);
  }
}

/** Small numbers of either sign as small ones without: 0, -1, 1, -2, … */
export function zigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

/** What {@link writeStruct} writes: 32-bit integers >= 0, booleans and structs by their number, which must go up. */
export type WritableStruct = readonly (readonly [id: number, value: number | boolean | WritableStruct])[];

/** The bytes of a struct. */
export function writeStruct(fields: WritableStruct): number[] {
  const bytes: number[] = [];
  let before = 0;
  for (const [id, value] of fields) {
    const type = typeof value === 'number' ? I32 : value === true ? TRUE : value === false ? FALSE : STRUCT;
    bytes.push(((id - before) << 4) | type);
    before = id;
    if (typeof value === 'object') bytes.push(...writeStruct(value));
    else if (typeof value === 'number') {
      let rest = 2 * value; // zigzag
      for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
      bytes.push(rest);
    }
  }
  bytes.push(STOP);
  return bytes;
}
