/** Noise schedules: how much noise a timestep has, which transitions the sampler makes, and what the model should predict. */

import {
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkNumberList,
  checkOneOf,
  checkOptions,
  failType,
  failValue,
} from '../native/validate.js';
import { combine, type ElementwiseOptions } from '../tensor/elementwise.js';
import type { LatentArray } from '../tensor/operand.js';
import { givenAlphas } from './betas.js';
import { type DiffusersConfig, readDiffusers } from './diffusers.js';
import { FLOW_PREDICTIONS, FlowLevels } from './flow.js';
import {
  type NoiseLevels,
  PREDICTION_TYPES,
  type PredictionType,
  type ScheduleFamily,
  type Transition,
  targetCoefficients,
} from './levels.js';
import { PRESET_NAMES, PRESETS, type PresetName } from './presets.js';
import { drawUnit, type SampleTimestepsOptions } from './sampling.js';
import { VARIANCE_PRESERVING_PREDICTIONS, VariancePreservingLevels } from './variance-preserving.js';

export type { BetaSchedule } from './betas.js';
export type { DiffusersConfig } from './diffusers.js';
export type { PredictionType, ScheduleFamily, Transition } from './levels.js';
export type { PresetName } from './presets.js';
export type { SampleTimestepsOptions, TimestepDistribution } from './sampling.js';

/** How the sampler is assumed to run; it decides the transitions and thereby ω, not the noise levels. */
export interface SamplerOptions {
  /**
   * Number of steps n of the sampler, default 50 (or the number of training timesteps if that is less). Variance preserving: at most the
   * number of training timesteps T, and a transition spans ⌊T/n⌋ of them. Flow: a transition spans 1/n of the unshifted time.
   */
  inferenceSteps?: number;
  /** Stochasticity η of the transitions in (0, 1], default 1 (the DDPM posterior). At 0 a transition has no density. */
  eta?: number;
}

export interface PresetOptions extends SamplerOptions {
  /** Takes the place of the preset's prediction type, for a model that was trained to predict something else. */
  predictionType?: PredictionType;
}

export interface FromDiffusersOptions extends SamplerOptions {
  /** Takes the place of the config's `prediction_type`. */
  predictionType?: PredictionType;
  /** Names of config fields to treat as absent. */
  ignore?: readonly string[];
}

export interface VariancePreservingOptions extends SamplerOptions {
  /** ᾱ_t for t = 0 … T-1, in [0, 1] and non-increasing. */
  alphasCumprod: ArrayLike<number>;
  /** ᾱ behind the last transition, between `alphasCumprod[0]` and 1; default 1, clean data. */
  finalAlphaCumprod?: number;
  predictionType: PredictionType;
}

export interface FlowOptions extends SamplerOptions {
  /** T, the timestep of pure noise; default 1000. */
  trainSteps?: number;
  /** Factor k of the timestep shift, above 0; default 1, no shift. */
  shift?: number;
  /** Default `flow_prediction`. */
  predictionType?: PredictionType;
}

/** A schedule as `toJSON` gives it, for the metadata of a run: `NoiseSchedule.fromJSON` builds the same schedule from it. */
export interface ScheduleRecord {
  family: ScheduleFamily;
  predictionType: PredictionType;
  trainSteps: number;
  inferenceSteps: number;
  eta: number;
  shift: number;
  preset?: PresetName;
  /** The diffusers config that was followed, with the defaults of its class filled in and fields without influence left out. */
  config?: DiffusersConfig;
  alphasCumprod?: number[];
  finalAlphaCumprod?: number;
}

type Source = Pick<ScheduleRecord, 'preset' | 'config' | 'alphasCumprod' | 'finalAlphaCumprod'>;

interface Parts {
  levels: NoiseLevels;
  predictionType: PredictionType;
  inferenceSteps: number;
  eta: number;
  source: Source;
}

