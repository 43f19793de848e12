/** The training loop: what it draws, what the policy is handed, and that a run which is cut in two is the run that was not. */

import t from 'tap';
import {
  type Batch,
  DivergenceError,
  type LatentArray,
  NoiseSchedule,
  noise,
  PreferenceLoss,
  type PreferenceLossOptions,
  type SdpoError,
  Tensor,
} from '../../lib/index.js';
import {
  BetaTracker,
  type LoadOptions,
  type MetricsWriter,
  type ModelInputs,
  type Policy,
  PreferenceTrainer,
  type PreferenceTrainerOptions,
  pairsFromStream,
  ThresholdTracker,
  type TrainerState,
} from '../../lib/trainer/index.js';
import { OPTION_NAMES } from '../../lib/trainer/options.js';
import linearData, { makePairs, stream } from '../helpers/linear-data.js';
import linearPolicy from '../helpers/linear-policy.js';

const SIZE = 4;
const schedule = NoiseSchedule.fromDiffusers(
  { _class_name: 'DDIMScheduler', beta_schedule: 'squaredcos_cap_v2', prediction_type: 'v_prediction' },
  { inferenceSteps: 20 },
);

function lossOf(options: Partial<PreferenceLossOptions> = {}): PreferenceLoss {
  return new PreferenceLoss({ objective: 'sdpo', beta: 20, schedule, ...options });
}

function policyOf(): Policy {
  return linearPolicy({}, { shape: [SIZE], seed: 0, folder: '.' }) as Policy;
}

function trainerOf(options: Partial<PreferenceTrainerOptions> = {}): PreferenceTrainer {
  const required = { policy: policyOf(), data: linearData({}), loss: lossOf(), seed: 5, learningRate: 1e-2 };
  return new PreferenceTrainer({ ...required, pairsPerStep: 8, ...options } as PreferenceTrainerOptions);
}

/** What a policy was given and handed back, in order. */
interface Seen {
  inputs: ModelInputs[];
  cotangents: LatentArray[];
  batches: Batch[];
  ids: (readonly string[])[];
}

/** A trainer whose policy is watched. */
function watched(options: Partial<PreferenceTrainerOptions> = {}): { trainer: PreferenceTrainer; seen: Seen } {
  const seen: Seen = { inputs: [], cotangents: [], batches: [], ids: [] };
  const inner = options.policy ?? policyOf();
  const policy = Object.create(inner) as Policy;
  for (const name of [
    'predict',
    'reference',
    'step',
    'discard',
    'state',
    'load',
    'weights',
    'updateAverage',
    'updateReference',
  ] as const) {
    (policy as unknown as Record<string, unknown>)[name] = (...args: never[]) =>
      (inner[name] as (...args: never[]) => unknown)(...args);
  }
  policy.linearize = async (inputs) => {
    seen.inputs.push(inputs);
    const point = await inner.linearize(inputs);
    return {
      ...point,
      pullback(cotangent) {
        seen.cotangents.push(cotangent instanceof Tensor ? cotangent : cotangent.slice());
        return point.pullback(cotangent);
      },
    };
  };
  const { beforeLoss } = options;
  const trainer = trainerOf({
    ...options,
    policy,
    beforeLoss(batch, rows, statistics) {
      seen.batches.push(batch);
      seen.ids.push(rows.ids);
      return beforeLoss?.(batch, rows, statistics);
    },
  });
  return { trainer, seen };
}

async function finish(trainer: PreferenceTrainer, steps: number): Promise<Record<string, number>[]> {
  const reports: Record<string, number>[] = [];
  for await (const { metrics } of trainer.run(steps)) reports.push({ ...metrics });
  return reports;
}

/** Bits of everything a policy keeps. */
async function bitsOf(trainer: PreferenceTrainer): Promise<string> {
  const { tensors, scalars } = await trainer.policy.state();
  const parts = Object.entries(tensors).map(([name, { data }]) => {
    return `${name} ${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex')}`;
  });
  return [...parts, JSON.stringify(scalars)].join('\n');
}

t.test('learns', async (t) => {
  const reports = await finish(trainerOf({ loss: lossOf({ maskThreshold: 0 }) }), 100);
  const mean = (part: Record<string, number>[]) => part.reduce((sum, { loss }) => sum + loss, 0) / part.length;
  t.ok(mean(reports.slice(-10)) < mean(reports.slice(0, 10)), 'the loss falls');
  t.ok(reports.at(-1)!['rewards/accuracies'] > 0.5);
  for (const name of ['loss', 'rewards/chosen', 'rewards/margins', 'grad_norm', 'learning_rate', 'driftChosen']) {
    t.ok(name in reports[0], name);
  }
});

t.test('hands the policy the gradient of the loss of what it was given', async (t) => {
  const { trainer, seen } = watched();
  const [report] = await finish(trainer, 1);
  const out = lossOf().evaluate(seen.batches[0]);
  t.equal(report.loss, out.loss);
  t.same(seen.cotangents[0], out.gradients.stacked!.data);
  const [{ latents, timesteps, shape, conditions }] = seen.inputs;
  t.same([latents.length, timesteps.length, shape, conditions.length], [16 * SIZE, 16, [SIZE], 16]);
  t.same(timesteps.subarray(0, 8), timesteps.subarray(8), 'both branches have the timestep of their row');
});

t.test('noises what the data set holds', async (t) => {
  const pairs = makePairs({});
  for (const kind of ['shared', 'independent'] as const) {
    const { trainer, seen } = watched({ noise: kind, sampling: 'sequential' });
    await finish(trainer, 2);
    const { latents, timesteps } = seen.inputs[1];
    const target = ['chosen', 'rejected'].map((name) => seen.batches[1][name as 'chosen'].target as Float32Array);
    const epsilons = ['chosen', 'rejected'].map((name, branch) => {
      const x0 = Float32Array.from(pairs.slice(8, 16).flatMap((pair) => [...pair[name as 'chosen']]));
      // v = a ε - s x0 and x_t = a x0 + s ε give ε = s x_t + a v.
      return Array.from({ length: 8 * SIZE }, (_, i) => {
        const row = Math.floor(i / SIZE);
        const [a, s] = [schedule.signal(timesteps[row]), schedule.sigma(timesteps[row])];
        const noisy = latents[branch * 8 * SIZE + i];
        const exact = a * x0[i] + s * (s * noisy + a * target[branch][i]);
        t.ok(Math.abs(exact - noisy) <= 8 * 2 ** -24 * (Math.abs(exact) + 4), 'x_t is that of the pair');
        return s * noisy + a * target[branch][i];
      });
    });
    const same = epsilons[0].every((value, i) => Math.abs(value - epsilons[1][i]) < 16 * 2 ** -23);
    t.equal(same, kind === 'shared', `${kind} noise`);
  }
});

