/** Preference pairs from Parquet files, read one row group at a time. */

import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { SdpoError } from '../native/errors.js';
import { checkInteger, checkOneOf, checkOptions } from '../native/validate.js';
import {
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
import { FIELDS } from './parquet/footer.js';
import type { GroupPairs, GroupRequest } from './parquet/group.js';
import { readParquetFooter, readParquetGroup } from './parquet/reader.js';
import type { PairDataset, PreferencePair } from './types.js';

export interface ParquetPairOptions extends PairOptions {
  /** Shape of one sample. */
  shape: readonly number[];
  /** Names of the columns; by default those of the fields. A name given here must exist. */
  columns?:
    | {
        chosen?: string | undefined;
        rejected?: string | undefined;
        id?: string | undefined;
        confidence?: string | undefined;
        condition?: string | undefined;
      }
    | undefined;
  /** How many decoded row groups are kept. Default 4. */
  cachedGroups?: number | undefined;
  /** 'sample' (default): size and 64 pieces of 4 KiB of each file; 'content': every byte, which reads all files once. */
  fingerprint?: FingerprintMode | undefined;
}

interface RowGroup {
  /** Index of its first pair in the data set. */
  readonly first: number;
  /** What the ids of its pairs begin with. */
  readonly label: string;
  readonly request: GroupRequest;
}

/**
 * Pairs from Parquet files, one after another. Columns: `chosen` and `rejected`, each a list of numbers, lists within lists of the lengths of `shape`,
 * or the bytes of little-endian float32; optionally `id` (default `file#row`), `confidence` and `condition` (any value, given to the policy as JSON has
 * it). Codecs: none, Snappy, gzip, Brotli, and Zstandard where Node has it.
 *
 * Row groups are the unit that is read and cached, so shuffled access is fast where `cachedGroups` of them hold the data or groups are small. They are
 * checked and decoded in a thread of their own. Files must not change while they are in use.
 *
 * @throws SdpoError `ERR_SDPO_DATA` that names file, column and row
 */
export async function pairsFromParquet<C = unknown>(
  files: string | readonly string[],
  options: ParquetPairOptions,
): Promise<PairDataset<C>> {
  const paths = checkFiles(files);
  options = checkOptions('options', options, ['shape', 'columns', 'cachedGroups', 'fingerprint', 'nonFinite']);
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
    const label = names.size === paths.length ? basename(path) : path;
    const { groups: stored, ...file } = await readParquetFooter(path, given);
    let firstRow = 0;
    for (const group of stored) {
      const request = { ...file, path, group, firstRow, shape, nonFinite };
      if (group.rows > 0) groups.push({ first: length, label, request });
      firstRow += group.rows;
      length += group.rows;
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
      const rows = cache.get(group) ?? readPairs<C>(group, elementCount(shape));
      cache.delete(group);
      cache.set(group, rows);
      if (cache.size > cachedGroups) cache.delete(cache.keys().next().value!);
      // A read that failed is tried again the next time.
      rows.catch(() => cache.delete(group));
      const pair = (await rows)[index - group.first]!;
      if (pair instanceof SdpoError) throw pair;
      return pair;
    },
  };
}

/** The pairs of a row group; a row that does not fit stands as its error, so that it hinders nobody who does not ask for it. */
async function readPairs<C>(
  { label, request }: RowGroup,
  size: number,
): Promise<readonly (PreferencePair<C> | SdpoError)[]> {
  const { chosen, rejected, id, confidence, condition, problems }: GroupPairs = await readParquetGroup(request);
  return Array.from({ length: request.group.rows }, (_, row) => {
    const problem = problems.get(row);
    if (problem !== undefined) return new SdpoError('ERR_SDPO_DATA', problem);
    const part = (all: Float32Array) => all.slice(row * size, (row + 1) * size);
    return {
      id: id?.[row] ?? `${label}#${request.firstRow + row}`,
      chosen: part(chosen),
      rejected: part(rejected),
      ...(confidence !== undefined && { confidence: confidence[row] }),
      ...(condition !== undefined && { condition: condition[row] as C }),
    };
  });
}
