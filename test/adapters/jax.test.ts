/** The jax-js adapter's numbers: gradients against formulas written in jax-js and against finite differences, and every option. */

import t from 'tap';
import { PreferenceLoss } from '../../lib/index.js';
import {
  differenceGradient,
  float32Tolerance,
  inputSize,
  lossWithOmega,
  makeProblem,
  type Problem,
  parameterNames,
  parityOptions,
  passedLoss,
  passedOptions,
  rowShape,
  rows,
  titleOf,
} from '../helpers/adapters.js';
import { batchVariants, randomBatch } from '../helpers/cases.js';
import { Comparison, close } from '../helpers/close.js';
import { weightsOf } from '../helpers/evaluate.js';
import {
  apply,
  array,
  batchOf,
  type JaxArray,
  lax,
  nn,
  np,
  type Params,
  paramsOf,
  preferenceValueAndGrad,
  tree,
  valueAndGrad,
} from '../helpers/jax-problem.js';
import type { OracleOptions } from '../oracle/oracle.js';

/** The loss as one writes it in jax-js: means over all axes but the first, stop-gradients, masks by multiplication. */
function plainLoss(options: OracleOptions, problem: Problem) {
  const { objective, beta, link = 'sigmoid', labelSmoothing = 0, weightSharpness = 1 } = options;
  const stacked = (field: 'inputs' | 'reference' | 'target', shape: readonly number[]) =>
    array([...problem.chosen[field], ...problem.rejected[field]], [2 * rows, ...shape]);
  const inputs = stacked('inputs', [inputSize]);
  const reference = stacked('reference', rowShape);
  const target = stacked('target', rowShape);
  const omega = array([...problem.omega.chosen, ...problem.omega.rejected], [2 * rows]);
  const rowMean = (x: JaxArray) => np.square(x).mean([1, 2, 3, 4]);
  const halves = (x: JaxArray) => [x.ref.slice([0, rows]), x.slice([rows, 2 * rows])];
  const ofLink = (z: JaxArray) => {
    if (link === 'hinge') return nn.relu(np.subtract(1, z));
    if (link === 'ipo') return np.square(z.div(beta).sub(1 / (2 * beta)));
    return np.add(nn.softplus(z.ref.neg()).mul(1 - labelSmoothing), nn.softplus(z).mul(labelSmoothing));
  };

  return (params: Params): JaxArray => {
    const u = apply(params, inputs);
    const m = rowMean(u.ref.sub(target.ref));
    const q = rowMean(u.sub(reference.ref));
    const psi = m.ref.sub(rowMean(reference.sub(target))).mul(-beta / 2);
    const lambda = lax.stopGradient(m.ref.mul(omega).mul(-weightSharpness));
    const anchor = halves(m)[0]
      .mul(options.sftWeight ?? 0)
      .add(np.add(...(halves(q) as [JaxArray, JaxArray])).mul(options.klWeight ?? 0));
    if (objective === 'diffusion-dpo') {
      const [chosen, rejected] = halves(psi);
      lambda.dispose();
      return ofLink(chosen.sub(rejected)).add(anchor).mean();
    }
    const [low, high] = options.clipRange as readonly [number, number];
    const [lambdaChosen, lambdaRejected] = halves(lambda.ref);
    const keep = np.where(
      np.minimum(lambdaChosen.ref, lambdaRejected.ref).less(Math.log(options.maskThreshold ?? 0)),
      0,
      1,
    );
    if (objective === 'dpo-cm') {
      const [chosen, rejected] = halves(psi);
      lambda.dispose();
      const pair = np.clip(np.exp(lambdaChosen.add(lambdaRejected).mul(0.5)), low, high);
      return keep
        .mul(pair)
        .mul(ofLink(chosen.sub(rejected)))
        .add(anchor)
        .mean();
    }
    lambdaChosen.dispose();
    lambdaRejected.dispose();
    const [chosen, rejected] = halves(np.clip(np.exp(lambda), low, high).mul(psi));
    return keep
      .mul(ofLink(chosen.sub(rejected)))
      .add(anchor)
      .mean();
  };
}

/** How far jax-js's own softplus is off at these logits: its float32 logarithm has lost up to five bits near 1.5. */
function softplusError(logits: Float64Array): number {
  const z = [...logits, ...logits.map((logit) => -logit)];
  const computed = nn.softplus(array(z, [z.length])).dataSync();
  return Math.max(...z.map((logit, i) => Math.abs(computed[i] - Math.log1p(Math.exp(logit)))));
}