t.test('draws', async (t) => {
  t.test('every pair once in a pass, in another order each time', async (t) => {
    const { trainer, seen } = watched({ pairsPerStep: 16 });
    await finish(trainer, 8);
    const passes = [seen.ids.slice(0, 4).flat(), seen.ids.slice(4).flat()];
    const sorted = passes.map((ids) => [...ids].sort());
    t.same(
      sorted[0],
      makePairs({})
        .map(({ id }) => id)
        .sort(),
    );
    t.same(sorted[1], sorted[0]);
    t.notSame(passes[0], passes[1]);
  });

  t.test('several timesteps of a pair', async (t) => {
    const { trainer, seen } = watched({ timestepsPerPair: 3, pairsPerStep: 2 });
    await finish(trainer, 1);
    const [a, , , b] = seen.ids[0];
    t.same(seen.ids[0], [a, a, a, b, b, b]);
    t.equal(new Set(seen.inputs[0].timesteps.subarray(0, 6)).size, 6);
  });

  t.test('the same rows whatever the parts', async (t) => {
    const runs = await Promise.all(
      [1, 2, 4].map(async (accumulate) => {
        const { trainer, seen } = watched({
          accumulate,
          timestepsPerPair: 2,
          timesteps: { distribution: 'logit-normal' },
        });
        await finish(trainer, 2);
        const half = ({ timesteps }: ModelInputs) => [...timesteps.subarray(0, timesteps.length / 2)];
        const noisy = ({ latents }: ModelInputs) => [...latents.subarray(0, latents.length / 2)];
        return { ids: seen.ids.flat(), timesteps: seen.inputs.flatMap(half), latents: seen.inputs.flatMap(noisy) };
      }),
    );
    t.same(runs[1], runs[0]);
    t.same(runs[2], runs[0]);
  });

  t.test('another seed draws others', async (t) => {
    const [one, other] = [watched({ seed: 1 }), watched({ seed: 2 })];
    await finish(one.trainer, 1);
    await finish(other.trainer, 1);
    t.notSame(one.seen.ids, other.seen.ids);
    t.notSame(one.seen.inputs[0].timesteps, other.seen.inputs[0].timesteps);
    t.notSame(one.seen.batches[0].chosen.target, other.seen.batches[0].chosen.target);
  });

  t.test('from a fixed list, the same whatever the parts: in turn by the place in the run, or at random', async (t) => {
    const steps = [900, 700, 500, 300, 100];
    const drawn = (accumulate: number, timesteps: object) => {
      const { trainer, seen } = watched({ accumulate, timestepsPerPair: 3, timesteps } as never);
      return finish(trainer, 2).then(() =>
        seen.inputs.flatMap(({ timesteps: both }) => [...both.subarray(0, both.length / 2)]),
      );
    };
    const turn = await drawn(1, { steps, order: 'round-robin' });
    t.same(
      turn,
      Array.from(turn, (_, row) => steps[row % 5]),
    );
    t.ok(turn.length > 40);
    t.same(await drawn(4, { steps, order: 'round-robin' }), turn);
    const random = await drawn(1, { steps });
    t.same(new Set(random), new Set(steps));
    t.notSame(random, turn);
    t.same(await drawn(4, { steps }), random);
    t.same(await drawn(2, { distribution: 'mode' }), await drawn(1, { distribution: 'mode' }));
  });

  t.test('within a range of timesteps', async (t) => {
    const { trainer, seen } = watched({ timesteps: { range: [200, 300] } });
    await finish(trainer, 3);
    t.ok(seen.inputs.every(({ timesteps }) => timesteps.every((time) => time >= 200 && time <= 300)));
  });
});

t.test('accumulation gives the gradient of the whole batch', async (t) => {
  const run = async (accumulate: number) => {
    const trainer = trainerOf({ accumulate, maxGradientNorm: Infinity, loss: lossOf({ klWeight: 0.3 }) });
    const [report] = await finish(trainer, 1);
    return report;
  };
  const whole = await run(1);
  for (const accumulate of [2, 4, 8]) {
    const parts = await run(accumulate);
    // Float32 gradients added in another order: a rounding for each addition.
    const bound = 16 * SIZE * 2 ** -23;
    for (const name of ['grad_norm', 'loss', 'rewards/margins', 'maskFraction', 'driftChosen']) {
      t.ok(Math.abs(parts[name] - whole[name]) <= bound * Math.abs(whole[name]), `${accumulate} parts: ${name}`);
    }
  }
});

t.test('confidence weighs the pairs', async (t) => {
  const weigh = (confidence: (index: number) => number | undefined) => {
    const data = linearData({});
    return { ...data, get: (index: number) => ({ ...data.get(index), confidence: confidence(index) }) };
  };
  const norm = async (confidence: (index: number) => number | undefined) =>
    (await finish(trainerOf({ data: weigh(confidence), maxGradientNorm: Infinity }), 1))[0].grad_norm;
  t.equal(await norm(() => 1), await norm(() => undefined));
  t.equal(await norm(() => 0), 0);
  const ratio = (await norm(() => 2)) / (await norm(() => 1));
  t.ok(Math.abs(ratio - 2) < 64 * 2 ** -23, 'twice the weight, twice the gradient');
  await t.rejects(finish(trainerOf({ data: weigh(() => -1) }), 1), {
    code: 'ERR_SDPO_DATA',
    message: /^Expected confidence of a pair of the data \(pair \d+\) to be a finite number >= 0, received -1$/,
  });
  const data = linearData({});
  const short = { ...data, get: (index: number) => ({ ...data.get(index), rejected: new Float32Array(3) }) };
  await t.rejects(finish(trainerOf({ data: short }), 1), {
    code: 'ERR_SDPO_DATA',
    message: /rejected of a pair of the data \(pair \d+\) to be of length 4, received Float32Array of length 3/,
  });
});

t.test('a run that was cut in two is the run that was not', async (t) => {
  const setups: Record<string, () => Partial<PreferenceTrainerOptions>> = {
    'a data set': () => ({ ema: { decay: 0.9 } }),
    'with replacement, in parts': () => ({ sampling: 'replacement', accumulate: 2, timestepsPerPair: 2 }),
    'a stream': () => ({ data: stream({ count: 200 }), pairsPerStep: 4 }),
    'a reference that is refreshed': () => ({ referenceUpdate: { every: 3 } }),
    'a reference that follows': () => ({ referenceUpdate: { every: 1, decay: 0.8 }, ema: { decay: 0.9 } }),
    'a β that adapts': () => ({
      ...{ beta: new BetaTracker({ target: 0.5, window: 24, warmup: 10 }), accumulate: 2 },
      loss: lossOf({ maskThreshold: 0.5 }),
    }),
    // 8 · 3 rows an update and 7 timesteps: no update begins where the list does.
    'a fixed list in turn': () => ({
      ...{ timesteps: { steps: [950, 800, 650, 500, 350, 200, 50], order: 'round-robin' }, timestepsPerPair: 3 },
      ...{ accumulate: 4 },
    }),
  };
  for (const [name, setup] of Object.entries(setups)) {
    const whole = trainerOf(setup());
    const reports = await finish(whole, 12);
    const first = trainerOf(setup());
    await finish(first, 5);
    const { policy, progress } = await first.state();
    const second = trainerOf(setup());
    await second.load({ policy, progress: JSON.parse(JSON.stringify(progress)) });
    t.equal(second.step, 5);
    t.same(await finish(second, 12), reports.slice(5), `${name}: the same metrics`);
    t.equal(await bitsOf(second), await bitsOf(whole), `${name}: the same bits`);
    t.same((await second.state()).progress, (await whole.state()).progress, `${name}: the same progress`);
  }
});

