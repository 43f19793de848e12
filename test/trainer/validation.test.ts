/** Held-out pairs: what is measured on them, that it is the same rows every time, and that the training and its resumption do not notice. */

import t from 'tap';
import { logEntries, NoiseSchedule, OBJECTIVES, PreferenceLoss, type PreferenceLossOptions } from '../../lib/index.js';
import {
  type MetricsWriter,
  type ModelInputs,
  type Policy,
  PreferenceTrainer,
  type PreferenceTrainerOptions,
  type TrainerState,
  type ValidationOptions,
} from '../../lib/trainer/index.js';
import { bestStep } from '../../lib/trainer/validation-options.js';
import linearData, { makePairs, stream } from '../helpers/linear-data.js';
import linearPolicy from '../helpers/linear-policy.js';

const SIZE = 4;
const schedule = NoiseSchedule.preset('sd15', { inferenceSteps: 20 });
const HELD_OUT = { count: 10, seed: 77 };

type Entry = Parameters<MetricsWriter['write']>[0];

function lossOf(options: Partial<PreferenceLossOptions> = {}): PreferenceLoss {
  return new PreferenceLoss({ objective: 'sdpo', beta: 20, schedule, ...options });
}

function policyOf(): Policy {
  return linearPolicy({}, { shape: [SIZE], seed: 0, folder: '.' });
}

/** A trainer and what it logs. */
function trainerOf(
  validation: Partial<ValidationOptions>,
  options: Partial<PreferenceTrainerOptions> = {},
): { trainer: PreferenceTrainer; entries: Entry[]; held(): Entry[] } {
  const entries: Entry[] = [];
  const trainer = new PreferenceTrainer({
    ...{ policy: policyOf(), data: linearData({}), loss: lossOf(), seed: 5, learningRate: 1e-2, pairsPerStep: 8 },
    writers: [{ write: (entry) => void entries.push({ ...entry, metrics: { ...entry.metrics } }) }],
    validation: { data: linearData(HELD_OUT), every: 2, ...validation },
    ...options,
  });
  return { trainer, entries, held: () => entries.filter(({ kind }) => kind === 'validation') };
}

async function finish(trainer: PreferenceTrainer, steps: number): Promise<void> {
  for await (const _ of trainer.run(steps));
}

/** A policy that keeps what it was given to predict for, and what it gave. */
function watched(): { policy: Policy; seen: { inputs: ModelInputs; prediction: Float32Array }[] } {
  const policy = policyOf();
  const seen: { inputs: ModelInputs; prediction: Float32Array }[] = [];
  const predict = policy.predict.bind(policy);
  policy.predict = async (inputs) => {
    const prediction = (await predict(inputs)) as Float32Array;
    seen.push({ inputs, prediction });
    return prediction;
  };
  return { policy, seen };
}

t.test('is the loss of the held-out pairs at timesteps and noise that stay', async (t) => {
  const { policy, seen } = watched();
  const run = trainerOf({ timestepsPerPair: 2, batchSize: 10 }, { policy });
  await finish(run.trainer, 4);
  const [first, second] = seen;
  t.equal(seen.length, 2);
  t.same(second!.inputs.latents, first!.inputs.latents);
  t.same(second!.inputs.timesteps, first!.inputs.timesteps);
  t.notSame(second!.prediction, first!.prediction, 'the policy has moved');

  const { latents, timesteps } = first!.inputs;
  const rows = 20;
  const [ones, zeros] = [new Float32Array(latents.length).fill(1), new Float32Array(latents.length)];
  const signal = schedule.addNoise(ones, zeros, timesteps);
  const sigma = schedule.addNoise(zeros, ones, timesteps);
  const pairs = makePairs(HELD_OUT);
  const x0 = Float32Array.from(latents, (_, at) => {
    const row = Math.floor(at / SIZE);
    const pair = pairs[Math.floor((row % rows) / 2)]!;
    return (row < rows ? pair.chosen : pair.rejected)[at % SIZE]!;
  });
  const epsilon = Float32Array.from(latents, (value, at) => (value - signal[at]! * x0[at]!) / sigma[at]!);
  const spread = Math.sqrt(epsilon.reduce((sum, value) => sum + value * value, 0) / epsilon.length);
  t.ok(spread > 0.7 && spread < 1.3, `noise of standard deviation ${spread}`);
  const target = schedule.target(x0, epsilon, timesteps);
  const half = rows * SIZE;
  const reference = (await policy.reference!(first!.inputs)) as Float32Array;
  const branch = (from: number) => ({
    policy: first!.prediction.slice(from, from + half),
    reference: reference.slice(from, from + half),
    target: target.slice(from, from + half),
  });
  const out = lossOf().evaluate(
    { timesteps: timesteps.slice(0, rows), chosen: branch(0), rejected: branch(half) },
    { gradients: false },
  );
  const expected: Record<string, number> = { ...logEntries(out.metrics), loss: out.loss };
  const [entry] = run.held();
  t.equal(entry!.step, 2);
  for (const name of ['loss', 'rewards/accuracies', 'rewards/margins', 'errorChosen', 'errorRejected']) {
    const [found, wanted] = [entry!.metrics[name]!, expected[name]!];
    t.ok(Math.abs(found - wanted) <= 1e-3 * Math.abs(wanted), `${name}: ${found}, by hand ${wanted}`);
  }
});

