/** Noise schedules: how much noise a timestep has, which transitions the sampler makes, and what the model should predict. */

import {
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkNumberList,
  checkOneOf,
  checkOptions,
  failType,
} from '../native/validate.js';
import { combine, type ElementwiseOptions } from '../tensor/elementwise.js';
import type { LatentArray } from '../tensor/operand.js';
import { givenAlphas } from './betas.js';
import {
  configParts,
  flowParts,
  type Parts,
  reshiftedParts,
  SAMPLER_OPTIONS,
  type SamplerOptions,
  tableParts,
} from './build.js';
import type { DiffusersConfig } from './config-file.js';
import { readConfigFile } from './config-file.js';
import { FLOW_PREDICTIONS } from './flow.js';
import type { LadderName } from './ladder.js';
import {
  type PredictionType,
  type SamplerLadder,
  type ScheduleFamily,
  type Transition,
  type TransitionVariance,
  targetCoefficients,
} from './levels.js';
import { PRESET_NAMES, PRESETS, type PresetName } from './presets.js';
import { type SampleTimestepsOptions, sampleTimesteps } from './sampling.js';
import { SHIFT_OPTIONS, type ShiftOptions } from './shift.js';
import { VARIANCE_PRESERVING_PREDICTIONS } from './variance-preserving.js';

export type { BetaSchedule } from './betas.js';
export type { SamplerOptions } from './build.js';
export type { DiffusersConfig } from './config-file.js';
export { parseSchedulerConfig } from './config-file.js';
export type { LadderName } from './ladder.js';
export type { PredictionType, SamplerLadder, ScheduleFamily, Transition, TransitionVariance } from './levels.js';
export type { PresetName } from './presets.js';
export type { SampleTimestepsOptions, TimestepDistribution } from './sampling.js';
export type { ShiftOptions } from './shift.js';

export interface PresetOptions extends SamplerOptions, ShiftOptions {
  /** Takes the place of the preset's prediction type, for a model that was trained to predict something else. */
  predictionType?: PredictionType | undefined;
}

export interface FromDiffusersOptions extends SamplerOptions, ShiftOptions {
  /** Takes the place of the config's `prediction_type`. */
  predictionType?: PredictionType | undefined;
  /** Names of config fields to treat as absent. */
  ignore?: readonly string[] | undefined;
}

export interface VariancePreservingOptions extends SamplerOptions {
  /** ᾱ_t for t = 0 … T-1, in [0, 1] and non-increasing. */
  alphasCumprod: ArrayLike<number>;
  /** ᾱ behind the last transition, between `alphasCumprod[0]` and 1; default 1, clean data. */
  finalAlphaCumprod?: number | undefined;
  predictionType: PredictionType;
}

export interface FlowOptions extends SamplerOptions {
  /** T, the timestep of pure noise; default 1000. */
  trainSteps?: number | undefined;
  /** Factor k of the timestep shift, above 0; default 1, no shift. */
  shift?: number | undefined;
  /** Default `flow_prediction`. */
  predictionType?: PredictionType | undefined;
}

/** A schedule as `toJSON` gives it, for the metadata of a run: `NoiseSchedule.fromJSON` builds the same schedule from it. */
export interface ScheduleRecord {
  family: ScheduleFamily;
  predictionType: PredictionType;
  trainSteps: number;
  inferenceSteps: number;
  ladder: LadderName | number[];
  variance: TransitionVariance;
  eta: number;
  shift: number;
  /** μ, where the shift depends on the resolution. */
  mu?: number;
  preset?: PresetName;
  /** The diffusers config that was followed, with the defaults of its class filled in and fields without influence left out. */
  config?: DiffusersConfig;
  alphasCumprod?: number[];
  finalAlphaCumprod?: number;
}

/**
 * A noise schedule x_t = a_t x_0 + s_t ε together with what the model predicts and which transitions its sampler makes. Immutable. All numbers
 * are float64, also where diffusers rounds its tables to float32. Formulas and sources: docs/schedules.md.
 *
 * Timesteps are integers 0 … T-1 (`variance-preserving`) or real numbers in (0, T], after the shift (`flow`; [0, T) where it is `inverted`);
 * anything else is a RangeError that names the entry.
 */
