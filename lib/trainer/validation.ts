/** Held-out preference pairs, always with the same timesteps and noise: what the loss and its statistics are on pairs that no update has seen. */

import { createHash } from 'node:crypto';
import { setImmediate as yieldToEvents } from 'node:timers/promises';
import { PreferenceLoss } from '../loss/loss.js';
import { isReferenceFree } from '../loss/options.js';
import {
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  type Filled,
  failType,
  failValue,
} from '../native/validate.js';
import type { Tensor } from '../tensor/tensor.js';
import { drawNoise, drawTimesteps } from './draws.js';
import type { PreferenceTrainerOptions, ResolvedTrainerOptions } from './options.js';
import { checkSeparate, makeBatch, mergedMetrics, type PartResult, stacked } from './part.js';
import { RowAssembler } from './row-assembler.js';
import type {
  BestStep,
  MaybePromise,
  PairDataset,
  ReferencePrediction,
  TrainerProgress,
  TrainingRows,
} from './types.js';

/** What the best step is told by: a metric of the log, and whether less of it is better. */
const CRITERIA = {
  loss: { metric: 'loss', sign: -1 },
  accuracy: { metric: 'rewards/accuracies', sign: 1 },
  margin: { metric: 'rewards/margins', sign: 1 },
} as const satisfies { readonly [K in BestStep['criterion']]: { readonly metric: string; readonly sign: 1 | -1 } };

export const VALIDATION_CRITERIA = Object.keys(CRITERIA) as readonly BestStep['criterion'][];

export interface ValidationOptions<C = unknown> {
  /** Pairs that `data` does not have, of the same shape. All of them are evaluated, in their order. */
  data: PairDataset<C>;
  /** Updates between validations. */
  every: number;
  /** Whether there is one before the first update. Default false. */
  atStart?: boolean | undefined;
  /** Rows made of each pair, with timesteps and noise as in training but fixed by the seed. Default 1. */
  timestepsPerPair?: number | undefined;
  /** Pairs of one forward pass. Default those of a part of an update, `pairsPerStep / accumulate`. */
  batchSize?: number | undefined;
  /** What names the best step: the lowest `loss`, the highest `accuracy` (`rewards/accuracies`) or `margin` (`rewards/margins`). Default `loss`. */
  best?: BestStep['criterion'] | undefined;
  /**
   * Gives reference predictions for the held-out rows. Default: the policy's own `reference`, or else the trainer's `reference` where that is a
   * function. A cache is not asked: it keeps the rows of updates.
   */
  reference?: ((rows: TrainingRows<C>) => MaybePromise<ReferencePrediction>) | undefined;
}

/** Options with the defaults filled in. */
export type ResolvedValidation<C> = Filled<Omit<ValidationOptions<C>, 'reference'>> &
  Pick<ValidationOptions<C>, 'reference'>;

const FIELDS = ['data', 'every', 'atStart', 'timestepsPerPair', 'batchSize', 'best', 'reference'];

/** Checks the options and fills in the defaults; `given` are those of the trainer, of which the data have been checked. */
export function resolveValidation<C>(
  argument: string,
  validation: ValidationOptions<C>,
  given: PreferenceTrainerOptions<C>,
  pairsPerPart: number,
): ResolvedValidation<C> {
  checkOptions(argument, validation, FIELDS);
  const { data, every, atStart = false, timestepsPerPair = 1, batchSize = pairsPerPart, best = 'loss' } = validation;
  if (data?.kind !== 'indexed') failType(`${argument}.data`, 'a PairDataset', data);
  if (String(data.shape) !== String(given.data.shape)) {
    failValue(`${argument}.data.shape`, `[${given.data.shape}], as the data to train on`, `[${data.shape}]`);
  }
  const { policy, loss } = given;
  const reference =
    validation.reference ??
    (policy.reference === undefined
      ? typeof given.reference === 'function'
        ? given.reference
        : undefined
      : async ({ inputs }: TrainingRows<C>) => ({ prediction: await policy.reference!(inputs) }));
  const needed = !isReferenceFree(loss.options.objective);
  if (needed && reference === undefined) {
    failType(`${argument}.reference`, 'a function, since the policy has no reference()', reference);
  }
  if (validation.reference !== undefined && typeof validation.reference !== 'function') {
    failType(`${argument}.reference`, 'a function', validation.reference);
  }
  return {
    data,
    every: checkInteger(`${argument}.every`, every, 1),
    atStart: checkBoolean(`${argument}.atStart`, atStart),
    timestepsPerPair: checkInteger(`${argument}.timestepsPerPair`, timestepsPerPair, 1),
    batchSize: checkInteger(`${argument}.batchSize`, batchSize, 1),
    best: checkOneOf(`${argument}.best`, best, VALIDATION_CRITERIA),
    reference: needed || validation.reference !== undefined ? reference : undefined,
  };
}

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

/** The best of some entries of a log by a criterion and of the one `before` them, the first among equals; undefined where none has a finite number. */
export function bestStep(
  entries: readonly { readonly step: number; readonly metrics: Readonly<Record<string, number | null>> }[],
  criterion: BestStep['criterion'],
  before?: BestStep | undefined,
): BestStep | undefined {
  const { metric, sign } = CRITERIA[criterion];
  let best = before;
  for (const { step, metrics } of entries) {
    const value = metrics[metric];
    if (typeof value !== 'number' || !Number.isFinite(value)) continue;
    if (best === undefined || sign * value > sign * best.value) best = { step, criterion, value };
  }
  return best;
}