t.test('refuses a state that is not its own', async (t) => {
  const state = await trainerOf().state();
  const cases: [Partial<PreferenceTrainerOptions>, RegExp][] = [
    [{ seed: 6 }, /^Expected seed to be 5 as in the checkpoint, received 6$/],
    [{ data: linearData({ seed: 9 }) }, /^Expected data to be /],
    [{ loss: lossOf({ beta: 21 }) }, /^Expected loss\.beta to be 20 .* received 21$/],
    [{ pairsPerStep: 4 }, /^Expected pairsPerStep to be 8 /],
    [{ learningRate: 1 }, /^Expected learningRate to be 0\.01 /],
    [{ maxGradientNorm: Infinity }, /^Expected maxGradientNorm to be 1 .* received "Infinity"/],
  ];
  for (const [options, message] of cases) {
    await t.rejects(trainerOf(options).load(state), { code: 'ERR_SDPO_RESUME', message });
  }
  // Whatever is not named as free is compared, by its presence where it is a function or an object.
  const threshold = { threshold: () => [], observe() {}, state: () => null, load() {} };
  const more: [Partial<PreferenceTrainerOptions>, RegExp][] = [
    [
      { beforeLoss: () => undefined },
      /^Expected beforeLoss to be undefined as in the checkpoint, received "a function"$/,
    ],
    [
      { reference: () => ({ error: { chosen: [], rejected: [] } }) },
      /^Expected reference to be undefined .* "a function"/,
    ],
    [
      { reference: { predict: () => undefined as never } },
      /^Expected reference to be undefined .* received "an object"/,
    ],
    [{ threshold }, /^Expected threshold to be undefined .* received "an object"/],
    [{ beta: new BetaTracker({ target: 1 }) }, /^Expected beta to be undefined .* received "an object"/],
    [{ referenceUpdate: { every: 2 } }, /^Expected referenceUpdate to be undefined .* \{"every":2,"decay":0\}/],
    [{ learningRate: () => 1e-2 }, /^Expected learningRate to be 0\.01 .* received "a function"/],
    [{ timestepsPerPair: 2 }, /^Expected timestepsPerPair to be 1 /],
    [{ accumulate: 2 }, /^Expected accumulate to be 1 /],
    [{ noise: 'independent' }, /^Expected noise to be "shared" /],
    [{ timesteps: { range: [0, 500] } }, /^Expected timesteps\.range to be undefined .* received \[0,500\]/],
    [{ sampling: 'sequential' }, /^Expected sampling to be "shuffle" /],
    [{ ema: { decay: 0.9 } }, /^Expected ema to be undefined /],
    [{ onNonFinite: 'skip' }, /^Expected onNonFinite to be "stop" /],
    [{ bins: 5 }, /^Expected bins to be 10 /],
    [{ logBinsEvery: 5 }, /^Expected logBinsEvery to be 100 /],
  ];
  for (const [options, message] of more) {
    await t.rejects(trainerOf(options).load(state), { code: 'ERR_SDPO_RESUME', message }, Object.keys(options)[0]);
  }
  const store = { save() {} };
  const signal = new AbortController().signal;
  const free = {
    ...{ writers: [{ write() {} }], evaluate: { every: 1, run: () => ({}) }, checkpoints: { store, every: 1 } },
    validation: { data: linearData({ seed: 7 }), every: 1 },
  };
  for (const [name, value] of Object.entries({ ...free, signal, maxSkipped: 1, onWarning() {} })) {
    t.same(await trainerOf({ [name]: value }).load(state), [], name);
  }
  const compared = new Set([
    'seed',
    'data',
    'loss',
    ...[...more, [{ pairsPerStep: 1, maxGradientNorm: 1 }]].flatMap(([o]) => Object.keys(o!)),
  ]);
  t.same(
    OPTION_NAMES.filter((name) => !compared.has(name)).sort(),
    [...Object.keys(free), 'maxSkipped', 'onWarning', 'policy', 'signal'].sort(),
    'an option that is added appears in one of these lists',
  );
  const broken = { ...state, progress: { ...state.progress, bins: [] } } as TrainerState;
  await t.rejects(trainerOf().load(broken), { code: 'ERR_SDPO_RESUME' });
  for (const none of [undefined, null, {}, { policy: state.policy, progress: {} }]) {
    await t.rejects(trainerOf().load(none as never), { message: /^Expected state to be a state that a trainer gave/ });
  }
});

