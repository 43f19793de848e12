/** A reference that is computed once and read from disk afterwards: predictions, or the errors that a first run observed. */

import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import writeFileAtomic from 'write-file-atomic';
import type { RowStatistics } from '../loss/result.js';
import { SdpoError } from '../native/errors.js';
import { checkInteger, checkOneOf, checkOptions, describe, failType } from '../native/validate.js';
import type { DType, HostArray } from '../tensor/dtypes.js';
import { isLatentArray, type LatentArray } from '../tensor/operand.js';
import { encodeSafetensors, type SafetensorsEntry } from '../tensor/safetensors.js';
import { Tensor } from '../tensor/tensor.js';
import { elementCount } from './data-pair.js';
import {
  elementsOf,
  readRanges,
  readSafetensorsHeader,
  readWhole,
  rowRange,
  type StoredTensor,
  syncFolder,
} from './files.js';
import { toPlain } from './json.js';
import type { MaybePromise, Reference, ReferencePrediction, TrainingRows } from './types.js';

export interface ReferenceCacheOptions<C = unknown> {
  /** Folder of this cache and of nothing else; made where it does not exist. */
  folder: string;
  /**
   * 'errors': two numbers a row; later runs have no reference tensor, so no drift and no `klWeight`, and δ = m - r loses the digits that m and r
   * share. 'predictions': everything a first run had, at 2 · D elements a row.
   */
  kind: 'errors' | 'predictions';
  /** Gives what is not recorded yet. Left out: a row that is not recorded is an error. */
  compute?: (rows: TrainingRows<C>) => MaybePromise<ReferencePrediction>;
  /**
   * Plain JSON by name of everything that decides the rows and the reference: fingerprint of the data, seed, schedule, batch size, the reference's
   * weights. A folder recorded under another one is refused, with the name of what differs.
   */
  fingerprint: Readonly<Record<string, unknown>>;
  /** Evaluations per file; a run that is killed loses at most these. Default 64, fewer where they come to more than 8 MiB. */
  shardEntries?: number;
}

/** A reference that also counts. */
export interface ReferenceCache<C = unknown> extends Reference<C> {
  /** Evaluations that were read from disk so far. */
  readonly replayed: number;
  /** Evaluations that were computed so far. */
  readonly computed: number;
}

const FORMAT = 1;
const MANIFEST = 'manifest.json';
const SHARD = /^shard-(\d+)\.safetensors$/;
const UNFINISHED = /^(manifest\.json|shard-\d+\.safetensors)\.\d+$/;
const SHARD_BYTES = 8 * 2 ** 20;
const CODE = 'ERR_SDPO_REFERENCE_CACHE';

/** What a recorded evaluation belonged to, as it stands in the metadata of its shard. */
interface Label {
  readonly step: number;
  readonly part: number;
  readonly ids: readonly string[];
}

/** An evaluation on disk: its shard's tensors and its first row there. */
interface Stored extends Label {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly firstRow: number;
  /** 'array', or the device that its tensor lay on. */
  readonly place: string;
}

/** An evaluation that waits to be written. */
interface Waiting extends Label {
  readonly timesteps: Float64Array;
  readonly tensors: Readonly<Record<string, SafetensorsEntry>>;
  readonly place: string;
}

/**
 * A reference with a memory on disk. An evaluation that is recorded, under its step and part, is replayed after its pair ids and timesteps were
 * compared with those asked for; any other is computed and recorded. Recordings are complete files, so one that was interrupted serves as far
 * as it reaches and is carried on from there.
 *
 * @throws SdpoError `ERR_SDPO_REFERENCE_CACHE` that names what differs, or the file that is damaged
 */
export function referenceCache<C = unknown>(options: ReferenceCacheOptions<C>): ReferenceCache<C> {
  checkOptions('options', options, ['folder', 'kind', 'compute', 'fingerprint', 'shardEntries']);
  if (typeof options.folder !== 'string') failType('options.folder', 'a path', options.folder);
  checkOneOf('options.kind', options.kind, ['errors', 'predictions']);
  if (options.compute !== undefined && typeof options.compute !== 'function') {
    failType('options.compute', 'a function', options.compute);
  }
  if (typeof options.fingerprint !== 'object' || options.fingerprint === null) {
    failType('options.fingerprint', 'an object', options.fingerprint);
  }
  // Schedules and the like say by toJSON what decides them.
  const fingerprint = toPlain('options.fingerprint', jsonOf(options.fingerprint)) as Record<string, unknown>;
  checkInteger('options.shardEntries', options.shardEntries ?? 64, 1);
  return new DiskCache<C>({ ...options, fingerprint });
}