t.test('does not depend on the size of its parts, nor on how updates draw', async (t) => {
  const metricsOf = async (validation: Partial<ValidationOptions>, options?: Partial<PreferenceTrainerOptions>) => {
    const run = trainerOf({ atStart: true, ...validation }, options);
    await finish(run.trainer, 0);
    return run.held()[0]!.metrics;
  };
  const whole = await metricsOf({ batchSize: 10 });
  for (const [name, metrics] of Object.entries({
    'in parts that do not divide it': await metricsOf({ batchSize: 3 }),
    'those of a part of an update': await metricsOf({}, { accumulate: 4 }),
  })) {
    for (const [metric, value] of Object.entries(whole)) {
      const [found, wanted] = [metrics[metric]!, value];
      const same = Object.is(found, wanted) || Math.abs(found - wanted) <= 1e-12 * Math.abs(wanted);
      t.ok(same, `${name}, ${metric}: ${found}, ${wanted}`);
    }
  }
  t.same([whole['rewards/margins'], whole['rewards/accuracies'], whole.driftChosen], [0, 0.5, 0], 'nothing has moved');
  const other = await metricsOf({ batchSize: 10 }, { seed: 6 });
  t.not(other.errorChosen, whole.errorChosen, 'another seed draws others');
  const step = { steps: [500], order: 'round-robin' } as const;
  const at500 = await metricsOf({}, { timesteps: step });
  t.not(at500.errorChosen, whole.errorChosen, 'timesteps are those of the training');
  const threshold = { threshold: () => [1], observe() {}, state: () => null, load() {} };
  t.same(await metricsOf({ batchSize: 10 }, { threshold }), whole, 'a threshold that moves is left out');
});

t.test('every objective', async (t) => {
  for (const objective of OBJECTIVES) {
    const run = trainerOf({ every: 1 }, { loss: lossOf({ objective, threads: 1 }) });
    await finish(run.trainer, 1);
    t.ok(Number.isFinite(run.held()[0]!.metrics.loss), objective);
  }
});

t.test('leaves the training alone', async (t) => {
  const without = trainerOf({}, { validation: undefined } as never);
  const run = trainerOf({ every: 1, atStart: true });
  await finish(without.trainer, 6);
  await finish(run.trainer, 6);
  t.same(
    run.entries.filter(({ kind }) => kind === 'train'),
    without.entries,
  );
  t.same(await run.trainer.policy.state(), await without.trainer.policy.state());
  t.same(
    run.held().map(({ step }) => step),
    [0, 1, 2, 3, 4, 5, 6],
  );
  t.equal(without.trainer.best, undefined);
});

t.test('a run that was cut in two has the same log and the same best step', async (t) => {
  const start = () => trainerOf({ every: 3, atStart: true, best: 'margin' });
  const whole = start();
  await finish(whole.trainer, 12);
  for (const cut of [0, 3, 5, 11]) {
    const first = start();
    await finish(first.trainer, cut);
    const { policy, progress } = await first.trainer.state();
    const second = start();
    await second.trainer.load({ policy, progress: JSON.parse(JSON.stringify(progress)) });
    t.same(second.trainer.best, first.trainer.best, `the best step is kept at ${cut}`);
    await finish(second.trainer, 12);
    t.same([...first.entries, ...second.entries], whole.entries, `cut at ${cut}`);
    t.same((await second.trainer.state()).progress, (await whole.trainer.state()).progress);
  }
  const { policy, progress } = await whole.trainer.state();
  for (const changes of [
    { best: 'loss' },
    { data: linearData({ count: 9, seed: 77 }) },
    { timestepsPerPair: 2 },
  ] as const) {
    const other = trainerOf({ every: 3, best: 'margin', ...changes });
    await other.trainer.load({ policy, progress });
    t.equal(other.trainer.best, undefined, `${Object.keys(changes)}: what does not compare begins anew`);
  }
});