t.test('goes on with other settings where they are named as free', async (t) => {
  const first = trainerOf();
  await finish(first, 5);
  const state = await first.state();
  const go = async (options: Partial<PreferenceTrainerOptions>, free: LoadOptions['free']) => {
    const trainer = trainerOf(options);
    const differences = await trainer.load(state, { free });
    return { trainer, differences };
  };
  const lower = { learningRate: 1e-4, onNonFinite: 'skip' } as const;
  const { trainer, differences } = await go(lower, ['learningRate', 'onNonFinite']);
  t.same(differences, [
    { path: 'learningRate', before: '0.01', now: '0.0001' },
    { path: 'onNonFinite', before: '"stop"', now: '"skip"' },
  ]);
  t.equal(trainer.step, 5);
  const whole = trainerOf();
  const [sixth] = (await finish(whole, 6)).slice(5);
  const [next] = await finish(trainer, 6);
  t.equal(next.loss, sixth.loss, 'the same rows and parameters');
  t.equal(next.learning_rate, 1e-4);
  await t.rejects(go(lower, ['learningRate']), { code: 'ERR_SDPO_RESUME', message: /^Expected onNonFinite/ });
  t.equal((await go({ loss: lossOf({ beta: 30 }) }, ['loss.beta'])).differences.length, 1);
  await t.rejects(go({ loss: lossOf({ beta: 30 }) }, ['loss.sftWeight']), { message: /^Expected loss\.beta/ });
  t.same(await go(lower, 'all').then(({ differences }) => differences), differences);
  for (const free of [['learningrate'], ['policy'], [''], 'loss', 1, [1]]) {
    await t.rejects(go({}, free as never), { code: /ERR_SDPO_INVALID_ARG_(VALUE|TYPE)/ }, JSON.stringify(free));
  }

  const bins = await go({ bins: 4, loss: lossOf({ maskThreshold: 0.5 }) }, ['bins', 'loss']);
  t.equal((await finish(bins.trainer, 7)).length, 2, 'statistics that do not fit begin anew');
  const tracker = (keep: number) => new ThresholdTracker({ keep, warmup: 1 });
  const tracked = trainerOf({ threshold: tracker(0.5) });
  await finish(tracked, 3);
  const other = trainerOf({ threshold: tracker(0.9) });
  await t.rejects(other.load(await tracked.state()), { message: /state\.keep/ });
  await other.load(await tracked.state(), { free: ['threshold'] });
  t.equal(other.step, 3, 'and so does a threshold');
  await trainerOf().load(await tracked.state(), { free: ['threshold'] });

  const streamed = trainerOf({ data: stream({ count: 40 }) });
  await finish(streamed, 2);
  const seen: string[] = [];
  const others = trainerOf({
    data: stream({ count: 40, seed: 9 }),
    reference: (rows) => {
      seen.push(...rows.ids);
      return { error: { chosen: new Float64Array(8), rejected: new Float64Array(8) } };
    },
  });
  await others.load(await streamed.state(), { free: ['data', 'reference'] });
  await finish(others, 3);
  t.equal(seen[0], 'pair 0', 'other data begin at their first pair');
});

t.test('an evaluation that is due is made once, whenever the run is stopped', async (t) => {
  for (const during of [true, false]) {
    const entries: string[] = [];
    const states: TrainerState[] = [];
    const part = (controller?: AbortController) =>
      trainerOf({
        evaluate: {
          every: 2,
          atStart: true,
          run({ step }) {
            if (during) controller?.abort();
            return { score: step };
          },
        },
        writers: [{ write: ({ kind, step }) => void entries.push(`${kind} ${step}`) }],
        checkpoints: { store: { save: (state) => void states.push(state) }, every: 100 },
        ...(controller && { signal: controller.signal }),
      });
    const controller = new AbortController();
    if (!during) controller.abort();
    await finish(part(controller), 3);
    t.equal(states.at(-1)!.progress.step, 0);
    const next = part();
    await next.load(states.at(-1)!);
    await finish(next, 3);
    t.same(entries, ['evaluation 0', 'train 1', 'train 2', 'evaluation 2', 'train 3'], `stopped ${during}`);
  }
  // One that failed is made up for, so that the log is that of a run that did not fail.
  let fails = true;
  const states: TrainerState[] = [];
  const entries: string[] = [];
  const part = () =>
    trainerOf({
      evaluate: {
        every: 2,
        run({ step }) {
          if (fails) throw new Error('typo');
          return { score: step };
        },
      },
      writers: [{ write: ({ kind, step }) => void entries.push(`${kind} ${step}`) }],
      checkpoints: { store: { save: (state) => void states.push(state) }, every: 100 },
    });
  await t.rejects(finish(part(), 3), /typo/);
  fails = false;
  const next = part();
  await next.load(states.at(-1)!);
  await finish(next, 3);
  t.same(entries, ['train 1', 'train 2', 'evaluation 2', 'train 3']);
});

t.test('what a policy gives to be saved is looked at before the first update', async (t) => {
  const giving = (state: unknown): Policy => {
    const policy = policyOf();
    policy.state = () => state as never;
    policy.step = () => t.fail('an update was made') as never;
    return policy;
  };
  const store = { save() {} };
  const float = { dtype: 'float32', shape: [2], data: new Float32Array(2) };
  const cases: [unknown, RegExp][] = [
    [
      undefined,
      /^Expected the result of policy\.state\(\) to be an object with tensors and scalars, received undefined$/,
    ],
    [{ tensors: {} }, /^Expected the result of policy\.state\(\) to be an object/],
    [{ scalars: {} }, /^Expected policy\.state\(\)\.tensors to be an object of named tensors/],
    [{ tensors: { w: new Float32Array(2) }, scalars: {} }, /^Expected policy\.state\(\)\.tensors\["w"\]\.dtype/],
    [
      { tensors: { w: { ...float, shape: [3] } }, scalars: {} },
      /^Expected policy\.state\(\)\.tensors\["w"\]\.data to be of length 3/,
    ],
    [{ tensors: { w: float }, scalars: { f() {} } }, /^Expected policy\.state\(\)\.scalars\.f to be plain JSON/],
  ];
  for (const [state, message] of cases) {
    await t.rejects(finish(trainerOf({ policy: giving(state), checkpoints: { store, every: 9 } }), 1), { message });
  }
});

t.test('closing lets a stream free what it holds', async (t) => {
  let open = 0;
  const data = stream({});
  const close = async () => {
    throw new Error('no room');
  };
  const trainer = trainerOf({
    writers: [{ write() {}, close }],
    data: {
      ...data,
      async *read(position: number) {
        open++;
        try {
          yield* { [Symbol.asyncIterator]: () => data.read(position) };
        } finally {
          open--;
        }
      },
    },
  });
  await finish(trainer, 2);
  t.equal(open, 1);
  await t.rejects(trainer.close(), /no room/, 'the first thing that fails is told');
  t.equal(open, 0, 'and the rest is closed');
});

t.test('a stream ends the training with its last whole batch', async (t) => {
  const trainer = trainerOf({ data: stream({ count: 20 }) });
  t.equal((await finish(trainer, 100)).length, 2);
  t.equal(trainer.step, 2);
  const parts = trainerOf({ data: stream({ count: 20 }), accumulate: 4 });
  t.equal((await finish(parts, 100)).length, 2, 'also where the last batch is incomplete');
});

/** A policy whose predictions or gradients are spoilt in some updates (counted from 0). */
function spoilt(when: (update: number) => boolean, what: 'prediction' | 'gradient'): Policy {
  const inner = policyOf();
  let update = 0;
  const policy = Object.create(inner) as Policy;
  for (const name of ['predict', 'reference', 'state', 'load', 'weights'] as const) {
    (policy as unknown as Record<string, unknown>)[name] = (...args: never[]) =>
      (inner[name] as (...args: never[]) => unknown)(...args);
  }
  policy.discard = () => {
    update++;
    return inner.discard();
  };
  policy.step = (options) => {
    update++;
    return inner.step(options);
  };
  policy.linearize = async (inputs) => {
    const point = await inner.linearize(inputs);
    const prediction = (point.prediction as Float32Array).slice();
    const spoil = when(update);
    if (spoil && what === 'prediction') prediction[5 * SIZE + 1] = NaN;
    return {
      prediction,
      pullback: (cotangent) =>
        point.pullback(spoil && what === 'gradient' ? (cotangent as Float32Array).map(() => Infinity) : cotangent),
    };
  };
  return policy;
}

