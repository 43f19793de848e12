/** Builds noise levels with their transitions from what a caller or a config says. */

import { checkInteger, checkNumberAbove, checkNumbers, checkOneOf, failType, failValue } from '../native/validate.js';
import type { PowerTable } from './betas.js';
import type { DiffusersConfig } from './config-file.js';
import { type ReadFlow, readDiffusers } from './diffusers.js';
import { FlowLevels, type FlowLevelsOptions } from './flow.js';
import { UNIFORM_FLOW } from './flow-ladder.js';
import { LADDERS, type LadderName } from './ladder.js';
import {
  type NoiseLevels,
  PREDICTION_TYPES,
  type PredictionType,
  type ScheduleFamily,
  type TransitionVariance,
  VARIANCES,
} from './levels.js';
import type { Preset } from './presets.js';
import { type DynamicShift, refuseShiftOptions, resolveShift, SHIFT_OPTIONS, type ShiftOptions } from './shift.js';
import { type Power, type TableLadderSpec, tableLadder, UNIFORM_TABLE } from './table-ladder.js';
import { VariancePreservingLevels } from './variance-preserving.js';

/** How the sampler is assumed to run; it decides the transitions and thereby ω, not the noise levels. */
export interface SamplerOptions {
  /** Number of steps n of the sampler, default 50 (or the number of training timesteps T if that is less); variance preserving: at most T. */
  inferenceSteps?: number | undefined;
  /**
   * The levels it goes down: those that the scheduler's class makes for n steps (`scheduler`, the default of most), steps of ⌊T/n⌋ timesteps or of
   * 1/n in the unshifted time (`uniform`, the default of FlowMatchEuler and without a class), `linear-quadratic` (flows), or the timesteps themselves in
   * the order in which the sampler takes them; the last step ends where the scheduler ends. docs/schedules.md, "Ladders".
   */
  ladder?: LadderName | readonly number[] | undefined;
  /** Noise of the transitions, default what the scheduler's class draws, and `posterior` without one. */
  variance?: TransitionVariance | undefined;
  /** Stochasticity η of `posterior` transitions in (0, 1], default 1 (the DDPM posterior). At 0 a transition has no density. */
  eta?: number | undefined;
}

export const SAMPLER_OPTIONS: readonly (keyof SamplerOptions)[] = ['inferenceSteps', 'ladder', 'variance', 'eta'];

/** Sampler options with their defaults. */
export interface Sampler {
  readonly inferenceSteps: number;
  readonly ladder: LadderName | readonly number[];
  readonly variance: TransitionVariance;
  readonly eta: number;
}

/** What a schedule was built from, as its record says it. */
export interface Source {
  preset?: string | undefined;
  config?: DiffusersConfig | undefined;
  mu?: number | undefined;
  alphasCumprod?: number[] | undefined;
  finalAlphaCumprod?: number | undefined;
}

/** Everything of a schedule. */
export interface Parts {
  readonly levels: NoiseLevels;
  readonly predictionType: PredictionType;
  readonly sampler: Sampler;
  readonly source: Source;
  /** For flows: what its levels are made of, so that they can be made again with another shift. */
  readonly flow?: FlowLevelsOptions | undefined;
  readonly dynamic?: DynamicShift | undefined;
}

/** Beyond this many steps a step of 1/n comes too close to the rounding of τ. */
const MAX_FLOW_STEPS = 1_000_000;

const DEFAULT_STEPS = 50;

interface SamplerDefaults {
  readonly family: ScheduleFamily;
  readonly trainSteps: number;
  readonly inverted?: boolean | undefined;
  /** Largest number of steps of the class's own ladder, where that has a bound. */
  readonly mostSteps?: number | undefined;
  /** Whether a scheduler's class is known. */
  readonly scheduler: boolean;
  readonly ladder: LadderName;
  readonly variance: TransitionVariance;
}

