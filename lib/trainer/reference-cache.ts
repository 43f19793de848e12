/** A reference that is computed once and read from disk afterwards: predictions, or the errors that a first run observed. */

import type { RowStatistics } from '../loss/result.js';
import { SdpoError } from '../native/errors.js';
import { checkInteger, checkOneOf, checkOptions, failType } from '../native/validate.js';
import type { DType, HostArray } from '../tensor/dtypes.js';
import { dtypeOf, isLatentArray, type LatentArray } from '../tensor/operand.js';
import type { SafetensorsEntry } from '../tensor/safetensors.js';
import { Tensor } from '../tensor/tensor.js';
import { elementCount } from './data-pair.js';
import { toPlain } from './json.js';
import { fail, readStored, ShardFolder, type Stored, type Waiting } from './reference-shards.js';
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
  compute?: ((rows: TrainingRows<C>) => MaybePromise<ReferencePrediction>) | undefined;
  /**
   * Plain JSON by name of everything that decides the rows and the reference: fingerprint of the data, seed, schedule, batch size, the reference's
   * weights. A folder recorded under another one is refused, with the name of what differs.
   */
  fingerprint: Readonly<Record<string, unknown>>;
  /** Evaluations per file; a run that is killed loses at most these. Default 64, fewer where they come to more than 8 MiB. */
  shardEntries?: number | undefined;
}

/** A reference that also counts. */
export interface ReferenceCache<C = unknown> extends Reference<C> {
  /** Evaluations that were read from disk so far. */
  readonly replayed: number;
  /** Evaluations that were computed so far. */
  readonly computed: number;
}

const SHARD_BYTES = 8 * 2 ** 20;

/**
 * A reference with a memory on disk. An evaluation that is recorded, under its step and part, is replayed after its pair ids and timesteps were
 * compared with those asked for; any other is computed and recorded. Recordings are complete files, so one that was interrupted serves as far
 * as it reaches and is carried on from there. Several processes may share a folder: each finds what the others have recorded.
 *
 * @throws SdpoError `ERR_SDPO_REFERENCE_CACHE` that names what differs, or the file that is damaged; `ERR_SDPO_FILE` with steps and path where it
 *   cannot be written
 */
export function referenceCache<C = unknown>(options: ReferenceCacheOptions<C>): ReferenceCache<C> {
  options = checkOptions('options', options, ['folder', 'kind', 'compute', 'fingerprint', 'shardEntries']);
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
  readonly #shards: ShardFolder;
  readonly #stored = new Map<string, Stored>();
  /** Evaluations whose errors `observe` will bring. */
  readonly #expected = new Set<string>();
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #opened: Promise<void> | undefined;
  #closed = false;
  replayed = 0;
  computed = 0;

  constructor(options: ReferenceCacheOptions<C>) {
    this.#options = options;
    this.#shards = new ShardFolder(options.folder, options.kind, options.fingerprint);
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
    // Another process may have recorded it meanwhile.
    if (!this.#stored.has(key)) this.#take(await this.#shards.scan());
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
    await this.#shards.open();
    this.#take(await this.#shards.scan());
  }

  #take(entries: readonly Stored[]): void {
    for (const entry of entries) this.#stored.set(keyOf(entry), entry);
  }

  async #record(
    { step, part, ids, timesteps }: TrainingRows<C>,
    tensors: Readonly<Record<string, SafetensorsEntry>>,
    place: string,
  ): Promise<void> {
    // A shard holds tensors of one kind.
    if (this.#waiting.length > 0 && kindOf(this.#waiting[0]!) !== kindOf({ tensors, place })) await this.#flush();
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
    this.#take(await this.#shards.write(waiting));
  }
}

function keyOf({ step, part }: { readonly step: number; readonly part: number }): string {
  return `${step}/${part}`;
}

/** What must be alike within a shard. */
function kindOf({ tensors, place }: Pick<Waiting, 'tensors' | 'place'>): string {
  return JSON.stringify([place, ...Object.values(tensors).map(({ dtype, shape }) => [dtype, shape.slice(1)])]);
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
  const dtype = dtypeOf(prediction) as 'float32' | 'float64';
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