/**
 * A noise schedule x_t = a_t x_0 + s_t ε together with what the model predicts and which transitions its sampler makes. Immutable. All numbers
 * are float64, also where diffusers rounds its tables to float32. Formulas and sources: docs/schedules.md.
 *
 * Timesteps are integers 0 … T-1 (`variance-preserving`) or real numbers in (0, T], after the shift (`flow`); anything else is a RangeError
 * that names the entry.
 */
export class NoiseSchedule {
  readonly family: ScheduleFamily;
  readonly predictionType: PredictionType;
  /** T: the number of training timesteps, or the timestep of pure noise for `flow`. */
  readonly trainSteps: number;
  /** n: the number of steps of the sampler whose transitions ω belongs to. */
  readonly inferenceSteps: number;
  /** η: the stochasticity of those transitions. */
  readonly eta: number;
  /** k of the timestep shift σ = k τ / (1 + (k-1) τ); 1 for schedules that do not shift their timesteps. */
  readonly shift: number;
  readonly #levels: NoiseLevels;
  readonly #source: Source;

  private constructor(parts: Parts) {
    this.family = parts.levels.family;
    this.predictionType = parts.predictionType;
    this.trainSteps = parts.levels.trainSteps;
    this.inferenceSteps = parts.inferenceSteps;
    this.eta = parts.eta;
    this.shift = parts.levels.shift;
    this.#levels = parts.levels;
    this.#source = parts.source;
    Object.freeze(this);
  }

  /**
   * The schedule of a published model: `sd15`, `sdxl`, `cogvideox-2b`, `cogvideox-5b`, `wan2.1-1.3b` (480p), `wan2.1-14b-720p`, `sd3` or
   * `flux-schnell`. lib/schedule/presets.ts and docs/schedules.md give the source of each.
   */
  static preset(name: PresetName, options: PresetOptions = {}): NoiseSchedule {
    checkOneOf('name', name, PRESET_NAMES);
    checkOptions('options', options, ['inferenceSteps', 'eta', 'predictionType']);
    return new NoiseSchedule(fromConfig(PRESETS[name], options, { preset: name }));
  }

  /**
   * The schedule of a diffusers scheduler config (the parsed `scheduler_config.json`): DDPM, DDIM, PNDM, CogVideoXDDIM, CogVideoXDPM,
   * EulerDiscrete, FlowMatchEulerDiscrete and UniPCMultistep with `use_flow_sigmas`. Absent fields have the defaults of the class.
   *
   * A field that would change the noise levels or the transitions in an unsupported way is an SdpoError (`ERR_SDPO_UNSUPPORTED_CONFIG`) that
   * names it, and so is a field that is not known; `ignore` treats a field as absent. A supported field with an impossible value is a
   * TypeError or RangeError.
   */
  static fromDiffusers(config: DiffusersConfig, options: FromDiffusersOptions = {}): NoiseSchedule {
    checkOptions('options', options, ['inferenceSteps', 'eta', 'predictionType', 'ignore']);
    return new NoiseSchedule(fromConfig(config, options, {}));
  }

  /** A variance-preserving schedule from its own ᾱ_t: a_t = √ᾱ_t, s_t = √(1-ᾱ_t). */
  static variancePreserving(options: VariancePreservingOptions): NoiseSchedule {
    checkOptions('options', options, ['alphasCumprod', 'finalAlphaCumprod', 'predictionType', 'inferenceSteps', 'eta']);
    const powers = givenAlphas('options.alphasCumprod', options.alphasCumprod);
    const predictionType = checkOneOf(
      'options.predictionType',
      options.predictionType,
      VARIANCE_PRESERVING_PREDICTIONS,
    );
    const final = checkNumber('options.finalAlphaCumprod', options.finalAlphaCumprod ?? 1, powers.signal[0], 1);
    const { inferenceSteps, eta } = checkSampler(options, powers.signal.length);
    const end = { signal: final, noise: 1 - final };
    return new NoiseSchedule({
      levels: new VariancePreservingLevels(powers, end, predictionType, inferenceSteps, eta),
      predictionType,
      inferenceSteps,
      eta,
      source: { alphasCumprod: Array.from(powers.signal), finalAlphaCumprod: final },
    });
  }

