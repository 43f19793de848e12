/** Warnings of runs that cannot learn, or that learn the wrong thing: each once, with what it means, and none where all is well. */

import { once } from 'node:events';
import t from 'tap';
import { NoiseSchedule, PreferenceLoss, type PreferenceLossOptions, Tensor } from '../../lib/index.js';
import { LearningWatch, type TrainingWarning } from '../../lib/trainer/learning-watch.js';
import type { PreferenceTrainerOptions } from '../../lib/trainer/options.js';
import { PreferenceTrainer } from '../../lib/trainer/trainer.js';
import type { Policy } from '../../lib/trainer/types.js';
import linearData from '../helpers/linear-data.js';
import linearPolicy from '../helpers/linear-policy.js';

const schedule = NoiseSchedule.preset('sd15', { inferenceSteps: 20 });

/** The linear policy with some of its methods replaced. */
function policyWith(changes: (own: Policy) => Partial<Policy> = () => ({})): Policy {
  const own = linearPolicy({}, { shape: [4] } as never) as Policy;
  const names = ['linearize', 'predict', 'reference', 'step', 'discard', 'state', 'load', 'weights'] as const;
  const plain = Object.fromEntries(
    names.map((name) => [name, (...args: never[]) => (own[name] as (...args: never[]) => unknown)(...args)]),
  );
  return { ...(plain as unknown as Policy), ...changes(own) };
}

interface Case {
  policy?: Policy;
  loss?: Partial<PreferenceLossOptions>;
  options?: Partial<PreferenceTrainerOptions>;
  steps?: number;
}

async function warningsOf({ policy = policyWith(), loss, options, steps = 60 }: Case): Promise<TrainingWarning[]> {
  const warnings: TrainingWarning[] = [];
  const trainer = new PreferenceTrainer({
    ...{ policy, data: linearData({}), seed: 3, pairsPerStep: 8, learningRate: 1e-3 },
    loss: new PreferenceLoss({ objective: 'diffusion-dpo', beta: 10, schedule, ...loss }),
    onWarning: (warning) => void warnings.push(warning),
    ...options,
  });
  for await (const _ of trainer.run(steps));
  return warnings;
}

t.test('a run that is well', async (t) => {
  t.same(await warningsOf({ loss: { sftWeight: 1 } }), []);
  t.same(await warningsOf({ loss: { objective: 'mapo', sftWeight: 1, mapoSteps: 10 } }), [], 'without a reference');
});

t.test('a reference that moves with the policy', async (t) => {
  const live = () => policyWith((own) => ({ reference: (inputs) => own.predict(inputs) }));
  const [warning, ...others] = await warningsOf({ policy: live() });
  // The first update has nothing to compare with, ten more make it certain.
  t.match(warning, {
    code: 'live-reference',
    step: 11,
    message: /exactly the same in the last 10 updates.*frozen copy/,
  });
  t.same(others, []);
  t.same(await warningsOf({ policy: live(), steps: 10 }), [], 'it is not said too early');
  t.same(
    await warningsOf({ policy: live(), options: { learningRate: 0 } }),
    [],
    'without an update the two are the same as they should be',
  );
  const errors = policyWith();
  const reference: PreferenceTrainerOptions['reference'] = async ({ inputs, target, rows }) => {
    const prediction = (await errors.predict(inputs)) as Float32Array;
    const size = prediction.length / (2 * rows);
    // As the loss itself reduces them, so that they are the same to the last bit.
    const { chosen, rejected } = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, schedule }).moments({
      timesteps: inputs.timesteps.subarray(0, rows),
      chosen: {
        policy: prediction.subarray(0, rows * size),
        referenceError: new Float64Array(rows),
        target: target.chosen,
      },
      rejected: {
        policy: prediction.subarray(rows * size),
        referenceError: new Float64Array(rows),
        target: target.rejected,
      },
    });
    return { error: { chosen: chosen.error, rejected: rejected.error } };
  };
  const byErrors = await warningsOf({ policy: errors, options: { reference } });
  t.match(byErrors, [{ code: 'live-reference', step: 11 }], 'also where only errors are known');
});

