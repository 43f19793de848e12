/** Reads the pairs of a row group: one column at a time, its pages checked first, then decoded by hyparquet. */

import { type AsyncBuffer, type FileMetaData, parquetReadObjects } from 'hyparquet';
import { SdpoError } from '../../native/errors.js';
import { elementCount } from '../data-pair.js';
import { readRanges } from '../files.js';
import { PARSERS, readCondition, readConfidence, readId, readLatents } from './cells.js';
import { damaged, SMALLER } from './damage.js';
import type { Chunk, Group, ParquetFooter } from './footer.js';
import { checkColumn } from './pages.js';
import { leavesOf } from './schema.js';

/** What a row group is read for. */
export interface GroupRequest extends Omit<ParquetFooter, 'groups'> {
  readonly path: string;
  readonly group: Group;
  /** Row of the file that the group begins with. */
  readonly firstRow: number;
  /** Shape of one sample. */
  readonly shape: readonly number[];
  readonly nonFinite: 'throw' | 'propagate';
}

/** The pairs of a row group, field by field; those that no column holds are left out. */
export interface GroupPairs {
  /** Flat [rows, ...shape]. */
  readonly chosen: Float32Array<ArrayBuffer>;
  readonly rejected: Float32Array<ArrayBuffer>;
  readonly id?: readonly string[];
  readonly confidence?: Float64Array<ArrayBuffer>;
  readonly condition?: readonly unknown[];
  /** Of rows that do not fit: the first thing that is wrong, as the message of an error. */
  readonly problems: ReadonlyMap<number, string>;
}

/** Bytes that any column may unpack to; beyond, bytes of the file or elements of the latents have to justify them. */
const FREE_BYTES = 2 ** 25;
const UNPACKED_PER_BYTE = 16;
/** As these, for values, each of which may take a list of each level around it, of tens of bytes. */
const FREE_VALUES = 2 ** 22;
const VALUES_PER_BYTE = 16;
/** JavaScript ends the process where an array grows beyond 2^27 elements, and lists grow by half at a time until they are put together. */
const MAX_LIST_VALUES = 2 ** 26;
/** As FREE_BYTES, for the latents themselves, which may be constant. */
const FREE_LATENT_BYTES = 2 ** 27;
const LATENTS_PER_BYTE = 64;
/** Latents of the given shape, and a level for each axis, are needed in any case; twice as many are read for a better message. */
const VALUES_PER_ELEMENT = 8;
/** A latent takes at most 8 bytes an element and a few for its levels, and once more where a dictionary stands in. */
const UNPACKED_PER_ELEMENT = 32;

/**
 * Reads a row group.
 *
 * @throws SdpoError `ERR_SDPO_DATA` with path, rows and column where something is damaged, or would take more memory than these rows can need
 */
export async function readGroup(request: GroupRequest): Promise<GroupPairs> {
  const { columns, group, shape, nonFinite } = request;
  const size = elementCount(shape);
  const problems = new Map<number, string>();
  const rowsOf = async (column: string, elements: number, use: (what: string, value: unknown, row: number) => void) => {
    const values = await readColumn(request, column, elements);
    for (let row = 0; row < group.rows; row++) {
      const what = `${column} in row ${request.firstRow + row} of ${request.path}`;
      try {
        use(what, values[row], row);
      } catch (error) {
        const { message } = error as Error;
        // A row that does not fit hinders nobody who does not ask for it.
        if (!problems.has(row)) {
          problems.set(
            row,
            error instanceof SdpoError ? message : `Expected ${what} to be readable, received ${message}`,
          );
        }
      }
    }
  };
  const latents = async (column: string) => {
    checkLatentBytes(request, column, size);
    let out: Float32Array<ArrayBuffer> | undefined;
    await rowsOf(column, size, (what, value, row) => {
      // Not before the column has turned out to hold so many rows.
      out ??= new Float32Array(group.rows * size);
      readLatents(what, value, shape, out.subarray(row * size, (row + 1) * size), nonFinite);
    });
    return out!;
  };
  const chosen = await latents(columns.chosen!);
  const rejected = await latents(columns.rejected!);
  const id: string[] = [];
  if (columns.id !== undefined) {
    await rowsOf(columns.id, 0, (what, value, row) => {
      id[row] = readId(what, value);
    });
  }
  const confidence = new Float64Array(columns.confidence === undefined ? 0 : group.rows);
  if (columns.confidence !== undefined) {
    await rowsOf(columns.confidence, 0, (what, value, row) => {
      confidence[row] = readConfidence(what, value);
    });
  }
  const condition: unknown[] = [];
  if (columns.condition !== undefined) {
    await rowsOf(columns.condition, 0, (what, value, row) => {
      condition[row] = readCondition(what, value);
    });
  }
  return {
    chosen,
    rejected,
    ...(columns.id !== undefined && { id }),
    ...(columns.confidence !== undefined && { confidence }),
    ...(columns.condition !== undefined && { condition }),
    problems,
  };
}