t.test('names the best step', async (t) => {
  for (const best of ['loss', 'accuracy', 'margin'] as const) {
    // Such a rate makes the model leave what it was good at.
    const run = trainerOf({ every: 1, atStart: true, best }, { learningRate: (step) => (step < 6 ? 1e-2 : 1) });
    await finish(run.trainer, 12);
    const name = { loss: 'loss', accuracy: 'rewards/accuracies', margin: 'rewards/margins' }[best];
    const values = run.held().map(({ metrics }) => metrics[name]!);
    const value = best === 'loss' ? Math.min(...values) : Math.max(...values);
    t.same(run.trainer.best, { step: values.indexOf(value), criterion: best, value });
    t.same(bestStep(run.held(), best), run.trainer.best, 'and so does the log');
  }
  const entries = [NaN, 2, null, 1, 1, 3].map((loss, step) => ({ step, metrics: { loss } }));
  t.same(bestStep(entries, 'loss'), { step: 3, criterion: 'loss', value: 1 }, 'the first among equals');
  t.equal(bestStep([], 'margin'), undefined);
});

t.test('a model that falls apart is a number of the log', async (t) => {
  const policy = policyOf();
  policy.predict = ({ latents }) => latents.map((value, at) => (at === 1 ? NaN : value));
  const run = trainerOf({ batchSize: 10 }, { policy });
  await finish(run.trainer, 2);
  const [entry] = run.held();
  t.match(entry!.metrics, { loss: NaN, nonFiniteRows: 1 });
  t.equal(run.trainer.best, undefined);
});

t.test('a signal leaves it to the run that goes on', async (t) => {
  const controller = new AbortController();
  const states: TrainerState[] = [];
  const policy = policyOf();
  const predict = policy.predict.bind(policy);
  policy.predict = (inputs) => {
    controller.abort();
    return predict(inputs);
  };
  const checkpoints = { store: { save: (state: TrainerState) => void states.push(state) }, every: 100 };
  const first = trainerOf({ batchSize: 2 }, { policy, checkpoints, signal: controller.signal });
  await finish(first.trainer, 4);
  t.equal(states.at(-1)!.progress.step, 2);
  t.same(first.held(), [], 'what was begun is not logged');
  const second = trainerOf({ batchSize: 2 });
  await second.trainer.load(states.at(-1)!);
  await finish(second.trainer, 4);
  const whole = trainerOf({ batchSize: 2 });
  await finish(whole.trainer, 4);
  t.same([...first.entries, ...second.entries], whole.entries);
});

t.test("the reference is the policy's own, or a function", async (t) => {
  const cache = { predict: ({ inputs }: { inputs: ModelInputs }) => ({ prediction: inputs.latents.slice() }) };
  let asked = 0;
  const counted = {
    predict(rows: { inputs: ModelInputs }) {
      asked++;
      return cache.predict(rows);
    },
  };
  const run = trainerOf({ atStart: true }, { reference: counted });
  await finish(run.trainer, 0);
  t.equal(asked, 0, 'a cache keeps the rows of updates only');
  t.equal(run.held()[0]!.metrics.driftChosen, 0);
  const without = Object.assign(policyOf(), { reference: undefined }) as unknown as Policy;
  t.throws(() => trainerOf({}, { policy: without, reference: cache }), {
    message: /^Expected options\.validation\.reference to be a function/,
  });
  for (const options of [
    [{ reference: cache.predict }, { policy: without, reference: cache }],
    [{}, { policy: without, reference: cache.predict }],
  ] as const) {
    const given = trainerOf({ atStart: true, ...options[0] }, options[1]);
    await finish(given.trainer, 0);
    t.ok(given.held()[0]!.metrics.driftChosen! > 0);
  }
  const mapo = trainerOf({ atStart: true }, { policy: without, loss: lossOf({ objective: 'mapo' }) });
  await finish(mapo.trainer, 0);
  t.ok(Number.isFinite(mapo.held()[0]!.metrics.loss), 'an objective without a reference');
});

t.test('wrong options', async (t) => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ evry: 1 }, /"evry"/],
    [{ every: 0 }, /options\.validation\.every/],
    [{ timestepsPerPair: 0 }, /options\.validation\.timestepsPerPair/],
    [{ batchSize: 0.5 }, /options\.validation\.batchSize/],
    [{ best: 'reward' }, /options\.validation\.best /],
    [{ data: stream({}) }, /options\.validation\.data to be a PairDataset/],
    [{ data: undefined }, /options\.validation\.data/],
    [{ data: { ...linearData({}), shape: [2, 2] } }, /options\.validation\.data\.shape to be \[4\]/],
    [{ reference: {} }, /options\.validation\.reference/],
    [{ atStart: 1 }, /options\.validation\.atStart/],
  ];
  for (const [options, message] of cases)
    t.throws(() => trainerOf(options as never), { message }, Object.keys(options)[0]!);
});