function jsonOf(value: object): unknown {
  return Object.fromEntries(
    Object.entries(value).map(([name, entry]) => [name, typeof entry?.toJSON === 'function' ? entry.toJSON() : entry]),
  );
}

class DiskCache<C> implements ReferenceCache<C> {
  readonly #options: ReferenceCacheOptions<C>;
  readonly #stored = new Map<string, Stored>();
  /** Evaluations whose errors `observe` will bring. */
  readonly #expected = new Set<string>();
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #nextShard = 0;
  #opened: Promise<void> | undefined;
  #closed = false;
  replayed = 0;
  computed = 0;

  constructor(options: ReferenceCacheOptions<C>) {
    this.#options = options;
  }

  async predict(rows: TrainingRows<C>): Promise<ReferencePrediction> {
    if (this.#closed)
      throw new SdpoError('ERR_SDPO_DISPOSED', 'Expected the reference cache to be open, received a closed one');
    await this.#open();
    const { folder, kind, compute } = this.#options;
    const key = keyOf(rows);
    const waiting = this.#waiting.find((entry) => keyOf(entry) === key);
    // The rows of a step that was repeated, before its shard was full.
    if (waiting !== undefined) await this.#flush();
    const stored = this.#stored.get(key);
    if (stored !== undefined) {
      this.replayed++;
      return kind === 'errors' ? readErrors(stored, rows) : readPrediction(stored, rows);
    }
    if (compute === undefined) {
      fail(
        `${folder} to hold step ${rows.step}, part ${rows.part}`,
        `${this.#stored.size} recorded evaluations without it`,
      );
    }
    const found = await compute(rows);
    this.computed++;
    if ('prediction' in found) {
      checkPrediction(found.prediction, rows);
      if (kind === 'predictions')
        await this.#record(rows, { prediction: copyOf(found.prediction, rows) }, placeOf(found.prediction));
      else this.#expected.add(key);
    } else if (kind === 'errors') {
      await this.#record(rows, errorsOf(found.error.chosen, found.error.rejected), 'array');
    } else {
      fail("options.compute to give predictions, since kind is 'predictions'", 'errors');
    }
    return found;
  }

  async observe(rows: TrainingRows<C>, found: RowStatistics): Promise<void> {
    if (!this.#expected.delete(keyOf(rows))) return;
    await this.#record(rows, errorsOf(found.referenceErrorChosen, found.referenceErrorRejected), 'array');
  }

  /** Writes what waits; nothing can be asked of the cache afterwards. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#opened === undefined) return;
    await this.#opened;
    await this.#flush();
  }

  #open(): Promise<void> {
    this.#opened ??= this.#read();
    return this.#opened;
  }

  async #read(): Promise<void> {
    const { folder, kind, fingerprint } = this.#options;
    await mkdir(folder, { recursive: true });
    const names = (await readdir(folder)).sort();
    for (const name of names.filter((name) => UNFINISHED.test(name))) await rm(join(folder, name), { force: true });
    const shards = names.filter((name) => SHARD.test(name));
    const path = join(folder, MANIFEST);
    if (names.includes(MANIFEST))
      checkManifest(path, new TextDecoder().decode(await readWhole(path, CODE)), kind, fingerprint);
    else if (shards.length > 0) fail(`${path} to be there`, `only the files ${shards.join(', ')}`);
    else await writeFileAtomic(path, `${JSON.stringify({ format: FORMAT, kind, fingerprint }, null, 2)}\n`);
    for (const name of shards) {
      this.#nextShard = Math.max(this.#nextShard, Number(SHARD.exec(name)![1]) + 1);
      await this.#index(join(folder, name));
    }
  }

  /** Takes the evaluations of a shard into the index. */
  async #index(path: string): Promise<void> {
    const { tensors, metadata } = await readSafetensorsHeader(path, CODE);
    const labels = readLabels(path, metadata);
    let firstRow = 0;
    for (const label of labels) {
      this.#stored.set(keyOf(label), { ...label, path, tensors, firstRow, place: metadata.place });
      firstRow += label.ids.length;
    }
  }

  async #record(
    { step, part, ids, timesteps }: TrainingRows<C>,
    tensors: Readonly<Record<string, SafetensorsEntry>>,
    place: string,
  ): Promise<void> {
    // A shard holds tensors of one kind.
    if (this.#waiting.length > 0 && kindOf(this.#waiting[0]) !== kindOf({ tensors, place })) await this.#flush();
    this.#waiting.push({ step, part, ids: [...ids], timesteps: Float64Array.from(timesteps), tensors, place });
    for (const { data } of Object.values(tensors)) this.#waitingBytes += data.byteLength;
    const full = this.#waiting.length >= (this.#options.shardEntries ?? 64) || this.#waitingBytes >= SHARD_BYTES;
    if (full) await this.#flush();
  }

  async #flush(): Promise<void> {
    const waiting = this.#waiting;
    if (waiting.length === 0) return;
    this.#waiting = [];
    this.#waitingBytes = 0;
    const tensors: Record<string, SafetensorsEntry> = {
      timesteps: joined(
        waiting.map(({ timesteps }) => ({ dtype: 'float64', shape: [timesteps.length], data: timesteps })),
      ),
    };
    for (const name of Object.keys(waiting[0].tensors))
      tensors[name] = joined(waiting.map(({ tensors }) => tensors[name]));
    const entries = JSON.stringify(waiting.map(({ step, part, ids }) => ({ step, part, ids })));
    const path = join(this.#options.folder, `shard-${String(this.#nextShard++).padStart(6, '0')}.safetensors`);
    await writeFileAtomic(path, Buffer.from(encodeSafetensors(tensors, { entries, place: waiting[0].place })));
    await syncFolder(this.#options.folder);
    await this.#index(path);
  }
}

function keyOf({ step, part }: { readonly step: number; readonly part: number }): string {
  return `${step}/${part}`;
}

/** What must be alike within a shard. */
function kindOf({ tensors, place }: Pick<Waiting, 'tensors' | 'place'>): string {
  return JSON.stringify([place, ...Object.values(tensors).map(({ dtype, shape }) => [dtype, shape.slice(1)])]);
}

/** Tensors of the same dtype and shape of a row as one, in order. */
function joined(parts: readonly SafetensorsEntry[]): SafetensorsEntry {
  const [{ dtype, shape, data }] = parts;
  const length = parts.reduce((sum, part) => sum + part.data.length, 0);
  const all = new (data.constructor as Float64ArrayConstructor)(length);
  let at = 0;
  for (const part of parts) {
    all.set(part.data as Float64Array, at);
    at += part.data.length;
  }
  return { dtype, shape: [parts.reduce((sum, part) => sum + part.shape[0], 0), ...shape.slice(1)], data: all };
}

function errorsOf(chosen: ArrayLike<number>, rejected: ArrayLike<number>): Record<string, SafetensorsEntry> {
  const entry = (list: ArrayLike<number>): SafetensorsEntry => ({
    dtype: 'float64',
    shape: [list.length],
    data: Float64Array.from(list),
  });
  return { errorChosen: entry(chosen), errorRejected: entry(rejected) };
}

function checkPrediction(prediction: LatentArray, { rows, inputs }: TrainingRows): void {
  if (!isLatentArray(prediction))
    failType('the prediction of options.compute', 'a Float32Array, a Float64Array or a Tensor', prediction);
  const count = prediction instanceof Tensor ? prediction.size : prediction.length;
  const expected = 2 * rows * elementCount(inputs.shape);
  if (count !== expected) fail(`the prediction of options.compute to have ${expected} elements`, `${count}`);
}

/** A copy: the caller may write the same memory again. */
function copyOf(prediction: LatentArray, { rows, inputs }: TrainingRows): SafetensorsEntry {
  if (prediction instanceof Tensor)
    return { dtype: prediction.dtype, shape: prediction.shape, data: prediction.toHost() };
  const dtype = prediction instanceof Float32Array ? 'float32' : 'float64';
  return { dtype, shape: [2 * rows, ...inputs.shape], data: prediction.slice() };
}

function placeOf(prediction: LatentArray): string {
  return prediction instanceof Tensor ? prediction.device : 'array';
}

async function readErrors<C>(stored: Stored, rows: TrainingRows<C>): Promise<ReferencePrediction> {
  const [chosen, rejected] = await readStored(stored, rows, ['errorChosen', 'errorRejected'], 1);
  return { error: { chosen: chosen as Float64Array, rejected: rejected as Float64Array } };
}

async function readPrediction<C>(stored: Stored, rows: TrainingRows<C>): Promise<ReferencePrediction> {
  const [data] = await readStored(stored, rows, ['prediction'], 2);
  const { row, shape } = stored.tensors.get('prediction')!;
  const width = elementCount(shape.slice(1));
  if (width !== elementCount(rows.inputs.shape)) {
    fail(`${stored.path} to hold ${elementCount(rows.inputs.shape)} elements a row`, `${width}`);
  }
  if (stored.place === 'array') return { prediction: data as Float32Array | Float64Array };
  const host = Tensor.from(data as HostArray, { shape: [2 * rows.rows, ...shape.slice(1)], dtype: row.dtype as DType });
  return { prediction: host.to(stored.place) };
}

/** The rows of an evaluation, after its ids and timesteps were found to be those asked for. */
async function readStored<C>(stored: Stored, rows: TrainingRows<C>, names: readonly string[], perRow: number) {
  const { path, tensors, firstRow, ids } = stored;
  const what = `step ${rows.step}, part ${rows.part} of ${path}`;
  if (ids.length !== rows.ids.length) fail(`${what} to be of ${rows.ids.length} rows`, `${ids.length}`);
  ids.forEach((id, row) => {
    if (id !== rows.ids[row]) fail(`row ${row} in ${what} to be of the pair ${rows.ids[row]}`, `${id}`);
  });
  const fields = ['timesteps', ...names].map((name) => {
    const tensor = tensors.get(name);
    return tensor ?? fail(`${path} to have the tensor '${name}'`, [...tensors.keys()].join(', '));
  });
  const ranges = fields.map((tensor, i) => {
    const times = i === 0 ? 1 : perRow;
    return rowRange(tensor, firstRow * times, ids.length * times);
  });
  const bytes = await readRanges(path, ranges, CODE, fields[0].fileBytes);
  const [timesteps, ...found] = fields.map((tensor, i) => elementsOf(tensor, bytes[i]));
  rows.timesteps.forEach((t, row) => {
    if (t !== timesteps[row]) fail(`row ${row} in ${what} to be of timestep ${t}`, `${timesteps[row]}`);
  });
  return found;
}

function readLabels(path: string, { entries, place }: Record<string, string>): Label[] {
  let labels: unknown;
  try {
    labels = JSON.parse(entries);
  } catch {
    // The next check says what is wrong.
  }
  if (Array.isArray(labels) && labels.every((label) => Array.isArray(label?.ids)) && place !== undefined) return labels;
  fail(`${path} to be a file of a reference cache`, `the metadata ${clip(entries)}`);
}

function checkManifest(path: string, text: string, kind: string, fingerprint: Readonly<Record<string, unknown>>): void {
  let manifest: { format?: unknown; kind?: unknown; fingerprint?: Record<string, unknown> };
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    fail(`${path} to be complete JSON`, (error as Error).message);
  }
  if (manifest?.format !== FORMAT) fail(`${path} to be of format ${FORMAT}`, describe(manifest?.format));
  if (manifest.kind !== kind) fail(`${path} to be of kind '${kind}'`, describe(manifest.kind));
  const recorded = manifest.fingerprint ?? {};
  for (const name of new Set([...Object.keys(fingerprint), ...Object.keys(recorded)])) {
    if (isDeepStrictEqual(fingerprint[name], recorded[name])) continue;
    fail(`${path} to be recorded with ${name} ${clip(fingerprint[name])}`, clip(recorded[name]));
  }
}

function clip(value: unknown): string {
  const text = JSON.stringify(value) ?? 'none';
  return text.length > 200 ? `${text.slice(0, 199)}…` : text;
}

function fail(expected: string, received: string): never {
  throw new SdpoError(CODE, `Expected ${expected}, received ${received}`);
}
