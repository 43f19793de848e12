/** Writes Parquet files byte by byte, so that a test can make any part of one wrong: nothing of the library takes part. */

import { crc32 } from 'node:zlib';

// Thrift's compact protocol: a value is its type and its bytes.
type Value = readonly [type: number, bytes: readonly number[]];

export function varint(value: number | bigint): number[] {
  const bytes: number[] = [];
  let rest = BigInt(value);
  for (; rest >= 0x80n; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return [...bytes, Number(rest)];
}

const zigzag = (value: number | bigint) => (BigInt(value) >= 0n ? BigInt(value) * 2n : BigInt(value) * -2n - 1n);
export const i32 = (value: number): Value => [5, varint(zigzag(value))];
export const i64 = (value: number | bigint): Value => [6, varint(zigzag(value))];
export const text = (value: string): Value => [8, [...varint(Buffer.byteLength(value)), ...Buffer.from(value)]];
export const flag = (value: boolean): Value => [value ? 1 : 2, []];
export const struct = (fields: Readonly<Record<number, Value | undefined>>): Value => {
  const bytes: number[] = [];
  let before = 0;
  for (const [key, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    bytes.push(((Number(key) - before) << 4) | value[0]);
    for (const byte of value[1]) bytes.push(byte);
    before = Number(key);
  }
  return [12, [...bytes, 0]];
};
export const list = (values: readonly Value[], type = values[0]?.[0] ?? 12): Value => {
  const head = values.length < 15 ? [(values.length << 4) | type] : [0xf0 | type, ...varint(values.length)];
  return [9, [...head, ...values.flatMap(([, bytes]) => bytes)]];
};

export const PHYSICAL = { BOOLEAN: 0, INT32: 1, INT64: 2, FLOAT: 4, DOUBLE: 5, BYTE_ARRAY: 6, FIXED: 7 } as const;
export const ENCODING = {
  ...{ PLAIN: 0, RLE: 3, DELTA_BINARY_PACKED: 5, DELTA_LENGTH_BYTE_ARRAY: 6 },
  ...{ DELTA_BYTE_ARRAY: 7, RLE_DICTIONARY: 8, BYTE_STREAM_SPLIT: 9 },
} as const;
export const CODEC = { UNCOMPRESSED: 0, SNAPPY: 1, GZIP: 2, BROTLI: 4, ZSTD: 6, LZ4_RAW: 7 } as const;

export interface PageOptions {
  /** What the header says; by default what is true. */
  values: number;
  encoding?: number;
  /** Length that the header says the page has once unpacked. */
  unpacked?: number;
  packed?: number;
  crc?: number | 'right';
  kind?: 'data' | 'dictionary' | 'dataV2';
  /** Of a page of version 2. */
  nulls?: number;
  rows?: number;
  definitionBytes?: number;
  repetitionBytes?: number;
  isPacked?: boolean;
}

/** A page with its header; `content` is as it stands in the file. */
export function page(content: Uint8Array, options: PageOptions): Buffer {
  const {
    values,
    kind = 'data',
    encoding = ENCODING.PLAIN,
    unpacked = content.length,
    packed = content.length,
  } = options;
  const { crc, nulls = 0, rows = values, definitionBytes = 0, repetitionBytes = 0, isPacked } = options;
  const rle = i32(ENCODING.RLE);
  const own = {
    data: struct({ 1: i32(values), 2: i32(encoding), 3: rle, 4: rle }),
    dictionary: struct({ 1: i32(values), 2: i32(encoding) }),
    dataV2: struct({
      ...{ 1: i32(values), 2: i32(nulls), 3: i32(rows), 4: i32(encoding), 5: i32(definitionBytes) },
      ...{ 6: i32(repetitionBytes), 7: isPacked === undefined ? undefined : flag(isPacked) },
    }),
  }[kind];
  const sum = crc === 'right' ? crc32(content) | 0 : crc;
  const header = struct({
    ...{ 1: i32({ data: 0, dictionary: 2, dataV2: 3 }[kind]), 2: i32(unpacked), 3: i32(packed) },
    ...{ 4: sum === undefined ? undefined : i32(sum), 5: kind === 'data' ? own : undefined },
    ...{ 7: kind === 'dictionary' ? own : undefined, 8: kind === 'dataV2' ? own : undefined },
  });
  return Buffer.concat([Buffer.from(header[1]), content]);
}

export interface HandColumn {
  name: string;
  type: number;
  /** Lists around a value, each optional with optional elements, as Arrow writes them. Default 0: a required value. */
  lists?: number;
  optional?: boolean;
  typeLength?: number;
  converted?: number;
  pages: readonly Uint8Array[];
  /** What the footer says; by default what is true. */
  codec?: number;
  values?: number;
  begin?: number | bigint;
  bytes?: number | bigint;
  /** Further fields of the column's metadata. */
  meta?: Readonly<Record<number, Value>>;
}

export interface HandFile {
  columns: readonly HandColumn[];
  rows: number | bigint;
  /** In the footer, for all row groups. */
  totalRows?: number | bigint;
  /** Replaces the footer. */
  footer?: readonly number[];
}

const [REQUIRED, OPTIONAL, REPEATED] = [0, 1, 2];

function elementsOf({ name, type, lists = 0, optional = false, typeLength, converted }: HandColumn): Value[] {
  const leaf = (own: string, repetition: number) =>
    struct({
      ...{ 1: i32(type), 2: typeLength === undefined ? undefined : i32(typeLength), 3: i32(repetition), 4: text(own) },
      ...{ 6: converted === undefined ? undefined : i32(converted) },
    });
  if (lists === 0) return [leaf(name, optional ? OPTIONAL : REQUIRED)];
  const out: Value[] = [];
  for (let depth = 0; depth < lists; depth++) {
    const own = depth === 0 ? name : 'element';
    out.push(struct({ 3: i32(OPTIONAL), 4: text(own), 5: i32(1), 6: i32(3) }));
    out.push(struct({ 3: i32(REPEATED), 4: text('list'), 5: i32(1) }));
  }
  return [...out, leaf('element', OPTIONAL)];
}

/** A file with one row group. */
export function parquetByHand({ columns, rows, totalRows = rows, footer }: HandFile): Buffer {
  const parts: Uint8Array[] = [Buffer.from('PAR1')];
  let at = 4;
  const chunks = columns.map((column): Value => {
    const { name, type, lists = 0, pages, codec = CODEC.UNCOMPRESSED, values = Number(rows) } = column;
    const content = Buffer.concat(pages);
    const { begin = at, bytes = content.length } = column;
    parts.push(content);
    at += content.length;
    const path = [name, ...Array.from({ length: lists }, () => ['list', 'element']).flat()];
    const meta = struct({
      ...{ 1: i32(type), 2: list([i32(0)]), 3: list(path.map(text)), 4: i32(codec), 5: i64(values) },
      ...{ 6: i64(content.length), 7: i64(bytes), 9: i64(begin), ...column.meta },
    });
    return struct({ 2: i64(begin), 3: meta });
  });
  const root = struct({ 4: text('schema'), 5: i32(columns.length) });
  const own = struct({
    ...{ 1: i32(1), 2: list([root, ...columns.flatMap(elementsOf)]), 3: i64(totalRows) },
    ...{ 4: list([struct({ 1: list(chunks), 2: i64(at), 3: i64(rows) })]) },
  })[1];
  const bytes = Buffer.from(footer ?? own);
  const tail = Buffer.alloc(8, 'PAR1');
  tail.writeUInt32LE(bytes.length, 0);
  tail.write('PAR1', 4);
  return Buffer.concat([...parts, bytes, tail]);
}

/** float32 as bytes. */
export const floats = (...values: number[]): Buffer => Buffer.from(Float32Array.from(values).buffer);

/** Byte arrays as plain values: each with its length in front. */
export function byteArrays(...values: Uint8Array[]): Buffer {
  return Buffer.concat(
    values.flatMap((value) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(value.length);
      return [length, value];
    }),
  );
}

/** A run of the hybrid encoding, of values of at most 8 bits. */
export const run = (times: number, value: number): Buffer => Buffer.from([...varint(2 * times), value]);

/** Levels of a page of version 1: with their length in front. */
export const levels = (...runs: Buffer[]): Buffer => byteArrays(Buffer.concat(runs));
