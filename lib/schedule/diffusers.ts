/** Reads a diffusers scheduler config: which noise levels it means, and how its sampler goes down them. */

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
  type BetaSchedule,
  cumulate,
  givenBetas,
  namedBetas,
  type PowerTable,
  rescaleToZeroTerminalSnr,
  shiftSnr,
} from './betas.js';
import {
  DEFAULT_BETAS,
  DEMANDS,
  ELSEWHERE,
  type FieldValue,
  type FlowRule,
  REFUSED,
  SCHEDULER_CLASSES,
  SCHEDULERS,
  type Scheduler,
  type TableRule,
  WITHOUT_INFLUENCE,
} from './classes.js';
import type { DiffusersConfig } from './config-file.js';
import { boundOf, type Fields, flag, isPlainObject, oneOf, unsupported } from './fields.js';
import { FLOW_PREDICTIONS } from './flow.js';
import type { FlowLadderSpec } from './flow-ladder.js';
import { type Conversion, SPACINGS, type Spacing } from './ladder.js';
import type { PredictionType, TransitionVariance } from './levels.js';
import type { DynamicShift } from './shift.js';
import type { Power, TableLadderSpec } from './table-ladder.js';
import { VARIANCE_PRESERVING_PREDICTIONS } from './variance-preserving.js';

/** What a config says, ready to build noise levels from. */
export type ReadConfig = {
  readonly predictionType: PredictionType;
  /** The noise of the class's own transitions. */
  readonly variance: TransitionVariance;
  /** The fields that were followed, defaults filled in: an equivalent config. */
  readonly config: DiffusersConfig;
} & (ReadBetas | ReadFlow);

export interface ReadBetas {
  readonly family: 'variance-preserving';
  readonly powers: PowerTable;
  /** ᾱ behind the last transition, and its complement. */
  readonly final: Power;
  /** The class's own. */
  readonly ladder: TableLadderSpec;
}

export interface ReadFlow {
  readonly family: 'flow';
  readonly trainSteps: number;
  /** Undefined where the shift depends on the resolution. */
  readonly shift: number | undefined;
  readonly dynamic: DynamicShift | undefined;
  /** The class's own. */
  readonly ladder: FlowLadderSpec;
  /** Steps of 1/n are the default, since pipelines give the class sigmas of their own. */
  readonly uniform: boolean;
  readonly inverted: boolean;
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
  if (typeof className !== 'string' || !Object.hasOwn(SCHEDULERS, className)) {
    throw unsupported('config._class_name', `one of ${SCHEDULER_CLASSES.join(', ')}`, className, refusal(className));
  }
  const scheduler = SCHEDULERS[className]!;
  const given = givenFields(className, scheduler, config, ignore);
  const fields: Fields = { ...scheduler.reads, ...given };
  const { table, flow } = scheduler;
  const asFlow = flow !== undefined && (table === undefined || flag('use_flow_sigmas', fields));
  const allowed = asFlow ? FLOW_PREDICTIONS : VARIANCE_PRESERVING_PREDICTIONS;
  if (predictionType !== undefined) {
    fields.prediction_type = checkOneOf('options.predictionType', predictionType, allowed);
  } else {
    const known = scheduler.predictions ?? allowed;
    oneOf(className, 'prediction_type', fields.prediction_type, known);
  }
  const variance = varianceOf(className, scheduler, fields);
  const read = asFlow
    ? readFlow(className, flow, fields, scheduler, given, variance === 'fresh')
    : readBetas(className, table!, fields, scheduler, given);
  return {
    ...read,
    variance,
    predictionType: fields.prediction_type as PredictionType,
    config: { _class_name: className, ...fields },
  };
}

/** Why a class is not followed, and what to do. */
function refusal(className: unknown): string | undefined {
  if (typeof className !== 'string') return undefined;
  if (Object.hasOwn(REFUSED, className)) return REFUSED[className];
  return 'NoiseSchedule.flow and NoiseSchedule.variancePreserving take a schedule of any other class by its numbers';
}

