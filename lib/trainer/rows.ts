/** The rows of an update: pairs in their order, each with a timestep and noise, noised and with its target. */

import { SdpoError } from '../errors.js';
import { failType } from '../validate.js';
import { drawNoise, drawTimesteps, PairOrder } from './draws.js';
import type { ResolvedTrainerOptions } from './options.js';
import type { PreferencePair, TrainingRows } from './types.js';

/** Gives the rows of each part of each update. */
export class RowSource<C> {
  readonly #options: ResolvedTrainerOptions<C>;
  readonly #order: PairOrder | undefined;
  readonly #size: number;
  #iterator: AsyncIterator<PreferencePair<C>> | undefined;
  /** Where the iterator stands. */
  #taken = 0;
  #position = 0;
  /** Clean samples and noise of a part, written again for each: nobody else sees them. */
  #x0 = new Float32Array(0);
  #epsilon = new Float32Array(0);

  constructor(options: ResolvedTrainerOptions<C>) {
    this.#options = options;
    const { data, sampling, seed } = options;
    this.#order = data.kind === 'indexed' ? new PairOrder(data.length, sampling, seed) : undefined;
    this.#size = data.shape.reduce((product, axis) => product * axis, 1);
  }

  /** Pairs taken so far by updates that are over. */
  get position(): number {
    return this.#position;
  }

  /** After an update of this many parts. */
  advance(parts: number): void {
    this.#position += (parts * this.#options.pairsPerStep) / this.#options.accumulate;
  }

  /** Goes to where a run was that took so many pairs. */
  async seek(position: number): Promise<void> {
    await this.#close();
    this.#position = position;
  }

  async #close(): Promise<void> {
    await this.#iterator?.return?.();
    this.#iterator = undefined;
  }

  /** Rows of a part; undefined where a stream has fewer pairs left than it takes. */
  async next(step: number, part: number): Promise<TrainingRows<C> | undefined> {
    const { pairsPerStep, accumulate, timestepsPerPair, schedule, seed, data, noise } = this.#options;
    const count = pairsPerStep / accumulate;
    const pairs = await this.#pairs(this.#position + part * count, count);
    if (pairs === undefined) return undefined;
    const rows = count * timestepsPerPair;
    const first = step * pairsPerStep * timestepsPerPair + part * rows;
    const size = this.#size;
    const timesteps = drawTimesteps(schedule, this.#options.timesteps, seed, first, rows);
    const both = new Float64Array(2 * rows);
    both.set(timesteps, 0);
    both.set(timesteps, rows);

    // Both branches at once, chosen rows first, as the models take them.
    const branch = rows * size;
    if (this.#x0.length !== 2 * branch) {
      this.#x0 = new Float32Array(2 * branch);
      this.#epsilon = new Float32Array(2 * branch);
    }
    const [x0, epsilon] = [this.#x0, this.#epsilon];
    for (let row = 0; row < rows; row++) {
      const pair = pairs[Math.floor(row / timestepsPerPair)];
      x0.set(pair.chosen, row * size);
      x0.set(pair.rejected, (rows + row) * size);
    }
    drawNoise(seed, first, size, epsilon.subarray(0, branch));
    if (noise === 'shared') epsilon.copyWithin(branch, 0, branch);
    else drawNoise(seed, first, size, epsilon.subarray(branch), true);
    const target = schedule.target(x0, epsilon, both);
    const perRow = <T>(read: (pair: PreferencePair<C>) => T) =>
      Array.from({ length: rows }, (_, row) => read(pairs[Math.floor(row / timestepsPerPair)]));
    const conditions = perRow((pair) => pair.condition as C);
    return {
      step,
      part,
      rows,
      ids: perRow((pair) => pair.id),
      timesteps,
      inputs: {
        latents: schedule.addNoise(x0, epsilon, both),
        shape: data.shape,
        timesteps: both,
        conditions: [...conditions, ...conditions],
      },
      target: { chosen: target.subarray(0, branch), rejected: target.subarray(branch) },
      weights: Float64Array.from(perRow((pair) => pair.confidence ?? 1)),
    };
  }

  async #pairs(position: number, count: number): Promise<PreferencePair<C>[] | undefined> {
    const { data } = this.#options;
    const pairs: PreferencePair<C>[] = [];
    if (data.kind === 'indexed') {
      const asked = Array.from({ length: count }, (_, i) => data.get(this.#order!.at(position + i)));
      // Files are read side by side. Data in memory are not waited for: a turn of the queue for each pair would be most of the time of a small batch.
      const waits = asked.some((pair) => pair instanceof Promise);
      pairs.push(...((waits ? await Promise.all(asked) : asked) as PreferencePair<C>[]));
    } else {
      if (this.#iterator === undefined) {
        this.#iterator = data.read(position);
        this.#taken = position;
      }
      // An update that was skipped half-way has left the iterator behind: the rest of its pairs is passed over.
      for (; this.#taken < position + count; this.#taken++) {
        const { done, value } = await this.#iterator.next();
        if (done) return undefined;
        if (this.#taken >= position) pairs.push(value);
      }
    }
    for (const pair of pairs) this.#check(pair);
    return pairs;
  }

  #check(pair: PreferencePair<C>): void {
    if (typeof pair !== 'object' || pair === null) failType('what options.data gives', 'pairs', pair);
    for (const branch of ['chosen', 'rejected'] as const) {
      const sample: unknown = pair[branch];
      if (!(sample instanceof Float32Array)) failType(`${branch} of pair ${pair.id}`, 'a Float32Array', sample);
      const { length } = sample;
      if (length === this.#size) continue;
      throw new SdpoError(
        'ERR_SDPO_DATA',
        `Expected ${branch} of pair ${pair.id} to have ${this.#size} elements (shape [${this.#options.data.shape}]), received ${length}`,
      );
    }
    const { confidence } = pair;
    if (confidence !== undefined && !(confidence >= 0 && Number.isFinite(confidence))) {
      throw new SdpoError(
        'ERR_SDPO_DATA',
        `Expected the confidence of pair ${pair.id} to be a finite number >= 0, received ${confidence}`,
      );
    }
  }
}