export class NoiseSchedule {
  /** Names of the published models that {@link NoiseSchedule.preset} knows. */
  static readonly presets: readonly PresetName[] = PRESET_NAMES;

  readonly family: ScheduleFamily;
  readonly predictionType: PredictionType;
  /** T: the number of training timesteps, or the timestep of pure noise for `flow`. */
  readonly trainSteps: number;
  /** n: the number of steps of the sampler whose transitions ω belongs to. */
  readonly inferenceSteps: number;
  /** The levels it goes down; see {@link SamplerOptions}. */
  readonly ladder: LadderName | readonly number[];
  /** How much noise its transitions draw. */
  readonly variance: TransitionVariance;
  /** η: the stochasticity of those transitions, where `variance` is `posterior`. */
  readonly eta: number;
  /** k of the timestep shift σ = k τ / (1 + (k-1) τ); 1 for schedules that do not shift their timesteps. */
  readonly shift: number;
  /** A flow whose timestep 0 is noise and T data (`invert_sigmas`: Mochi, OmniGen): σ = 1 - t/T, and its velocity is x_0 - ε. */
  readonly inverted: boolean;
  readonly #parts: Parts;

  private constructor(parts: Parts) {
    const { levels, sampler } = parts;
    this.family = levels.family;
    this.predictionType = parts.predictionType;
    this.trainSteps = levels.trainSteps;
    this.inferenceSteps = sampler.inferenceSteps;
    this.ladder = sampler.ladder;
    this.variance = sampler.variance;
    this.eta = sampler.eta;
    this.shift = levels.shift;
    this.inverted = levels.inverted;
    this.#parts = parts;
    Object.freeze(this);
  }

  /**
   * The schedule of a published model, by a name of {@link NoiseSchedule.presets}. docs/schedules.md gives the source of each, and says which of
   * them need a resolution.
   */
  static preset(name: PresetName, options: PresetOptions = {}): NoiseSchedule {
    checkOneOf('name', name, PRESET_NAMES);
    options = checkOptions('options', options, [...SAMPLER_OPTIONS, ...SHIFT_OPTIONS, 'predictionType']);
    return new NoiseSchedule(configParts(PRESETS[name].config, options, { preset: name }, PRESETS[name]));
  }

  /**
   * The schedule of a diffusers scheduler config (the parsed `scheduler_config.json`; see {@link parseSchedulerConfig} for what Python writes). Absent
   * fields have the defaults of the class. docs/schedules.md lists the classes and what is read of each.
   *
   * Where the shift depends on the resolution (`use_dynamic_shifting`), one of `mu`, `imageSeqLen`, or `width`, `height` and `pixelsPerToken` is
   * needed.
   *
   * A field that would change the noise levels or the transitions in an unsupported way is an SdpoError (`ERR_SDPO_UNSUPPORTED_CONFIG`) that
   * names it, and so is a field that is not known; `ignore` treats a field as absent. A supported field with an impossible value is a
   * TypeError or RangeError.
   */
  static fromDiffusers(config: DiffusersConfig, options: FromDiffusersOptions = {}): NoiseSchedule {
    options = checkOptions('options', options, [...SAMPLER_OPTIONS, ...SHIFT_OPTIONS, 'predictionType', 'ignore']);
    return new NoiseSchedule(configParts(config, options, {}));
  }

  /**
   * The schedule of a `scheduler_config.json` on disk, as Python writes it: with a byte order mark, NaN and Infinity.
   *
   * @throws SdpoError ERR_SDPO_CONFIG for a file that is no such thing, saying what it is
   */
  static fromFile(path: string, options: FromDiffusersOptions = {}): NoiseSchedule {
    return NoiseSchedule.fromDiffusers(readConfigFile(path), options);
  }

