/** The digits experiment as a study runs it (study/docs/study.md): one run fine-tunes a base on one source of pairs with one arm, and measures it on the way. */

import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { DivergenceError, NoiseSchedule, noise, PreferenceLoss } from 'sdpo';
import { BetaTracker, PreferenceTrainer } from 'sdpo/trainer';
import type { Experiment, ExperimentContext, Measures, StudyCell, StudyRun } from 'sdpo-study';
import { BASE_STEPS, trainBase } from './base.js';
import { MASK_CONTROLS, type MaskControl, maskControl } from './controls.js';
import { loadDigits, PIXELS } from './data.js';
import { SCHEDULER_CONFIG, TRAIN_TIMESTEPS, TRAINING_INFERENCE_STEPS } from './diffusion.js';
import { type Evaluation, Evaluator, PREFERENCES, type Preference } from './evaluation.js';
import { dispose, type Params, ref } from './jax.js';
import { JUDGE_SHAPES } from './judge.js';
import { DENOISER_SHAPES, denoiserShapes, predict } from './model.js';
import { ownSamplePairs } from './own-samples.js';
import { datasetOf, makePairs, PAIR_SOURCES, type PairSource, type Pairs } from './pairs.js';
import { DenoiserPolicy } from './policy.js';
import { seedsOf } from './seeds.js';
import { loadWeights, saveWeights, WEIGHTS_FOLDER } from './weights.js';

/** Numbers that the declaration of the study fixes (its `options`). */
interface Options {
  steps: number;
  evaluateEvery: number;
  choosingSamples: number;
  reportingSamples: number;
  bases: number;
  /** Number of the first of them. Default 0, the committed one. */
  firstBase?: number;
  /** Steps of the base that stands for another, weaker model; 0 where no group asks for its samples. */
  otherModelSteps: number;
  learningRate: number;
  pairsPerStep: number;
  pairs: number;
  labelNoise: number;
  /** τ of every mask. */
  maskThreshold: number;
  /** Share of rows that a calibrated κ keeps at the first step. */
  keepFraction: number;
  /** Which digits are preferred. Default `low`. */
  preference?: Preference;
  /** Width of the denoiser. Default: that of the committed one. */
  width?: number;
}

/** What an arm or a group may set. */
interface Settings {
  /** κ is worked out for the source, so that the mask keeps `keepFraction` of the rows at the first step. */
  calibrated?: boolean;
  /** In place of the study's `keepFraction`. */
  keepFraction?: number;
  /** Multiplies the calibrated κ. */
  sharpnessFactor?: number;
  control?: MaskControl;
  learningRateFactor?: number;
  /** Steps of the sampler whose transitions the weight is of. */
  inferenceSteps?: number;
  /** The reference moves towards the policy after so many updates each, by `referenceDecay` (0: it becomes the policy). */
  referenceEvery?: number;
  referenceDecay?: number;
  /** β follows the logits so that their mean size is this. */
  betaTarget?: number;
}

// biome-ignore format: names read best in rows
const SETTINGS = [
  'calibrated', 'keepFraction', 'sharpnessFactor', 'control', 'learningRateFactor', 'inferenceSteps', 'referenceEvery', 'referenceDecay', 'betaTarget',
];

const ON_POLICY = {
  'on-policy': "the base's own samples, ranked by the judge; drawn once before training",
  'on-policy-refreshed': "the policy's own samples, ranked by the judge; drawn anew at every evaluation",
  'other-model': 'samples of another, weaker model (a base trained with fewer steps), ranked by the judge',
} as const;

const BINS = 10;
const SHOWN_SAMPLES = 16;
/** Images behind the pairs of a model's own samples. */
const OWN_IMAGES = 2000;
const REFRESHED_IMAGES = 1000;
const CALIBRATION_ROWS = 2048;
const CLEAN = 'drawn from the real digits, a preferred one and another';

const METRICS = {
  good: 'good: valid and a preferred digit (share of samples)',
  reward: "reward: judge's probability of a preferred digit",
  valid: 'valid: as near to a real digit as real digits are (share of samples)',
  coverage: 'coverage: preferred training digits that are nearest to a good sample (share)',
};