  /** A rectified-flow schedule: a = 1-σ, s = σ = t/T, with timesteps shifted by the factor k. */
  static flow(options: FlowOptions = {}): NoiseSchedule {
    checkOptions('options', options, ['trainSteps', 'shift', 'predictionType', 'inferenceSteps', 'eta']);
    const trainSteps = checkInteger('options.trainSteps', options.trainSteps ?? 1000, 1);
    const shift = checkNumberAbove('options.shift', options.shift ?? 1, 0);
    const predictionType = checkOneOf(
      'options.predictionType',
      options.predictionType ?? 'flow_prediction',
      FLOW_PREDICTIONS,
    );
    const { inferenceSteps, eta } = checkSampler(options, MAX_FLOW_STEPS);
    return new NoiseSchedule({
      levels: new FlowLevels(trainSteps, shift, predictionType, inferenceSteps, eta),
      predictionType,
      inferenceSteps,
      eta,
      source: {},
    });
  }

  /** The schedule that a record of `toJSON` describes. */
  static fromJSON(record: ScheduleRecord): NoiseSchedule {
    if (typeof record !== 'object' || record === null) failType('record', 'an object that toJSON returned', record);
    const { predictionType, inferenceSteps, eta, trainSteps, shift, config, alphasCumprod, finalAlphaCumprod } = record;
    checkOneOf('record.family', record.family, ['variance-preserving', 'flow']);
    const sampler = { predictionType, inferenceSteps, eta };
    if (record.preset !== undefined) return NoiseSchedule.preset(record.preset, sampler);
    if (config !== undefined) return NoiseSchedule.fromDiffusers(config, sampler);
    if (record.family === 'flow') return NoiseSchedule.flow({ ...sampler, trainSteps, shift });
    return NoiseSchedule.variancePreserving({ ...sampler, alphasCumprod: alphasCumprod!, finalAlphaCumprod });
  }

  /** a_t of x_t = a_t x_0 + s_t ε. */
  signal(t: number): number {
    return this.#levels.signal(t, 't');
  }

  /** s_t of x_t = a_t x_0 + s_t ε. */
  sigma(t: number): number {
    return this.#levels.sigma(t, 't');
  }

  /**
   * The sampler's transition from timestep `t`: `previous`, the timestep it ends on (variance preserving: t - ⌊T/n⌋, below 0 behind the
   * last one; flow: 0 for clean data), and `omega`, its weight ω_t per unit of mean squared prediction error. ω is Infinity where the
   * transition ends on clean data or the prediction says nothing about x_0 (`epsilon` at zero SNR).
   */
  transition(t: number): Transition {
    const previous = this.#levels.previous(t, 't');
    return { previous, omega: this.#levels.omegas([t], 't')[0] };
  }

  /**
   * ω of every timestep of a list, as a new Float64Array.
   *
   * @param argument what an error calls the list
   */
  omegas(timesteps: ArrayLike<number>, argument = 'timesteps'): Float64Array {
    return this.#levels.omegas(timesteps, argument);
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
      onData[i] = this.#levels.signal(list[i], 'timesteps', i);
      onNoise[i] = this.#levels.sigma(list[i], 'timesteps', i);
    }
    return combine(onData, x0, onNoise, noise, ['x0', 'noise'], options);
  }