t.test('what is not finite', async (t) => {
  t.test('stops with where it was', async (t) => {
    const { trainer, seen } = watched({ policy: spoilt((update) => update === 2, 'prediction') });
    const error = await finish(trainer, 10).then(
      () => undefined,
      (error: unknown) => error as DivergenceError,
    );
    t.ok(error instanceof DivergenceError);
    t.match(error, { code: 'ERR_SDPO_DIVERGED', step: 3, tensor: 'chosen.policy' });
    t.same(error!.pairs, [seen.ids[2][5]]);
    t.equal(error!.timestep, seen.inputs[2].timesteps[5]);
    t.equal(
      error!.message,
      `Expected finite values in update 3, received a non-finite value in chosen.policy (pairs ${error!.pairs[0]} at timestep ${error!.timestep})`,
    );
    t.equal(trainer.step, 2, 'the update is not counted');
  });

  t.test('a gradient that is not finite leaves the parameters', async (t) => {
    const trainer = trainerOf({ policy: spoilt((update) => update === 1, 'gradient') });
    await t.rejects(finish(trainer, 3), { code: 'ERR_SDPO_DIVERGED', tensor: 'gradient', step: 2 });
    const before = trainerOf();
    await finish(before, 1);
    t.equal(await bitsOf(trainer), await bitsOf(before));
  });

  t.test('is skipped where that is wanted, so many times', async (t) => {
    for (const what of ['prediction', 'gradient'] as const) {
      const policy = spoilt((update) => update === 1 || update === 2, what);
      const reports = await finish(trainerOf({ policy, onNonFinite: 'skip', maxSkipped: 2 }), 5);
      t.same(
        reports.map(({ skipped }) => skipped),
        [0, 1, 1, 0, 0],
        what,
      );
    }
    const policy = spoilt((update) => update >= 1, 'prediction');
    await t.rejects(finish(trainerOf({ policy, onNonFinite: 'skip', maxSkipped: 2 }), 9), {
      code: 'ERR_SDPO_DIVERGED',
      step: 4,
    });
  });

  t.test('a stream goes on behind the batch that was skipped', async (t) => {
    const options = { onNonFinite: 'skip', accumulate: 2, data: stream({ count: 64 }) } as const;
    const { trainer, seen } = watched({ ...options, policy: spoilt((update) => update === 1, 'prediction') });
    await finish(trainer, 3);
    t.same(
      seen.ids.at(-2),
      makePairs({})
        .slice(16, 20)
        .map(({ id }) => id),
    );
  });

  t.test('a loss that lets it through', async (t) => {
    const policy = spoilt((update) => update === 0, 'prediction');
    const trainer = trainerOf({ policy, loss: lossOf({ nonFinite: 'propagate' }) });
    await t.rejects(finish(trainer, 1), { code: 'ERR_SDPO_DIVERGED', tensor: 'loss', step: 1 });
    const skipping = trainerOf({
      policy: spoilt((update) => update === 0, 'prediction'),
      loss: lossOf({ nonFinite: 'skip' }),
    });
    t.equal((await finish(skipping, 1))[0].nonFiniteRows, 1, 'a row that the loss skips is counted');
  });
});

t.test('averages, rates, evaluations and writers', async (t) => {
  const decays: number[] = [];
  const policy = policyOf();
  const average = policy.updateAverage!.bind(policy);
  policy.updateAverage = (decay) => {
    decays.push(decay);
    return average(decay);
  };
  const entries: Parameters<MetricsWriter['write']>[0][] = [];
  let closed = 0;
  const trainer = trainerOf({
    policy,
    ema: { decay: 0.3 },
    learningRate: (step) => 1e-3 * (step + 1),
    logBinsEvery: 2,
    evaluate: { every: 2, atStart: true, run: ({ step }) => ({ score: step }) },
    writers: [{ write: (entry) => void entries.push(entry), close: () => void closed++ }],
  });
  const reports = await finish(trainer, 5);
  t.same(decays, [2 / 11, 0.25, 0.3, 0.3, 0.3], 'the decay of the average warms up');
  t.same(
    reports.map(({ learning_rate }) => learning_rate),
    [1, 2, 3, 4, 5].map((step) => 1e-3 * step),
  );
  t.same(
    entries.map(({ kind, step }) => `${kind} ${step}`),
    ['evaluation 0', 'train 1', 'train 2', 'evaluation 2', 'train 3', 'train 4', 'evaluation 4', 'train 5'],
  );
  t.equal(entries[3].metrics.score, 2);
  t.ok(Object.keys(reports[1]).some((name) => name.startsWith('bins/weightChosen/')));
  t.notOk(Object.keys(reports[0]).some((name) => name.startsWith('bins/')));
  await trainer.close();
  t.equal(closed, 1);
  const constant: number[] = [];
  const plain = policyOf();
  plain.updateAverage = (decay) => void constant.push(decay);
  await finish(trainerOf({ policy: plain, ema: { decay: 0.5, warmup: false } }), 2);
  t.same(constant, [0.5, 0.5]);
});

t.test('a signal stops after the update under way, and what was done is saved', async (t) => {
  const controller = new AbortController();
  const saved: number[] = [];
  const store = { save: ({ progress }: TrainerState) => void saved.push(progress.step) };
  const trainer = trainerOf({ signal: controller.signal, checkpoints: { store, every: 4 } });
  for await (const { step } of trainer.run(100)) if (step === 6) controller.abort();
  t.equal(trainer.step, 6);
  t.same(saved, [4, 6]);
  saved.length = 0;
  await finish(trainerOf({ checkpoints: { store, every: 4 } }), 8);
  t.same(saved, [4, 8], 'the end is not saved twice');
});

t.test('leaving the loop stops the training, which can go on', async (t) => {
  const trainer = trainerOf();
  for await (const { step } of trainer.run(10)) if (step === 3) break;
  t.equal(trainer.step, 3);
  await finish(trainer, 10);
  const whole = trainerOf();
  await finish(whole, 10);
  t.equal(await bitsOf(trainer), await bitsOf(whole));
  const [one, two] = [trainer.run(12), trainer.run(12)];
  await one.next();
  await t.rejects(two.next(), /one run at a time/);
  await one.return();
});