/** What is loaded once in a process. */
class World {
  readonly digits = loadDigits();
  readonly judge = loadWeights(new URL('judge.safetensors', WEIGHTS_FOLDER), JUDGE_SHAPES);
  readonly options: Options;
  readonly choosing: Evaluator;
  readonly reporting: Evaluator;
  readonly #shared: string;
  readonly #bases = new Map<string, Params>();
  readonly #before = new Map<number, number[][]>();
  readonly #pairs = new Map<string, Pairs>();

  isOf({ options, shared }: ExperimentContext): boolean {
    return shared === this.#shared && JSON.stringify(options) === JSON.stringify(this.options);
  }

  constructor({ options, shared }: ExperimentContext) {
    this.options = options as unknown as Options;
    this.#shared = shared;
    const { choosingSamples, reportingSamples, preference } = this.options;
    this.choosing = new Evaluator(this.digits, this.judge, choosingSamples, 0, preference);
    this.reporting = new Evaluator(this.digits, this.judge, reportingSamples, choosingSamples, preference);
  }

  /** A base by its number; 0 is the committed one. */
  base(index: number): Params {
    return this.#weights(`base-${index}`, index === 0 ? new URL('base.safetensors', WEIGHTS_FOLDER) : undefined);
  }

  /** Samples of a base from the noise that runs are reported with. */
  before(index: number): number[][] {
    const known = this.#before.get(index) ?? shownSamples(this.reporting.evaluate(this.base(index)).images);
    this.#before.set(index, known);
    return known;
  }

  get otherModel(): Params {
    return this.#weights('other-model');
  }

  #weights(name: string, file = pathToFileURL(join(this.#shared, `${name}.safetensors`))): Params {
    const known = this.#bases.get(name) ?? loadWeights(file, shapesOf(this.options));
    this.#bases.set(name, known);
    return known;
  }

  /** Training pairs of a source for a seed. Models' own samples are drawn once per process and kept. */
  pairs(source: string, seed: number, base: number): Pairs {
    const { pairs: count, labelNoise: swapped, preference } = this.options;
    const seeds = seedsOf('training pairs', seed);
    if (source in PAIR_SOURCES) {
      return makePairs(this.digits.train, { source: source as PairSource, count, seeds, swapped, preference });
    }
    const key = `${source === 'other-model' ? source : `base ${base}`} ${seed}`;
    const model = source === 'other-model' ? this.otherModel : this.base(base);
    const known =
      this.#pairs.get(key) ??
      ownSamplePairs({ model, judge: this.judge, images: OWN_IMAGES, pairs: count, seeds, swapped, preference });
    this.#pairs.set(key, known);
    return known;
  }
}

let world: World | undefined;

const experiment: Experiment = {
  metrics: METRICS,
  sources: {
    ...Object.fromEntries(Object.entries(PAIR_SOURCES).map(([name, sides]) => [name, describeSource(sides)])),
    ...ON_POLICY,
  },

  /** Trains the bases that are not committed, and the weaker model. */
  async prepare(context) {
    const { bases, firstBase = 0, otherModelSteps, width } = checkedOptions(context.options);
    const { train } = loadDigits();
    const missing = [
      ...Array.from({ length: bases }, (_, i) => firstBase + i)
        .filter((index) => index > 0)
        .map((index) => ({ name: `base-${index}`, steps: BASE_STEPS, seed: 9 + index })),
      { name: 'other-model', steps: otherModelSteps, seed: 100 },
    ].filter(({ name, steps }) => steps > 0 && !existsSync(join(context.shared, `${name}.safetensors`)));
    const total = missing.reduce((sum, { steps }) => sum + steps, 0);
    let done = 0;
    for (const { name, steps, seed } of missing) {
      const before = done;
      const params = await trainBase(train, {
        steps,
        seed,
        width,
        onStep: (step) => context.progress(before + step, total),
      });
      done += steps;
      const file = join(context.shared, `${name}.safetensors`);
      // Renamed when complete: a process that is killed leaves no half base.
      writeFileSync(`${file}.part`, saveWeights(params, { steps: String(steps), seed: String(seed) }));
      renameSync(`${file}.part`, file);
      dispose(params);
    }
  },

  async run(cell, context) {
    if (world === undefined || !world.isOf(context)) world = new World(context);
    return await runCell(cell, context, world);
  },
};

export default experiment;

