/** Reads the footer of a Parquet file: the schema and, of each row group, where the columns of the pairs lie; both are checked before anything relies on them. */

import {
  type ColumnChunk,
  type CompressionCodec,
  type FileMetaData,
  type ParquetParsers,
  type ParquetType,
  parquetMetadata,
  type SchemaElement,
} from 'hyparquet';
import { FOREIGN_BYTES, foreignFormat } from '../../files/foreign.js';
import { SdpoError } from '../../native/errors.js';
import { failData } from '../data-pair.js';
import { readExactly, withFile } from '../files.js';
import { hindranceOf } from './codecs.js';
import { countOf, Damage, damaged } from './damage.js';
import { type Leaf, leavesOf } from './schema.js';
import { readStruct } from './thrift.js';

/** Fields of a pair, and the columns that hold them. */
export const FIELDS = ['chosen', 'rejected', 'id', 'confidence', 'condition'] as const;
export type Field = (typeof FIELDS)[number];
export type Columns = { readonly [K in Field]?: string };

/** A leaf column of a row group: where it lies in the file, and how many values it has, nulls and empty lists included. */
export interface Chunk {
  readonly path: readonly string[];
  readonly type: ParquetType;
  readonly codec: CompressionCodec;
  readonly values: number;
  readonly begin: number;
  readonly bytes: number;
}

export interface Group {
  readonly rows: number;
  readonly chunks: readonly Chunk[];
}

/** What a row group is read by. */
export interface ParquetFooter {
  readonly fileBytes: number;
  readonly schema: readonly SchemaElement[];
  readonly columns: Columns;
  readonly groups: readonly Group[];
}

const MAGIC = 'PAR1';
/** Length of the footer, and the magic bytes once more. */
const TAIL_BYTES = 8;
/** As of the headers of safetensors files: keeps a damaged length from asking for all memory. */
const MAX_FOOTER_BYTES = 100_000_000;
/** Rows of a group that need no bytes to justify them: constant columns take next to none. */
const FREE_ROWS = 2 ** 16;
/** Rows beyond these per byte of the group's columns are not believed. */
const ROWS_PER_BYTE = 16;

/** Statistics are not used, and a parser would run on bytes that nobody has looked at. */
const nothing = () => undefined;
const NO_PARSERS: ParquetParsers = {
  timestampFromMilliseconds: nothing,
  timestampFromMicroseconds: nothing,
  timestampFromNanoseconds: nothing,
  dateFromDays: nothing,
  stringFromBytes: nothing,
  jsonFromBytes: nothing,
  geometryFromBytes: nothing,
  geographyFromBytes: nothing,
  uuidFromBytes: nothing,
};

/**
 * Reads a footer.
 *
 * @param given names of columns other than those of the fields; such a column must exist
 * @throws SdpoError `ERR_SDPO_DATA` with the path: no Parquet file, a damaged one, without a column that is needed, or with a codec that cannot be read
 */
export async function readFooter(path: string, given: Columns): Promise<ParquetFooter> {
  const code = 'ERR_SDPO_DATA';
  const { fileBytes, bytes } = await withFile(path, code, async (file) => {
    const fileBytes = (await file.stat()).size;
    const read = (begin: number, length: number) => readExactly(file, path, { begin, length }, code);
    const start = await read(0, Math.min(fileBytes, FOREIGN_BYTES));
    if (!isMagic(start, 0))
      fail(path, foreignFormat(start) ?? `a file of ${fileBytes} bytes that does not begin as one`);
    const ends = fileBytes >= MAGIC.length + TAIL_BYTES ? await read(fileBytes - TAIL_BYTES, TAIL_BYTES) : start;
    if (ends === start || !isMagic(ends, 4)) fail(path, `a file of ${fileBytes} bytes that does not end as one`);
    const length = new DataView(ends.buffer).getUint32(0, true);
    if (length > Math.min(MAX_FOOTER_BYTES, fileBytes - MAGIC.length - TAIL_BYTES)) {
      fail(path, `a footer of ${length} bytes in a file of ${fileBytes}`);
    }
    return { fileBytes, bytes: await read(fileBytes - TAIL_BYTES - length, length + TAIL_BYTES) };
  });
  try {
    readStruct(bytes.subarray(0, -TAIL_BYTES), 0);
    const metadata = parquetMetadata(bytes, { parsers: NO_PARSERS, geoparquet: false });
    return checkFooter(path, metadata, { fileBytes, pagesEnd: fileBytes - bytes.length, given });
  } catch (error) {
    // What is neither is the decoder's own, of a footer that is not as it expects.
    if (error instanceof SdpoError) throw error;
    fail(path, error instanceof Damage ? error.message : `a damaged footer: ${(error as Error).message}`, error);
  }
}

function isMagic(bytes: Uint8Array, at: number): boolean {
  return Buffer.from(bytes.subarray(at, at + MAGIC.length)).toString('latin1') === MAGIC;
}