/** The fields of `config` that the class reads and that are set, after every other field has been found harmless. */
function givenFields(
  className: string,
  scheduler: Scheduler,
  config: DiffusersConfig,
  ignore: readonly string[],
): Fields {
  const given: Fields = {};
  for (const [name, value] of Object.entries(config)) {
    if (name.startsWith('_') || value === undefined || value === null || ignore.includes(name)) continue;
    const argument = `config.${name}`;
    // What Python writes for no clipping; JSON says it by leaving the field out.
    if (name === 'lambda_min_clipped' && value === -Infinity) continue;
    if (Object.hasOwn(scheduler.reads, name)) {
      given[name] = value;
    } else if (scheduler.demands?.includes(name)) {
      const { harmless, effect } = DEMANDS[name]!;
      if (harmless.includes(value as FieldValue)) continue;
      throw unsupported(argument, orAbsent(harmless), value, `${effect}; ignore: ['${name}'] leaves it out`);
    } else if (Object.hasOwn(ELSEWHERE, name)) {
      if (ELSEWHERE[name]!.includes(value as FieldValue)) continue;
      if (name === 'use_flow_sigmas' && value === true && scheduler.table === undefined) continue;
      const reason = `a ${className} does not read it, but it means another schedule: take the config of the class that the model was trained with, or remove the field if it was trained without`;
      throw unsupported(argument, orAbsent(ELSEWHERE[name]!), value, reason);
    } else if (!WITHOUT_INFLUENCE.includes(name)) {
      throw new SdpoError(
        'ERR_SDPO_UNSUPPORTED_CONFIG',
        `Expected config to have only fields known to change nothing or to be supported, received ${JSON.stringify(name)} = ${describe(value)}, whose influence on ${className} is not known (where it has none on the noise levels, ignore: ['${name}'] leaves it out)`,
      );
    }
  }
  return given;
}

function orAbsent(values: readonly FieldValue[]): string {
  return [...values.map((each) => describe(each)), 'absent'].join(' or ');
}

function varianceOf(className: string, scheduler: Scheduler, fields: Fields): TransitionVariance {
  if (flag('stochastic_sampling', fields)) return 'fresh';
  const type = fields.variance_type;
  if (type === undefined || type === 'fixed_small' || type === 'fixed_small_log')
    return scheduler.variance ?? 'posterior';
  if (type === 'fixed_large' && className !== 'UnCLIPScheduler') return 'forward';
  const known =
    className === 'UnCLIPScheduler' ? "'fixed_small_log'" : "'fixed_small' or 'fixed_small_log' or 'fixed_large'";
  const reason = String(type).startsWith('learned')
    ? "the model predicts the variance of its transitions, which no schedule knows; ignore: ['variance_type'] takes that of the posterior"
    : "the class takes the root of a negative number for it; ignore: ['variance_type'] takes that of the posterior";
  throw unsupported('config.variance_type', known, type, reason);
}

function readFlow(
  className: string,
  rule: FlowRule,
  fields: Fields,
  scheduler: Scheduler,
  given: Fields,
  fresh: boolean,
): ReadFlow {
  const trainSteps = rule.trainSteps ?? checkInteger('config.num_train_timesteps', fields.num_train_timesteps, 1);
  const dynamic = flag('use_dynamic_shifting', fields) ? readDynamic(className, fields) : undefined;
  const shift = dynamic === undefined ? checkNumberAbove(`config.${rule.shift}`, fields[rule.shift], 0) : undefined;
  const conversion = conversionOf(fields);
  const terminal = terminalOf(fields);
  const ladder: FlowLadderSpec = {
    base: rule.base,
    lowShift: shift ?? 1,
    terminal,
    conversion,
    belowOne: rule.base === 'unipc',
    end: 0,
  };
  const inverted = rule.inverted ?? flag('invert_sigmas', fields);
  if (inverted && fresh) {
    const reason = `a ${className} that noises afresh takes x_t - (1-σ) v for x_0, which it is not where the velocity points to the data`;
    throw unsupported(
      'config.invert_sigmas',
      'false',
      true,
      `${reason}; NoiseSchedule.flow with omega given to each batch has the levels of timestep T - t`,
    );
  }
  const read = { family: 'flow', trainSteps, shift, dynamic, uniform: rule.uniform ?? false, inverted } as const;
  if (scheduler.table === undefined) {
    const [high, low] = [boundOf('sigma_max', fields, 1), boundOf('sigma_min', fields, 1)];
    return { ...read, ladder: { ...ladder, high, low } };
  }

  // Solvers for both families. Their conversions are of σ/a; only UniPC turns the levels of one into those of a flow.
  if (conversion !== undefined && !(rule.base === 'unipc' && conversion === 'karras')) {
    const name = `use_${conversion}_sigmas`;
    const reason = `a ${className} takes its levels for those of a flow, which they are not; ignore: ['${name}'] leaves the plain ladder`;
    throw unsupported(`config.${name}`, 'false with use_flow_sigmas', true, reason);
  }
  const held = rule.held === true || finalType(className, fields) === 'sigma_min';
  if (conversion === undefined && (!held || rule.base === 'unipc' || rule.held)) {
    return { ...read, ladder: { ...ladder, end: held ? 'last' : 0 } };
  }
  // What is left needs the betas.
  const { powers } = readBetas(className, scheduler.table, fields, scheduler, given);
  const ratio = (t: number) => Math.sqrt(powers.noise[t]! / powers.signal[t]!);
  if (conversion === undefined) return { ...read, ladder: { ...ladder, end: ratio(0) } };
  const high = boundOf('sigma_max', fields) ?? ratio(powers.signal.length - 1);
  const low = boundOf('sigma_min', fields) ?? ratio(0);
  return { ...read, ladder: { ...ladder, ratios: { high, low }, end: held ? 'last' : 0 } };
}

