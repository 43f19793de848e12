/** Preference pairs from safetensors shards, read row by row: a shard may be larger than memory. */

import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { checkOneOf, checkOptions, failType, failValue } from '../native/validate.js';
import { type DType, decode, type HostArray } from '../tensor/dtypes.js';
import type { SafetensorsEntry } from '../tensor/safetensors.js';
import {
  checkConfidence,
  checkFinite,
  checkIndex,
  checkNames,
  checkNonFinite,
  elementCount,
  failData,
  type PairOptions,
  partOf,
} from './data-pair.js';
import {
  elementsOf,
  type FingerprintMode,
  hashFile,
  readRanges,
  readSafetensorsHeader,
  rowRange,
  type StoredTensor,
} from './files.js';
import type { PairDataset, PreferencePair } from './types.js';

export interface SafetensorsPairOptions extends PairOptions {
  /** Names of the tensors; by default those of the fields. */
  names?:
    | {
        chosen?: string | undefined;
        rejected?: string | undefined;
        condition?: string | undefined;
        confidence?: string | undefined;
      }
    | undefined;
  /** 'sample' (default): sizes, headers and 64 pieces of 4 KiB of each file; 'content': every byte, which reads all files once. */
  fingerprint?: FingerprintMode | undefined;
}

const FIELDS = ['chosen', 'rejected', 'condition', 'confidence'] as const;
type Names = { readonly [K in (typeof FIELDS)[number]]?: string };
const FLOATS = ['F64', 'F32', 'F16', 'BF16'];

interface Shard {
  readonly path: string;
  readonly first: number;
  readonly rows: number;
  readonly tensors: { readonly [K in (typeof FIELDS)[number]]?: StoredTensor };
  readonly ids: readonly string[] | undefined;
  readonly label: string;
}

/**
 * Pairs from safetensors files, one after another. Tensors: `chosen` and `rejected` [n, ...shape] of any float dtype (float16 and bfloat16
 * become float32 exactly, float64 is rounded), optionally `confidence` [n] and `condition` [n, ...] of any dtype, of which the policy gets the
 * row as `{ dtype, shape, data }`. Ids are `file#row`, or the JSON list of n strings in the file's metadata under `ids`.
 *
 * Only headers are read here; a pair is read when it is asked for, and a file is open only meanwhile. Files must not change while they are in use.
 *
 * @throws SdpoError `ERR_SDPO_DATA` that names file, tensor and row
 */
export async function pairsFromSafetensors(
  files: string | readonly string[],
  options: SafetensorsPairOptions = {},
): Promise<PairDataset<SafetensorsEntry>> {
  const paths = checkFiles(files);
  options = checkOptions('options', options, ['names', 'fingerprint', 'nonFinite']);
  const given = checkNames('options.names', options.names, FIELDS);
  const nonFinite = checkNonFinite(options.nonFinite);
  const mode = checkOneOf('options.fingerprint', options.fingerprint ?? 'sample', ['sample', 'content']);

  const names = new Set(paths.map((path) => basename(path)));
  const hash = createHash('sha256');
  const shards: Shard[] = [];
  let length = 0;
  for (const path of paths) {
    // Ids should not change with the folder, unless it is all that tells two files apart.
    const shard = await openShard(path, names.size === paths.length ? basename(path) : path, length, given);
    checkShape(shard, shards[0] ?? shard);
    shards.push(shard);
    length += shard.rows;
    await hashFile(hash, path, mode, 'ERR_SDPO_DATA');
  }
  if (length === 0) failData(`the files ${paths.join(', ')}`, 'of at least one pair', 0);
  hash.update(JSON.stringify(given));
  return {
    kind: 'indexed',
    length,
    shape: Object.freeze(shards[0]!.tensors.chosen!.shape.slice(1)),
    fingerprint: `sha256-${mode}:${hash.digest('hex')}`,
    get(index) {
      checkIndex(index, length);
      const shard = partOf(shards, index);
      return readPair(shard, index - shard.first, nonFinite);
    },
  };
}

export function checkFiles(files: unknown): readonly string[] {
  const paths = typeof files === 'string' ? [files] : files;
  if (!Array.isArray(paths)) failType('files', 'a path or an array of paths', files);
  paths.forEach((path, i) => {
    if (typeof path !== 'string') failType(`files[${i}]`, 'a path', path);
  });
  if (paths.length === 0) failValue('files', 'of at least one path', paths, 'ERR_SDPO_INVALID_LENGTH');
  return paths;
}