async function runCell(cell: StudyCell, context: ExperimentContext, world: World): Promise<StudyRun> {
  const began = performance.now();
  const { options, judge } = world;
  const settings = readSettings(cell);
  const { steps, evaluateEvery } = options;
  const baseIndex = (options.firstBase ?? 0) + (cell.seed % options.bases);
  const base = world.base(baseIndex);
  let pairs = world.pairs(cell.source, cell.seed, baseIndex);
  const schedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, {
    inferenceSteps: settings.inferenceSteps ?? TRAINING_INFERENCE_STEPS,
  });
  const scored = cell.loss.objective === 'dpo-cm' || cell.loss.objective === 'sdpo';
  const masked = scored && cell.loss.maskThreshold !== 0;
  const { maskThreshold } = options;
  const keepFraction = settings.keepFraction ?? options.keepFraction;
  const loss = new PreferenceLoss({
    ...cell.loss,
    schedule,
    beta: cell.beta,
    ...(masked ? { maskThreshold } : {}),
    ...(settings.calibrated
      ? {
          weightSharpness:
            (settings.sharpnessFactor ?? 1) *
            calibratedSharpness(base, pairs, schedule, { maskThreshold, keepFraction }, cell.seed),
        }
      : {}),
  });
  const seeds = seedsOf('training', cell.seed);
  const policy = new DenoiserPolicy(base);
  let best: { step: number; good: number; params: Params } | undefined;
  const trajectory: { step: number; metrics: Measures }[] = [];
  const data = datasetOf(pairs, cell.source);
  const trainer = new PreferenceTrainer({
    policy,
    // Read through the variable, so that refreshed pairs are seen.
    data: { ...data, get: (index) => datasetOf(pairs, cell.source).get(index) },
    loss,
    seed: seeds.draws,
    pairsPerStep: options.pairsPerStep,
    sampling: 'replacement',
    learningRate: options.learningRate * (settings.learningRateFactor ?? 1),
    referenceUpdate:
      settings.referenceEvery === undefined
        ? undefined
        : { every: settings.referenceEvery, decay: settings.referenceDecay },
    beta: settings.betaTarget === undefined ? undefined : new BetaTracker({ target: settings.betaTarget }),
    maxGradientNorm: 1,
    bins: BINS,
    logBinsEvery: 0,
    signal: context.signal,
    evaluate: {
      every: evaluateEvery,
      atStart: true,
      run({ step }) {
        const metrics = measuresOf(world.choosing.evaluate(policy.params));
        trajectory.push({ step, metrics });
        if (step > 0 && !(metrics.good <= (best?.good ?? -1))) {
          if (best !== undefined) dispose(best.params);
          best = { step, good: metrics.good, params: ref(policy.params) };
        }
        if (cell.source === 'on-policy-refreshed' && step > 0) {
          const { pairs: count, labelNoise: swapped, preference } = options;
          // Other samples at each step: the seeds of the source are those of the run, moved along.
          const own = { draws: seeds.draws + (step << 20), noise: seeds.noise + (step << 20) };
          const model = policy.params;
          pairs = ownSamplePairs({
            model,
            judge,
            images: REFRESHED_IMAGES,
            pairs: count,
            seeds: own,
            swapped,
            preference,
          });
        }
        return metrics;
      },
    },
    beforeLoss:
      settings.control === undefined
        ? undefined
        : maskControl(settings.control, seeds.noise, (1 - keepFraction) * TRAIN_TIMESTEPS),
  });
  let diverged: string | undefined;
  try {
    for await (const { step } of trainer.run(steps)) context.progress(step, steps);
  } catch (error) {
    if (!(error instanceof DivergenceError)) throw error;
    diverged = error.message;
  }
  const last = world.reporting.evaluate(policy.params);
  const final = measuresOf(last);
  const atPeak = best === undefined || best.step === steps ? final : measuresOf(world.reporting.evaluate(best.params));
  const peak = { step: best?.step ?? 0, metrics: atPeak };
  if (best !== undefined) dispose(best.params);
  policy.dispose();
  return {
    cell,
    trajectory,
    final,
    peak,
    bins: binsOf(trainer),
    samples: shownSamples(last.images),
    before: world.before(baseIndex),
    steps: trainer.step,
    ...(diverged === undefined ? {} : { diverged }),
    seconds: (performance.now() - began) / 1000,
  };
}

/** The first images as gray values. */
function shownSamples(images: Float32Array): number[][] {
  return Array.from({ length: SHOWN_SAMPLES }, (_, row) =>
    Array.from(images.subarray(row * PIXELS, (row + 1) * PIXELS), (value) => Math.round((value + 1) * 127.5)),
  );
}

