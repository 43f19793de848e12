/** The TensorFlow.js adapter's numbers: gradients against formulas written in TensorFlow.js and finite differences, every option, memory. */

import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-wasm';
import t from 'tap';
import { preferenceLoss, type TfjsCallOptions } from '../../lib/adapters/tfjs.js';
import { PreferenceLoss, type Statistics } from '../../lib/index.js';
import {
  differenceGradient,
  float32Tolerance,
  lossWithOmega,
  makeProblem,
  type Problem,
  parameterNames,
  parityOptions,
  passedLoss,
  passedOptions,
  rows,
  titleOf,
} from '../helpers/adapters.js';
import { batchVariants, randomBatch } from '../helpers/cases.js';
import { Comparison, close } from '../helpers/close.js';
import { weightsOf } from '../helpers/evaluate.js';
import { batchOf, predict, predictionShape, type Variables, variablesOf } from '../helpers/tfjs-problem.js';
import type { OracleOptions } from '../oracle/oracle.js';

/** The loss as one writes it in TensorFlow.js: means over all axes but the first, masks by multiplication. */
function plainLoss(options: OracleOptions, problem: Problem, variables: Variables): tf.Scalar {
  const { objective, beta, link = 'sigmoid', labelSmoothing = 0, weightSharpness = 1 } = options;
  const branch = (name: 'chosen' | 'rejected') => {
    const { inputs, reference, target } = problem[name];
    const u = predict(variables, inputs);
    const [ref, goal] = [tf.tensor(reference, predictionShape), tf.tensor(target, predictionShape)];
    const rowMean = (x: tf.Tensor) => x.square().mean([1, 2, 3, 4]);
    const m = rowMean(u.sub(goal));
    const psi = m.sub(rowMean(ref.sub(goal))).mul(-beta / 2);
    // Read back and made again: TensorFlow.js has no stop-gradient.
    const lambda = tf.tensor(m.mul(problem.omega[name]).mul(-weightSharpness).dataSync());
    return { m, psi, lambda, q: rowMean(u.sub(ref)) };
  };
  const ofLink = (z: tf.Tensor) => {
    if (link === 'hinge') return tf.relu(tf.sub(1, z));
    if (link === 'ipo')
      return z
        .div(beta)
        .sub(1 / (2 * beta))
        .square();
    return tf
      .softplus(z.neg())
      .mul(1 - labelSmoothing)
      .add(tf.softplus(z).mul(labelSmoothing));
  };
  const chosen = branch('chosen');
  const rejected = branch('rejected');
  const anchor = chosen.m.mul(options.sftWeight ?? 0).add(chosen.q.add(rejected.q).mul(options.klWeight ?? 0));
  const clip = (lambda: tf.Tensor) => lambda.exp().clipByValue(...(options.clipRange as [number, number]));
  const keep = () =>
    tf
      .minimum(chosen.lambda, rejected.lambda)
      .greaterEqual(Math.log(options.maskThreshold ?? 0))
      .cast('float32');
  const perRow = () => {
    if (objective === 'diffusion-dpo') return ofLink(chosen.psi.sub(rejected.psi));
    if (objective === 'dpo-cm') {
      const pair = clip(chosen.lambda.add(rejected.lambda).mul(0.5));
      return keep()
        .mul(pair)
        .mul(ofLink(chosen.psi.sub(rejected.psi)));
    }
    return keep().mul(ofLink(clip(chosen.lambda).mul(chosen.psi).sub(clip(rejected.lambda).mul(rejected.psi))));
  };
  return perRow().add(anchor).mean().asScalar();
}

