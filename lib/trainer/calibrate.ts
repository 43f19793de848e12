/** Measures the reference's own errors on a few batches and proposes the options of the loss that no default can know. */

import { setImmediate as yieldToEvents } from 'node:timers/promises';
import { PreferenceLoss } from '../loss/loss.js';
import { AbortError, SdpoError } from '../native/errors.js';
import {
  checkInteger,
  checkNumberAbove,
  checkNumberBetween,
  checkOneOf,
  checkOptions,
  checkSignal,
  failType,
} from '../native/validate.js';
import { NoiseSchedule } from '../schedule/schedule.js';
import { createRandom, noise, type Seed } from '../tensor/noise.js';
import type { LatentArray } from '../tensor/operand.js';
import { split, Tensor } from '../tensor/tensor.js';
import { type Calibration, calibrationOf } from './calibration.js';
import type { CalibrationRow } from './calibration-row.js';
import { type CalibrationTrialOptions, checkTrial, runTrial } from './calibration-trial.js';
import { elementCount } from './data-pair.js';
import { placeOf, TIMESTEP_SAMPLING, type TimestepSampling } from './draws.js';
import { RowAssembler } from './row-assembler.js';
import { checkEdges, timestepEdges } from './timestep-bins.js';
import type { PairSource, Policy, PreferencePair, Reference, ReferencePrediction, TrainingRows } from './types.js';

export { type Calibration, type CalibrationBin, formatCalibration } from './calibration.js';
export type { CalibrationTrial, CalibrationTrialOptions } from './calibration-trial.js';

export interface CalibrateOptions<C = unknown> {
  /** The policy before it is trained: its `reference` predicts where it has one, `predict` otherwise. Either this or `reference`. */
  policy?: Pick<Policy<C>, 'predict' | 'reference'> | undefined;
  /** What stands in for the reference model in training. */
  reference?: Reference<C> | Reference<C>['predict'] | undefined;
  data: PairSource<C>;
  schedule: NoiseSchedule;
  /** Batches to measure, default 8, of `batchSize` pairs, default 32, each at one timestep. */
  batches?: number | undefined;
  batchSize?: number | undefined;
  /** Fraction of rows to keep, in (0, 1). Default 0.8. */
  keep?: number | undefined;
  /** τ in (0, 1), default 0.9, for which κ is proposed. With `kappa` as well, both are judged and nothing but β is proposed. */
  tau?: number | undefined;
  /** κ > 0, for which τ is proposed. */
  kappa?: number | undefined;
  /** Bins of timesteps: how many of equal width, default 10, or their inner edges. */
  bins?: number | readonly number[] | undefined;
  /** How training will draw timesteps. Default: uniformly over all. */
  timesteps?: TimestepSampling | undefined;
  /** Whether the branches of a pair get the same noise. Default 'shared'. */
  noise?: 'shared' | 'independent' | undefined;
  /** Of the pairs, timesteps and noise. Default 0. */
  seed?: Seed | undefined;
  /** As the loss will have it. Default 'mean'. */
  logRatioReduction?: 'mean' | 'sum' | undefined;
  /** As the loss will have it; decides what β multiplies. Default 'constant'. */
  timestepWeighting?: 'constant' | 'elbo' | undefined;
  /** By which share of its spread the first steps are assumed to change the difference of the branches' errors. Default 0.01. */
  relativeImprovement?: number | undefined;
  /** Standard deviation of the logit that β should then give; its root mean square with a `trial`. Default 1. */
  logitSpread?: number | undefined;
  /**
   * A short training that tells how fast the errors drift, in place of `relativeImprovement`: for a `policy` with everything that training takes. It ends as it
   * was (`state`, `load`). Where nothing can be told from it, β is the assumed one, and a warning says why.
   */
  trial?: CalibrationTrialOptions | undefined;
  signal?: AbortSignal | undefined;
}

const FIELDS = [
  'policy',
  'reference',
  'data',
  'schedule',
  'batches',
  'batchSize',
  'keep',
  'tau',
  'kappa',
  'bins',
  'timesteps',
  'noise',
  'seed',
  'logRatioReduction',
  'timestepWeighting',
  'relativeImprovement',
  'logitSpread',
  'trial',
  'signal',
];