t.test('loss and gradients as by the plain formula in jax-js', async (t) => {
  const problem = makeProblem(1);
  for (const options of parityOptions) {
    const [value, expected] = valueAndGrad(plainLoss(options, problem))(paramsOf(problem)) as [JaxArray, Params];
    const expectedLoss = value.item();
    for (const compiled of [true, false]) {
      const step = preferenceValueAndGrad(apply, lossWithOmega(options), { jit: compiled });
      const { loss, gradients, rows: statistics, metrics } = await step(paramsOf(problem), batchOf(problem));
      const title = `${titleOf(options)}, jit ${compiled}`;
      const { absolute } = float32Tolerance([expectedLoss]);
      const tolerance = { relative: 0, absolute: absolute + softplusError(statistics.logit) };
      close(t, `loss: ${title}`, [loss], [expectedLoss], tolerance);
      for (const name of parameterNames) {
        const right = expected[name].ref.dataSync();
        close(t, `${name}: ${title}`, gradients[name].dataSync(), right, float32Tolerance(right));
      }
      if (options.objective !== 'diffusion-dpo') {
        t.ok(metrics.maskFraction > 0 && metrics.maskFraction < 1, 'the mask removes some rows');
        t.ok(metrics.clipFraction > 0, 'the clip binds');
      }
      step.dispose();
    }
    tree.dispose(expected);
  }
});

t.test('gradients with respect to parameters as by finite differences in float64', async (t) => {
  const problem = makeProblem(2);
  for (const options of [
    { objective: 'diffusion-dpo', beta: 2 },
    { objective: 'sdpo', beta: 2, maskThreshold: 0.6, clipRange: [0.8, 0.95], weightGradient: true, klWeight: 0.3 },
  ] satisfies OracleOptions[]) {
    const loss = lossWithOmega(options);
    const expected = differenceGradient(loss, problem);
    const step = preferenceValueAndGrad(apply, loss);
    const { gradients } = await step(paramsOf(problem), batchOf(problem));
    for (const name of parameterNames) {
      close(
        t,
        `${options.objective} ${name}`,
        gradients[name].dataSync(),
        expected[name],
        float32Tolerance(expected[name]),
      );
    }
    step.dispose();
  }
});

t.test('every option, field of a batch and option of a call reaches the loss', async (t) => {
  // The "model" predicts its parameters, so that the gradient is that of the predictions themselves: not one bit may differ.
  const size = 6;
  const model = (params: JaxArray, inputs: JaxArray) => {
    inputs.dispose();
    return params;
  };
  const base = randomBatch({ rows, size, seed: 5, dtype: 'float32' });
  const compared = new Comparison();
  const check = async (
    label: string,
    options: Parameters<typeof passedLoss>[0],
    batch: ReturnType<typeof batchVariants>[number]['batch'],
    call: Parameters<ReturnType<typeof preferenceValueAndGrad>>[2] = {},
  ) => {
    const loss = passedLoss(options);
    const float32 = (values?: ArrayLike<number>) => values && Float32Array.from(values);
    const branch = (name: 'chosen' | 'rejected') => {
      const { policy: _, ...rest } = batch[name];
      return { ...rest, reference: float32(rest.reference), target: float32(rest.target)! };
    };
    const elementWeights = batch.elementWeights && weightsOf(batch.elementWeights, Float32Array);
    const shared = { ...batch, elementWeights };
    const policy = (name: 'chosen' | 'rejected') => ({ ...branch(name), policy: float32(batch[name].policy)! });
    const expected = loss.evaluate({ ...shared, chosen: policy('chosen'), rejected: policy('rejected') }, call);
    const step = preferenceValueAndGrad(model, loss, { jit: false });
    const stacked = array([...Array.from(batch.chosen.policy), ...Array.from(batch.rejected.policy)], [2 * rows, size]);
    const given = { ...shared, inputs: np.zeros([1]), chosen: branch('chosen'), rejected: branch('rejected') };
    const actual = await step(stacked, given, call);
    const exactly = { relative: 0 };
    const gradients = [...expected.gradients.chosen, ...expected.gradients.rejected];
    compared.check(`${label} gradient`, actual.gradients.dataSync(), gradients, exactly);
    compared.check(`${label} loss`, [actual.loss], [expected.loss], exactly);
    for (const [name, values] of Object.entries(expected.rows)) {
      compared.check(`${label} ${name}`, actual.rows[name as keyof typeof actual.rows], values, exactly);
    }
    compared.check(`${label} metrics`, Object.values(actual.metrics), Object.values(expected.metrics), exactly);
  };
  for (const { name, options } of passedOptions) await check(name, options, base);
  for (const { name, batch, options, call } of batchVariants(base, 6)) {
    await check(name, { objective: 'sdpo', beta: 3, maskThreshold: 0.7, ...options }, batch, call);
  }
  const timesteps = { chosen: base.timesteps, rejected: base.timesteps.map((at) => at + 300) };
  const { transition: _, ...scheduled } = base;
  await check('timesteps of their own', { objective: 'sdpo', beta: 3 }, { ...scheduled, timesteps });
  compared.end(t, 'as evaluate on the same predictions');
});

