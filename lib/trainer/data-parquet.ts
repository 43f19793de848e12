/** Preference pairs from Parquet files, read one row group at a time. */

import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import * as zlib from 'node:zlib';
import {
  type AsyncBuffer,
  asyncBufferFromFile,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
  toJson,
} from 'hyparquet';
import { SdpoError } from '../native/errors.js';
import { checkInteger, checkOneOf, checkOptions } from '../native/validate.js';
import {
  checkConfidence,
  checkFinite,
  checkIndex,
  checkNames,
  checkNonFinite,
  checkSampleShape,
  elementCount,
  failData,
  type PairOptions,
  partOf,
} from './data-pair.js';
import { checkFiles } from './data-safetensors.js';
import { type FingerprintMode, hashFile } from './files.js';
import type { PairDataset, PreferencePair } from './types.js';

export interface ParquetPairOptions extends PairOptions {
  /** Shape of one sample. */
  shape: readonly number[];
  /** Names of the columns; by default those of the fields. A name given here must exist. */
  columns?: { chosen?: string; rejected?: string; id?: string; confidence?: string; condition?: string };
  /** How many decoded row groups are kept. Default 4. */
  cachedGroups?: number;
  /** 'sample' (default): size and 64 pieces of 4 KiB of each file; 'content': every byte, which reads all files once. */
  fingerprint?: FingerprintMode;
}

const FIELDS = ['chosen', 'rejected', 'id', 'confidence', 'condition'] as const;
type Columns = { readonly [K in (typeof FIELDS)[number]]?: string };

interface ParquetFile {
  readonly path: string;
  readonly label: string;
  readonly file: AsyncBuffer;
  readonly metadata: FileMetaData;
  readonly columns: Columns;
}

interface RowGroup {
  readonly source: ParquetFile;
  /** Index of its first pair in the data set, and of its first row in its file. */
  readonly first: number;
  readonly firstRow: number;
  readonly rows: number;
}

type Decompress = (input: Uint8Array) => Uint8Array;
/** Zstandard is in Node since 22.15 and 23.8, later than the types this is compiled with. */
const { zstdDecompressSync } = zlib as { zstdDecompressSync?: Decompress };

/** Codecs beside Snappy, which the reader has itself. */
const COMPRESSORS: Compressors = {
  GZIP: (input) => zlib.gunzipSync(input),
  BROTLI: (input) => zlib.brotliDecompressSync(input),
  ...(zstdDecompressSync && { ZSTD: zstdDecompressSync }),
};

/**
 * Pairs from Parquet files, one after another. Columns: `chosen` and `rejected`, each a list of numbers or the bytes of little-endian float32,
 * optionally `id` (default `file#row`), `confidence` and `condition` (any value, given to the policy as JSON has it). Codecs: none, Snappy,
 * gzip, Brotli, and Zstandard where Node has it.
 *
 * Row groups are the unit that is read and cached, so shuffled access is fast where `cachedGroups` of them hold the data or groups are small.
 *
 * @throws SdpoError `ERR_SDPO_DATA` that names file, column and row
 */
export async function pairsFromParquet<C = unknown>(
  files: string | readonly string[],
  options: ParquetPairOptions,
): Promise<PairDataset<C>> {
  const paths = checkFiles(files);
  checkOptions('options', options, ['shape', 'columns', 'cachedGroups', 'fingerprint', 'nonFinite']);
  const shape = checkSampleShape(options.shape);
  const given = checkNames('options.columns', options.columns, FIELDS);
  const cachedGroups = checkInteger('options.cachedGroups', options.cachedGroups ?? 4, 1);
  const mode = checkOneOf('options.fingerprint', options.fingerprint ?? 'sample', ['sample', 'content']);
  const nonFinite = checkNonFinite(options.nonFinite);

  const names = new Set(paths.map((path) => basename(path)));
  const hash = createHash('sha256').update(JSON.stringify([shape, given]));
  const groups: RowGroup[] = [];
  let length = 0;
  for (const path of paths) {
    const source = await openFile(path, names.size === paths.length ? basename(path) : path, given);
    let firstRow = 0;
    for (const { num_rows } of source.metadata.row_groups) {
      const rows = Number(num_rows);
      if (rows > 0) groups.push({ source, first: length, firstRow, rows });
      firstRow += rows;
      length += rows;
    }
    await hashFile(hash, path, mode, 'ERR_SDPO_DATA');
  }
  if (length === 0) failData(`the files ${paths.join(', ')}`, 'of at least one pair', 0);

  // A Map keeps the order of insertion: the first entry is the one used least recently.
  const cache = new Map<RowGroup, Promise<readonly (PreferencePair<C> | SdpoError)[]>>();
  return {
    kind: 'indexed',
    length,
    shape,
    fingerprint: `sha256-${mode}:${hash.digest('hex')}`,
    async get(index) {
      checkIndex(index, length);
      const group = partOf(groups, index);
      const rows = cache.get(group) ?? readGroup<C>(group, elementCount(shape), nonFinite);
      cache.delete(group);
      cache.set(group, rows);
      if (cache.size > cachedGroups) cache.delete(cache.keys().next().value!);
      // A read that failed is tried again the next time.
      rows.catch(() => cache.delete(group));
      const pair = (await rows)[index - group.first];
      if (pair instanceof SdpoError) throw pair;
      return pair;
    },
  };
}