function checkSampler(options: SamplerOptions, defaults: SamplerDefaults): Sampler {
  const { family, trainSteps } = defaults;
  const listed = Array.isArray(options.ladder) || ArrayBuffer.isView(options.ladder);
  const ladder = listed ? checkList(options.ladder, defaults) : checkLadderName(options.ladder, defaults);
  const bound = ladder === 'scheduler' ? (defaults.mostSteps ?? Infinity) : Infinity;
  const most = Math.min(bound, family === 'flow' ? MAX_FLOW_STEPS : trainSteps);
  const steps = options.inferenceSteps ?? (typeof ladder === 'string' ? Math.min(DEFAULT_STEPS, most) : ladder.length);
  const inferenceSteps = checkInteger(
    'options.inferenceSteps',
    steps,
    1,
    typeof ladder === 'string' ? most : undefined,
  );
  if (typeof ladder !== 'string' && inferenceSteps !== ladder.length) {
    failValue('options.inferenceSteps', `the length of options.ladder (${ladder.length}) or absent`, inferenceSteps);
  }
  const variance = checkOneOf('options.variance', options.variance ?? defaults.variance, VARIANCES);
  const eta: unknown = options.eta ?? 1;
  if (variance !== 'posterior' && eta !== 1) {
    failValue('options.eta', `1 or absent with variance '${variance}'`, eta, 'ERR_SDPO_INVALID_OPTION');
  }
  const expected = 'a number in (0, 1] (at 0 transitions are deterministic and have no density)';
  if (typeof eta !== 'number') failType('options.eta', expected, eta);
  if (!(eta > 0 && eta <= 1)) failValue('options.eta', expected, eta);
  return { inferenceSteps, ladder, variance, eta };
}

function checkLadderName(value: unknown, { family, scheduler, ladder }: SamplerDefaults): LadderName {
  const allowed = LADDERS.filter((name) =>
    name === 'scheduler' ? scheduler : name === 'linear-quadratic' ? family === 'flow' : true,
  );
  return checkOneOf('options.ladder', value ?? ladder, allowed);
}

/** Timesteps a sampler visits, from noise to data. */
function checkList(value: unknown, { family, trainSteps, inverted = false }: SamplerDefaults): readonly number[] {
  const list = checkNumbers('options.ladder', value);
  if (list.length === 0)
    failValue('options.ladder', 'a list of at least one timestep', list, 'ERR_SDPO_INVALID_LENGTH');
  const flow = family === 'flow';
  for (let i = 0; i < list.length; i++) {
    const before = i === 0 ? (inverted ? -Infinity : Infinity) : list[i - 1]!;
    const inside = flow
      ? inverted
        ? list[i]! >= 0 && list[i]! < trainSteps
        : list[i]! > 0 && list[i]! <= trainSteps
      : list[i]! >= 0 && list[i]! <= trainSteps - 1;
    if (inside && (inverted ? list[i]! > before : list[i]! < before)) continue;
    const range = flow ? (inverted ? `[0, ${trainSteps})` : `(0, ${trainSteps}]`) : `[0, ${trainSteps - 1}]`;
    failValue(
      `options.ladder[${i}]`,
      `a number in ${range}${i === 0 ? '' : ` ${inverted ? 'above' : 'below'} ${before}, the one before it`}`,
      list[i],
    );
  }
  return Object.freeze(Array.from(list));
}

/** Parts of a schedule of a table of ᾱ. */
export function tableParts(
  powers: PowerTable,
  final: Power,
  predictionType: PredictionType,
  options: SamplerOptions,
  source: Source,
  scheduler?: { ladder: TableLadderSpec; variance: TransitionVariance },
): Parts {
  const sampler = checkSampler(options, {
    family: 'variance-preserving',
    trainSteps: powers.signal.length,
    mostSteps: scheduler?.ladder.original,
    scheduler: scheduler !== undefined,
    ladder: scheduler === undefined ? 'uniform' : 'scheduler',
    variance: scheduler?.variance ?? 'posterior',
  });
  const own = scheduler?.ladder ?? UNIFORM_TABLE;
  const spec =
    typeof sampler.ladder === 'string'
      ? sampler.ladder === 'uniform'
        ? UNIFORM_TABLE
        : own
      : listed(own, sampler.ladder);
  const ladder = tableLadder(powers, final, spec, sampler.inferenceSteps);
  return {
    levels: new VariancePreservingLevels(powers, ladder, predictionType, sampler),
    predictionType,
    sampler,
    source,
  };
}

function listed(own: TableLadderSpec, timesteps: readonly number[]): TableLadderSpec {
  return { ...own, kind: 'listed', conversion: undefined, timesteps, rounded: timesteps.every(Number.isInteger) };
}

