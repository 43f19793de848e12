/** Runs a training from its config: sets it up, shows how it goes, and leaves its files in the folder of the run. */

import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { PreferenceLoss } from '../loss/loss.js';
import { DivergenceError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { packageVersion } from '../selftest/diagnose.js';
import { encodeSafetensors } from '../tensor/safetensors.js';
import { BetaTracker } from '../trainer/beta-tracker.js';
import { CheckpointStore, type LatestCheckpoint, readCheckpoint } from '../trainer/checkpoint.js';
import { namingFiles } from '../trainer/file-error.js';
import { replaceDurably } from '../trainer/files.js';
import { learningRateSchedule } from '../trainer/learning-rate.js';
import type { TrainingWarning } from '../trainer/learning-watch.js';
import type { PreferenceTrainerOptions } from '../trainer/options.js';
import { checkPolicyTensors } from '../trainer/policy-state.js';
import { ThresholdTracker } from '../trainer/threshold-tracker.js';
import { timestepEdges } from '../trainer/timestep-bins.js';
import { PreferenceTrainer } from '../trainer/trainer.js';
import type { BestStep, MetricsWriter, Policy } from '../trainer/types.js';
import { jsonlWriter } from '../trainer/writers.js';
import type { TrainOptions } from './command-options.js';
import { type LoadedConfig, loadConfig, type TrainConfig } from './config.js';
import { configError, withPath } from './config-error.js';
import { duration } from './duration.js';
import { EXIT, type ExitCode } from './exit.js';
import { onInterrupt } from './interrupt.js';
import { previewWriter } from './previews.js';
import { describeProfile, type ProfileSummary, summarizeProfile } from './profile.js';
import { checkRunFolder, configDifferences, RUN_FILES, recordRun, writeJson } from './run-folder.js';
import { lockRunFolder } from './run-lock.js';
import { type OutputMode, shortNumber, type TrainOutput, trainOutput } from './train-output.js';
import { makeEvaluation, makeParts, makeValidation, scheduleOptions, type TrainingParts } from './train-setup.js';

/** How a training ended: after its last step, because the data had no more pairs, by a signal, or because it diverged. */
type Status = 'finished' | 'out-of-pairs' | 'interrupted' | 'diverged';

/** What `--json` prints last and what stays in summary.json. */
interface Summary {
  readonly status: Status;
  readonly step: number;
  readonly steps: number;
  /** Of this process, without loading the model and the data. */
  readonly seconds: number;
  /** The last log entries. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly evaluation?: Readonly<Record<string, number>> | undefined;
  /** The last entry of the held-out pairs, and the best step on them, of the whole run. */
  readonly validation?: {
    readonly metrics: Readonly<Record<string, number>> | undefined;
    readonly best: BestStep | undefined;
  };
  /** What this process warned of. */
  readonly warnings?: readonly TrainingWarning[] | undefined;
  readonly out: string;
  readonly profile?: ProfileSummary | undefined;
}

/** With what is measured between updates, as far as the config has it. */
type RunParts = TrainingParts & Pick<PreferenceTrainerOptions, 'evaluate' | 'validation'>;

export async function train(file: string, options: TrainOptions): Promise<ExitCode> {
  const loaded = loadConfig(file, options);
  const { steps } = loaded.config.training;
  checkRunFolder(loaded, options.resume ?? false);
  const output = trainOutput({ mode: modeOf(options), steps, every: options.logEvery });
  const parts = await makeParts(loaded);
  try {
    const evaluate = await makeEvaluation(loaded, parts);
    const validation = await makeValidation(loaded, parts);
    const leave = lockRunFolder(loaded.out, (message) => output.warn({ code: 'no-lock', message }));
    try {
      // Again, since another process may have come and gone while the model was loaded.
      const goesOn = checkRunFolder(loaded, options.resume ?? false);
      return await run(loaded, { ...parts, evaluate, validation }, goesOn, output, options);
    } finally {
      leave();
    }
  } finally {
    parts.policy.dispose?.();
  }
}

function modeOf({ quiet, json }: TrainOptions): OutputMode {
  if (json) return 'json';
  if (quiet) return 'quiet';
  return process.stderr.isTTY ? 'bar' : 'lines';
}

async function run(
  loaded: LoadedConfig,
  parts: RunParts,
  goesOn: boolean,
  output: TrainOutput,
  options: TrainOptions,
): Promise<ExitCode> {
  const { config, out } = loaded;
  const { steps } = config.training;
  const last = new LastEntries();
  const warnings: TrainingWarning[] = [];
  const interruption = onInterrupt(
    () => output.note('Stopping after this step, with a checkpoint; once more, and it stops at once.'),
    () => output.stop(),
  );
  try {
    const store = new CheckpointStore(join(out, RUN_FILES.checkpoints), { keep: config.checkpoints.keep });
    const latest = goesOn ? await store.latest() : undefined;
    for (const message of latest?.warnings ?? []) output.warn({ code: 'damaged-checkpoint', message });
    if (latest !== undefined) await store.prune(); // a smaller `keep` makes room before anything is written
    const log = jsonlWriter(join(out, RUN_FILES.metrics), { from: latest?.step ?? 0 });
    const trainer = makeTrainer(loaded, parts, {
      checkpoints: { store, every: config.checkpoints.every },
      writers: [...previewsOf(loaded, parts), log, output, last],
      signal: interruption.signal,
      onWarning(warning) {
        warnings.push(warning);
        output.warn(warning);
      },
    });
    await checkWeights(parts.policy);
    await beginOrGoOn(loaded, trainer, latest, output);
    if (trainer.step > steps) {
      throw configError(
        `Expected training.steps to be at least ${trainer.step}, the updates that were made before, received ${steps}`,
      );
    }
    // Only now, since everything before may have found that the config does not fit.
    await recordRun(loaded, latest !== undefined);
    // From here on the run needs the other one no more.
    if (latest === undefined && config.fromCheckpoint !== undefined) await store.save(await trainer.state());
    const first = trainer.step;
    const began = performance.now();
    output.start(first);
    const failure = await runToEnd(trainer, steps);
    output.stop();
    if (failure !== undefined && !(failure instanceof DivergenceError)) throw failure;

    const status = statusOf(trainer.step, steps, failure, interruption.signal);
    if (status !== 'diverged' && status !== 'interrupted') await writeWeights(loaded, parts.policy, trainer.step);
    const summary: Summary = {
      status,
      step: trainer.step,
      steps,
      seconds: (performance.now() - began) / 1000,
      metrics: last.train,
      evaluation: last.evaluation,
      ...(config.validation === undefined ? {} : { validation: { metrics: last.validation, best: trainer.best } }),
      ...(warnings.length === 0 ? {} : { warnings }),
      out,
      profile: options.profile ? profileOf(trainer.profile, trainer.step - first, loaded) : undefined,
    };
    await writeJson('write the summary of the run', join(out, RUN_FILES.summary), summary);
    printSummary(summary, first, options);
    if (failure !== undefined) throw failure;
    return status === 'interrupted' ? EXIT.interrupted : EXIT.ok;
  } finally {
    interruption.dispose();
  }
}

function previewsOf({ config, out }: LoadedConfig, { policy, validation }: RunParts): MetricsWriter[] {
  if (config.validation === undefined || validation === undefined) return [];
  const { previews: count } = config.validation;
  const folder = join(out, RUN_FILES.previews);
  return [previewWriter({ policy, data: validation.data, count, seed: config.seed, folder })];
}

/** What a policy gives as its weights is needed only after the last step, which is no time to find out that it cannot be written. */
async function checkWeights(policy: Policy): Promise<void> {
  if (typeof policy.weights !== 'function')
    throw configError('Expected policy.weights to be a function, received none');
  const weights: unknown = await policy.weights('policy');
  withPath(
    (argument) => argument,
    () => checkPolicyTensors('the result of policy.weights()', weights),
  );
}

/** Takes the state that the run goes on from: its own latest one, or where it has none that of `fromCheckpoint`. */
async function beginOrGoOn(
  { config, base }: LoadedConfig,
  trainer: PreferenceTrainer,
  latest: LatestCheckpoint | undefined,
  output: TrainOutput,
): Promise<void> {
  if (latest !== undefined) {
    await trainer.load(latest.state);
    output.note(`Goes on after step ${trainer.step}.`);
  } else if (config.fromCheckpoint !== undefined) {
    const path = resolve(base, config.fromCheckpoint);
    const differences = await trainer.load(await readCheckpoint(path), { free: 'all' });
    output.note(`Goes on after step ${trainer.step} of ${printable(path)}.`);
    // The config tells more than the trainer, to which a learning rate is a function.
    const run = dirname(dirname(path));
    const all = existsSync(join(run, RUN_FILES.config)) ? configDifferences(run, { config, base }) : differences;
    for (const { path, before, now } of all) {
      if (path !== 'fromCheckpoint') output.note(`  ${printable(`${path}: ${now}, there ${before}`)}`);
    }
  }
}

/** Gives what made the training stop, where something did; writers and reference are closed in any case. */
async function runToEnd(trainer: PreferenceTrainer, steps: number): Promise<unknown> {
  try {
    for await (const _ of trainer.run(steps)); // the writers are told of each step
  } catch (error) {
    await trainer.close().catch(() => {}); // the first error is the one to tell
    return error;
  }
  return trainer.close().then(
    () => undefined,
    (error: unknown) => error,
  );
}

function statusOf(step: number, steps: number, failure: unknown, signal: AbortSignal): Status {
  if (failure !== undefined) return 'diverged';
  if (step >= steps) return 'finished';
  return signal.aborted ? 'interrupted' : 'out-of-pairs';
}

function makeTrainer(
  { config }: LoadedConfig,
  { loss, data, policy, reference, evaluate, validation }: RunParts,
  rest: Pick<PreferenceTrainerOptions, 'checkpoints' | 'writers' | 'signal' | 'onWarning'>,
): PreferenceTrainer {
  const { steps, learningRate, maxGradientNorm, maxSkipped, ...training } = config.training;
  const rate = withPath('training.learningRate', () => learningRateSchedule(scheduleOptions(config.training)));
  const { threshold, beta } = config;
  const make = () =>
    new PreferenceTrainer({
      ...training,
      ...rest,
      ...{ policy, data, loss, reference, evaluate, validation, seed: config.seed },
      threshold: threshold && makeTracker(threshold, loss),
      beta: beta && new BetaTracker(beta),
      ...(config.reference.kind === 'moving' ? { referenceUpdate: updateOf(config.reference) } : {}),
      learningRate: rate,
      maxGradientNorm: maxGradientNorm ?? Infinity,
      maxSkipped,
    });
  return withPath((argument) => {
    const name = argument.replace(/^options\./, '');
    return Object.hasOwn(config, name.split('.')[0]!) ? name : `training.${name}`;
  }, make);
}

function updateOf({ kind, ...update }: Extract<TrainConfig['reference'], { kind: 'moving' }>) {
  return update;
}

function makeTracker(
  { bins, ...options }: NonNullable<TrainConfig['threshold']>,
  loss: PreferenceLoss,
): ThresholdTracker {
  const edges = timestepEdges(loss.options.schedule!, bins);
  return new ThresholdTracker({ ...options, edges, initial: loss.options.maskThreshold });
}

/** Keeps the last entry of each kind, for the summary. */
class LastEntries implements MetricsWriter {
  train: Readonly<Record<string, number>> = {};
  evaluation: Readonly<Record<string, number>> | undefined;
  validation: Readonly<Record<string, number>> | undefined;

  write({ kind, metrics }: Parameters<MetricsWriter['write']>[0]): void {
    this[kind] = metrics;
  }
}

const AGAIN = 'the training is done and has a checkpoint: --resume writes the weights again';

/** The parameters as files of their own; the average too, where there is one. */
async function writeWeights({ config, out }: LoadedConfig, policy: Policy, step: number): Promise<void> {
  const metadata = { sdpo: packageVersion(), step: String(step), objective: config.loss.objective };
  const write = async (name: string, which: 'policy' | 'average') => {
    const bytes = encodeSafetensors(await policy.weights(which), { ...metadata, weights: which });
    const path = join(out, name);
    const help = { ENOSPC: AGAIN, EDQUOT: AGAIN };
    // Not by write-file-atomic, which asks the system to write all in one call: that ends at 2 GiB.
    await namingFiles({ task: `write the weights after step ${step}`, path, help }, () => replaceDurably(path, bytes));
  };
  await write(RUN_FILES.weights, 'policy');
  if (config.training.ema !== undefined) await write(RUN_FILES.averageWeights, 'average');
}

function profileOf(
  profile: Readonly<Record<string, number>>,
  updates: number,
  { config }: LoadedConfig,
): ProfileSummary {
  return summarizeProfile(profile, updates, config.reference.kind !== 'cache');
}

const STATUS_TEXT: { readonly [K in Status]: string } = {
  finished: 'Finished',
  'out-of-pairs': 'No more pairs',
  interrupted: 'Interrupted',
  diverged: 'Diverged',
};

function printSummary(summary: Summary, first: number, { json, quiet }: TrainOptions): void {
  if (json) {
    console.log(JSON.stringify({ summary }));
    return;
  }
  const { status, step, steps, seconds, metrics, validation, warnings, out, profile } = summary;
  if (profile !== undefined) console.log(describeProfile(profile)); // asked for, hence also where it is quiet
  if (quiet) return;
  const loss = metrics.loss === undefined ? '' : `, loss ${shortNumber(metrics.loss)}`;
  console.log(
    `${STATUS_TEXT[status]} at step ${step} of ${steps}: ${step - first} steps in ${duration(seconds)}${loss}`,
  );
  const best = validation?.best;
  if (best !== undefined) {
    console.log(`Best on the held-out pairs: step ${best.step}, ${best.criterion} ${shortNumber(best.value)}`);
  }
  const files = Object.values(RUN_FILES).filter((name) => existsSync(join(out, name)));
  console.log(`${printable(out)}: ${files.join(', ')}`);
  if (warnings !== undefined) {
    const list = warnings.map(({ code, step: noticed }) => `${code} at step ${noticed}`).join(', ');
    console.log(`With warnings: ${list} (${RUN_FILES.summary} has them)`);
  }
  if (status === 'interrupted') console.log('Go on with the same command and --resume.');
}
