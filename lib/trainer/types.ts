/** What the trainer asks of a policy, a data set, a reference and a metrics writer, and what it gives them: the interfaces between its parts. */

import type { RowStatistics } from '../loss/result.js';
import type { LatentArray } from '../tensor/operand.js';
import type { SafetensorsEntry } from '../tensor/safetensors.js';

export type MaybePromise<T> = T | Promise<T>;

/** What a model is given: the noisy latents of both branches, all chosen rows before all rejected ones. Policy and reference share it: it must not be written. */
export interface ModelInputs<C = unknown> {
  /** x_t, flat [2 · rows, ...shape], float32. */
  readonly latents: Float32Array;
  /** Shape of one sample, without the rows. */
  readonly shape: readonly number[];
  /** One timestep per row of `latents` (length 2 · rows), as the schedule counts them. */
  readonly timesteps: Float64Array;
  /** What each row of `latents` is conditioned on, as the data set gave it (length 2 · rows). */
  readonly conditions: readonly C[];
}

/** A prediction that can be pulled back to the parameters once. */
export interface LinearizedPrediction {
  /** u_θ, flat [2 · rows, ...shape] in the order of the inputs. Has to stay as it is until the pullback has settled or `release` is called. */
  readonly prediction: LatentArray;
  /**
   * Adds the gradient of the parameters that belongs to this cotangent, of the kind, dtype and shape of `prediction`, to the gradient the policy
   * holds. Called at most once; the trainer writes the cotangent again once this has settled.
   */
  pullback(cotangent: LatentArray): MaybePromise<void>;
  /** Frees what the pullback keeps; called once, whether `pullback` was or not. */
  release?(): void;
}

/** What one update of the parameters is told. */
export interface StepOptions {
  readonly learningRate: number;
  /** The accumulated gradient is scaled down to this global norm where it is larger; Infinity: no clipping. */
  readonly maxGradientNorm: number;
}

/** Named tensors that a checkpoint keeps: parameters, moments of the optimizer, averages. */
export type PolicyTensors = Readonly<Record<string, SafetensorsEntry>>;

/** Everything a policy needs to go on as if it had not been stopped. */
export interface PolicyState {
  readonly tensors: PolicyTensors;
  /** Plain JSON: counts and settings. */
  readonly scalars: Readonly<Record<string, unknown>>;
}

/**
 * The model under training, in any framework. It owns its parameters, the gradient being accumulated, its optimizer and, where it has one, its
 * moving average.
 */
export interface Policy<C = unknown> {
  /** Predicts, ready to be pulled back. */
  linearize(inputs: ModelInputs<C>): MaybePromise<LinearizedPrediction>;
  /** Predicts without the means to pull back, for evaluation and calibration. */
  predict(inputs: ModelInputs<C>): MaybePromise<LatentArray>;
  /** The frozen reference's prediction for the same inputs; needed unless the trainer is given another `reference`. */
  reference?(inputs: ModelInputs<C>): MaybePromise<LatentArray>;
  /**
   * Changes when what `reference` gives does, with its weights above all: what `sdpo train` compares before it replays a cache of the reference.
   * Needed for weights that come from elsewhere than a file that the policy's options name.
   */
  readonly referenceFingerprint?: string | undefined;
  /**
   * Clips the accumulated gradient, updates the parameters, clears the gradient; gives its norm before clipping. Where the norm is not finite, the
   * parameters and the optimizer stay as they are and only the gradient is cleared: the trainer then stops or skips the update.
   */
  step(options: StepOptions): MaybePromise<{ gradientNorm: number }>;
  /** Clears the accumulated gradient without an update. */
  discard(): MaybePromise<void>;
  /** Moves the average of the parameters: average ← decay · average + (1 - decay) · parameters. Needed for the trainer's `ema`. */
  updateAverage?(decay: number): MaybePromise<void>;
  /**
   * Moves the reference: reference ← decay · reference + (1 - decay) · parameters; with decay 0 it is a copy of them. From the first call on the
   * reference is part of `state`, and `load` takes it back. Needed for the trainer's `referenceUpdate`.
   */
  updateReference?(decay: number): MaybePromise<void>;
  /** A copy of the complete state. */
  state(): MaybePromise<PolicyState>;
  /** Takes a state that `state` gave. Throws where it does not fit. */
  load(state: PolicyState): MaybePromise<void>;
  /** The parameters as one saves them to use the model; `average` gives the moving average. */
  weights(which?: 'policy' | 'average'): MaybePromise<PolicyTensors>;
  /**
   * Draws a sample for each of these pairs, from noise that `seed` fixes so that steps compare, and gives the bytes of PNG, JPEG or WebP files. What `sdpo train` calls
   * at each validation; `PreferenceTrainer` does not.
   */
  preview?(context: PreviewContext<C>): MaybePromise<readonly Uint8Array[]>;
  /** Frees what the garbage collector does not. */
  dispose?(): void;
}

/** What a policy is told that draws samples. */
export interface PreviewContext<C = unknown> {
  /** Updates made. */
  readonly step: number;
  /** Of the run. */
  readonly seed: number;
  /** The first held-out pairs, always the same. */
  readonly pairs: readonly PreferencePair<C>[];
}

