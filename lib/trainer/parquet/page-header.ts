/**
 * The headers of Parquet pages: read with all bounds, and written anew for the decoder, which then has nothing of the file's own to follow.
 *
 * Source: apache/parquet-format, parquet.thrift, struct PageHeader; the numbers are those of its fields and enums.
 */

import { countOf, damaged } from './damage.js';
import { readStruct, type ThriftStruct, type ThriftValue, type WritableStruct, writeStruct } from './thrift.js';

const ENCODINGS: Readonly<Record<number, string>> = {
  0: 'PLAIN',
  2: 'PLAIN_DICTIONARY',
  3: 'RLE',
  4: 'BIT_PACKED',
  5: 'DELTA_BINARY_PACKED',
  6: 'DELTA_LENGTH_BYTE_ARRAY',
  7: 'DELTA_BYTE_ARRAY',
  8: 'RLE_DICTIONARY',
  9: 'BYTE_STREAM_SPLIT',
  10: 'ALP',
};

const RLE = 3;

/** Kinds of pages, with the field that describes each. */
const KINDS = {
  dictionary: { type: 2, field: 7 },
  data: { type: 0, field: 5 },
  dataV2: { type: 3, field: 8 },
} as const;

interface CommonHeader {
  /** Bytes in the file behind the header, and bytes once unpacked; of version 2, levels included, which are not packed. */
  readonly packedBytes: number;
  readonly bytes: number;
  readonly crc: number | undefined;
  /** Nulls and empty lists included. */
  readonly values: number;
  readonly encoding: string;
}

export type PageHeader =
  | (CommonHeader & { readonly kind: 'dictionary' })
  | (CommonHeader & { readonly kind: 'data'; readonly definitionEncoding: string; readonly repetitionEncoding: string })
  | (CommonHeader & {
      readonly kind: 'dataV2';
      readonly rows: number;
      readonly definitionBytes: number;
      readonly repetitionBytes: number;
      readonly isPacked: boolean;
    });

/** The header that begins at `at`, and where it ends. Throws Damage. */
export function readPageHeader(bytes: Uint8Array, at: number): { header: PageHeader; end: number } {
  const { fields, end } = readStruct(bytes, at);
  const type = fields.get(1);
  const kind = (Object.keys(KINDS) as (keyof typeof KINDS)[]).find((name) => KINDS[name].type === type);
  const own = kind && fields.get(KINDS[kind].field);
  if (kind === undefined || !(own instanceof Map)) return damaged(`a page of type ${type}`);
  const crc = fields.get(4);
  const common = {
    packedBytes: count(fields, 3),
    bytes: count(fields, 2),
    crc: crc === undefined ? undefined : Number(crc) >>> 0,
    values: count(own, 1),
  };
  if (kind === 'dictionary') return { header: { kind, ...common, encoding: encoding(own.get(2)) }, end };
  if (kind === 'data') {
    const [definitionEncoding, repetitionEncoding] = [encoding(own.get(3)), encoding(own.get(4))];
    return { header: { kind, ...common, encoding: encoding(own.get(2)), definitionEncoding, repetitionEncoding }, end };
  }
  const sizes = {
    nulls: count(own, 2),
    rows: count(own, 3),
    definitionBytes: count(own, 5),
    repetitionBytes: count(own, 6),
  };
  return { header: { kind, ...common, encoding: encoding(own.get(4)), ...sizes, isPacked: own.get(7) !== false }, end };
}

function count(fields: ThriftStruct, id: number): number {
  return countOf('a page with a count', fields.get(id));
}

function encoding(value: ThriftValue | undefined): string {
  return (typeof value === 'number' ? ENCODINGS[value] : undefined) ?? `number ${value}`;
}

/** What the decoder is told of a page of `bytes` bytes that is not packed; `present` counts the values that are there. */
export function writePageHeader(header: PageHeader, bytes: number, present: number): number[] {
  const { kind, values } = header;
  const number = Number(Object.keys(ENCODINGS).find((key) => ENCODINGS[Number(key)] === header.encoding));
  let own: WritableStruct;
  if (kind === 'dictionary')
    own = [
      [1, values],
      [2, number],
    ];
  else if (kind === 'data')
    own = [
      [1, values],
      [2, number],
      [3, RLE],
      [4, RLE],
    ];
  // Some writers count empty lists among the nulls and some do not; the decoder needs them counted.
  else
    own = [
      [1, values],
      [2, values - present],
      [3, header.rows],
      [4, number],
      [5, header.definitionBytes],
      [6, header.repetitionBytes],
      [7, false],
    ];
  return writeStruct([
    [1, KINDS[kind].type],
    [2, bytes],
    [3, bytes],
    [KINDS[kind].field, own],
  ]);
}
