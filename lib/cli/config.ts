/** The config of a training: its shape, and how it is read, changed by the command line, checked and completed. */

import { dirname, relative, resolve } from 'node:path';
import { isReferenceFree, type PreferenceLossOptions, readsBetaScale, USED_BY } from '../loss/options.js';
import { printable } from '../native/printable.js';
import type { Filled } from '../native/validate.js';
import { readConfigFile } from '../schedule/config-file.js';
import { PARAMETERS } from '../schedule/sampling.js';
import type {
  DiffusersConfig,
  PredictionType,
  PresetName,
  SamplerOptions,
  ShiftOptions,
} from '../schedule/schedule.js';
import type { ParquetPairOptions, SafetensorsPairOptions } from '../trainer/data.js';
import type { Sampling, TimestepSampling } from '../trainer/draws.js';
import type { LearningRateOptions } from '../trainer/learning-rate.js';
import type { BestStep } from '../trainer/types.js';
import { configError } from './config-error.js';
import { isOptionalField, problemsOf, readSchema } from './schema.js';
import { applySetting } from './set.js';

/** A function of a module of the user, and what it is given. */
export interface ModuleConfig {
  readonly module: string;
  readonly export?: string;
  readonly options?: Readonly<Record<string, unknown>>;
}

export type DataConfig =
  | ({ readonly format: 'safetensors'; readonly files: readonly string[] } & SafetensorsPairOptions)
  | ({ readonly format: 'parquet'; readonly files: readonly string[] } & ParquetPairOptions)
  | ({ readonly format: 'module' } & ModuleConfig);

type ReferenceConfig =
  | { readonly kind: 'policy' }
  | { readonly kind: 'moving'; readonly every: number; readonly decay?: number }
  | { readonly kind: 'cache'; readonly folder: string; readonly content?: 'predictions' | 'errors' };

/** A config with its defaults, as schema/train.schema.json describes it. */
export interface TrainConfig {
  readonly $schema?: string;
  readonly base: string;
  readonly policy: ModuleConfig;
  readonly data: DataConfig;
  readonly schedule: SamplerOptions &
    ShiftOptions & {
      readonly preset?: PresetName;
      readonly config?: DiffusersConfig | string;
      readonly predictionType?: PredictionType;
      readonly ignore?: readonly string[];
    };
  readonly loss: Omit<PreferenceLossOptions, 'schedule'>;
  readonly training: {
    readonly steps: number;
    readonly pairsPerStep: number;
    readonly timestepsPerPair: number;
    readonly accumulate: number;
    readonly noise: 'shared' | 'independent';
    readonly timesteps: TimestepSampling;
    readonly sampling?: Sampling;
    readonly learningRate: Filled<Pick<LearningRateOptions, 'peak' | 'warmupSteps' | 'decay'>> & { final?: number };
    readonly maxGradientNorm: number | null;
    readonly ema?: { readonly decay: number; readonly warmup: boolean };
    readonly onNonFinite: 'stop' | 'skip';
    readonly maxSkipped?: number;
    readonly bins: number;
    readonly logBinsEvery: number;
  };
  readonly evaluation?: ModuleConfig & { readonly every: number; readonly atStart: boolean };
  readonly validation?: {
    readonly data: DataConfig;
    readonly every: number;
    readonly atStart: boolean;
    readonly timestepsPerPair: number;
    readonly batchSize?: number;
    readonly best: BestStep['criterion'];
    readonly previews: number;
  };
  readonly checkpoints: { readonly every: number; readonly keep: number };
  readonly reference: ReferenceConfig;
  readonly beta?: {
    readonly target: number;
    readonly window: number;
    readonly warmup?: number;
    readonly range: readonly [low: number, high: number];
  };
  readonly threshold?: {
    readonly keep: number;
    readonly bins: number;
    readonly window: number;
    readonly warmup?: number;
  };
  readonly seed: number;
  /** Folder of a checkpoint, of another run mostly, that this run goes on from. */
  readonly fromCheckpoint?: string;
  readonly out: string;
}

/** A config that has been checked, with the folders it speaks of as absolute paths. */
export interface LoadedConfig {
  readonly config: TrainConfig;
  /** What the paths of the config are relative to. */
  readonly base: string;
  /** The folder of the run. */
  readonly out: string;
}

export interface ConfigChanges {
  /** Assignments of `--set`, in their order. */
  readonly set?: readonly string[];
  /** `--out` and `--from-checkpoint`, relative to the working directory; they take the place of the config's `out` and `fromCheckpoint`. */
  readonly out?: string;
  readonly fromCheckpoint?: string;
}

/**
 * Reads a config, applies the changes of the command line, checks it and fills in the defaults.
 * @throws SdpoError ERR_SDPO_CONFIG that names every path with a mistake.
 */