/** A pair as a data set gives it. */
export interface PreferencePair<C = unknown> {
  /** Names the pair in messages and logs. */
  readonly id: string;
  /** x_0 of the chosen sample, flat, of the data set's shape, float32. */
  readonly chosen: Float32Array;
  /** x_0 of the rejected sample. */
  readonly rejected: Float32Array;
  /** What both samples were made for; given to the policy as it is. */
  readonly condition?: C | undefined;
  /** Finite weight >= 0 of the pair in the loss (`rowWeights`). Default 1. */
  readonly confidence?: number | undefined;
}

/** Pairs with random access. */
export interface PairDataset<C = unknown> {
  readonly kind: 'indexed';
  /** Number of pairs. */
  readonly length: number;
  /** Shape of one sample. */
  readonly shape: readonly number[];
  /** Changes when the content does: what a checkpoint or a cache of the reference compares. */
  readonly fingerprint: string;
  get(index: number): MaybePromise<PreferencePair<C>>;
}

/** Pairs in the order they come, each once. */
export interface PairStream<C = unknown> {
  readonly kind: 'stream';
  readonly shape: readonly number[];
  readonly fingerprint: string;
  /** The pairs from this position on, so that a resumed run goes on where the stopped one was. */
  read(position: number): AsyncIterator<PreferencePair<C>>;
}

export type PairSource<C = unknown> = PairDataset<C> | PairStream<C>;

/** Rows of one forward pass, ready for the models: pairs, timesteps and noise are drawn, latents are noised. */
export interface TrainingRows<C = unknown> {
  /** Update (counted from 0) and part of its accumulated batch these rows belong to. */
  readonly step: number;
  readonly part: number;
  readonly rows: number;
  /** Id of the pair of each row. */
  readonly ids: readonly string[];
  /** Timestep of each row, shared by its branches. */
  readonly timesteps: Float64Array;
  readonly inputs: ModelInputs<C>;
  /** u of both branches, flat [rows, ...shape] each. */
  readonly target: { readonly chosen: Float32Array; readonly rejected: Float32Array };
  /** Weight of each row, from the confidence of its pair. */
  readonly weights: Float64Array;
}

/** What stands in for the reference model: its predictions for both branches, or their mean squared errors per row. */
export type ReferencePrediction =
  | { readonly prediction: LatentArray }
  | { readonly error: { readonly chosen: ArrayLike<number>; readonly rejected: ArrayLike<number> } };

/** Where reference predictions come from. A function computes them; an object may also learn from the rows that were evaluated. */
export interface Reference<C = unknown> {
  predict(rows: TrainingRows<C>): MaybePromise<ReferencePrediction>;
  /** After each evaluation: what was found for these rows, `referenceErrorChosen` and `referenceErrorRejected` among it. */
  observe?(rows: TrainingRows<C>, found: RowStatistics): MaybePromise<void>;
  /** Called when the training stops, however it does. */
  close?(): MaybePromise<void>;
}

/** One update, as the trainer yields and logs it. */
export interface StepReport {
  /** Updates made so far, this one included. */
  readonly step: number;
  /** Flat numbers under the names that trackers expect: `loss`, `rewards/chosen`, `grad_norm`, `learning_rate`, … */
  readonly metrics: Readonly<Record<string, number>>;
  /** True where the update was skipped because something was not finite. */
  readonly skipped: boolean;
}

/** What an entry of the log is of: an update, the held-out pairs, or what `evaluate` measured. */
export type EntryKind = 'train' | 'validation' | 'evaluation';

/** Takes metrics: a file, a console, a tracker. */
export interface MetricsWriter {
  write(entry: {
    readonly step: number;
    readonly kind: EntryKind;
    readonly metrics: Readonly<Record<string, number>>;
  }): MaybePromise<void>;
  close?(): MaybePromise<void>;
}

/** What a checkpoint holds beside the policy. All random numbers are functions of the seed and the step, so no generator has a state. */
export interface TrainerProgress {
  /** Updates made. */
  readonly step: number;
  /** Pairs taken from a stream so far; for a data set it follows from the step. */
  readonly position: number;
  readonly seed: number;
  /** Fingerprint of the data. */
  readonly data: string;
  /** The schedule and the options that decide the numbers, as JSON; a run that resumes must have the same. */
  readonly setup: Readonly<Record<string, unknown>>;
  /** State of the threshold tracker, where there is one. */
  readonly threshold?: unknown | undefined;
  /** Updates skipped in a row up to here. */
  readonly skipped: number;
  /** State of the β tracker, where there is one. */
  readonly beta?: unknown | undefined;
  /** Statistics by timestep that have not been logged yet. */
  readonly bins?: unknown | undefined;
  /** True where an evaluation belongs to this step that has not been logged: the run that goes on begins with it. */
  readonly evaluationDue?: boolean | undefined;
  /** The same of the held-out pairs. */
  readonly validationDue?: boolean | undefined;
  /** The best step on the held-out pairs so far, and a fingerprint of what it was measured on. */
  readonly validation?: { readonly of: string; readonly best: BestStep } | undefined;
}

/** The step at which the held-out pairs came out best, and how. */
export interface BestStep {
  readonly step: number;
  readonly criterion: 'loss' | 'accuracy' | 'margin';
  readonly value: number;
}

export interface TrainerState {
  readonly policy: PolicyState;
  readonly progress: TrainerProgress;
}
