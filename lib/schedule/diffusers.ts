/** Reads a diffusers scheduler config: which fields a scheduler reads, which have no influence, and which would change the mathematics. */

import { SdpoError } from '../native/errors.js';
import {
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkOneOf,
  describe,
  failType,
  failValue,
} from '../native/validate.js';
import {
  BETA_SCHEDULES,
  type BetaSchedule,
  cumulate,
  givenBetas,
  namedBetas,
  type PowerTable,
  rescaleToZeroTerminalSnr,
  shiftSnr,
} from './betas.js';
import { FLOW_PREDICTIONS } from './flow.js';
import type { PredictionType } from './levels.js';
import { VARIANCE_PRESERVING_PREDICTIONS } from './variance-preserving.js';

/** A `scheduler_config.json` as JSON.parse gives it. */
export type DiffusersConfig = Readonly<Record<string, unknown>>;

type FieldValue = string | number | boolean | null | readonly number[];

interface Scheduler {
  readonly family: 'variance-preserving' | 'flow';
  /** Fields that this class reads and we follow, with the value the class gives them when they are absent. */
  readonly reads: Readonly<Record<string, FieldValue>>;
  /** Fields that this class reads without any influence on noise levels and transitions, though they would have one in other classes. */
  readonly idle?: readonly string[];
  /** ᾱ that the class puts in place of the 0 at the end of a zero-terminal-SNR schedule. */
  readonly terminalSignal?: number;
}

const DDPM_FIELDS = {
  num_train_timesteps: 1000,
  beta_start: 0.0001,
  beta_end: 0.02,
  beta_schedule: 'linear',
  trained_betas: null,
  prediction_type: 'epsilon',
} as const;

const COGVIDEOX: Scheduler = {
  family: 'variance-preserving',
  reads: {
    ...DDPM_FIELDS,
    beta_start: 0.00085,
    beta_end: 0.012,
    beta_schedule: 'scaled_linear',
    set_alpha_to_one: true,
    rescale_betas_zero_snr: false,
    snr_shift_scale: 3,
  },
};

export const SCHEDULERS: Readonly<Record<string, Scheduler>> = {
  DDPMScheduler: { family: 'variance-preserving', reads: { ...DDPM_FIELDS, rescale_betas_zero_snr: false } },
  DDIMScheduler: {
    family: 'variance-preserving',
    reads: { ...DDPM_FIELDS, set_alpha_to_one: true, rescale_betas_zero_snr: false },
  },
  PNDMScheduler: { family: 'variance-preserving', reads: { ...DDPM_FIELDS, set_alpha_to_one: false } },
  CogVideoXDDIMScheduler: COGVIDEOX,
  CogVideoXDPMScheduler: COGVIDEOX,
  EulerDiscreteScheduler: {
    family: 'variance-preserving',
    reads: { ...DDPM_FIELDS, rescale_betas_zero_snr: false },
    // Its noise levels are σ = √((1-ᾱ)/ᾱ), which must stay finite: the smallest positive float16 stands for 0.
    terminalSignal: 2 ** -24,
  },
  FlowMatchEulerDiscreteScheduler: {
    family: 'flow',
    reads: { num_train_timesteps: 1000, shift: 1, prediction_type: 'flow_prediction' },
    idle: ['use_flow_sigmas'],
  },
  UniPCMultistepScheduler: {
    family: 'flow',
    reads: { num_train_timesteps: 1000, use_flow_sigmas: false, flow_shift: 1, prediction_type: 'epsilon' },
    idle: ['rescale_betas_zero_snr'],
  },
};

const SCHEDULER_CLASSES: readonly string[] = Object.keys(SCHEDULERS);

/**
 * Fields that choose the timesteps a sampler visits or how it solves between them, or that only matter together with another field that is
 * checked. `set_alpha_to_one` and the betas are here for the classes that do not read them.
 */
export const WITHOUT_INFLUENCE: ReadonlySet<string> = new Set([
  'timestep_spacing',
  'steps_offset',
  'skip_prk_steps',
  'interpolation_type',
  'solver_order',
  'solver_type',
  'solver_p',
  'algorithm_type',
  'lower_order_final',
  'euler_at_final',
  'disable_corrector',
  'predict_x0',
  'dynamic_thresholding_ratio',
  'clip_sample_range',
  'sample_max_value',
  'lambda_min_clipped',
  'sigma_min',
  'sigma_max',
  'base_shift',
  'max_shift',
  'base_image_seq_len',
  'max_image_seq_len',
  'time_shift_type',
  'tensor_format',
  'set_alpha_to_one',
  'beta_start',
  'beta_end',
  'beta_schedule',
  'trained_betas',
]);

interface Demand {
  readonly harmless: readonly FieldValue[];
  readonly effect: string;
}

const off = (effect: string): Demand => ({ harmless: [false], effect });