for (const backend of ['cpu', 'wasm']) {
  t.test(`${backend} backend`, async (t) => {
    await tf.setBackend(backend);
    t.equal(tf.getBackend(), backend);

    t.test('loss and gradients as by the plain formula in TensorFlow.js', (t) => {
      const problem = makeProblem(1);
      const variables = variablesOf(problem);
      for (const options of parityOptions) {
        const expected = tf.variableGrads(() => plainLoss(options, problem, variables));
        const loss = preferenceLoss(lossWithOmega(options));
        let result: Statistics | undefined;
        const onResult = (given: Statistics) => {
          result = given;
        };
        const actual = tf.variableGrads(() => loss(batchOf(problem, variables), { onResult }));
        const title = titleOf(options);
        const expectedLoss = expected.value.dataSync();
        close(t, `loss: ${title}`, actual.value.dataSync(), expectedLoss, float32Tolerance(expectedLoss));
        t.equal(actual.value.dataSync()[0], Math.fround(result!.loss), 'the scalar is the rounded loss');
        for (const name of parameterNames) {
          const right = expected.grads[variables[name].name].dataSync();
          const left = actual.grads[variables[name].name].dataSync();
          close(t, `${name}: ${title}`, left, right, float32Tolerance(right));
        }
        if (options.objective !== 'diffusion-dpo') {
          t.ok(result!.metrics.maskFraction > 0 && result!.metrics.maskFraction < 1, 'the mask removes some rows');
          t.ok(result!.metrics.clipFraction > 0, 'the clip binds');
        }
      }
      tf.dispose(variables);
      t.end();
    });

    t.test('gradients with respect to parameters as by finite differences in float64', (t) => {
      const problem = makeProblem(2);
      const variables = variablesOf(problem);
      for (const options of [
        { objective: 'diffusion-dpo', beta: 2 },
        { objective: 'sdpo', beta: 2, maskThreshold: 0.6, clipRange: [0.8, 0.95], weightGradient: true, klWeight: 0.3 },
      ] satisfies OracleOptions[]) {
        const loss = lossWithOmega(options);
        const expected = differenceGradient(loss, problem);
        const { grads } = tf.variableGrads(() => preferenceLoss(loss)(batchOf(problem, variables)));
        for (const name of parameterNames) {
          const actual = grads[variables[name].name].dataSync();
          close(t, `${options.objective} ${name}`, actual, expected[name], float32Tolerance(expected[name]));
        }
      }
      tf.dispose(variables);
      t.end();
    });

    t.test('an optimizer lowers the loss, raises implicit accuracy, and no tensor stays behind', (t) => {
      const problem = makeProblem(7);
      const variables = variablesOf(problem);
      const { chosen, rejected } = problem;
      const frozen = [chosen, rejected].map(({ inputs }) => predict(variables, inputs).dataSync<'float32'>());
      const loss = preferenceLoss(lossWithOmega({ objective: 'diffusion-dpo', beta: 20 }));
      const optimizer = tf.train.sgd(0.05);
      const seen: Statistics[] = [];
      const scalar = () => {
        const batch = batchOf(problem, variables);
        batch.chosen.reference = frozen[0];
        batch.rejected.reference = frozen[1];
        return loss(batch, { onResult: (result) => seen.push(result) });
      };
      const all = Object.values(variables);
      optimizer.minimize(scalar, false, all);
      const { numTensors, numDataBuffers } = tf.memory();
      for (let i = 0; i < 20; i++) optimizer.minimize(scalar, false, all);
      tf.tidy(() => void scalar());
      t.match(tf.memory(), { numTensors, numDataBuffers }, 'no more tensors than after the first step');
      t.equal(seen.length, 22);
      t.equal(seen[0].metrics.implicitAccuracy, 0.5, 'all ties at first');
      t.equal(seen[21].metrics.implicitAccuracy, 1);
      t.ok(seen[21].loss < seen[0].loss);
      t.not(seen[0].rows, seen[1].rows, 'every result is its own');
      // A failing evaluation leaves nothing either.
      const bad = batchOf({ ...problem, chosen: { ...chosen, target: chosen.target.map(() => NaN) } }, variables);
      const before = tf.memory().numTensors;
      t.throws(() => optimizer.minimize(() => loss(bad)), { code: 'ERR_SDPO_NON_FINITE' });
      t.equal(tf.memory().numTensors, before);
      tf.dispose([variables, bad as unknown as tf.TensorContainer]);
      t.end();
    });

    t.test('a factor on the scalar, and a cotangent, scale the gradient', (t) => {
      const problem = makeProblem(3);
      const variables = variablesOf(problem);
      const batch = batchOf(problem, variables);
      const { policy: chosen, ...chosenRest } = batch.chosen;
      const { policy: rejected, ...rejectedRest } = batch.rejected;
      const loss = preferenceLoss(lossWithOmega({ objective: 'sdpo', beta: 2 }));
      const f = loss.given({ ...batch, chosen: chosenRest, rejected: rejectedRest });
      const plain = tf.grads(f)([chosen, rejected]);
      const scaled = tf.grads((c, r) => f(c, r).mul(-8))([chosen, rejected]);
      const pulled = tf.grads(f)([chosen, rejected], tf.scalar(-8));
      for (const [i, gradient] of plain.entries()) {
        t.same(gradient.shape, predictionShape);
        const expected = gradient.dataSync().map((value) => -8 * value);
        t.same(scaled[i].dataSync(), expected);
        t.same(pulled[i].dataSync(), expected);
      }
      const { value, grads } = tf.valueAndGrads(f)([chosen, rejected]);
      t.equal(value.dataSync()[0], f(chosen, rejected).dataSync()[0]);
      t.same(grads[1].dataSync(), plain[1].dataSync());
      tf.dispose(variables);
      t.end();
    });
  });
}