function readDynamic(className: string, fields: Fields): DynamicShift {
  const baseLength = checkNumber('config.base_image_seq_len', fields.base_image_seq_len, 0);
  return {
    type: oneOf(className, 'time_shift_type', fields.time_shift_type, [
      'exponential',
      'linear',
    ]) as DynamicShift['type'],
    baseShift: checkNumber('config.base_shift', fields.base_shift),
    maxShift: checkNumber('config.max_shift', fields.max_shift),
    baseLength,
    maxLength: checkNumberAbove('config.max_image_seq_len', fields.max_image_seq_len, baseLength),
  };
}

function terminalOf(fields: Fields): number {
  const value = fields.shift_terminal;
  if (value === undefined || value === null || value === false || value === 0) return 0;
  checkNumberAbove('config.shift_terminal', value, 0);
  if (!((value as number) < 1)) failValue('config.shift_terminal', 'a number in (0, 1)', value);
  return value as number;
}

function conversionOf(fields: Fields): Conversion | undefined {
  const set = (['karras', 'exponential', 'beta'] as const).filter((name) => flag(`use_${name}_sigmas`, fields));
  if (set.length > 1) {
    throw unsupported(`config.use_${set[1]}_sigmas`, `false with use_${set[0]}_sigmas`, true);
  }
  // Lu's lambdas are laid evenly in log σ, as those of the exponential ladder.
  return set[0] ?? (flag('use_lu_lambdas', fields) ? 'exponential' : undefined);
}

function finalType(className: string, fields: Fields): string {
  return oneOf(className, 'final_sigmas_type', fields.final_sigmas_type ?? 'zero', ['zero', 'sigma_min']);
}

function readBetas(className: string, rule: TableRule, fields: Fields, scheduler: Scheduler, given: Fields): ReadBetas {
  let powers = cumulate(betasOf(className, scheduler, fields, given));
  // CogVideoX shifts first and rescales the shifted table.
  if (fields.snr_shift_scale !== undefined) {
    powers = shiftSnr(powers, checkNumberAbove('config.snr_shift_scale', fields.snr_shift_scale, 0));
  }
  if (flag('rescale_betas_zero_snr', fields)) {
    const last = powers.signal.length - 1;
    if (!(powers.signal[0]! > powers.signal[last]!)) {
      failValue('config.rescale_betas_zero_snr', 'false for a schedule whose noise does not grow', true);
    }
    powers = rescaleToZeroTerminalSnr(powers);
    if (rule.terminalSignal !== undefined) {
      // For some betas this is above the entry before it; a transition between the two then counts as one that does nothing.
      powers.signal[last] = rule.terminalSignal;
      powers.noise[last] = 1 - rule.terminalSignal;
    }
  }
  // Classes without the field end on clean data.
  const endsClean = fields.set_alpha_to_one === undefined || flag('set_alpha_to_one', fields);
  const final = endsClean ? { signal: 1, noise: 0 } : { signal: powers.signal[0]!, noise: powers.noise[0]! };
  return { family: 'variance-preserving', powers, final, ladder: tableSpec(className, rule, fields, powers) };
}

