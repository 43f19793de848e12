/** The training loop: draws pairs, timesteps and noise, asks the policy and the reference for predictions, hands the loss's gradient back, and keeps count. */

import { setImmediate as yieldToEvents } from 'node:timers/promises';
import type { Batch } from '../loss/batch.js';
import type { CallOptions } from '../loss/call-options.js';
import { isReferenceFree } from '../loss/options.js';
import type { Evaluation } from '../loss/result.js';
import { DivergenceError, SdpoError } from '../native/errors.js';
import { checkInteger, checkNumberAbove, checkOptions, failType, failValue } from '../native/validate.js';
import type { LatentArray } from '../tensor/operand.js';
import { Tensor } from '../tensor/tensor.js';
import { TimestepBins } from './bins.js';
import type { Difference } from './difference.js';
import { isHalf, LearningWatch } from './learning-watch.js';
import { Measures } from './measures.js';
import { type PreferenceTrainerOptions, type ResolvedTrainerOptions, resolveTrainerOptions } from './options.js';
import {
  checkSeparate,
  divergenceIn,
  divergenceOf,
  joined,
  makeBatch,
  mergedMetrics,
  type PartResult,
  stacked,
} from './part.js';
import { checkPolicyState } from './policy-state.js';
import { RowSource } from './rows.js';
import { compareSetup, type LoadOptions, setupOf } from './setup.js';
import { Stopwatch } from './stopwatch.js';
import type { BestStep, Policy, Reference, StepReport, TrainerState, TrainingRows } from './types.js';

/** From this many elements of a prediction on, the loss is computed off the event loop; below, handing it over costs more than it. */
const ASYNC_ELEMENTS = 2 ** 18;

/**
 * Fine-tunes a policy on preference pairs. The trainer owns batches, timesteps, noise, accumulation, statistics, evaluation and checkpoints; the policy owns
 * the model and its optimizer. All that is random follows from `seed` and the number of updates, so the same options give the same numbers, also
 * after a resumption.
 *
 * ```ts
 * const trainer = new PreferenceTrainer({ policy, data, loss, seed: 0, learningRate: 1e-4 });
 * for await (const { step, metrics } of trainer.run(1000)) console.log(step, metrics.loss);
 * ```
 */
export class PreferenceTrainer<C = unknown> {
  readonly policy: Policy<C>;
  /** Statistics by timestep of the rows since they were last logged. */
  readonly bins: TimestepBins;
  readonly #options: ResolvedTrainerOptions<C>;
  readonly #reference: Reference<C> | undefined;
  readonly #source: RowSource<C>;
  readonly #watch = new Stopwatch();
  readonly #learning: LearningWatch;
  readonly #measures: Measures<C>;
  readonly #results: (Evaluation | undefined)[] = [];
  #step = 0;
  #skipped = 0;
  #running = false;
  /** Whether the policy has shown that its state can be saved. */
  #stateChecked = false;