async function openShard(path: string, label: string, first: number, names: Names): Promise<Shard> {
  const { tensors: stored, others, metadata } = await readSafetensorsHeader(path, 'ERR_SDPO_DATA');
  const tensors: { [K in (typeof FIELDS)[number]]?: StoredTensor } = {};
  for (const field of FIELDS) {
    const name = names[field] ?? field;
    const tensor = stored.get(name);
    if (others.has(name)) failData(`dtype of ${name} in ${path}`, 'one that can be read', others.get(name));
    if (tensor !== undefined) tensors[field] = tensor;
    else if (field === 'chosen' || field === 'rejected' || names[field] !== undefined) {
      failData(
        `${path}`,
        `a file with the tensor '${name}'`,
        `the tensors ${[...stored.keys(), ...others.keys()].join(', ') || '(none)'}`,
      );
    }
  }
  const { chosen, rejected, condition, confidence } = tensors as Required<typeof tensors>;
  for (const [field, tensor] of Object.entries({ chosen, rejected, confidence })) {
    if (tensor !== undefined && !FLOATS.includes(tensor.row.code)) {
      failData(`dtype of ${field} in ${path}`, `one of ${FLOATS.join(', ')}`, tensor.row.code);
    }
  }
  const shape = chosen.shape;
  if (shape.length < 2) failData(`shape of chosen in ${path}`, '[rows, ...]', `[${shape}]`);
  if (elementCount(shape.slice(1)) === 0) {
    failData(`shape of chosen in ${path}`, 'of at least one element a row', `[${shape}]`);
  }
  if (String(rejected.shape) !== String(shape)) {
    failData(`shape of rejected in ${path}`, `[${shape}], as chosen`, `[${rejected.shape}]`);
  }
  const rows = shape[0]!;
  if (confidence !== undefined && String(confidence.shape) !== String([rows])) {
    failData(`shape of confidence in ${path}`, `[${rows}]`, `[${confidence.shape}]`);
  }
  if (condition !== undefined && condition.shape[0] !== rows) {
    failData(`shape of condition in ${path}`, `[${rows}, ...]`, `[${condition.shape}]`);
  }
  return { path, label, first, rows, tensors, ids: readIds(path, metadata.ids, rows) };
}

function readIds(path: string, text: string | undefined, rows: number): readonly string[] | undefined {
  if (text === undefined) return undefined;
  let ids: unknown;
  try {
    ids = JSON.parse(text);
  } catch (error) {
    failData(`ids in the metadata of ${path}`, `a JSON list of ${rows} strings`, text, error);
  }
  if (!Array.isArray(ids) || ids.length !== rows) {
    failData(`ids in the metadata of ${path}`, `a JSON list of ${rows} strings`, ids);
  }
  ids.forEach((id, row) => {
    if (typeof id !== 'string') failData(`ids[${row}] in the metadata of ${path}`, 'a string', id);
  });
  return ids;
}

function checkShape(shard: Shard, like: Shard): void {
  const [shape, expected] = [shard, like].map(({ tensors }) => tensors.chosen!.shape.slice(1).join(', '));
  if (shape !== expected) {
    failData(`shape of a sample in ${shard.path}`, `[${expected}], as in ${like.path}`, `[${shape}]`);
  }
}

async function readPair(
  { path, label, tensors, ids }: Shard,
  row: number,
  nonFinite: 'throw' | 'propagate',
): Promise<PreferencePair<SafetensorsEntry>> {
  const present = FIELDS.filter((field) => tensors[field] !== undefined);
  const bytes = await readRanges(
    path,
    present.map((field) => rowRange(tensors[field]!, row)),
    'ERR_SDPO_DATA',
    tensors.chosen!.fileBytes,
  );
  const read = Object.fromEntries(present.map((field, i) => [field, elementsOf(tensors[field]!, bytes[i]!)]));
  const at = `row ${row} of ${path}`;
  const latents = (field: 'chosen' | 'rejected'): Float32Array => {
    const { row: dtype } = tensors[field]!;
    const stored = read[field] as HostArray;
    const values =
      stored instanceof Float32Array ? stored : decode(dtype.dtype as DType, stored, new Float32Array(stored.length));
    if (nonFinite === 'throw') checkFinite(`${field} in ${at}`, values);
    return values;
  };
  const pair = {
    id: ids?.[row] ?? `${label}#${row}`,
    chosen: latents('chosen'),
    rejected: latents('rejected'),
  };
  const { condition, confidence } = tensors;
  return {
    ...pair,
    ...(condition && {
      condition: { dtype: condition.row.dtype, shape: condition.shape.slice(1), data: read.condition! },
    }),
    ...(confidence && {
      confidence: checkConfidence(
        `confidence in ${at}`,
        decode(confidence.row.dtype as DType, read.confidence as HostArray, new Float64Array(1))[0],
      ),
    }),
  };
}