export function loadConfig(file: string, { set = [], ...paths }: ConfigChanges = {}): LoadedConfig {
  const config: Record<string, unknown> = { ...readConfigFile(file) };
  const schema = readSchema('train');
  for (const assignment of set) applySetting(config, assignment, (names) => isOptionalField(schema, names));
  const folder = dirname(resolve(file));
  const base = resolve(folder, typeof config.base === 'string' ? config.base : '.');
  for (const name of ['out', 'fromCheckpoint'] as const) {
    const path = paths[name];
    if (path !== undefined) config[name] = relative(base, resolve(path)) || '.';
  }

  const problems = problemsOf(schema, config, 'the config');
  const checked = config as unknown as TrainConfig;
  if (problems.length === 0) {
    dropUnused(checked);
    problems.push(...furtherProblems(checked));
  }
  if (problems.length > 0) {
    throw configError(
      `${printable(file)} is not a valid config:\n${problems.map((problem) => `  ${problem}`).join('\n')}`,
    );
  }
  return { config: checked, base, out: resolve(base, checked.out) };
}

/** The schema's defaults are those of all objectives; a run should not state options that its objective does not have. */
function dropUnused({ loss }: TrainConfig): void {
  const { properties = {} } = readSchema('train').properties?.loss ?? {};
  for (const [name, users] of Object.entries(USED_BY)) {
    const key = name as keyof typeof loss;
    const isDefault = JSON.stringify(loss[key]) === JSON.stringify(properties[name]?.default);
    if (isDefault && !users.includes(loss.objective)) delete loss[key];
  }
}

/** What a schema cannot say: fields that depend on one another. */
function furtherProblems({ schedule, training, loss, threshold, beta, reference }: TrainConfig): string[] {
  const problems: string[] = [];
  const demand = (fits: boolean, path: string, expected: string, received: unknown) => {
    if (!fits) problems.push(`Expected ${path} to be ${expected}, received ${JSON.stringify(received)}`);
  };
  const { preset, ignore } = schedule;
  demand(preset === undefined || ignore === undefined, 'schedule.ignore', 'absent with a preset', ignore);
  const { steps, pairsPerStep, accumulate, learningRate, onNonFinite, maxSkipped, timesteps } = training;
  const { peak, warmupSteps, decay, final } = learningRate;
  const rate = 'training.learningRate';
  demand(
    pairsPerStep % accumulate === 0,
    'training.accumulate',
    `a divisor of pairsPerStep (${pairsPerStep})`,
    accumulate,
  );
  demand(warmupSteps < steps, `${rate}.warmupSteps`, `less than training.steps (${steps})`, warmupSteps);
  demand(final === undefined || decay !== 'constant', `${rate}.final`, 'absent with the constant decay', final);
  demand(final === undefined || final <= peak, `${rate}.final`, `at most the peak (${peak})`, final);
  demand(
    maxSkipped === undefined || onNonFinite === 'skip',
    'training.maxSkipped',
    "absent with onNonFinite 'stop'",
    maxSkipped,
  );
  const { distribution, steps: list, order } = timesteps;
  for (const [name, owner] of Object.entries(PARAMETERS)) {
    const value = timesteps[name as keyof typeof PARAMETERS];
    const expected = `absent with distribution '${distribution}'`;
    demand(value === undefined || owner === distribution, `training.timesteps.${name}`, expected, value);
  }
  if (list === undefined) demand(order === undefined, 'training.timesteps.order', 'absent without steps', order);
  else {
    demand(distribution === 'uniform', 'training.timesteps.distribution', 'absent with steps', distribution);
    demand(timesteps.range === undefined, 'training.timesteps.range', 'absent with steps', timesteps.range);
  }
  if (timesteps.range !== undefined) {
    const [low, high] = timesteps.range;
    demand(low <= high, 'training.timesteps.range', '[low, high] with low <= high', timesteps.range);
  }
  const errorsOnly = reference.kind === 'cache' && reference.content === 'errors';
  demand(!errorsOnly || !loss.klWeight, 'loss.klWeight', "0 with reference.content 'errors'", loss.klWeight);
  for (const [name, tracker] of Object.entries({ threshold, beta })) {
    if (tracker?.warmup === undefined) continue;
    const { warmup, window } = tracker;
    demand(warmup <= window, `${name}.warmup`, `at most ${name}.window (${window})`, warmup);
  }
  if (beta !== undefined) {
    const [low, high] = beta.range;
    demand(low <= high, 'beta.range', '[low, high] with low <= high', beta.range);
  }
  const { objective } = loss;
  demand(
    beta === undefined || readsBetaScale(objective),
    'beta',
    `absent, since objective '${objective}' reads no betaScale`,
    beta,
  );
  const moves = reference.kind === 'moving';
  demand(
    !moves || !isReferenceFree(objective),
    'reference.kind',
    `policy, since objective '${objective}' has no reference`,
    'moving',
  );
  // Without a mask there is no threshold to adjust.
  const masked = USED_BY.maskThreshold.includes(loss.objective);
  demand(
    threshold === undefined || masked,
    'threshold',
    `absent, since objective '${loss.objective}' has no mask`,
    threshold,
  );
  return problems;
}