function chunksOf({ group }: GroupRequest, column: string): Chunk[] {
  return group.chunks.filter(({ path }) => path[0] === column);
}

function storedBytes(chunks: readonly Chunk[]): number {
  return chunks.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Constant columns take next to no bytes, however many rows they claim to have; the latents of these do. */
function checkLatentBytes(request: GroupRequest, column: string, size: number): void {
  const bytes = request.group.rows * size * Float32Array.BYTES_PER_ELEMENT;
  const stored = storedBytes(chunksOf(request, column));
  if (bytes > Math.max(FREE_LATENT_BYTES, LATENTS_PER_BYTE * stored)) {
    const samples = `${request.group.rows} samples of shape [${request.shape}]`;
    fail(request, column, `${stored} bytes for ${samples}${SMALLER}`);
  }
}

/** The values of a column, one per row. */
async function readColumn(request: GroupRequest, column: string, elements: number): Promise<readonly unknown[]> {
  const { path, fileBytes, group, schema } = request;
  const chunks = chunksOf(request, column);
  const ranges = chunks.map(({ begin, bytes }) => ({ begin, length: bytes }));
  const stored = await readRanges(path, ranges, 'ERR_SDPO_DATA', fileBytes);
  try {
    const checked = checkColumns(request, column, stored, elements);
    const objects = await parquetReadObjects({
      file: fileOf(checked),
      metadata: metadataOf(schema, group.rows, chunks, checked),
      columns: [column],
      rowEnd: group.rows,
      // Bytes stay bytes unless the column says that they are text.
      utf8: false,
      parsers: PARSERS,
    });
    if (objects.length !== group.rows) damaged(`${objects.length} of its ${group.rows} rows`);
    return objects.map((object) => object[column]);
  } catch (error) {
    // Whatever the decoder throws at what the checks have let pass is about the file, too.
    return fail(request, column, (error as Error).message, error);
  }
}

function checkColumns(
  request: GroupRequest,
  column: string,
  stored: readonly Uint8Array[],
  elements: number,
): Uint8Array<ArrayBuffer>[] {
  const { group, schema } = request;
  const leaves = leavesOf(schema).filter((leaf) => leaf.path[0] === column);
  const chunks = chunksOf(request, column);
  const bytes = storedBytes(chunks);
  const needed = group.rows * elements;
  const budget = { bytes: Math.max(FREE_BYTES, UNPACKED_PER_BYTE * bytes, UNPACKED_PER_ELEMENT * needed) };
  const most = Math.max(FREE_VALUES, VALUES_PER_BYTE * bytes, VALUES_PER_ELEMENT * (needed + group.rows));
  return chunks.map((chunk, i) => {
    // An ordinary list has three levels, of which two are lists of their own until it is put together.
    const lists = Math.max(1, leaves[i]!.maxDefinition - 1);
    if (chunk.values * lists > most) damaged(`${chunk.values} values, more than ${group.rows} rows can need${SMALLER}`);
    if (chunk.values > MAX_LIST_VALUES) damaged(`${chunk.values} values, more than lists can have${SMALLER}`);
    const { rows, bytes } = checkColumn(stored[i]!, leaves[i]!, chunk, budget);
    if (rows !== group.rows) damaged(`${rows} of its ${group.rows} rows`);
    return bytes;
  });
}

/** Columns are at places of their own, far apart: the decoder would join what is near. */
const PLACE = 2 ** 40;

function fileOf(columns: readonly Uint8Array<ArrayBuffer>[]): AsyncBuffer {
  return {
    byteLength: PLACE * (columns.length + 1),
    // Each has a buffer of its own, and is asked for as a whole.
    slice: (start) => columns[Math.floor(start / PLACE) - 1]!.buffer,
  };
}

function metadataOf(
  schema: ParquetFooter['schema'],
  rows: number,
  chunks: readonly Chunk[],
  checked: readonly Uint8Array[],
): FileMetaData {
  const columns = chunks.map(({ path, values, type }, i) => ({
    file_offset: 0n,
    meta_data: {
      ...{ type, codec: 'UNCOMPRESSED' as const, encodings: [], path_in_schema: [...path], num_values: BigInt(values) },
      ...{ total_uncompressed_size: 0n, total_compressed_size: BigInt(checked[i]!.length) },
      data_page_offset: BigInt(PLACE * (i + 1)),
    },
  }));
  return {
    ...{ version: 1, schema: [...schema], num_rows: BigInt(rows), metadata_length: 0 },
    row_groups: [{ columns, total_byte_size: 0n, num_rows: BigInt(rows) }],
  };
}

function fail({ path, group, firstRow }: GroupRequest, column: string, received: string, cause?: unknown): never {
  const rows = `rows ${firstRow} to ${firstRow + group.rows - 1}`;
  const message = `Expected the column ${column} in ${rows} of ${path} to be readable, received ${received}`;
  throw new SdpoError('ERR_SDPO_DATA', message, { cause });
}