/** Parts of a rectified flow; `scheduler` is what a config says of one. */
export function flowParts(
  { trainSteps, shift, predictionType }: { trainSteps: number; shift: number; predictionType: PredictionType },
  options: SamplerOptions & ShiftOptions,
  source: Source,
  scheduler?: ReadFlow & { variance: TransitionVariance; defaultLadder?: LadderName | undefined },
): Parts {
  const inverted = scheduler?.inverted ?? false;
  const sampler = checkSampler(options, {
    family: 'flow',
    trainSteps,
    inverted,
    scheduler: scheduler !== undefined,
    ladder: scheduler === undefined || scheduler.uniform ? 'uniform' : 'scheduler',
    ...(scheduler?.defaultLadder !== undefined && { ladder: scheduler.defaultLadder }),
    variance: scheduler?.variance ?? 'posterior',
  });
  const { inferenceSteps, ladder: name } = sampler;
  const own = scheduler?.ladder ?? UNIFORM_FLOW;
  if (name === 'scheduler' && own.base === 'flow-match' && trainSteps === 1 && inferenceSteps > 1) {
    const expected =
      "'uniform' or a list of timesteps, since the class's own ladder is one level where config.num_train_timesteps is 1";
    failValue('options.ladder', expected, name);
  }
  const ladder = typeof name !== 'string' ? name : name === 'scheduler' ? own : { ...own, base: name };
  const dynamic = scheduler?.dynamic;
  if (dynamic === undefined) refuseShiftOptions(options);
  const resolved = dynamic === undefined ? { shift } : resolveShift(options, dynamic, inferenceSteps);
  const flow = { trainSteps, shift: resolved.shift, predictionType, inferenceSteps, rule: sampler, ladder, inverted };
  const mu = resolved.mu === undefined ? {} : { mu: resolved.mu };
  return { levels: new FlowLevels(flow), predictionType, sampler, source: { ...source, ...mu }, flow, dynamic };
}

export interface ConfigOptions extends SamplerOptions, ShiftOptions {
  predictionType?: PredictionType | undefined;
  ignore?: readonly string[] | undefined;
}

/** Parts of the schedule that a diffusers config means; `preset` is the one that the config comes from. */
export function configParts(config: DiffusersConfig, options: ConfigOptions, origin: Source, preset?: Preset): Parts {
  const ignore = checkIgnore(options.ignore);
  if (options.predictionType !== undefined) {
    checkOneOf('options.predictionType', options.predictionType, PREDICTION_TYPES);
  }
  const read = readDiffusers(config, ignore, options.predictionType);
  const source = { ...origin, config: read.config };
  if (read.family === 'variance-preserving') {
    refuseShiftOptions(options);
    return tableParts(read.powers, read.final, read.predictionType, options, source, read);
  }
  const { pixelsPerToken, empirical, ladder: defaultLadder } = preset ?? {};
  const dynamic = read.dynamic && { ...read.dynamic, pixelsPerToken, empirical };
  const { trainSteps, shift = 1, predictionType } = read;
  return flowParts({ trainSteps, shift, predictionType }, options, source, { ...read, dynamic, defaultLadder });
}

/** The same flow with another shift. */
export function reshiftedParts(parts: Parts, options: ShiftOptions & { shift?: number }): Parts {
  const { flow, dynamic, sampler, source } = parts;
  if (flow === undefined) {
    failValue('the schedule of withShift', 'a flow', 'variance-preserving', 'ERR_SDPO_INVALID_OPTION');
  }
  if (dynamic === undefined) {
    const { shift, ...rest } = options;
    refuseShiftOptions(rest);
    const changed = { ...flow, shift: checkNumberAbove('options.shift', shift, 0) };
    return { ...parts, flow: changed, levels: new FlowLevels(changed) };
  }
  if (options.shift !== undefined) {
    const expected = `absent, since the shift comes from the resolution (give one of ${SHIFT_OPTIONS.slice(0, 4).join(', ')})`;
    failValue('options.shift', expected, options.shift, 'ERR_SDPO_INVALID_OPTION');
  }
  const { shift, mu } = resolveShift(options, dynamic, sampler.inferenceSteps);
  const changed = { ...flow, shift };
  return { ...parts, flow: changed, levels: new FlowLevels(changed), source: { ...source, mu } };
}

function checkIgnore(ignore: unknown): readonly string[] {
  if (ignore === undefined) return [];
  if (!Array.isArray(ignore)) failType('options.ignore', 'an array of field names', ignore);
  ignore.forEach((name, i) => {
    if (typeof name !== 'string') failType(`options.ignore[${i}]`, 'a field name', name);
  });
  return ignore;
}