t.test('every option, field of a batch and option of a call reaches the loss', async (t) => {
  await tf.setBackend('cpu');
  const size = 6;
  const base = randomBatch({ rows, size, seed: 5, dtype: 'float32' });
  const compared = new Comparison();
  const float32 = (values?: ArrayLike<number>) => values && Float32Array.from(values);
  const check = (
    label: string,
    options: Parameters<typeof passedLoss>[0],
    batch: ReturnType<typeof batchVariants>[number]['batch'],
    call: TfjsCallOptions = {},
  ) => {
    const loss = passedLoss(options);
    const rest = (name: 'chosen' | 'rejected') => {
      const { policy: _, ...others } = batch[name];
      return { ...others, reference: float32(others.reference), target: float32(others.target)! };
    };
    const elementWeights = batch.elementWeights && weightsOf(batch.elementWeights, Float32Array);
    const shared = { ...batch, elementWeights };
    const policy = (name: 'chosen' | 'rejected') => ({ ...rest(name), policy: float32(batch[name].policy)! });
    const expected = loss.evaluate({ ...shared, chosen: policy('chosen'), rejected: policy('rejected') }, call);
    let actual: Statistics | undefined;
    const onResult = (result: Statistics) => {
      actual = result;
    };
    const f = preferenceLoss(loss).given(
      { ...shared, chosen: rest('chosen'), rejected: rest('rejected') },
      { ...call, onResult },
    );
    const tensors = (['chosen', 'rejected'] as const).map((name) =>
      tf.tensor(float32(batch[name].policy)!, [rows, size]),
    );
    const [chosen, rejected] = tf.grads(f)(tensors);
    const exactly = { relative: 0 };
    compared.check(`${label} chosen`, chosen.dataSync(), expected.gradients.chosen, exactly);
    compared.check(`${label} rejected`, rejected.dataSync(), expected.gradients.rejected, exactly);
    compared.check(`${label} loss`, [actual!.loss], [expected.loss], exactly);
    for (const [name, values] of Object.entries(expected.rows)) {
      compared.check(`${label} ${name}`, actual!.rows[name as keyof typeof expected.rows], values, exactly);
    }
    compared.check(`${label} metrics`, Object.values(actual!.metrics), Object.values(expected.metrics), exactly);
  };
  for (const { name, options } of passedOptions) check(name, options, base);
  for (const { name, batch, options, call } of batchVariants(base, 6)) {
    const { gradientScale: _, ...rest } = call ?? {};
    check(name, { objective: 'sdpo', beta: 3, maskThreshold: 0.7, ...options }, batch, rest);
  }
  const { transition: _, ...scheduled } = base;
  const timesteps = { chosen: base.timesteps, rejected: base.timesteps.map((at) => at + 300) };
  check('timesteps of their own', { objective: 'sdpo', beta: 3 }, { ...scheduled, timesteps });
  compared.end(t, 'as evaluate on the same predictions');
});

t.test('rows are counted from the policies, not from the timesteps', async (t) => {
  await tf.setBackend('cpu');
  const problem = makeProblem(5);
  const variables = variablesOf(problem);
  const f = preferenceLoss(new PreferenceLoss({ objective: 'diffusion-dpo', beta: 2 }));
  const { timesteps, transition: _, ...batch } = batchOf(problem, variables);
  const expected = f({ ...batch, timesteps }).dataSync()[0];
  t.equal(f(batch).dataSync()[0], expected);
  t.equal(f({ ...batch, timesteps: 7, rows }).dataSync()[0], expected);
  t.throws(() => f({ ...batch, rows: rows + 1 }), { message: /batch\.rows to be 5/ });
  tf.dispose(variables);
});

t.test('a removed row has the gradient 0, whatever the loss is scaled by', async (t) => {
  const tensor = (seed: number) =>
    tf.tensor(
      Float32Array.from({ length: 8 }, (_, i) => Math.sin(i + seed)),
      [2, 4],
    );
  const branch = (seed: number) => ({ reference: tensor(seed), target: tensor(seed + 1) });
  const loss = preferenceLoss(new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 }));
  const given = loss.given({ chosen: branch(1), rejected: branch(3), keep: [false, true] });
  const [chosen] = tf.grads(given)([tensor(5), tensor(6)], tf.scalar(Infinity));
  const values = [...chosen!.dataSync()];
  t.same(values.slice(0, 4), [0, 0, 0, 0]);
  t.notOk(values.slice(4).some(Number.isFinite), 'a kept one is scaled');
});
