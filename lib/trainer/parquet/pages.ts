/**
 * Checks the pages of a column before they are decoded: sizes against what is there, checksums, levels against the number of values, values against
 * the bytes that hold them. What passes makes the decoder neither read elsewhere, nor allocate more than it was given, nor go on for ever.
 *
 * Source: apache/parquet-format, README.md ("Data Pages", "Checksumming") and Encodings.md.
 */

import { crc32 } from 'node:zlib';
import type { CompressionCodec } from 'hyparquet';
import { unpack } from './codecs.js';
import { damaged, SMALLER } from './damage.js';
import { type PageHeader, readPageHeader, writePageHeader } from './page-header.js';
import { sumOfHybrid } from './runs.js';
import type { Leaf } from './schema.js';
import { type Budget, checkDictionary, checkValues, type Dictionary } from './values.js';

export interface CheckedColumn {
  readonly rows: number;
  /** The column with its pages unpacked, under headers of our own: what the decoder is given. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Checks the pages of a column that has `values` values, and unpacks them. Throws Damage. */
export function checkColumn(
  bytes: Uint8Array,
  leaf: Leaf,
  { codec, values }: { readonly codec: CompressionCodec; readonly values: number },
  budget: Budget,
): CheckedColumn {
  const parts: Uint8Array[] = [];
  let dictionary: Dictionary | undefined;
  let [rows, left] = [0, values];
  for (let at = 0; at < bytes.length; ) {
    const { header, end } = readPageHeader(bytes, at);
    const packed = contentOf(bytes, end, header, budget);
    at = end + packed.length;
    if (header.kind === 'dictionary') {
      if (dictionary !== undefined || left !== values) damaged('a dictionary behind the values');
      if (!header.encoding.startsWith('PLAIN')) damaged(`a dictionary in the encoding ${header.encoding}`);
      const page = unpack(codec, packed, header.bytes);
      dictionary = checkDictionary(page, header.values, leaf);
      parts.push(Uint8Array.from(writePageHeader(header, page.length, header.values)), page);
      continue;
    }
    if (header.values > left) damaged(`more than ${values} values`);
    const found = (header.kind === 'data' ? checkData : checkDataV2)(
      { leaf, codec, dictionary, budget },
      header,
      packed,
    );
    // The rows of a list go on from page to page; the first has to begin one.
    if (left === values && found.startsWithin) damaged('a first row that begins within');
    left -= header.values;
    rows += found.rows;
    const length = found.content.reduce((sum, part) => sum + part.length, 0);
    parts.push(Uint8Array.from(writePageHeader(header, length, found.present)), ...found.content);
  }
  if (left > 0) damaged(`${values - left} of its ${values} values`);
  return { rows, bytes: joined(parts) };
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function contentOf(bytes: Uint8Array, begin: number, header: PageHeader, budget: Budget): Uint8Array {
  const { packedBytes, bytes: unpacked, crc } = header;
  if (begin + packedBytes > bytes.length) {
    damaged(`a page of ${packedBytes} bytes where ${bytes.length - begin} are left`);
  }
  budget.bytes -= unpacked;
  if (budget.bytes < 0) damaged(`a page that unpacks to ${unpacked} bytes, more than these rows can need${SMALLER}`);
  const packed = bytes.subarray(begin, begin + packedBytes);
  if (crc !== undefined && crc32(packed) !== crc) damaged('a page whose checksum says that it was changed');
  return packed;
}

interface PageContext {
  readonly leaf: Leaf;
  readonly codec: CompressionCodec;
  readonly dictionary: Dictionary | undefined;
  readonly budget: Budget;
}

interface Levels {
  /** Values that are there. */
  readonly present: number;
  /** Rows that begin. */
  readonly rows: number;
  readonly startsWithin: boolean;
}

type CheckedPage = Levels & { readonly content: readonly Uint8Array[] };

type Range = readonly [begin: number, end: number];

function checkData(context: PageContext, header: PageHeader, packed: Uint8Array): CheckedPage {
  if (header.kind !== 'data') return damaged('a page of another version');
  const { leaf, codec, dictionary, budget } = context;
  const page = unpack(codec, packed, header.bytes);
  let at = 0;
  const range = (most: number, encoding: string): Range => {
    if (most === 0) return [0, 0];
    if (encoding !== 'RLE') damaged(`levels in the encoding ${encoding}`);
    if (at + 4 > page.length) damaged('a page that ends within its levels');
    const begin = at + 4;
    at = begin + new DataView(page.buffer, page.byteOffset).getUint32(at, true);
    return at > page.length ? damaged('a page that ends within its levels') : [begin, at];
  };
  const repetition = range(leaf.maxRepetition, header.repetitionEncoding);
  const definition = range(leaf.maxDefinition, header.definitionEncoding);
  const levels = countLevels(page, leaf, header.values, repetition, definition);
  checkValues(page, at, { leaf, count: levels.present, encoding: header.encoding, dictionary, budget });
  return { ...levels, content: [page] };
}

function checkDataV2(context: PageContext, header: PageHeader, packed: Uint8Array): CheckedPage {
  if (header.kind !== 'dataV2') return damaged('a page of another version');
  const { leaf, codec, dictionary, budget } = context;
  const { values, repetitionBytes, definitionBytes } = header;
  const levelBytes = repetitionBytes + definitionBytes;
  if (levelBytes > Math.min(packed.length, header.bytes)) damaged('a page that ends within its levels');
  if ((leaf.maxRepetition === 0 && repetitionBytes > 0) || (leaf.maxDefinition === 0 && definitionBytes > 0)) {
    damaged('levels of a column that has none');
  }
  const levels = countLevels(packed, leaf, values, [0, repetitionBytes], [repetitionBytes, levelBytes]);
  if (header.rows !== levels.rows) damaged(`a page of ${levels.rows} rows in place of ${header.rows}`);
  const bytes = header.bytes - levelBytes;
  const rest = packed.subarray(levelBytes);
  // Without values there may be no bytes, which is no page of any codec.
  const page = bytes === 0 ? rest.subarray(0, 0) : unpack(header.isPacked ? codec : 'UNCOMPRESSED', rest, bytes);
  checkValues(page, 0, { leaf, count: levels.present, encoding: header.encoding, dictionary, budget });
  return { ...levels, content: [packed.subarray(0, levelBytes), page] };
}

function countLevels(
  bytes: Uint8Array,
  { maxDefinition, maxRepetition }: Leaf,
  values: number,
  repetition: Range,
  definition: Range,
): Levels {
  const present = maxDefinition === 0 ? values : timesOf(maxDefinition, maxDefinition, bytes, definition, values).sum;
  if (maxRepetition === 0) return { present, rows: values, startsWithin: false };
  const { sum: rows, first } = timesOf(0, maxRepetition, bytes, repetition, values);
  return { present, rows, startsWithin: first !== undefined && first > 0 };
}

/** How often a level is among the values, and the first level. */
function timesOf(level: number, most: number, bytes: Uint8Array, range: Range, values: number) {
  const weights = new Uint8Array(most + 1);
  weights[level] = 1;
  return sumOfHybrid(bytes, range, 32 - Math.clz32(most), values, weights);
}