/**
 * Proposes κ for τ (or τ for κ) such that a fraction of the rows is kept, per bin of timesteps and overall, and an order of magnitude for β, from
 * the reference's own errors: at the start of training the policy is the reference. It is meant for the weight ratios 'policy/data' and
 * 'reference/data' and for the default transitions of the schedule. The errors grow as training moves the policy, so fewer rows are kept later on;
 * `ThresholdTracker` keeps the fraction.
 *
 * Pairs are drawn with replacement from a data set, and taken in order from a stream.
 *
 * @throws TypeError or RangeError for wrong options; AbortError; whatever the policy, the reference or the data throw
 */
export async function calibrate<C = unknown>(options: CalibrateOptions<C>): Promise<Calibration> {
  options = checkOptions('options', options, FIELDS);
  const { policy, reference, data, schedule, signal } = options as CalibrateOptions<C>;
  const predict = predictor(policy, reference);
  if (typeof data !== 'object' || data === null || !['indexed', 'stream'].includes(data.kind)) {
    failType('options.data', 'a source of preference pairs', data);
  }
  if (!(schedule instanceof NoiseSchedule)) failType('options.schedule', 'a NoiseSchedule', schedule);
  if (signal !== undefined) checkSignal('options.signal', signal);
  checkOptions('options.timesteps', options.timesteps ?? {}, TIMESTEP_SAMPLING);
  const batches = checkInteger('options.batches', options.batches ?? 8, 1);
  const batchSize = checkInteger('options.batchSize', options.batchSize ?? 32, 1);
  const { bins = 10 } = options;
  const sum = checkOneOf('options.logRatioReduction', options.logRatioReduction ?? 'mean', ['mean', 'sum']) === 'sum';
  const goal = {
    keep: checkNumberBetween('options.keep', options.keep ?? 0.8, 0, 1),
    tau: options.tau === undefined ? undefined : checkNumberBetween('options.tau', options.tau, 0, 1),
    kappa: options.kappa === undefined ? undefined : checkNumberAbove('options.kappa', options.kappa, 0),
    edges:
      typeof bins === 'number'
        ? timestepEdges(schedule, checkInteger('options.bins', bins, 1))
        : checkEdges('options.bins', bins),
    reduction: sum ? elementCount(data.shape) : 1,
    timestepWeighting: checkOneOf('options.timestepWeighting', options.timestepWeighting ?? 'constant', [
      'constant',
      'elbo',
    ]),
    relativeImprovement: checkNumberAbove('options.relativeImprovement', options.relativeImprovement ?? 0.01, 0),
    logitSpread: checkNumberAbove('options.logitSpread', options.logitSpread ?? 1, 0),
  };
  const drawn = checkOneOf('options.noise', options.noise ?? 'shared', ['shared', 'independent']);
  const seed = options.seed ?? 0;
  const trial = options.trial && checkTrial('options.trial', options.trial);
  /** Always the same rows. */
  const measure = async (predict: Reference<C>['predict']): Promise<CalibrationRow[]> => {
    const random = createRandom(seed);
    const take = taker(data, random);
    const assembler = new RowAssembler(schedule, data.shape);
    const measured: CalibrationRow[] = [];
    try {
      for (let batch = 0; batch < batches; batch++) {
        await yieldToEvents(); // a signal is an event, and models may compute without ever giving it a turn
        if (signal?.aborted) throw new AbortError(signal.reason);
        const pairs = await take.pairs(batchSize);
        if (pairs.length === 0) break;
        const place = placeOf(options.timesteps ?? {}, batch * batchSize);
        const timesteps = schedule.sampleTimesteps(pairs.length, { ...options.timesteps, random, ...place });
        const offset = 2 * batch * batchSize * assembler.size;
        const rows = assembler.assemble({
          ...{ step: batch, part: 0, pairs, timesteps, noise: drawn },
          draw(chosen, rejected) {
            noise(seed, offset, chosen);
            if (rejected !== undefined) noise(seed, offset + batchSize * assembler.size, rejected);
          },
        });
        const errors = errorsOf(rows, await predict(rows), schedule);
        schedule.omegas(timesteps).forEach((omega, row) => {
          const [timestep, errorChosen, errorRejected] = [timesteps[row], errors.chosen[row], errors.rejected[row]];
          measured.push({ timestep: timestep!, omega, errorChosen: errorChosen!, errorRejected: errorRejected! });
        });
      }
    } finally {
      await take.close();
    }
    return measured;
  };
  const measured = await measure(predict);
  if (measured.length === 0) {
    throw new SdpoError('ERR_SDPO_DATA', 'Expected options.data to have at least one pair, received none');
  }
  if (trial === undefined) return calibrationOf(measured, goal);
  if (policy === undefined) failType('options.policy', 'a policy, since there is a trial', policy);
  const trained = policy as Policy<C>;
  const errors = await runTrial<C>({
    options: trial,
    policy: trained,
    training: {
      ...{ data, noise: drawn, pairsPerStep: batchSize, seed: Number(BigInt.asUintN(48, BigInt(seed))) },
      ...(options.timesteps === undefined ? {} : { timesteps: options.timesteps }),
      ...(signal === undefined ? {} : { signal }),
    },
    measure: () => measure(async ({ inputs }) => ({ prediction: await trained.predict(inputs) })),
  });
  return calibrationOf(measured, goal, { options: trial, errors });
}