  /** A variance-preserving schedule from its own ᾱ_t: a_t = √ᾱ_t, s_t = √(1-ᾱ_t). */
  static variancePreserving(options: VariancePreservingOptions): NoiseSchedule {
    options = checkOptions('options', options, [
      'alphasCumprod',
      'finalAlphaCumprod',
      'predictionType',
      ...SAMPLER_OPTIONS,
    ]);
    const powers = givenAlphas('options.alphasCumprod', options.alphasCumprod);
    const predictionType = checkOneOf(
      'options.predictionType',
      options.predictionType,
      VARIANCE_PRESERVING_PREDICTIONS,
    );
    const final = checkNumber('options.finalAlphaCumprod', options.finalAlphaCumprod ?? 1, powers.signal[0], 1);
    const source = { alphasCumprod: Array.from(powers.signal), finalAlphaCumprod: final };
    return new NoiseSchedule(tableParts(powers, { signal: final, noise: 1 - final }, predictionType, options, source));
  }

  /** A rectified-flow schedule: a = 1-σ, s = σ = t/T, with timesteps shifted by the factor k. */
  static flow(options: FlowOptions = {}): NoiseSchedule {
    options = checkOptions('options', options, ['trainSteps', 'shift', 'predictionType', ...SAMPLER_OPTIONS]);
    const trainSteps = checkInteger('options.trainSteps', options.trainSteps ?? 1000, 1);
    const shift = checkNumberAbove('options.shift', options.shift ?? 1, 0);
    const predictionType = checkOneOf(
      'options.predictionType',
      options.predictionType ?? 'flow_prediction',
      FLOW_PREDICTIONS,
    );
    return new NoiseSchedule(flowParts({ trainSteps, shift, predictionType }, options as SamplerOptions, {}));
  }

  /** The schedule that a record of `toJSON` describes. */
  static fromJSON(record: ScheduleRecord): NoiseSchedule {
    if (typeof record !== 'object' || record === null) failType('record', 'an object that toJSON returned', record);
    const { predictionType, inferenceSteps, ladder, variance, eta, trainSteps, shift, mu, preset, config } = record;
    checkOneOf('record.family', record.family, ['variance-preserving', 'flow']);
    const options = { predictionType, inferenceSteps, ladder, variance, eta };
    const known = preset !== undefined || config !== undefined;
    if (!known && record.family === 'flow') return NoiseSchedule.flow({ ...options, trainSteps, shift });
    if (!known) {
      const { alphasCumprod, finalAlphaCumprod } = record;
      return NoiseSchedule.variancePreserving({ ...options, alphasCumprod: alphasCumprod!, finalAlphaCumprod });
    }
    const made =
      preset !== undefined
        ? NoiseSchedule.preset(preset, { ...options, mu })
        : NoiseSchedule.fromDiffusers(config!, { ...options, mu });
    // A shift that was set after the config was read. One that comes from mu is as exact as the exponential of whoever wrote the record.
    return mu !== undefined || shift === undefined || shift === made.shift ? made : made.withShift({ shift });
  }