  /** @throws TypeError or RangeError with code ERR_SDPO_… for a wrong, unknown or missing option. */
  constructor(options: PreferenceTrainerOptions<C>) {
    this.#options = resolveTrainerOptions(options);
    this.policy = this.#options.policy;
    this.bins = new TimestepBins(this.#options.bins, this.#options.schedule.trainSteps);
    this.#reference = referenceOf(this.#options);
    this.#learning = new LearningWatch(this.#reference !== undefined, this.#options.referenceUpdate !== undefined);
    this.#source = new RowSource(this.#options);
    this.#measures = new Measures(this.#options, this.#watch);
  }

  /** Updates made, skipped ones included. */
  get step(): number {
    return this.#step;
  }

  /** The best step on the held-out pairs so far; undefined without `validation`, and before the first one. */
  get best(): BestStep | undefined {
    return this.#measures.best;
  }

  /** Milliseconds spent so far in each part of the work; `rest` is what is left of the whole. */
  get profile(): Readonly<Record<string, number>> {
    return this.#watch.read();
  }

  /**
   * Makes updates until there have been `steps` in all (those before a resumption included), the signal is aborted, or a stream has no more pairs. Yields after
   * each one; leaving the loop stops the training.
   * @throws DivergenceError where a loss, a row or a gradient is not finite (see `onNonFinite`), and whatever the policy, the data or a callback throws.
   */
  async *run(steps: number): AsyncGenerator<StepReport, void, undefined> {
    checkInteger('steps', steps, 0);
    if (this.#running)
      throw new SdpoError('ERR_SDPO_INVALID_ARG_VALUE', 'Expected one run at a time, received a second one');
    const { checkpoints, signal } = this.#options;
    this.#running = true;
    let saved = -1;
    const save = async () => {
      if (checkpoints === undefined || saved === this.#step) return;
      saved = this.#step;
      await this.#watch.time('checkpoint', async () => checkpoints.store.save(await this.state()));
    };
    try {
      if (checkpoints !== undefined && !this.#stateChecked) {
        // Otherwise found out by the first checkpoint, after hours of work that it was to save.
        await this.#watch.time('checkpoint', async () => checkPolicyState(await this.policy.state()));
        this.#stateChecked = true;
      }
      await this.#measures.make(this.#step);
      while (this.#step < steps && !signal?.aborted) {
        const report = await this.#watch.whole(() => this.#update());
        if (report === undefined) {
          if (this.#step === 0) throw tooFewPairs(this.#options);
          break;
        }
        if (this.#measures.after(this.#step)) {
          await this.#measures.make(this.#step).catch(async (error) => {
            await save(); // an evaluation that fails must not cost the updates before it
            throw error;
          });
        }
        if (checkpoints !== undefined && this.#step % checkpoints.every === 0) await save();
        yield report;
        // A policy may compute without ever giving the event loop a turn, and a signal would not be noticed.
        await yieldToEvents();
      }
      await save();
    } finally {
      this.#running = false;
    }
  }

  /** Everything that is needed to go on in another process. */
  async state(): Promise<TrainerState> {
    const { threshold, beta, seed, data } = this.#options;
    return {
      policy: await this.policy.state(),
      progress: {
        step: this.#step,
        position: this.#source.position,
        seed,
        data: data.fingerprint,
        setup: setupOf(this.#options),
        skipped: this.#skipped,
        ...this.#measures.state(),
        ...(threshold === undefined ? {} : { threshold: threshold.state() }),
        ...(beta === undefined ? {} : { beta: beta.state() }),
        bins: this.bins.state(),
      },
    };
  }

  /**
   * Goes on from a state: the updates that follow are those of a run that was never stopped, given the same policy, objects and functions (of a
   * `learningRate` that is a function, a `threshold`, a `beta`, a `reference` and `beforeLoss` only the presence can be compared).
   *
   * With `free`, named settings may differ on purpose: the run goes on from the state's step with the new ones. A `threshold`, a `beta` and statistics by
   * timestep that are free and do not fit begin anew, and so do other `data`, at their first pair.
   * @returns what differs from the state
   * @throws SdpoError ERR_SDPO_RESUME where the state belongs to other data, another seed or other settings; the message says which.
   */
  async load(state: TrainerState, options: LoadOptions = {}): Promise<readonly Difference[]> {
    options = checkOptions('options', options, ['free']);
    const { data } = this.#options;
    if (typeof state?.progress?.step !== 'number') failType('state', 'a state that a trainer gave', state);
    const { progress } = state;
    const { free = [] } = options as LoadOptions;
    const differences = compareSetup(progress, this.#options, free);
    const differs = (name: string) => differences.some(({ path }) => path.split('.')[0] === name);
    await this.policy.load(state.policy);
    for (const name of ['threshold', 'beta'] as const) {
      const tracker = this.#options[name];
      if (tracker === undefined || differs(name)) continue;
      try {
        tracker.load(progress[name]);
      } catch (error) {
        // It alone can compare its options.
        if (free !== 'all' && !free.includes(name)) throw error;
      }
    }
    if (!differs('bins')) this.bins.load(progress.bins);
    this.#step = progress.step;
    this.#skipped = progress.skipped;
    this.#measures.load(progress);
    await this.#source.seek(progress.data === data.fingerprint ? progress.position : 0);
    return differences;
  }

  /** Closes the writers, the reference and a stream of pairs, all of them also where one fails. The policy stays. */
  async close(): Promise<void> {
    const errors: unknown[] = [];
    for (const part of [...this.#options.writers, this.#reference, this.#source]) {
      await (async () => part?.close?.())().catch((error: unknown) => errors.push(error));
    }
    if (errors.length > 0) throw errors[0];
  }

  /** One update; undefined where there are no more pairs. */
  async #update(): Promise<StepReport | undefined> {
    const { pairsPerStep, timestepsPerPair, accumulate, onNonFinite, maxSkipped, beta } = this.#options;
    const denominator = pairsPerStep * timestepsPerPair;
    // One for the whole update, so that accumulation gives the gradient of the whole batch.
    const betaScale = beta && checkNumberAbove('the result of options.beta.scale()', beta.scale(), 0);
    const parts: PartResult[] = [];
    let ids: readonly string[] = [];
    let gradientNorm = NaN;
    let failure: DivergenceError | undefined;
    try {
      for (let part = 0; part < accumulate; part++) {
        const rows = await this.#watch.time('data', () => this.#source.next(this.#step, part));
        if (rows === undefined) {
          if (part > 0) await this.policy.discard();
          return undefined;
        }
        ids = [...ids, ...rows.ids];
        parts.push(await this.#evaluatePart(rows, denominator, betaScale));
      }
      const learningRate = this.#learningRate();
      const made = await this.#watch.time('optimizer', () =>
        this.policy.step({ learningRate, maxGradientNorm: this.#options.maxGradientNorm }),
      );
      gradientNorm = checkGradientNorm(made);
      if (!Number.isFinite(gradientNorm)) failure = new DivergenceError(this.#step + 1, ids, undefined, 'gradient');
    } catch (error) {
      if (!(error instanceof DivergenceError)) throw error;
      failure = error;
      await this.policy.discard();
    }
    if (failure !== undefined) {
      this.#skipped++;
      if (onNonFinite === 'stop' || this.#skipped > maxSkipped) throw failure;
      return this.#finish({ skipped: 1 }, true, accumulate);
    }
    this.#skipped = 0;
    await this.#average();
    if (betaScale !== undefined) beta?.observe(joined(this.#results, accumulate), betaScale);
    const metrics = {
      ...mergedMetrics(parts),
      ...(betaScale === undefined ? {} : { beta: betaScale * this.#options.loss.options.beta }),
      grad_norm: gradientNorm,
      learning_rate: this.#learningRate(),
      skipped: 0,
    };
    const half = parts.some((part) => part.half);
    for (const warning of this.#learning.observe({ step: this.#step + 1, metrics, half })) {
      this.#options.onWarning(warning);
    }
    return this.#finish(metrics, false, accumulate);
  }

  /** Counts the update and logs it. */
  async #finish(metrics: Record<string, number>, skipped: boolean, parts: number): Promise<StepReport> {
    const { logBinsEvery, referenceUpdate, writers } = this.#options;
    this.#source.advance(parts);
    this.#step++;
    if (referenceUpdate !== undefined && this.#step % referenceUpdate.every === 0) {
      await this.#watch.time('reference', () => this.policy.updateReference!(referenceUpdate.decay ?? 0));
    }
    if (logBinsEvery > 0 && this.#step % logBinsEvery === 0) {
      Object.assign(metrics, this.bins.entries());
      this.bins.reset();
    }
    const step = this.#step;
    await this.#watch.time('log', async () => {
      for (const writer of writers) await writer.write({ step, kind: 'train', metrics });
    });
    return { step, metrics, skipped };
  }

  /** Predictions, loss and pullback of some rows. */
  async #evaluatePart(rows: TrainingRows<C>, denominator: number, betaScale: number | undefined): Promise<PartResult> {
    const { loss, threshold, beforeLoss } = this.#options;
    const point = await this.#watch.time('policy', () => this.policy.linearize(rows.inputs));
    if (typeof point?.pullback !== 'function') {
      failType('the result of policy.linearize()', 'an object with a prediction and a function pullback', point);
    }
    const owned: Tensor[] = [];
    try {
      const predicted = await this.#watch.time('reference', () => this.#reference?.predict(rows));
      checkSeparate(point.prediction, predicted);
      let batch = makeBatch(rows, stacked('the prediction of the policy', point.prediction, rows), predicted, owned);
      if (betaScale !== undefined) batch = { ...batch, betaScale };
      let call: CallOptions = threshold === undefined ? {} : { maskThreshold: threshold.threshold(rows.timesteps) };
      const statistics = () => loss.evaluate(batch, { ...call, denominator, gradients: false });
      const changed = await beforeLoss?.(batch, rows, statistics);
      batch = changed?.batch ?? batch;
      call = { ...call, ...changed?.call, denominator, into: this.#results[rows.part] };
      const out = await this.#watch.time('loss', () => this.#lossOf(batch, call, rows));
      this.#results[rows.part] = out;
      if (!Number.isFinite(out.loss)) throw divergenceIn(out, rows, this.#step + 1);
      const size = out.gradients.stacked!.size / (2 * rows.rows);
      await this.#watch.time('log', () => {
        this.bins.add(rows.timesteps, out, size, denominator);
        threshold?.observe(rows.timesteps, out.rows);
      });
      await this.#watch.time('reference', () => this.#reference?.observe?.(rows, out.rows));
      const gradient = out.gradients.stacked!;
      const cotangent = point.prediction instanceof Tensor ? gradient : gradient.data;
      await this.#watch.time('policy', () => point.pullback(cotangent as LatentArray));
      // The loss of a part is divided by the rows of the whole batch, so parts add up.
      const half =
        isHalf(point.prediction) ||
        (predicted !== undefined && 'prediction' in predicted && isHalf(predicted.prediction));
      return { loss: out.loss, metrics: { ...out.metrics }, rows: rows.rows, half };
    } finally {
      point.release?.();
      for (const tensor of owned) tensor.dispose();
    }
  }

  async #lossOf(batch: Batch, call: CallOptions, rows: TrainingRows<C>): Promise<Evaluation> {
    const { loss } = this.#options;
    try {
      return rows.inputs.latents.length < ASYNC_ELEMENTS
        ? loss.evaluate(batch, call)
        : await loss.evaluateAsync(batch, call);
    } catch (error) {
      throw divergenceOf(error, rows, this.#step + 1);
    }
  }

  #learningRate(): number {
    const { learningRate } = this.#options;
    if (typeof learningRate === 'number') return learningRate;
    const rate: unknown = learningRate(this.#step);
    if (typeof rate !== 'number') failType('the result of options.learningRate()', 'a finite number >= 0', rate);
    if (!(rate >= 0 && Number.isFinite(rate)))
      failValue('the result of options.learningRate()', 'a finite number >= 0', rate);
    return rate;
  }

  async #average(): Promise<void> {
    const { ema } = this.#options;
    if (ema === undefined) return;
    const { decay, warmup = true } = ema;
    const n = this.#step + 1;
    const now = warmup ? Math.min(decay, (1 + n) / (10 + n)) : decay;
    await this.#watch.time('average', () => this.policy.updateAverage!(now));
  }
}

function checkGradientNorm(made: unknown): number {
  const norm = (made as { gradientNorm?: unknown } | undefined)?.gradientNorm;
  if (typeof norm !== 'number') failType('the result of policy.step()', 'an object with a number gradientNorm', made);
  return norm;
}

function tooFewPairs({ pairsPerStep }: { pairsPerStep: number }): SdpoError {
  return new SdpoError('ERR_SDPO_DATA', `Expected at least ${pairsPerStep} pairs for one update, received fewer`);
}

function referenceOf<C>({ reference, policy, loss }: ResolvedTrainerOptions<C>): Reference<C> | undefined {
  if (typeof reference === 'function') return { predict: reference };
  if (reference !== undefined) return reference;
  if (policy.reference === undefined || isReferenceFree(loss.options.objective)) return undefined;
  return { predict: async ({ inputs }) => ({ prediction: await policy.reference!(inputs) }) };
}