function predictor<C>(
  policy: CalibrateOptions<C>['policy'],
  reference: CalibrateOptions<C>['reference'],
): Reference<C>['predict'] {
  if ((policy === undefined) === (reference === undefined)) {
    failType('options', 'given either policy or reference', policy === undefined ? 'neither' : 'both');
  }
  if (typeof reference === 'function') return reference;
  if (reference !== undefined) {
    if (typeof reference?.predict !== 'function')
      failType('options.reference', 'a function, or an object with predict', reference);
    return (rows) => reference.predict(rows);
  }
  if (typeof policy?.predict !== 'function') failType('options.policy', 'a policy', policy);
  return async (rows) => ({
    prediction: await (policy.reference === undefined ? policy.predict(rows.inputs) : policy.reference(rows.inputs)),
  });
}

function taker<C>(data: PairSource<C>, random: () => number) {
  const stream = data.kind === 'stream' ? data.read(0) : undefined;
  return {
    async pairs(count: number): Promise<PreferencePair<C>[]> {
      const out: PreferencePair<C>[] = [];
      while (out.length < count) {
        if (data.kind === 'indexed') out.push(await data.get(Math.floor(random() * data.length)));
        else {
          const next = await stream!.next();
          if (next.done) break;
          out.push(next.value);
        }
      }
      return out;
    },
    async close() {
      await stream?.return?.();
    },
  };
}

/** r of both branches, by the same reduction as in training. */
function errorsOf(
  { rows, timesteps, target, inputs }: TrainingRows,
  found: ReferencePrediction,
  schedule: NoiseSchedule,
): { chosen: ArrayLike<number>; rejected: ArrayLike<number> } {
  if ('error' in found) return found.error;
  const { chosen, rejected } = halves(found.prediction);
  const device = found.prediction instanceof Tensor ? found.prediction.device : 'cpu';
  const owned: Tensor[] = [];
  const onDevice = (data: Float32Array): LatentArray => {
    if (device === 'cpu') return data;
    const tensor = Tensor.from(data, { shape: [rows, ...inputs.shape] }).to(device);
    owned.push(tensor);
    return tensor;
  };
  // A constant in the place of the reference's error: m does not depend on it, and no tensor is read for it.
  const referenceError = new Float64Array(rows);
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta: 1, nonFinite: 'propagate' });
  try {
    const moments = loss.moments({
      timesteps,
      chosen: { policy: chosen, referenceError, target: onDevice(target.chosen) },
      rejected: { policy: rejected, referenceError, target: onDevice(target.rejected) },
    });
    return { chosen: moments.chosen.error, rejected: moments.rejected.error };
  } finally {
    for (const tensor of owned) tensor.dispose();
  }
}

function halves(prediction: LatentArray): { chosen: LatentArray; rejected: LatentArray } {
  if (prediction instanceof Tensor) return split(prediction, 'halves');
  const half = prediction.length / 2;
  return { chosen: prediction.subarray(0, half), rejected: prediction.subarray(half) };
}