t.test('references', async (t) => {
  const own = await finish(trainerOf(), 4);
  const policy = policyOf();
  t.same(
    await finish(trainerOf({ reference: async ({ inputs }) => ({ prediction: await policy.reference!(inputs) }) }), 4),
    own,
    'a function in place of the policy',
  );
  const errors = await finish(
    trainerOf({
      async reference({ inputs, target, rows }) {
        const prediction = (await policy.reference!(inputs)) as Float32Array;
        const error = (name: 'chosen' | 'rejected', first: number) =>
          Float64Array.from({ length: rows }, (_, row) => {
            let sum = 0;
            for (let i = 0; i < SIZE; i++) {
              sum += (prediction[(first + row) * SIZE + i] - target[name][row * SIZE + i]) ** 2;
            }
            return sum / SIZE;
          });
        return { error: { chosen: error('chosen', 0), rejected: error('rejected', rows) } };
      },
    }),
    1,
  );
  // The errors themselves are the same; float32 sums in the loss round each of the D terms.
  const bound = 4 * SIZE * 2 ** -23;
  t.ok(Math.abs(errors[0].referenceErrorChosen - own[0].referenceErrorChosen) <= bound * own[0].referenceErrorChosen);
  const learnt: number[] = [];
  let closed = false;
  const watching = trainerOf({
    reference: {
      predict: async ({ inputs }) => ({ prediction: await policy.reference!(inputs) }),
      observe: (_, found) => void learnt.push(found.referenceErrorChosen.length),
      close: () => {
        closed = true;
      },
    },
  });
  await finish(watching, 2);
  await watching.close();
  t.same([learnt, closed], [[8, 8], true]);
  const without = policyOf();
  (without as { reference: unknown }).reference = undefined;
  t.throws(() => trainerOf({ policy: without }), {
    code: 'ERR_SDPO_INVALID_ARG_TYPE',
    message: /options\.reference .* 'sdpo'/,
  });
  const mapo = lossOf({ objective: 'mapo' });
  t.equal((await finish(trainerOf({ policy: without, loss: mapo }), 2)).length, 2, 'an objective without a reference');
});

t.test('a threshold that moves', async (t) => {
  const seen: number[][] = [];
  const threshold = {
    threshold: (timesteps: ArrayLike<number>) => Float64Array.from(timesteps, (time) => (time < 500 ? 1 : 0)),
    observe: (timesteps: ArrayLike<number>, rows: { mask: Float64Array }) => {
      seen.push(Array.from(rows.mask, (mask, row) => (mask === (timesteps[row] < 500 ? 0 : 1) ? 1 : 0)));
    },
    state: () => ({ kept: 0.5 }),
    load(state: unknown) {
      this.loaded = state;
    },
    loaded: undefined as unknown,
  };
  const trainer = trainerOf({ threshold });
  await finish(trainer, 2);
  t.ok(seen.flat().every(Boolean) && seen.length === 2, 'decides the mask of each row');
  const state = await trainer.state();
  t.same(state.progress.threshold, { kept: 0.5 });
  await trainer.load(state);
  t.same(threshold.loaded, { kept: 0.5 });
  t.throws(() => trainerOf({ threshold, loss: lossOf({ objective: 'diffusion-dpo' }) }), {
    code: 'ERR_SDPO_INVALID_OPTION',
  });
});

t.test('a reference that moves', async (t) => {
  const calls: [number, number][] = [];
  const policy = policyOf();
  const move = policy.updateReference!.bind(policy);
  let at = 0;
  policy.updateReference = (decay) => {
    calls.push([at, decay]);
    return move(decay);
  };
  const drifts: number[] = [];
  const trainer = trainerOf({ policy, referenceUpdate: { every: 3 } });
  for await (const { step, metrics } of trainer.run(8)) {
    at = step + 1;
    drifts.push(metrics.driftChosen!);
  }
  t.same(
    calls,
    [
      [2, 0],
      [5, 0],
    ].map(([step, decay]) => [step! + 1, decay]),
    'after every third update',
  );
  t.same(
    drifts.map((drift) => drift === 0),
    [true, false, false, true, false, false, true, false],
    'the update behind it begins at the policy itself',
  );
  const slow = trainerOf({ referenceUpdate: { every: 1, decay: 1 } });
  const fixed = trainerOf();
  t.same(await finish(slow, 4), await finish(fixed, 4), 'with decay 1 it stays');
  const half = trainerOf({ referenceUpdate: { every: 4, decay: 0.5 } });
  await finish(half, 4);
  const { tensors } = await half.policy.state();
  const first = (await policyOf().weights()).bias!.data as Float32Array;
  const expected = (tensors['parameters.bias']!.data as Float32Array).map((value, i) => 0.5 * value + 0.5 * first[i]!);
  t.same(tensors['reference.bias']!.data, expected, 'the moving average is part of the state');

  const skipping = trainerOf({
    ...{ referenceUpdate: { every: 1 }, onNonFinite: 'skip', policy: policyOf(), learningRate: 1e-2 },
    data: {
      ...linearData({}),
      get: (index: number) => ({ ...makePairs({})[index]!, chosen: new Float32Array(4).fill(NaN) }),
    },
  });
  let moved = 0;
  skipping.policy.updateReference = () => void moved++;
  await finish(skipping, 3);
  t.equal(moved, 3, 'updates that are skipped count');

  // Being the policy all the time is what was asked for, and no mistake.
  const told: string[] = [];
  const live = { referenceUpdate: { every: 1 }, onWarning: ({ code }: { code: string }) => void told.push(code) };
  await finish(trainerOf(live), 14);
  t.notOk(told.includes('live-reference'));

  const without = policyOf();
  (without as { updateReference: unknown }).updateReference = undefined;
  const every = { every: 2 };
  const refused: [Partial<PreferenceTrainerOptions>, RegExp][] = [
    [
      { referenceUpdate: every, reference: () => ({ error: { chosen: [], rejected: [] } }) },
      /to be absent, since options\.reference is given/,
    ],
    [
      { referenceUpdate: every, loss: lossOf({ objective: 'mapo' }) },
      /absent, since objective 'mapo' has no reference/,
    ],
    [{ referenceUpdate: every, policy: without }, /options\.policy\.updateReference to be a function/],
    [{ referenceUpdate: { every: 0 } }, /options\.referenceUpdate\.every/],
    [{ referenceUpdate: { every: 1, decay: 2 } }, /options\.referenceUpdate\.decay/],
    [{ referenceUpdate: { each: 1 } as never }, /"each"/],
  ];
  for (const [options, message] of refused) t.throws(() => trainerOf(options), { message });
});