  /**
   * The same flow with another shift: `shift` itself, or where the config's shift depends on the resolution, what it is computed from. Noise levels
   * at a timestep stay; transitions and drawn timesteps change. Cheap: one schedule for each resolution of a batch is what it is for.
   */
  withShift(options: ShiftOptions & { shift?: number }): NoiseSchedule {
    options = checkOptions('options', options, ['shift', ...SHIFT_OPTIONS]);
    return new NoiseSchedule(reshiftedParts(this.#parts, options));
  }

  /** a_t of x_t = a_t x_0 + s_t ε. */
  signal(t: number): number {
    return this.#parts.levels.signal(t, 't');
  }

  /** s_t of x_t = a_t x_0 + s_t ε. */
  sigma(t: number): number {
    return this.#parts.levels.sigma(t, 't');
  }

  /**
   * The sampler's transition from timestep `t`: `previous`, the timestep it ends on (variance preserving: below 0 behind the last one, and
   * between two timesteps where the sampler interpolates; flow: 0 for clean data), and `omega`, its weight ω_t per unit of mean squared prediction
   * error. ω is Infinity where the transition ends on clean data or the prediction says nothing about x_0 (`epsilon` at zero SNR).
   */
  transition(t: number): Transition {
    const previous = this.#parts.levels.previous(t, 't');
    return { previous, omega: this.#parts.levels.omegas([t], 't')[0]! };
  }

  /** The levels that the sampler visits: n timesteps at which it calls the model, and the one it ends on. */
  samplerLadder(): SamplerLadder {
    return this.#parts.levels.ladder();
  }

  /**
   * ω of every timestep of a list, as a new Float64Array.
   *
   * @param argument what an error calls the list
   */
  omegas(timesteps: ArrayLike<number>, argument = 'timesteps'): Float64Array {
    return this.#parts.levels.omegas(timesteps, argument);
  }

  /**
   * x_t = a_t x_0 + s_t ε, one timestep per row.
   *
   * @param x0 clean data [rows, ...], flat: a Float32Array, Float64Array or Tensor
   * @param noise ε, of the same kind, dtype and length
   * @param timesteps one per row
   * @param options `stream`: of the device that holds the tensors; the work is put on it and not waited for
   * @returns x_t, of the same kind, dtype, shape and device as `x0`
   */
  addNoise<T extends LatentArray>(x0: T, noise: T, timesteps: ArrayLike<number>, options?: ElementwiseOptions): T {
    const list = checkNumberList('timesteps', timesteps);
    const onData = new Float64Array(list.length);
    const onNoise = new Float64Array(list.length);
    for (let i = 0; i < list.length; i++) {
      onData[i] = this.#parts.levels.signal(list[i]!, 'timesteps', i);
      onNoise[i] = this.#parts.levels.sigma(list[i]!, 'timesteps', i);
    }
    return combine(onData, x0, onNoise, noise, ['x0', 'noise'], options);
  }

  /**
   * What the model should predict: ε (`epsilon`), a ε - s x_0 (`v_prediction`), x_0 (`sample`) or ε - x_0 (`flow_prediction`; x_0 - ε where `inverted`). Arguments
   * and result as in {@link addNoise}.
   */
  target<T extends LatentArray>(x0: T, noise: T, timesteps: ArrayLike<number>, options?: ElementwiseOptions): T {
    const list = checkNumberList('timesteps', timesteps);
    const onData = new Float64Array(list.length);
    const onNoise = new Float64Array(list.length);
    for (let i = 0; i < list.length; i++) {
      const signal = this.#parts.levels.signal(list[i]!, 'timesteps', i);
      const sigma = this.#parts.levels.sigma(list[i]!, 'timesteps', i);
      [onData[i], onNoise[i]] = targetCoefficients(this.predictionType, signal, sigma, this.inverted);
    }
    return combine(onData, x0, onNoise, noise, ['x0', 'noise'], options);
  }

  /**
   * Draws training timesteps: integers for `variance-preserving`; for `flow` real numbers in (0, T], drawn in the unshifted τ and then
   * shifted. `steps` draws from a fixed list instead.
   *
   * @param count how many
   */
  sampleTimesteps(count: number, options: SampleTimestepsOptions): Float64Array {
    return sampleTimesteps(this.#parts.levels, count, options);
  }

  /** Everything that decides the schedule, as plain JSON. */
  toJSON(): ScheduleRecord {
    const { family, predictionType, trainSteps, inferenceSteps, ladder, variance, eta, shift } = this;
    const own = { family, predictionType, trainSteps, inferenceSteps, ladder, variance, eta, shift };
    return structuredClone({ ...own, ...this.#parts.source }) as ScheduleRecord;
  }

  /** One line for a log. */
  toString(): string {
    const { preset, config } = this.#parts.source;
    const origin = preset ?? (config?._class_name as string | undefined) ?? 'custom';
    const shift = this.shift === 1 ? '' : `, shift ${this.shift}`;
    const ladder =
      this.ladder === 'uniform' ? '' : `, ladder ${typeof this.ladder === 'string' ? this.ladder : 'given'}`;
    const noise = this.variance === 'posterior' ? `eta ${this.eta}` : `variance ${this.variance}`;
    return `${origin} (${this.family}, ${this.predictionType}, T = ${this.trainSteps}${shift}; ${this.inferenceSteps} inference steps${ladder}, ${noise})`;
  }
}