  /**
   * What the model should predict: ε (`epsilon`), a ε - s x_0 (`v_prediction`), x_0 (`sample`) or ε - x_0 (`flow_prediction`). Arguments
   * and result as in {@link addNoise}.
   */
  target<T extends LatentArray>(x0: T, noise: T, timesteps: ArrayLike<number>, options?: ElementwiseOptions): T {
    const list = checkNumberList('timesteps', timesteps);
    const onData = new Float64Array(list.length);
    const onNoise = new Float64Array(list.length);
    for (let i = 0; i < list.length; i++) {
      const signal = this.#levels.signal(list[i], 'timesteps', i);
      const sigma = this.#levels.sigma(list[i], 'timesteps', i);
      [onData[i], onNoise[i]] = targetCoefficients(this.predictionType, signal, sigma);
    }
    return combine(onData, x0, onNoise, noise, ['x0', 'noise'], options);
  }

  /**
   * Draws training timesteps: integers for `variance-preserving`; for `flow` real numbers in (0, T], drawn in the unshifted τ and then
   * shifted. With `logit-normal`, u = logistic(mean + std · z) takes the place of a uniform u.
   *
   * @param count how many
   */
  sampleTimesteps(count: number, options: SampleTimestepsOptions): Float64Array {
    const { draws, range } = drawUnit(count, options);
    return this.#levels.fromUnit(draws, range);
  }

  /** Everything that decides the schedule, as plain JSON. */
  toJSON(): ScheduleRecord {
    const { family, predictionType, trainSteps, inferenceSteps, eta, shift } = this;
    return { family, predictionType, trainSteps, inferenceSteps, eta, shift, ...structuredClone(this.#source) };
  }

  /** One line for a log. */
  toString(): string {
    const { preset, config } = this.#source;
    const origin = preset ?? (config?._class_name as string | undefined) ?? 'custom';
    const shift = this.shift === 1 ? '' : `, shift ${this.shift}`;
    return `${origin} (${this.family}, ${this.predictionType}, T = ${this.trainSteps}${shift}; ${this.inferenceSteps} inference steps, eta ${this.eta})`;
  }
}

/** Beyond this many steps a step of 1/n comes too close to the rounding of τ. */
const MAX_FLOW_STEPS = 1_000_000;

const DEFAULT_STEPS = 50;

function checkSampler(options: SamplerOptions, mostSteps: number): { inferenceSteps: number; eta: number } {
  const steps = options.inferenceSteps ?? Math.min(DEFAULT_STEPS, mostSteps);
  const inferenceSteps = checkInteger('options.inferenceSteps', steps, 1, mostSteps);
  const eta: unknown = options.eta ?? 1;
  const expected = 'a number in (0, 1] (at 0 transitions are deterministic and have no density)';
  if (typeof eta !== 'number') failType('options.eta', expected, eta);
  if (!(eta > 0 && eta <= 1)) failValue('options.eta', expected, eta);
  return { inferenceSteps, eta };
}

function checkIgnore(ignore: unknown): readonly string[] {
  if (ignore === undefined) return [];
  if (!Array.isArray(ignore)) failType('options.ignore', 'an array of field names', ignore);
  ignore.forEach((name, i) => {
    if (typeof name !== 'string') failType(`options.ignore[${i}]`, 'a field name', name);
  });
  return ignore;
}

function fromConfig(config: DiffusersConfig, options: FromDiffusersOptions, origin: Source): Parts {
  const ignore = checkIgnore(options.ignore);
  if (options.predictionType !== undefined) {
    checkOneOf('options.predictionType', options.predictionType, PREDICTION_TYPES);
  }
  const read = readDiffusers(config, ignore, options.predictionType);
  const { predictionType } = read;
  const source = { ...origin, config: read.config };
  if (read.family === 'flow') {
    const { inferenceSteps, eta } = checkSampler(options, MAX_FLOW_STEPS);
    const levels = new FlowLevels(read.trainSteps, read.shift, predictionType, inferenceSteps, eta);
    return { levels, predictionType, inferenceSteps, eta, source };
  }
  const { inferenceSteps, eta } = checkSampler(options, read.powers.signal.length);
  const levels = new VariancePreservingLevels(read.powers, read.final, predictionType, inferenceSteps, eta);
  return { levels, predictionType, inferenceSteps, eta, source };
}