async function openFile(path: string, label: string, given: Columns): Promise<ParquetFile> {
  let file: AsyncBuffer;
  let metadata: FileMetaData;
  try {
    file = await asyncBufferFromFile(path);
    metadata = await parquetMetadataAsync(file);
  } catch (cause) {
    failData(path, 'a complete Parquet file', (cause as Error).message, cause);
  }
  const present = parquetSchema(metadata).children.map(({ element }) => element.name);
  const columns: { -readonly [K in keyof Columns]: Columns[K] } = {};
  for (const field of FIELDS) {
    const name = given[field] ?? field;
    if (present.includes(name)) columns[field] = name;
    else if (field === 'chosen' || field === 'rejected' || given[field] !== undefined) {
      failData(path, `a file with the column '${name}'`, `the columns ${present.join(', ')}`);
    }
  }
  return { path, label, file, metadata, columns };
}

/** The pairs of a row group; a row that does not fit stands as its error, so that it hinders nobody who does not ask for it. */
async function readGroup<C>(
  { source, firstRow, rows }: RowGroup,
  size: number,
  nonFinite: 'throw' | 'propagate',
): Promise<readonly (PreferencePair<C> | SdpoError)[]> {
  const { path, file, metadata, columns } = source;
  let objects: Record<string, unknown>[];
  try {
    objects = await parquetReadObjects({
      file,
      metadata,
      columns: [...new Set(Object.values(columns))],
      rowStart: firstRow,
      rowEnd: firstRow + rows,
      compressors: COMPRESSORS,
      // Bytes stay bytes unless the column says that they are text.
      utf8: false,
    });
  } catch (cause) {
    failData(`rows ${firstRow} to ${firstRow + rows - 1} of ${path}`, 'readable', (cause as Error).message, cause);
  }
  return objects.map((object, i) => {
    try {
      return readPair<C>(source, object, firstRow + i, size, nonFinite);
    } catch (error) {
      if (error instanceof SdpoError) return error;
      throw error;
    }
  });
}

function readPair<C>(
  { path, label, columns }: ParquetFile,
  object: Record<string, unknown>,
  row: number,
  size: number,
  nonFinite: 'throw' | 'propagate',
): PreferencePair<C> {
  const at = `row ${row} of ${path}`;
  const fieldOf = (field: keyof Columns) => (columns[field] === undefined ? undefined : object[columns[field]]);
  const latents = (field: 'chosen' | 'rejected') =>
    readLatents(`${columns[field]} in ${at}`, fieldOf(field), size, nonFinite);
  const [id, confidence, condition] = [fieldOf('id'), fieldOf('confidence'), fieldOf('condition')];
  if (columns.id !== undefined && !['string', 'number', 'bigint'].includes(typeof id)) {
    failData(`${columns.id} in ${at}`, 'a string or a number', id);
  }
  return {
    id: columns.id === undefined ? `${label}#${row}` : String(id),
    chosen: latents('chosen'),
    rejected: latents('rejected'),
    ...(columns.confidence !== undefined && {
      confidence: checkConfidence(
        `${columns.confidence} in ${at}`,
        typeof confidence === 'bigint' ? Number(confidence) : confidence,
      ),
    }),
    ...(columns.condition !== undefined && { condition: toJson(condition) as C }),
  };
}

function readLatents(what: string, value: unknown, size: number, nonFinite: 'throw' | 'propagate'): Float32Array {
  if (value instanceof Uint8Array) {
    const bytes = size * Float32Array.BYTES_PER_ELEMENT;
    if (value.length !== bytes) failData(what, `${bytes} bytes (${size} float32)`, `${value.length} bytes`);
    const out = new Float32Array(new Uint8Array(value).buffer);
    if (nonFinite === 'throw') checkFinite(what, out);
    return out;
  }
  if (!Array.isArray(value) && !ArrayBuffer.isView(value)) {
    failData(what, 'a list of numbers, or the bytes of float32', value);
  }
  const list = value as ArrayLike<unknown>;
  if (list.length !== size) failData(what, `of length ${size}`, value);
  const out = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const element = list[i];
    if (typeof element !== 'number') failData(`element ${i} of ${what}`, 'a number', element);
    out[i] = element;
  }
  if (nonFinite === 'throw') checkFinite(what, out);
  return out;
}