/** The options of a study, where another width needs bases that are not the committed one. */
function checkedOptions(given: ExperimentContext['options']): Options {
  const options = given as unknown as Options;
  if (options.width !== undefined && (options.firstBase ?? 0) === 0)
    throw new Error(
      `Expected firstBase to be at least 1 where width is given, since base 0 is committed, received ${options.firstBase ?? 0}`,
    );
  if (options.preference !== undefined && !Object.hasOwn(PREFERENCES, options.preference))
    throw new Error(`Expected preference to be one of ${Object.keys(PREFERENCES)}, received ${options.preference}`);
  return options;
}

function shapesOf({ width }: Options) {
  return width === undefined ? DENOISER_SHAPES : denoiserShapes(width);
}

function readSettings({ id, settings }: StudyCell): Settings {
  for (const name of Object.keys(settings)) {
    if (!SETTINGS.includes(name)) throw new Error(`Expected settings of ${id} among ${SETTINGS}, received ${name}`);
  }
  const { control } = settings as Settings;
  if (control !== undefined && !MASK_CONTROLS.includes(control)) {
    throw new Error(`Expected the control of ${id} to be one of ${MASK_CONTROLS}, received ${control}`);
  }
  return settings as Settings;
}

function measuresOf({ good, reward, valid, coverage }: Evaluation) {
  return { good, reward, valid, coverage };
}

/**
 * κ with which the mask keeps the stated share of rows of these pairs while the policy is still the base: a row is kept where
 * κ ω max(m_c, m_r) ≤ -ln τ, so κ is -ln τ over that quantile of ω max(m_c, m_r).
 */
function calibratedSharpness(
  base: Params,
  pairs: Pairs,
  schedule: NoiseSchedule,
  { maskThreshold, keepFraction }: Pick<Options, 'maskThreshold' | 'keepFraction'>,
  seed: number,
): number {
  const rows = CALIBRATION_ROWS;
  const { noise: seedOfNoise } = seedsOf('calibration', seed);
  const epsilon = noise(seedOfNoise, 0, new Float32Array(rows * PIXELS));
  const timesteps = Float64Array.from({ length: rows }, (_, row) => Math.floor(((row + 0.5) / rows) * TRAIN_TIMESTEPS));
  const branch = (images: Float32Array) => {
    const x0 = new Float32Array(rows * PIXELS);
    // Every timestep meets pairs of the whole set: rows go through them with a stride that has no factor of 2 or 5.
    for (let row = 0; row < rows; row++) {
      const pair = (row * 617) % pairs.count;
      x0.set(images.subarray(pair * PIXELS, (pair + 1) * PIXELS), row * PIXELS);
    }
    const policy = predict(base, schedule.addNoise(x0, epsilon, timesteps), timesteps);
    return { policy, reference: policy, target: schedule.target(x0, epsilon, timesteps) };
  };
  const loss = new PreferenceLoss({ objective: 'sdpo', schedule, beta: 1, weightSharpness: 1 });
  const out = loss.evaluate(
    { timesteps, chosen: branch(pairs.chosen), rejected: branch(pairs.rejected) },
    { gradients: false },
  );
  const { logWeightChosen, logWeightRejected } = out.rows;
  const exponents = logWeightChosen.map((value, row) => -Math.min(value, logWeightRejected[row]!)).sort();
  return -Math.log(maskThreshold) / exponents[Math.floor(keepFraction * (rows - 1))]!;
}

/** The training's statistics by timestep, null where there was none. */
function binsOf(trainer: PreferenceTrainer): Record<string, (number | null)[]> {
  const bins = trainer.bins.statistics();
  return Object.fromEntries(
    Object.keys(bins[0]!).map((name) => [
      name,
      bins.map((bin) => {
        const value = bin[name as keyof typeof bin];
        return Number.isFinite(value) ? value : null;
      }),
    ]),
  );
}

function describeSource({ preferred, other }: (typeof PAIR_SOURCES)[PairSource]): string {
  const words = (treatment: object) =>
    Object.entries(treatment)
      .map(([name, value]) => (value === true ? name : `${name} ${value}`))
      .join(', ') || 'clean';
  return `${CLEAN}; preferred ${words(preferred)}, rejected ${words(other)}`;
}