/** Fields that change noise levels or transitions unless they have one of the harmless values (or null, which is how JSON says absent). */
export const DEMANDS: Readonly<Record<string, Demand>> = {
  clip_sample: off('it clips the predicted x_0, so transitions are no longer Gaussian in the prediction'),
  thresholding: off('it clips the predicted x_0, so transitions are no longer Gaussian in the prediction'),
  variance_type: { harmless: ['fixed_small', 'fixed_small_log'], effect: 'it gives transitions another variance' },
  use_karras_sigmas: off('it replaces the noise levels of the sampler'),
  use_exponential_sigmas: off('it replaces the noise levels of the sampler'),
  use_beta_sigmas: off('it replaces the noise levels of the sampler'),
  use_lu_lambdas: off('it replaces the noise levels of the sampler'),
  use_flow_sigmas: off('it replaces the noise levels of the sampler'),
  final_sigmas_type: { harmless: ['zero'], effect: 'it ends the last transition above noise level 0' },
  timestep_type: { harmless: ['discrete'], effect: 'it replaces the timesteps by logarithms of noise levels' },
  timestep_values: { harmless: [], effect: 'it replaces the timesteps' },
  use_dynamic_shifting: off(
    'the shift depends on the resolution (for one resolution, set it to false and shift to exp(mu) or the linear shift in use)',
  ),
  invert_sigmas: off('it exchanges data and noise'),
  shift_terminal: { harmless: [0, false], effect: 'it stretches the noise levels of the sampler' },
  stochastic_sampling: off('its transitions have more noise than any η in (0, 1]'),
  rescale_betas_zero_snr: off('this class does not read it, but the schedule it asks for is another'),
  snr_shift_scale: { harmless: [1], effect: 'this class does not read it, but the schedule it asks for is another' },
  shift: { harmless: [1], effect: 'this class does not read it, but the schedule it asks for is another' },
  flow_shift: { harmless: [1], effect: 'this class does not read it, but the schedule it asks for is another' },
};

/** What a config says, ready to build noise levels from. */
export type ReadConfig = {
  readonly predictionType: PredictionType;
  /** The fields that were followed, defaults filled in: an equivalent config. */
  readonly config: DiffusersConfig;
} & (ReadBetas | ReadFlow);

interface ReadBetas {
  readonly family: 'variance-preserving';
  readonly powers: PowerTable;
  /** ᾱ behind the last transition, and its complement. */
  readonly final: { readonly signal: number; readonly noise: number };
}

interface ReadFlow {
  readonly family: 'flow';
  readonly trainSteps: number;
  readonly shift: number;
}

/**
 * Reads a scheduler config.
 *
 * @param ignore names of fields to treat as absent
 * @param predictionType takes the place of the config's `prediction_type`, which is then not looked at
 */
export function readDiffusers(
  config: unknown,
  ignore: readonly string[],
  predictionType: PredictionType | undefined,
): ReadConfig {
  if (!isPlainObject(config)) failType('config', 'an object as JSON.parse gives it', config);
  const className = config._class_name;
  const known = typeof className === 'string' && Object.hasOwn(SCHEDULERS, className);
  if (!known) throw unsupported('config._class_name', `one of ${SCHEDULER_CLASSES.join(', ')}`, className);
  const scheduler = SCHEDULERS[className];
  const given = givenFields(className, scheduler, config, ignore);
  const fields: Record<string, unknown> = { ...scheduler.reads, ...given };
  const allowed = scheduler.family === 'flow' ? FLOW_PREDICTIONS : VARIANCE_PRESERVING_PREDICTIONS;
  if (predictionType !== undefined) {
    fields.prediction_type = checkOneOf('options.predictionType', predictionType, allowed);
  } else {
    // The flow matching sampler takes the prediction for a velocity whatever the config says.
    const followed = className === 'FlowMatchEulerDiscreteScheduler' ? ['flow_prediction'] : allowed;
    oneOf(className, 'prediction_type', fields.prediction_type, followed);
  }
  const read =
    scheduler.family === 'flow' ? readFlow(className, fields) : readBetas(scheduler, className, fields, given);
  return {
    ...read,
    predictionType: fields.prediction_type as PredictionType,
    config: { _class_name: className, ...fields },
  };
}

