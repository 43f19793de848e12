/** The rows of an update: pairs in their order, each with a timestep and noise, noised and with its target. */

import { drawNoise, drawTimesteps, PairOrder } from './draws.js';
import type { ResolvedTrainerOptions } from './options.js';
import { RowAssembler } from './row-assembler.js';
import type { PreferencePair, TrainingRows } from './types.js';

/** Gives the rows of each part of each update. */
export class RowSource<C> {
  readonly #options: ResolvedTrainerOptions<C>;
  readonly #order: PairOrder | undefined;
  readonly #assembler: RowAssembler;
  #iterator: AsyncIterator<PreferencePair<C>> | undefined;
  /** Where the iterator stands. */
  #taken = 0;
  #position = 0;

  constructor(options: ResolvedTrainerOptions<C>) {
    this.#options = options;
    const { data, sampling, seed, schedule } = options;
    this.#order = data.kind === 'indexed' ? new PairOrder(data.length, sampling, seed) : undefined;
    this.#assembler = new RowAssembler(schedule, data.shape);
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
    await this.close();
    this.#position = position;
  }

  /** Lets a stream free what it holds; reading on opens it again. */
  async close(): Promise<void> {
    await this.#iterator?.return?.();
    this.#iterator = undefined;
  }

  /** Rows of a part; undefined where a stream has fewer pairs left than it takes. */
  async next(step: number, part: number): Promise<TrainingRows<C> | undefined> {
    const { pairsPerStep, accumulate, timestepsPerPair, schedule, seed, noise } = this.#options;
    const count = pairsPerStep / accumulate;
    const pairs = await this.#pairs(this.#position + part * count, count);
    if (pairs === undefined) return undefined;
    const rows = count * timestepsPerPair;
    const first = step * pairsPerStep * timestepsPerPair + part * rows;
    const timesteps = drawTimesteps(schedule, this.#options.timesteps, seed, first, rows);
    const draw = drawNoise(seed, first, this.#assembler.size);
    return this.#assembler.assemble({ step, part, pairs, timesteps, noise, draw });
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
    return pairs;
  }
}