t.test('a β that adapts', async (t) => {
  const seen: { logits: number; scale: number }[] = [];
  const scales = [1, 2, 0.5];
  const beta = {
    scale: () => scales[seen.length]!,
    observe: ({ logit }: { logit: Float64Array }, scale: number) => void seen.push({ logits: logit.length, scale }),
    state: () => ({ kept: 1 }),
    load() {},
  };
  const one = watched({ beta, accumulate: 4 });
  const reports = await finish(one.trainer, 3);
  t.same(
    seen,
    scales.map((scale) => ({ logits: 8, scale })),
    'learns once an update, from all its rows',
  );
  t.same(
    reports.map((report) => report.beta),
    [20, 40, 10],
  );
  t.same((await one.trainer.state()).progress.beta, { kept: 1 });
  const [, , , , batch] = one.seen.batches;
  const doubled = lossOf({ beta: 40 }).evaluate({ ...batch!, betaScale: 1 }, { denominator: 8 });
  t.same(one.seen.cotangents[4], doubled.gradients.stacked!.data, 'it is that β');

  // What it is for: the mean size of the logit, which without it falls far from the target.
  const sizesOf = async (follow: boolean) => {
    const tracker = new BetaTracker({ target: 0.3, window: 64, range: [1e-6, 1e6] });
    const sizes: number[] = [];
    const watching = {
      scale: () => (follow ? tracker.scale() : 1),
      observe(rows: { logit: Float64Array; mask: Float64Array }, scale: number) {
        sizes.push(rows.logit.reduce((sum, logit) => sum + Math.abs(logit), 0) / rows.logit.length);
        tracker.observe(rows, scale);
      },
      state: () => tracker.state(),
      load() {},
    };
    const loss = lossOf({ objective: 'diffusion-dpo', beta: 1000 });
    await finish(trainerOf({ beta: watching, pairsPerStep: 32, loss, learningRate: 1e-3 }), 60);
    return sizes.slice(20).reduce((sum, size) => sum + size, 0) / 40;
  };
  const [followed, fixed] = [await sizesOf(true), await sizesOf(false)];
  t.ok(followed > 0.2 && followed < 0.45, `a mean size of ${followed}`);
  t.ok(fixed > 1, `without it ${fixed}`);

  for (const value of [0, NaN, -1, 'x']) {
    const wrong = { ...beta, scale: () => value as number };
    await t.rejects(finish(trainerOf({ beta: wrong }), 1), { message: /the result of options\.beta\.scale\(\)/ });
  }
  t.throws(() => trainerOf({ beta, loss: lossOf({ objective: 'mapo' }) }), { message: /'mapo' reads no betaScale/ });
  t.throws(() => trainerOf({ beta: {} as never }), { message: /options\.beta\.scale/ });
});

t.test('beforeLoss may weigh rows', async (t) => {
  const [report] = await finish(
    trainerOf({
      beforeLoss(batch, rows, statistics) {
        const { mask } = statistics().rows;
        t.equal(mask.length, rows.rows);
        return { batch: { ...batch, rowWeights: new Float64Array(rows.rows) }, call: { maskThreshold: 0 } };
      },
    }),
    1,
  );
  t.same([report.grad_norm, report.maskFraction], [0, 0]);
});

t.test('predictions as tensors', async (t) => {
  const wrap = (dtype: 'bfloat16' | 'float32', inner: Policy): Policy => {
    const shape = ({ latents }: ModelInputs) => [latents.length / SIZE, SIZE];
    const toTensor = (values: LatentArray, inputs: ModelInputs) =>
      Tensor.from(values as Float32Array, { shape: shape(inputs), dtype });
    const policy = Object.create(inner) as Policy;
    for (const name of ['predict', 'step', 'discard', 'state', 'load', 'weights'] as const) {
      (policy as unknown as Record<string, unknown>)[name] = (...args: never[]) =>
        (inner[name] as (...args: never[]) => unknown)(...args);
    }
    policy.reference = async (inputs) => toTensor(await inner.reference!(inputs), inputs);
    policy.linearize = async (inputs) => {
      const { prediction, pullback } = await inner.linearize(inputs);
      return {
        prediction: toTensor(prediction, inputs),
        pullback(cotangent) {
          t.ok(cotangent instanceof Tensor && cotangent.dtype === dtype);
          return pullback(Float32Array.from((cotangent as Tensor).to('cpu').toHost() as Float32Array));
        },
      };
    };
    return policy;
  };
  t.same(await finish(trainerOf({ policy: wrap('float32', policyOf()) }), 3), await finish(trainerOf(), 3));
  t.equal((await finish(trainerOf({ policy: wrap('bfloat16', policyOf()), onNonFinite: 'skip' }), 1)).length, 1);
});

t.test('a failed evaluation leaves a checkpoint', async (t) => {
  const saved: number[] = [];
  const run = ({ step }: { step: number }): Record<string, number> => {
    if (step === 4) throw new Error('typo');
    return { step };
  };
  const store = { save: ({ progress }: TrainerState) => void saved.push(progress.step) };
  await t.rejects(finish(trainerOf({ evaluate: { every: 2, run }, checkpoints: { store, every: 100 } }), 9), /typo/);
  t.same(saved, [4]);
  for (const [result, message] of [
    [undefined, /^Expected the result of options\.evaluate\.run\(\) to be an object of numbers, received undefined$/],
    [{ score: 'good' }, /^Expected score in the result of options\.evaluate\.run\(\) to be a number, received "good"$/],
  ] as const) {
    await t.rejects(finish(trainerOf({ evaluate: { every: 1, run: () => result as never } }), 1), { message });
  }
});

t.test('updates skipped in a row are counted across a resumption', async (t) => {
  const options = () => ({ policy: spoilt(() => true, 'prediction'), onNonFinite: 'skip', maxSkipped: 3 }) as const;
  const first = trainerOf(options());
  await finish(first, 2);
  const second = trainerOf(options());
  await second.load(await first.state());
  await t.rejects(finish(second, 9), { code: 'ERR_SDPO_DIVERGED', step: 4 });
});

t.test('a generator serves a run that skips', async (t) => {
  const pairs = pairsFromStream(
    (function* () {
      yield* makePairs({});
    })(),
    { shape: [SIZE], fingerprint: 'once' },
  );
  const policy = spoilt((update) => update === 1, 'prediction');
  const { trainer, seen } = watched({ data: pairs, accumulate: 2, onNonFinite: 'skip', policy });
  t.equal((await finish(trainer, 4)).length, 4);
  t.same(
    seen.ids.at(-1),
    makePairs({})
      .slice(28, 32)
      .map(({ id }) => id),
  );
});