function tableSpec(className: string, rule: TableRule, fields: Fields, powers: PowerTable): TableLadderSpec {
  const steps = powers.signal.length;
  if (fields.timestep_type !== undefined) {
    const type = oneOf(className, 'timestep_type', fields.timestep_type, ['discrete', 'continuous']);
    if (type === 'continuous' && fields.prediction_type === 'v_prediction') {
      const reason = `with v_prediction the timesteps are ¼ ln σ and not indices; ${REFUSED.EDMEulerScheduler!.split('; ')[1]}`;
      throw unsupported('config.timestep_type', "'discrete'", type, reason);
    }
  }
  if (terminalOf(fields) !== 0)
    throw unsupported('config.shift_terminal', 'absent without use_flow_sigmas', fields.shift_terminal);
  const unbounded = rule.unboundedKarras && fields.use_karras_sigmas;
  const ends: Pick<TableLadderSpec, 'low' | 'high'> =
    unbounded || fields.use_lu_lambdas ? {} : { low: boundOf('sigma_min', fields), high: boundOf('sigma_max', fields) };
  const interpolation = oneOf(className, 'interpolation_type', fields.interpolation_type ?? 'linear', [
    'linear',
    'log_linear',
  ]);
  const ratio = (t: number) => Math.sqrt(powers.noise[t]! / powers.signal[t]!);
  const conversion = conversionOf(fields);
  const logLinear = interpolation === 'log_linear';
  if ((conversion !== undefined || logLinear) && powers.signal[steps - 1] === 0) {
    const name = logLinear ? 'interpolation_type' : `use_${conversion}_sigmas`;
    throw unsupported(
      `config.${name}`,
      logLinear ? "'linear'" : 'false',
      fields[name],
      'the ladder would begin at an infinite σ, as the last ᾱ is 0',
    );
  }
  return {
    kind: rule.kind,
    rounded: rule.rounded,
    spacing: oneOf(className, 'timestep_spacing', fields.timestep_spacing ?? 'linspace', SPACINGS) as Spacing,
    offset: checkInteger('config.steps_offset', fields.steps_offset ?? 0, 0),
    conversion: conversion ?? (logLinear ? 'log_linear' : undefined),
    // A log-linear ladder goes over the whole table, and a conversion of it between the same ends.
    high: conversion === undefined ? undefined : (ends.high ?? (logLinear ? ratio(steps - 1) : undefined)),
    low: conversion === undefined ? undefined : (ends.low ?? (logLinear ? ratio(0) : undefined)),
    held: rule.held === true || finalType(className, fields) === 'sigma_min',
    clip: clipOf(fields),
    original:
      fields.original_inference_steps === undefined
        ? undefined
        : checkInteger('config.original_inference_steps', fields.original_inference_steps, 1, steps),
  };
}

function clipOf({ lambda_min_clipped: value }: Fields): number {
  return value === undefined || value === null ? -Infinity : checkNumber('config.lambda_min_clipped', value);
}

function betasOf(className: string, scheduler: Scheduler, fields: Fields, given: Fields): Float64Array {
  if (fields.trained_betas !== null && fields.trained_betas !== undefined) {
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
  const known = scheduler.betas ?? DEFAULT_BETAS;
  const schedule = oneOf(className, 'beta_schedule', fields.beta_schedule, known) as BetaSchedule;
  const steps = checkInteger('config.num_train_timesteps', fields.num_train_timesteps, 1, MAX_TABLE);
  const start = checkNumber('config.beta_start', fields.beta_start ?? 0, 0, 1);
  const end = checkNumber('config.beta_end', fields.beta_end ?? 0, 0, 1);
  return namedBetas(schedule, steps, start, end);
}

/** Bounds the tables, so that a mistyped number of timesteps is an error rather than gigabytes. */
const MAX_TABLE = 10_000_000;