t.test('a reference that is another before the first update', async (t) => {
  const swapped = policyWith((own) => ({
    async reference(inputs) {
      const prediction = (await own.reference!(inputs)) as Float32Array;
      const half = prediction.length / 2;
      return Float32Array.from(prediction, (_, i) => prediction[(i + half) % prediction.length]);
    },
  }));
  const [warning, ...others] = await warningsOf({ policy: swapped, loss: { sftWeight: 1 } });
  t.match(warning, {
    code: 'reference-differs',
    step: 1,
    message: /before the first update: by 0?\.\d+ of .*halves .*swapped/,
  });
  t.same(others, []);
  const moved = (by: number) =>
    policyWith((own) => ({
      reference: async (inputs) => ((await own.reference!(inputs)) as Float32Array).map((x) => x + by),
    }));
  t.match(await warningsOf({ policy: moved(0.01), steps: 2 }), [{ code: 'reference-differs' }]);
  t.same(await warningsOf({ policy: moved(1e-4), steps: 2 }), [], 'rounding is none');
  const asHalf = (policy: Policy): Policy => ({
    ...policy,
    async reference(inputs) {
      const prediction = (await policy.reference!(inputs)) as Float32Array;
      return Tensor.from(prediction, { shape: [16, 4], dtype: 'bfloat16' });
    },
  });
  t.same(await warningsOf({ policy: asHalf(policyWith()), steps: 2 }), [], 'nor that of bfloat16');
  t.match(await warningsOf({ policy: asHalf(swapped), steps: 2 }), [{ code: 'reference-differs' }]);
  const reference: PreferenceTrainerOptions['reference'] = ({ rows }) => {
    const error = new Float64Array(rows).fill(0.01);
    return { error: { chosen: error, rejected: error } };
  };
  t.match(await warningsOf({ options: { reference }, steps: 2 }), [{ code: 'reference-differs' }], 'by errors alone');

  const policy = policyWith();
  const first = new PreferenceTrainer({
    ...{ policy, data: linearData({}), seed: 3, pairsPerStep: 8, learningRate: 1e-2 },
    loss: new PreferenceLoss({ objective: 'diffusion-dpo', beta: 10, schedule }),
    onWarning: (warning) => t.fail(warning.message),
  });
  for await (const _ of first.run(5));
  const second = new PreferenceTrainer({
    ...{ policy, data: linearData({}), seed: 3, pairsPerStep: 8, learningRate: 1e-2 },
    loss: new PreferenceLoss({ objective: 'diffusion-dpo', beta: 10, schedule }),
    onWarning: (warning) => t.fail(warning.message),
  });
  await second.load(await first.state());
  for await (const _ of second.run(7)); // a run that goes on has moved away from its reference
});

t.test('rows that are all masked', async (t) => {
  const loss = { objective: 'sdpo', maskThreshold: 1, weightSharpness: 100 } as const;
  const warnings = await warningsOf({ loss });
  t.match(warnings, [
    { code: 'all-rows-masked', step: 10, message: /Every row of the last 10 updates.*maskThreshold/ },
  ]);
  t.equal(warnings.length, 1, 'nor is the gradient of 0 that follows said as well');
  const threshold = {
    threshold: (timesteps: ArrayLike<number>) => new Float64Array(timesteps.length).fill(masked++ % 10 === 9 ? 0 : 1),
    observe() {},
    state: () => null,
    load() {},
  };
  let masked = 0;
  t.same(await warningsOf({ loss: { ...loss, sftWeight: 1, sftScope: 'all' }, options: { threshold } }), []);
});

t.test('a gradient that is always 0', async (t) => {
  const policy = policyWith((own) => ({
    linearize: async (inputs) => ({ ...(await own.linearize(inputs)), pullback() {} }),
  }));
  const warnings = await warningsOf({ policy });
  t.match(warnings, [{ code: 'no-gradient', step: 10, message: /gradient was exactly 0.*pullback/ }]);
  t.equal(warnings.length, 1);
});

t.test('errors that rise together', async (t) => {
  const away = policyWith((own) => ({
    async linearize(inputs) {
      const point = await own.linearize(inputs);
      return { ...point, pullback: (g) => point.pullback((g as Float32Array).map((x) => -x)) };
    },
  }));
  const warnings = await warningsOf({ policy: away, loss: { sftWeight: 1 }, options: { learningRate: 0.02 } });
  t.match(warnings, [
    { code: 'errors-rise', step: 30, message: /chosen samples is [\d.]+ times the reference's, .*klWeight/ },
  ]);

  const step = (n: number, chosen: number, rejected: number) => {
    const metrics = {
      errorChosen: chosen,
      referenceErrorChosen: 1,
      errorRejected: rejected,
      referenceErrorRejected: 1,
    };
    return { step: n, metrics: { ...metrics, driftChosen: 1e-9, driftRejected: 1e-9, grad_norm: 1 }, half: false };
  };
  const said = (chosen: (n: number) => number, rejected: (n: number) => number) => {
    const watch = new LearningWatch(true);
    return Array.from({ length: 200 }, (_, i) => watch.observe(step(i + 2, chosen(i), rejected(i)))).flat();
  };
  t.same(
    said(
      (n) => 1 - 0.001 * n,
      (n) => 1 + 0.01 * n,
    ),
    [],
    'of rejected samples alone they should',
  );
  t.same(
    said(
      (n) => 1 + 0.0001 * n,
      (n) => 1 + 0.01 * n,
    ),
    [],
    'a little is noise',
  );
  t.same(
    said(
      () => 1.5,
      () => 1.5,
    ),
    [],
    'what is bad already and stays so is the reference-differs of the start',
  );
  t.same(
    said(
      (n) => 1.2 + 0.1 * Math.sin(n / 5),
      (n) => 1.2 + 0.1 * Math.cos(n / 5),
    ),
    [],
    'nor do they waver',
  );
  t.match(
    said(
      (n) => 1 + 0.01 * n,
      (n) => 1 + 0.01 * n,
    ),
    [{ code: 'errors-rise' }],
    'once',
  );
});

t.test('without onWarning the process is warned', async (t) => {
  const warned = once(process, 'warning');
  await warningsOf({
    policy: policyWith((own) => ({ reference: (inputs) => own.predict(inputs) })),
    options: { onWarning: undefined },
  });
  const [warning] = await warned;
  t.match(warning, { name: 'SdpoWarning', code: 'SDPO_LIVE_REFERENCE', message: /moves with the policy/ });
});