t.test('data that do not fit', async (t) => {
  const data = linearData({});
  const giving = (pair: unknown) => ({ ...data, get: () => pair as never });
  const nan = { ...makePairs({})[0], rejected: Float32Array.of(0, NaN, 0, 0) };
  const cases: [object, { code?: string; message: RegExp }][] = [
    [giving(undefined), { code: 'ERR_SDPO_DATA', message: /a pair of the data to be a preference pair/ }],
    [
      giving({ id: 'x', chosen: new Float32Array(4) }),
      { code: 'ERR_SDPO_DATA', message: /^Expected rejected of a pair of the data \(x\) to be a Float32Array/ },
    ],
    [
      giving({ ...makePairs({})[0], id: 7 }),
      { code: 'ERR_SDPO_DATA', message: /id of a pair of the data .* received 7/ },
    ],
    [
      giving({ ...makePairs({})[0], prompt: 'a cat' }),
      { code: 'ERR_SDPO_DATA', message: /to have only the fields .*condition.*, received "prompt"/ },
    ],
    [giving(nan), { code: 'ERR_SDPO_DIVERGED', message: /in the rejected sample of the data \(pairs pair 0/ }],
    [stream({ count: 7 }), { code: 'ERR_SDPO_DATA', message: /^Expected at least 8 pairs for one update/ }],
  ];
  for (const [source, error] of cases) await t.rejects(finish(trainerOf({ data: source as never }), 1), error);
});

t.test('one array for the predictions of policy and reference is refused', async (t) => {
  const inner = policyOf();
  const shared = new Float32Array(16 * SIZE);
  const policy = policyOf();
  const write = (values: LatentArray) => {
    shared.set(values as Float32Array);
    return shared;
  };
  policy.linearize = async (inputs) => ({
    ...(await inner.linearize(inputs)),
    prediction: write(await inner.predict(inputs)),
  });
  policy.reference = async (inputs) => write(await inner.reference!(inputs));
  await t.rejects(finish(trainerOf({ policy }), 1), { message: /prediction of the reference .* memory of its own/ });
});

t.test('results of the policy that are none', async (t) => {
  const policy = policyOf();
  policy.linearize = () => undefined as never;
  await t.rejects(finish(trainerOf({ policy }), 1), { message: /^Expected the result of policy\.linearize\(\)/ });
  const other = policyOf();
  other.step = () => undefined as never;
  await t.rejects(finish(trainerOf({ policy: other }), 1), { message: /^Expected the result of policy\.step\(\)/ });
});

t.test('predictions that do not fit', async (t) => {
  const answer = (prediction: unknown): Policy => {
    const policy = policyOf();
    policy.linearize = () => ({ prediction: prediction as Float32Array, pullback() {} });
    return policy;
  };
  await t.rejects(finish(trainerOf({ policy: answer([1, 2]) }), 1), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  await t.rejects(finish(trainerOf({ policy: answer(new Float32Array(3)) }), 1), { code: 'ERR_SDPO_INVALID_LENGTH' });
  const wrongShape = Tensor.from(new Float32Array(16 * SIZE), { shape: [4, 16] });
  await t.rejects(finish(trainerOf({ policy: answer(wrongShape) }), 1), { code: 'ERR_SDPO_INVALID_LENGTH' });
});

t.test('wrong options', (t) => {
  const cases: [Record<string, unknown>, string, RegExp][] = [
    [{ sede: 1 }, 'ERR_SDPO_UNKNOWN_OPTION', /"sede"/],
    [{ policy: {} }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.policy\.linearize/],
    [{ data: [] }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.data/],
    [{ data: { ...linearData({}), length: 0 } }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.data\.length/],
    [{ loss: {} }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.loss/],
    [{ loss: new PreferenceLoss({ objective: 'sdpo', beta: 1 }) }, 'ERR_SDPO_INVALID_ARG_TYPE', /schedule/],
    [{ seed: -1 }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.seed/],
    [{ accumulate: 3 }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.accumulate .* divisor of pairsPerStep \(8\)/],
    [{ noise: 'pink' }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.noise/],
    [{ timesteps: { random: () => 0 } }, 'ERR_SDPO_UNKNOWN_OPTION', /options\.timesteps/],
    [{ timesteps: { range: [0, 5000] } }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.timesteps\.range/],
    [{ evaluate: { every: 1 } }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.evaluate\.run/],
    [{ checkpoints: { every: 1, store: 'path' } }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.checkpoints\.store/],
    [{ writers: [() => {}] }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.writers\[0\]/],
    [{ data: { ...linearData({}), shape: 4 } }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.data\.shape/],
    [{ data: { ...linearData({}), get: undefined } }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.data\.get/],
    [
      { data: { ...linearData({}), fingerprint: undefined } },
      'ERR_SDPO_INVALID_ARG_TYPE',
      /options\.data\.fingerprint/,
    ],
    [{ sampling: 'best' }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.sampling/],
    [{ sampling: 'shuffle', data: stream({}) }, 'ERR_SDPO_INVALID_OPTION', /options\.sampling/],
    [{ learningRate: '1' }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.learningRate/],
    [{ maxGradientNorm: 0 }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.maxGradientNorm/],
    [{ ema: { decay: 2 } }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.ema\.decay/],
    [{ evaluate: { every: 0, run: () => ({}) } }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.evaluate\.every/],
    [{ signal: {} }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.signal/],
    [{ reference: {} }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.reference\.predict/],
    [{ threshold: {} }, 'ERR_SDPO_INVALID_ARG_TYPE', /options\.threshold\.threshold/],
    [{ onNonFinite: 'hide' }, 'ERR_SDPO_INVALID_ARG_VALUE', /options\.onNonFinite/],
  ];
  for (const [options, code, message] of cases) {
    t.throws(() => trainerOf(options as Partial<PreferenceTrainerOptions>), { code, message }, Object.keys(options)[0]);
  }
  const without = policyOf();
  (without as { updateAverage: unknown }).updateAverage = undefined;
  t.throws(() => trainerOf({ policy: without, ema: { decay: 0.9 } }), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  t.end();
});

t.test('wrong rates and steps', async (t) => {
  for (const rate of [NaN, -1, 'x']) {
    const error = await finish(trainerOf({ learningRate: () => rate as number }), 1).then(
      () => undefined,
      (error: unknown) => error as SdpoError,
    );
    t.match(error?.message, /^Expected the result of options\.learningRate\(\) to be a finite number >= 0, received /);
  }
  await t.rejects(finish(trainerOf(), 1.5), { code: 'ERR_SDPO_INVALID_ARG_VALUE' });
});

t.test('the profile accounts for the time', async (t) => {
  const trainer = trainerOf({ evaluate: { every: 2, run: () => ({}) } });
  await finish(trainer, 4);
  const { profile } = trainer;
  for (const part of ['data', 'policy', 'reference', 'loss', 'optimizer', 'log', 'evaluation', 'rest']) {
    t.ok(profile[part] >= 0, part);
  }
});

t.test('the noise of a training is not that of its seed', async (t) => {
  const { trainer, seen } = watched({ seed: 0, sampling: 'sequential' });
  await finish(trainer, 1);
  const plain = noise(0, 0, new Float32Array(8 * SIZE));
  const x0 = Float32Array.from(
    makePairs({})
      .slice(0, 8)
      .flatMap(({ chosen }) => [...chosen]),
  );
  const timesteps = seen.inputs[0].timesteps.subarray(0, 8);
  t.notSame(seen.inputs[0].latents.subarray(0, 8 * SIZE), schedule.addNoise(x0, plain, timesteps));
});
