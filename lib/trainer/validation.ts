/** Held-out preference pairs, always with the same timesteps and noise: what the loss and its statistics are on pairs that no update has seen. */

import { createHash } from 'node:crypto';
import { setImmediate as yieldToEvents } from 'node:timers/promises';
import { PreferenceLoss } from '../loss/loss.js';
import type { Tensor } from '../tensor/tensor.js';
import { drawNoise, drawTimesteps } from './draws.js';
import type { ResolvedTrainerOptions } from './options.js';
import { checkSeparate, makeBatch, mergedMetrics, type PartResult, stacked } from './part.js';
import { RowAssembler } from './row-assembler.js';
import type { BestStep, TrainerProgress, TrainingRows } from './types.js';
import { bestStep, type ResolvedValidation } from './validation-options.js';

/** Evaluates the held-out pairs of a training and keeps the best step. */
export class Validation<C> {
  readonly #options: ResolvedTrainerOptions<C>;
  readonly #validation: ResolvedValidation<C>;
  /** As in training, but that of a model that falls apart is a number of the log and no end of the training. */
  readonly #loss: PreferenceLoss;
  readonly #assembler: RowAssembler;
  /** Changes with everything that makes two validations comparable. */
  readonly #of: string;
  #best: BestStep | undefined;

  constructor(options: ResolvedTrainerOptions<C>, validation: ResolvedValidation<C>) {
    this.#options = options;
    this.#validation = validation;
    const { threads, ...loss } = options.loss.options;
    this.#loss = new PreferenceLoss({ ...loss, ...(threads === 0 ? {} : { threads }), nonFinite: 'propagate' });
    this.#assembler = new RowAssembler(options.schedule, validation.data.shape);
    const { data, timestepsPerPair, best } = validation;
    const { seed, noise, timesteps, schedule } = options;
    const text = JSON.stringify([
      data.fingerprint,
      timestepsPerPair,
      best,
      seed,
      noise,
      timesteps,
      { ...loss, schedule },
    ]);
    this.#of = createHash('sha256').update(text).digest('hex');
  }

  get best(): BestStep | undefined {
    return this.#best;
  }

  /**
   * Metrics under the names of the log, over all held-out rows, with the β and the mask threshold of the loss's options: they do not move with
   * trackers, so that steps compare.
   * @returns undefined where the signal was aborted before the end
   */
  async run(step: number): Promise<Record<string, number> | undefined> {
    const { data, batchSize, timestepsPerPair } = this.#validation;
    const parts: Omit<PartResult, 'half'>[] = [];
    for (let first = 0; first < data.length; first += batchSize) {
      await yieldToEvents(); // a signal is an event, and models may compute without ever giving it a turn
      if (this.#options.signal?.aborted) return undefined;
      const count = Math.min(batchSize, data.length - first);
      parts.push(await this.#part(await this.#rows(first, count), data.length * timestepsPerPair));
    }
    const metrics = mergedMetrics(parts);
    this.#best = bestStep([{ step, metrics }], this.#validation.best, this.#best);
    return metrics;
  }

  /** For a checkpoint; undefined before the first validation. */
  state(): TrainerProgress['validation'] {
    return this.#best === undefined ? undefined : { of: this.#of, best: this.#best };
  }

  /** The best step so far begins anew where it was of other pairs, draws or another loss. */
  load(state: TrainerProgress['validation']): void {
    this.#best = state?.of === this.#of ? state.best : undefined;
  }

  async #rows(first: number, count: number): Promise<TrainingRows<C>> {
    const { data, timestepsPerPair } = this.#validation;
    const { schedule, timesteps, seed, noise } = this.#options;
    const pairs = await Promise.all(Array.from({ length: count }, (_, i) => data.get(first + i)));
    const row = first * timestepsPerPair;
    return this.#assembler.assemble({
      ...{ step: 0, part: 0, pairs, noise },
      timesteps: drawTimesteps(schedule, timesteps, seed, row, count * timestepsPerPair, 'validation'),
      draw: drawNoise(seed, row, this.#assembler.size, 'validation'),
    });
  }

  async #part(rows: TrainingRows<C>, denominator: number): Promise<Omit<PartResult, 'half'>> {
    const owned: Tensor[] = [];
    try {
      const prediction = await this.#options.policy.predict(rows.inputs);
      const predicted = await this.#validation.reference?.(rows);
      checkSeparate(prediction, predicted);
      const batch = makeBatch(rows, stacked('the prediction of the policy', prediction, rows), predicted, owned);
      const out = await this.#loss.evaluateAsync(batch, { gradients: false, denominator });
      return { loss: out.loss, metrics: { ...out.metrics }, rows: rows.rows };
    } finally {
      for (const tensor of owned) tensor.dispose();
    }
  }
}