interface FooterContext {
  readonly fileBytes: number;
  /** Where the pages end and the footer begins. */
  readonly pagesEnd: number;
  readonly given: Columns;
}

function checkFooter(
  path: string,
  { schema, row_groups: groups, num_rows: total }: FileMetaData,
  { fileBytes, pagesEnd, given }: FooterContext,
): ParquetFooter {
  const all = leavesOf(schema);
  const columns = columnsOf(path, [...new Set(all.map((leaf) => leaf.path[0]!))], given);
  const wanted = new Set(Object.values(columns));
  const leaves = all.filter((leaf) => wanted.has(leaf.path[0]!));
  if (new Set(leaves.map((leaf) => JSON.stringify(leaf.path))).size < leaves.length) damaged('two columns of one name');

  const checked = groups.map(({ columns: chunks, num_rows }, i): Group => {
    const own = chunks.filter(({ meta_data: meta }) => wanted.has(String(meta?.path_in_schema[0])));
    if (own.length !== leaves.length) damaged(`row group ${i} with ${own.length} of ${leaves.length} columns`);
    const rows = countOf(`row group ${i} with a number of rows`, num_rows);
    const places = own.map((chunk, k) => chunkOf(path, chunk, leaves[k]!, pagesEnd));
    for (const { values, path: name } of places) {
      // A list has a value at least, if only to say that it is empty.
      const fits = leaves.find((leaf) => leaf.path === name)!.maxRepetition > 0 ? values >= rows : values === rows;
      if (!fits) damaged(`row group ${i} of ${rows} rows with ${values} values of ${name.join('.')}`);
    }
    const bytes = places.reduce((sum, place) => sum + place.bytes, 0);
    if (rows > Math.max(FREE_ROWS, ROWS_PER_BYTE * bytes)) damaged(`row group ${i} of ${rows} rows in ${bytes} bytes`);
    return { rows, chunks: places };
  });
  const rows = checked.reduce((sum, group) => sum + group.rows, 0);
  if (rows !== Number(total)) damaged(`${rows} rows in its row groups, of ${total}`);
  checkDisjoint(checked);
  return { fileBytes, schema, columns, groups: checked };
}

/** The column of each field that has one. */
function columnsOf(path: string, present: readonly string[], given: Columns): Columns {
  const columns: { -readonly [K in Field]?: string } = {};
  for (const field of FIELDS) {
    const name = given[field] ?? field;
    if (present.includes(name)) columns[field] = name;
    else if (field === 'chosen' || field === 'rejected' || given[field] !== undefined) {
      failData(path, `a file with the column '${name}'`, `the columns ${present.join(', ')}`);
    }
  }
  return columns;
}

function chunkOf(path: string, chunk: ColumnChunk, { path: name, element }: Leaf, pagesEnd: number): Chunk {
  const { meta_data: meta, file_path: elsewhere, crypto_metadata: crypto } = chunk;
  const what = `the column ${name.join('.')}`;
  if (meta === undefined || crypto !== undefined) damaged(`${what} encrypted`);
  if (elsewhere !== undefined) damaged(`${what} in another file, ${elsewhere}`);
  if (JSON.stringify(meta.path_in_schema) !== JSON.stringify(name) || meta.type !== element.type) {
    damaged(`${what} in another order or of another type than the schema says`);
  }
  const { codec } = meta;
  const hindrance = hindranceOf(codec);
  if (hindrance !== undefined) {
    const found = codec ?? 'a codec that this reader does not know';
    throw new SdpoError(
      'ERR_SDPO_DATA',
      `Expected ${what} of ${path} to be compressed as can be read, received ${found}, ${hindrance}`,
    );
  }
  const begin = countOf(`${what} at an offset`, meta.dictionary_page_offset || meta.data_page_offset);
  const bytes = countOf(`${what} with a size`, meta.total_compressed_size);
  if (begin < MAGIC.length || begin + bytes > pagesEnd)
    damaged(`${what} at ${begin} to ${begin + bytes} of ${pagesEnd} bytes`);
  const values = countOf(`${what} with a number of values`, meta.num_values);
  return { path: name, type: meta.type, codec, values, begin, bytes };
}

/** Two columns on the same bytes are those of a file whose offsets are damaged. */
function checkDisjoint(groups: readonly Group[]): void {
  const chunks = groups.flatMap((group) => group.chunks).sort((a, b) => a.begin - b.begin);
  for (const [i, { begin, path }] of chunks.entries()) {
    const before = chunks[i - 1]!;
    if (i > 0 && begin < before.begin + before.bytes) {
      damaged(`the column ${path.join('.')} where the column ${before.path.join('.')} is`);
    }
  }
}

function fail(path: string, received: string, cause?: unknown): never {
  throw new SdpoError('ERR_SDPO_DATA', `Expected ${path} to be a complete Parquet file, received ${received}`, {
    cause,
  });
}