/** The fields of `config` that the class reads and that are set, after every other field has been found harmless. */
function givenFields(
  className: string,
  scheduler: Scheduler,
  config: DiffusersConfig,
  ignore: readonly string[],
): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(config)) {
    if (name.startsWith('_') || value === undefined || ignore.includes(name)) continue;
    if (Object.hasOwn(scheduler.reads, name)) {
      if (value !== null) given[name] = value;
      continue;
    }
    if (WITHOUT_INFLUENCE.has(name) || scheduler.idle?.includes(name)) continue;
    if (!Object.hasOwn(DEMANDS, name)) {
      throw new SdpoError(
        'ERR_SDPO_UNSUPPORTED_CONFIG',
        `Expected config to have only fields known to change nothing or to be supported, received ${JSON.stringify(name)} = ${describe(value)}, whose influence on ${className} is not known (ignore: ['${name}'] leaves it out)`,
      );
    }
    const { harmless, effect } = DEMANDS[name];
    if (value === null || harmless.includes(value as FieldValue)) continue;
    const expected = [...harmless.map((each) => describe(each)), 'absent'].join(' or ');
    throw unsupported(`config.${name}`, expected, value, `${effect}; ignore: ['${name}'] leaves it out`);
  }
  return given;
}

function readFlow(className: string, fields: Record<string, unknown>): ReadFlow {
  if (className === 'UniPCMultistepScheduler' && fields.use_flow_sigmas !== true) {
    throw unsupported(`config.use_flow_sigmas of a ${className}`, 'true', fields.use_flow_sigmas);
  }
  const name = className === 'UniPCMultistepScheduler' ? 'flow_shift' : 'shift';
  return {
    family: 'flow',
    trainSteps: checkInteger('config.num_train_timesteps', fields.num_train_timesteps, 1),
    shift: checkNumberAbove(`config.${name}`, fields[name], 0),
  };
}

function readBetas(
  scheduler: Scheduler,
  className: string,
  fields: Record<string, unknown>,
  given: Record<string, unknown>,
): ReadBetas {
  let powers = cumulate(betasOf(className, fields, given));
  // CogVideoX shifts first and rescales the shifted table.
  if (fields.snr_shift_scale !== undefined) {
    powers = shiftSnr(powers, checkNumberAbove('config.snr_shift_scale', fields.snr_shift_scale, 0));
  }
  if (flag('rescale_betas_zero_snr', fields)) {
    const last = powers.signal.length - 1;
    if (!(powers.signal[0] > powers.signal[last])) {
      failValue('config.rescale_betas_zero_snr', 'false for a schedule whose noise does not grow', true);
    }
    powers = rescaleToZeroTerminalSnr(powers);
    if (scheduler.terminalSignal !== undefined) {
      // For some betas this is above the entry before it; a transition between the two then counts as one that does nothing.
      powers.signal[last] = scheduler.terminalSignal;
      powers.noise[last] = 1 - scheduler.terminalSignal;
    }
  }
  // Classes without the field end on clean data.
  const endsClean = fields.set_alpha_to_one === undefined || flag('set_alpha_to_one', fields);
  const final = endsClean ? { signal: 1, noise: 0 } : { signal: powers.signal[0], noise: powers.noise[0] };
  return { family: 'variance-preserving', powers, final };
}

function betasOf(className: string, fields: Record<string, unknown>, given: Record<string, unknown>): Float64Array {
  if (fields.trained_betas !== null) {
    const betas = givenBetas('config.trained_betas', fields.trained_betas);
    if (given.num_train_timesteps !== undefined && given.num_train_timesteps !== betas.length) {
      failValue(
        'config.num_train_timesteps',
        `the length of config.trained_betas (${betas.length})`,
        given.num_train_timesteps,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    fields.num_train_timesteps = betas.length;
    return betas;
  }
  const schedule = oneOf(className, 'beta_schedule', fields.beta_schedule, BETA_SCHEDULES) as BetaSchedule;
  const steps = checkInteger('config.num_train_timesteps', fields.num_train_timesteps, 1, MAX_TABLE);
  const start = checkNumber('config.beta_start', fields.beta_start, 0, 1);
  const end = checkNumber('config.beta_end', fields.beta_end, 0, 1);
  return namedBetas(schedule, steps, start, end);
}

/** Bounds the tables, so that a mistyped number of timesteps is an error rather than gigabytes. */
const MAX_TABLE = 10_000_000;

function flag(name: string, fields: Record<string, unknown>): boolean {
  const value = fields[name];
  if (value === undefined) return false;
  if (typeof value !== 'boolean') failType(`config.${name}`, 'a boolean', value);
  return value;
}

function oneOf(className: string, name: string, value: unknown, allowed: readonly string[]): string {
  if (typeof value !== 'string' || !allowed.includes(value)) {
    const names = allowed.map((each) => `'${each}'`).join(' or ');
    throw unsupported(`config.${name} of a ${className}`, names, value);
  }
  return value;
}

function unsupported(argument: string, expected: string, received: unknown, reason?: string): SdpoError {
  const because = reason === undefined ? '' : ` (${reason})`;
  return new SdpoError(
    'ERR_SDPO_UNSUPPORTED_CONFIG',
    `Expected ${argument} to be ${expected}, received ${describe(received)}${because}`,
  );
}

/** An object without a class of its own; the prototype is compared by its own prototype so that objects of other realms pass. */
function isPlainObject(value: unknown): value is DiffusersConfig {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}
