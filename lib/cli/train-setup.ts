/** Makes what a config describes: schedule, loss, data, policy, evaluation and reference. */

import { resolve } from 'node:path';
import { PreferenceLoss } from '../loss/loss.js';
import { describe } from '../native/validate.js';
import { readConfigFile } from '../schedule/config-file.js';
import { NoiseSchedule } from '../schedule/schedule.js';
import { pairsFromParquet, pairsFromSafetensors } from '../trainer/data.js';
import type { LearningRateOptions } from '../trainer/learning-rate.js';
import type { EvaluationModuleContext, PolicyModuleContext } from '../trainer/modules.js';
import type { PreferenceTrainerOptions } from '../trainer/options.js';
import { referenceCache } from '../trainer/reference-cache.js';
import type { PairSource, Policy, Reference } from '../trainer/types.js';
import type { DataConfig, LoadedConfig, TrainConfig } from './config.js';
import { configError, withPath } from './config-error.js';
import { callModule } from './modules.js';
import { policyFiles } from './policy-files.js';

/** The parts of a training that both `train` and `calibrate` need. */
export interface TrainingParts {
  readonly loss: PreferenceLoss;
  readonly schedule: NoiseSchedule;
  readonly data: PairSource;
  readonly policy: Policy;
  /** Where it is not the policy's own. */
  readonly reference: Reference | undefined;
  readonly context: PolicyModuleContext;
}

/** The schedule that a config describes. */
export function makeSchedule({ config, base }: LoadedConfig): NoiseSchedule {
  const { preset, config: scheduler, ignore, ...options } = config.schedule;
  if (preset !== undefined) return withPath('schedule', () => NoiseSchedule.preset(preset, options));
  const content = typeof scheduler === 'string' ? readConfigFile(resolve(base, scheduler)) : scheduler!;
  const rename = (argument: string) => `schedule.${argument.replace(/^options\./, '')}`;
  return withPath(rename, () => NoiseSchedule.fromDiffusers(content, { ...options, ignore }));
}

/** The options of the learning-rate schedule that a config describes. */
export function scheduleOptions({ steps, learningRate }: TrainConfig['training']): LearningRateOptions {
  return { ...learningRate, ...(learningRate.decay === 'constant' ? {} : { steps }) };
}

/** The loss that a config describes. */
export function makeLoss({ config }: LoadedConfig, schedule: NoiseSchedule): PreferenceLoss {
  return withPath('loss', () => new PreferenceLoss({ ...config.loss, schedule }));
}

/** Makes all parts; the loss first, since its mistakes are found soonest. */
export async function makeParts(loaded: LoadedConfig): Promise<TrainingParts> {
  const { config, base } = loaded;
  const schedule = makeSchedule(loaded);
  const loss = makeLoss(loaded, schedule);
  const dataContext = { folder: base, seed: config.seed, schedule };
  const data = await makeData('data', config.data, base, dataContext);
  const context: PolicyModuleContext = { ...dataContext, shape: data.shape };
  const policy = await callModule<Policy>('policy', config.policy, base, context);
  if (typeof policy !== 'object' || policy === null) {
    throw configError(`Expected policy.module to give a policy, received ${describe(policy)}`);
  }
  const reference = await makeReference(loaded, schedule, data, policy);
  return { loss, schedule, data, policy, reference, context };
}

/** The cache of the policy's own reference, where the config asks for one. */
async function makeReference(
  { config, base }: LoadedConfig,
  schedule: NoiseSchedule,
  data: PairSource,
  policy: Policy,
): Promise<Reference | undefined> {
  if (config.reference.kind !== 'cache') return undefined;
  const { folder, content: kind = 'predictions' } = config.reference;
  const { pairsPerStep, timestepsPerPair, accumulate, noise, timesteps, sampling } = config.training;
  const { module, ...rest } = config.policy;
  if (policy.reference === undefined) {
    throw configError('Expected the policy to have a reference(), since reference.kind is "cache", received none');
  }
  return referenceCache({
    folder: resolve(base, folder),
    kind,
    compute: async ({ inputs }) => ({ prediction: await policy.reference!(inputs) }),
    // Whatever decides the rows and what the reference is: of weights that no option names only the policy itself knows.
    fingerprint: {
      ...{ data: data.fingerprint, seed: config.seed, schedule, pairsPerStep, timestepsPerPair, accumulate, noise },
      ...{ timesteps, sampling: sampling ?? null, policy: { module: resolve(base, module), ...rest } },
      ...{ policyFiles: await policyFiles(config.policy, base), reference: policy.referenceFingerprint ?? null },
    },
  });
}

/** @param path of that part in the config, for messages */
async function makeData(path: string, data: DataConfig, base: string, context: object): Promise<PairSource> {
  if (data.format === 'module') {
    const made = await callModule<PairSource | undefined>(path, data, base, context);
    if (made?.kind !== 'indexed' && made?.kind !== 'stream') {
      throw configError(`Expected ${path}.module to give a PairDataset or a PairStream, received ${describe(made)}`);
    }
    return made;
  }
  const paths = data.files.map((file) => resolve(base, file));
  if (data.format === 'safetensors') {
    const { format, files, ...options } = data;
    return pairsFromSafetensors(paths, options);
  }
  const { format, files, ...options } = data;
  return pairsFromParquet(paths, options);
}

/** The held-out pairs that a config names. */
export async function makeValidation(
  { config, base }: LoadedConfig,
  { context }: TrainingParts,
): Promise<PreferenceTrainerOptions['validation']> {
  if (config.validation === undefined) return undefined;
  const { data, previews, ...options } = config.validation;
  const { folder, seed, schedule } = context;
  const made = await makeData('validation.data', data, base, { folder, seed, schedule });
  if (made.kind !== 'indexed') {
    throw configError('Expected validation.data.module to give a PairDataset, received a PairStream');
  }
  return { ...options, data: made };
}

/** The evaluation that a config names. */
export async function makeEvaluation(
  { config, base }: LoadedConfig,
  { context, data }: TrainingParts,
): Promise<PreferenceTrainerOptions['evaluate']> {
  if (config.evaluation === undefined) return undefined;
  const { every, atStart, ...module } = config.evaluation;
  const full: EvaluationModuleContext = { ...context, data };
  const run = await callModule<NonNullable<PreferenceTrainerOptions['evaluate']>['run']>(
    'evaluation',
    module,
    base,
    full,
  );
  if (typeof run !== 'function') {
    throw configError(`Expected evaluation.module to give a function, received ${describe(run)}`);
  }
  return { every, atStart, run };
}