t.test('stacked inputs, branches, a predicted reference and statistics alone agree', async (t) => {
  const problem = makeProblem(3);
  const loss = lossWithOmega({ objective: 'sdpo', beta: 2 });
  const step = preferenceValueAndGrad(apply, loss);
  const reference = paramsOf(makeProblem(4));
  const predict = (inputs: Float32Array) => apply(tree.ref(reference), array(inputs, [rows, inputSize]));
  const branches = batchOf(problem);
  for (const name of ['chosen', 'rejected'] as const) {
    branches[name].reference.dispose();
    branches[name].reference = predict(problem[name].inputs);
  }
  const separate = await step(paramsOf(problem), branches);
  const { timesteps, transition } = branches;
  const stacked = () => ({
    timesteps,
    transition,
    inputs: array([...problem.chosen.inputs, ...problem.rejected.inputs], [2 * rows, inputSize]),
    referenceParams: tree.ref(reference),
    chosen: { target: problem.chosen.target },
    rejected: { target: problem.rejected.target },
  });
  const together = await step(paramsOf(problem), stacked());
  close(t, 'loss', [together.loss], [separate.loss], float32Tolerance([separate.loss]));
  for (const name of parameterNames) {
    const right = separate.gradients[name].dataSync();
    close(t, name, together.gradients[name].dataSync(), right, float32Tolerance(right));
  }
  const alone = await step(paramsOf(problem), stacked(), { gradients: false });
  t.notOk('gradients' in alone);
  t.same(alone.rows, together.rows);
  t.same(alone.metrics, together.metrics);
  t.ok(together.lossMilliseconds > 0);
  tree.dispose(reference);
  step.dispose();
});

t.test('rows are counted from the predictions, not from the timesteps', async (t) => {
  const problem = makeProblem(5);
  const step = preferenceValueAndGrad(apply, new PreferenceLoss({ objective: 'diffusion-dpo', beta: 2 }));
  const branch = (name: 'chosen' | 'rejected') => ({
    reference: problem[name].reference,
    target: problem[name].target,
  });
  const branches = () => ({
    chosen: { ...branch('chosen'), inputs: array(problem.chosen.inputs, [rows, inputSize]) },
    rejected: { ...branch('rejected'), inputs: array(problem.rejected.inputs, [rows, inputSize]) },
  });
  const all = [...problem.chosen.inputs, ...problem.rejected.inputs];
  const stacked = () => ({
    inputs: array(all, [2 * rows, inputSize]),
    chosen: branch('chosen'),
    rejected: branch('rejected'),
  });
  const expected = await step(paramsOf(problem), { ...branches(), timesteps: new Float64Array(rows) });
  const numbers = (gradients: Params) => parameterNames.map((name) => gradients[name].dataSync());
  const gradients = numbers(expected.gradients);
  for (const batch of [branches, stacked]) {
    for (const more of [{}, { timesteps: 7 }, { rows }]) {
      const out = await step(paramsOf(problem), { ...batch(), ...more });
      t.equal(out.loss, expected.loss);
      t.same(numbers(out.gradients), gradients);
    }
  }
  const odd = { ...stacked(), inputs: array(all.slice(inputSize), [2 * rows - 1, inputSize]) };
  await t.rejects(step(paramsOf(problem), odd), {
    code: 'ERR_SDPO_INVALID_LENGTH',
    message: /apply\(params, inputs\) to be of shape \[2 x rows, \.\.\.\], all chosen rows before all rejected ones/,
  });
  step.dispose();
});

t.test('swapping the branches swaps what they are called, and descent raises implicit accuracy', async (t) => {
  const problem = makeProblem(7);
  const loss = lossWithOmega({ objective: 'diffusion-dpo', beta: 20 });
  const step = preferenceValueAndGrad(apply, loss);
  const { omega, chosen, rejected } = problem;
  const there = await step(paramsOf(problem), batchOf(problem));
  const back = await step(
    paramsOf(problem),
    batchOf({
      ...problem,
      chosen: rejected,
      rejected: chosen,
      omega: { chosen: omega.rejected, rejected: omega.chosen },
    }),
  );
  t.same(back.rows.rewardChosen, there.rows.rewardRejected);
  t.same(
    back.rows.logit,
    there.rows.logit.map((z) => -z),
  );
  tree.dispose([there.gradients, back.gradients]);

  const start = paramsOf(problem);
  let params = tree.ref(start);
  const batch = () => {
    const { timesteps, transition } = batchOf(problem);
    return {
      timesteps,
      transition,
      referenceParams: tree.ref(start),
      chosen: { inputs: array(chosen.inputs, [rows, inputSize]), target: chosen.target },
      rejected: { inputs: array(rejected.inputs, [rows, inputSize]), target: rejected.target },
    };
  };
  t.equal(
    (await step(tree.ref(params), batch(), { gradients: false })).metrics.implicitAccuracy,
    0.5,
    'all ties at first',
  );
  for (let i = 0; i < 20; i++) {
    const { gradients } = await step(tree.ref(params), batch());
    params = tree.map((p: JaxArray, g: JaxArray) => p.sub(g.mul(0.05)), params, gradients) as Params;
  }
  const { metrics } = await step(params, batch(), { gradients: false });
  t.equal(metrics.implicitAccuracy, 1);
  t.ok(metrics.rewardMargin > 0);
  tree.dispose(start);
  step.dispose();
});
