/** Conventions of the losses: what is summed and divided, what weights multiply, how signs lie, and the mistakes that other implementations made. */

import t, { type Test } from 'tap';
import { NoiseSchedule, PreferenceLoss, Tensor } from '../../lib/index.js';
import { batchVariants, defaultBeta, randomBatch } from '../helpers/cases.js';
import { Comparison, float64Tolerance } from '../helpers/close.js';
import { encode } from '../helpers/dtypes.js';
import { evaluate, lossOf } from '../helpers/evaluate.js';
import { type OracleBatch, type OracleOptions, objectives, oracle } from '../oracle/oracle.js';

const weighted = { maskThreshold: 0.7, clipRange: [0.8, 0.95] } as const;
const optionsOf = (objective: OracleOptions['objective']): OracleOptions => ({
  objective,
  beta: defaultBeta,
  ...(objective !== 'diffusion-dpo' && weighted),
});
const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0);

for (const objective of objectives) {
  const options = optionsOf(objective);

  t.test(`${objective}: the batch loss is the sum over rows divided by rows, removed rows included`, (t) => {
    const batch = randomBatch({ rows: 6, size: 7, seed: 400 });
    const result = evaluate(batch, options);
    const removed = result.rows.mask.filter((mask) => mask === 0).length;
    t.equal(removed > 0, objective !== 'diffusion-dpo', 'the case has removed rows where there is a mask');
    same(t, 'loss', [result.loss], [sum(result.rows.loss) / 6]);
    same(t, 'another denominator', [evaluate(batch, options, 'float64', { denominator: 24 }).loss], [result.loss / 4]);
    t.end();
  });

  t.test(`${objective}: gradients of micro-batches with a common denominator add up to the batch`, (t) => {
    const batch = randomBatch({ rows: 6, size: 7, seed: 401 });
    const whole = evaluate(batch, options);
    const parts = [rowsOf(batch, 0, 2), rowsOf(batch, 2, 6)].map((part) =>
      evaluate(part, options, 'float64', { denominator: 6 }),
    );
    same(t, 'loss', [sum(parts.map(({ loss }) => loss))], [whole.loss]);
    same(
      t,
      'gradient',
      parts.flatMap(({ gradients }) => [...gradients.chosen]),
      whole.gradients.chosen,
    );
    same(
      t,
      'logit: no row knows of another',
      parts.flatMap(({ rows }) => [...rows.logit]),
      whole.rows.logit,
    );
    t.end();
  });

  t.test(`${objective}: rowWeights multiply a row with its anchors`, (t) => {
    const anchored: OracleOptions = { ...options, sftWeight: 0.5, klWeight: 0.25 };
    const batch = randomBatch({ rows: 3, size: 7, seed: 402 });
    const plain = evaluate(batch, anchored);
    const rowWeights = [2, 0, 0.5];
    const result = evaluate({ ...batch, rowWeights }, anchored);
    same(
      t,
      'rows',
      result.rows.loss,
      plain.rows.loss.map((loss, i) => loss * rowWeights[i]),
    );
    same(t, 'loss', [result.loss], [sum(result.rows.loss) / 3]);
    same(
      t,
      'gradient',
      result.gradients.chosen,
      plain.gradients.chosen.map((value, at) => value * rowWeights[Math.floor(at / 7)]),
    );
    same(t, 'the logit is the same', result.rows.logit, plain.rows.logit);
    t.end();
  });

  t.test(`${objective}: gradientScale multiplies the gradients and nothing else`, (t) => {
    const batch = randomBatch({ rows: 3, size: 7, seed: 403 });
    const plain = evaluate(batch, options);
    const scaled = evaluate(batch, options, 'float64', { gradientScale: -3 });
    t.equal(scaled.loss, plain.loss);
    same(
      t,
      'gradient',
      scaled.gradients.rejected,
      plain.gradients.rejected.map((value) => -3 * value),
    );
    t.end();
  });

  t.test(`${objective}: elementWeights`, (t) => {
    const batch = randomBatch({ rows: 3, size: 4, seed: 404 });
    const shared = [0, 1, 2, 0.5];
    const result = evaluate({ ...batch, elementWeights: shared }, options);
    const repeated = evaluate({ ...batch, elementWeights: [...shared, ...shared, ...shared] }, options);
    same(t, 'one row of weights serves all rows', result.gradients.chosen, repeated.gradients.chosen);
    same(t, 'and the losses', result.rows.loss, repeated.rows.loss);
    const uniform = evaluate({ ...batch, elementWeights: new Array(4).fill(3) }, options);
    same(t, 'a common factor cancels', uniform.rows.loss, evaluate(batch, options).rows.loss);
    t.equal(result.gradients.chosen[4], 0, 'an element of weight 0 has no gradient');
    const zeroed = { ...batch, elementWeights: [1, 1, 0, 0] };
    const cut = { ...batch, chosen: columns(batch.chosen, 4, 2), rejected: columns(batch.rejected, 4, 2) };
    same(
      t,
      'weights 0 and 1 are a mask over elements',
      evaluate(zeroed, options).rows.loss,
      evaluate(cut, options).rows.loss,
    );
    t.end();
  });

  t.test(`${objective}: reference errors stand in for the reference tensor`, (t) => {
    const batch = randomBatch({ rows: 6, size: 7, seed: 405 });
    const whole = evaluate(batch, options);
    const cached = (branch: 'chosen' | 'rejected') => ({
      policy: batch[branch].policy,
      target: batch[branch].target,
      referenceError: whole.rows[branch === 'chosen' ? 'referenceErrorChosen' : 'referenceErrorRejected'],
    });
    const result = evaluate({ ...batch, chosen: cached('chosen'), rejected: cached('rejected') }, options);
    same(t, 'rows', result.rows.loss, whole.rows.loss);
    same(t, 'chosen', result.gradients.chosen, whole.gradients.chosen);
    same(t, 'rejected', result.gradients.rejected, whole.gradients.rejected);
    t.ok(result.rows.driftChosen.every(Number.isNaN), 'there is no drift without the tensor');
    t.end();
  });

  t.test(`${objective}: signs`, (t) => {
    const batch = randomBatch({ rows: 4, size: 7, seed: 406, strength: [0.01] });
    const omega = batch.transition.omega;
    const swapped: OracleBatch = {
      ...batch,
      chosen: batch.rejected,
      rejected: batch.chosen,
      transition: { omega: { chosen: omega.rejected, rejected: omega.chosen } },
    };
    const [result, mirrored] = [evaluate(batch, options), evaluate(swapped, options)];
    same(
      t,
      'swapping the branches flips the logit',
      mirrored.rows.logit,
      result.rows.logit.map((z) => -z),
    );
    // The policy a little closer to the target of the chosen branch, then a little farther from that of the rejected one.
    const closer = (name: 'chosen' | 'rejected', factor: number) => ({
      ...batch[name],
      policy: batch[name].policy.map((u, at) => batch[name].target[at] + factor * (u - batch[name].target[at])),
    });
    t.ok(
      evaluate({ ...batch, chosen: closer('chosen', 0.9) }, options).loss < result.loss,
      'a better chosen lowers the loss',
    );
    t.ok(
      evaluate({ ...batch, rejected: closer('rejected', 1.1) }, options).loss < result.loss,
      'a worse rejected lowers it',
    );
    const along = (name: 'chosen' | 'rejected') =>
      sum(result.gradients[name].map((g, at) => g * (batch[name].policy[at] - batch[name].target[at])));
    t.ok(along('chosen') > 0 && along('rejected') < 0, 'and the gradients say so');
    t.end();
  });

  t.test(`${objective}: a far logit gives neither an infinite loss nor a vanished gradient`, (t) => {
    const batch = randomBatch({ rows: 2, size: 7, seed: 407, strength: [0.01] });
    const steep = { ...options, beta: 1e6 };
    const result = evaluate(batch, steep);
    const expected = oracle(batch, steep);
    t.ok(
      result.rows.logit.some((z) => Math.exp(-Math.abs(z)) === 0),
      'σ of the logit is 0 or 1 in float64',
    );
    same(t, 'loss', result.rows.loss, expected.rows.loss);
    same(t, 'gradient', result.gradients.chosen, expected.gradients.chosen);
    t.end();
  });
}

t.test('policy = reference', (t) => {
  const base = randomBatch({ rows: 3, size: 7, seed: 410 });
  const branch = (name: 'chosen' | 'rejected') => ({ ...base[name], policy: base[name].reference });
  const batch = { ...base, chosen: branch('chosen'), rejected: branch('rejected') };
  for (const objective of ['diffusion-dpo', 'sdpo'] as const) {
    const options: OracleOptions = { objective, beta: 5000, ...(objective === 'sdpo' && { maskThreshold: 0 }) };
    const { loss, rows, metrics } = evaluate(batch, options, 'float32');
    t.equal(loss, Math.LN2, `${objective}: the loss is ln 2 to the last bit`);
    t.ok([...rows.logit, ...rows.driftChosen, ...rows.rewardChosen].every((value) => value === 0));
    t.equal(metrics.implicitAccuracy, 1 / 2, 'ties count half');
  }
  t.end();
});

t.test('implicitAccuracy: share of rows with ψ_c > ψ_r, ties ½, rows without a reward left out', (t) => {
  const zero = [0, 0, 0, 0];
  const batch: OracleBatch = {
    timesteps: [1, 2, 3, 4],
    chosen: { policy: [1, 2, 1, 1], reference: [2, 1, 2, 2], target: zero },
    rejected: { policy: [1, 1, 1, 2], reference: [1, 1, 2, 1], target: zero },
    transition: { omega: [0.5, 0.5, 0.5, Infinity] },
  };
  const constant = evaluate(batch, { objective: 'diffusion-dpo', beta: 1 });
  t.equal(constant.metrics.implicitAccuracy, (1 + 0 + 1 / 2 + 1) / 4);
  const elbo = evaluate(batch, { objective: 'diffusion-dpo', beta: 1, timestepWeighting: 'elbo' });
  t.equal(elbo.metrics.implicitAccuracy, (1 + 0 + 1 / 2) / 3);
  t.equal(elbo.metrics.maskFraction, 1 / 4);
  t.ok(
    Number.isFinite(elbo.metrics.rewardMargin) && Number.isFinite(elbo.metrics.logit),
    'means skip what is not finite',
  );
  t.end();
});

t.test('5-D latents: one error per row, the mean over every other axis', (t) => {
  // A mean over three axes of five leaves one logit per column of the latent, and an accuracy above 1.
  const shape = [2, 3, 4, 5, 6];
  const batch = randomBatch({ rows: 2, size: 3 * 4 * 5 * 6, seed: 411, dtype: 'float32' });
  const tensor = (values: Float64Array) => Tensor.from(encode('float32', values), { shape, dtype: 'float32' });
  const branch = (name: 'chosen' | 'rejected') => ({
    policy: tensor(batch[name].policy),
    reference: tensor(batch[name].reference),
    target: tensor(batch[name].target),
  });
  const loss = new PreferenceLoss({
    objective: 'diffusion-dpo',
    beta: 1,
    schedule: NoiseSchedule.preset('cogvideox-2b'),
  });
  const out = loss.evaluate({ timesteps: [100, 200], chosen: branch('chosen'), rejected: branch('rejected') });
  t.equal(out.rows.logit.length, 2);
  t.ok(out.metrics.implicitAccuracy <= 1);
  const meanSquare = (i: number) => {
    const { policy, target } = batch.chosen;
    return sum(policy.subarray(i * 360, (i + 1) * 360).map((u, j) => (u - target[i * 360 + j]) ** 2)) / 360;
  };
  const flat = evaluate(batch, { objective: 'diffusion-dpo', beta: 1 }, 'float32');
  t.same([...out.rows.errorChosen], [...flat.rows.errorChosen], 'as if the row were flat');
  t.same(
    [...out.rows.errorChosen].map(Math.fround),
    [0, 1].map((i) => Math.fround(meanSquare(i))),
  );
  t.same((out.gradients as { chosen: Tensor }).chosen.shape, shape);
  t.end();
});

t.test('the link is applied to each row, not to the mean logit', (t) => {
  const batch = randomBatch({ rows: 6, size: 7, seed: 412 });
  for (const link of ['sigmoid', 'hinge', 'ipo'] as const) {
    const { loss, rows } = evaluate(batch, { objective: 'diffusion-dpo', beta: defaultBeta, link });
    const f = {
      sigmoid: (z: number) => Math.log1p(Math.exp(-z)),
      hinge: (z: number) => Math.max(0, 1 - z),
      ipo: (z: number) => ((z - 1 / 2) / defaultBeta) ** 2,
    }[link];
    same(t, link, [loss], [sum([...rows.logit].map(f)) / 6]);
    t.not(loss, f(sum(rows.logit) / 6));
  }
  t.end();
});

t.test('a timestep for each branch', (t) => {
  const schedule = {
    config: { _class_name: 'DDPMScheduler', beta_schedule: 'linear', prediction_type: 'epsilon' },
    predictionType: 'epsilon',
    inferenceSteps: 50,
  } as const;
  const { transition: _, ...batch } = randomBatch({ rows: 3, size: 7, seed: 413 });
  const timesteps = { chosen: [100, 300, 700], rejected: [50, 999, 21] };
  const options: OracleOptions = { objective: 'sdpo', beta: defaultBeta, maskThreshold: 0, schedule };
  const [result, expected] = [evaluate({ ...batch, timesteps }, options), oracle({ ...batch, timesteps }, options)];
  same(t, 'chosen', result.rows.logWeightChosen, expected.rows.logWeightChosen);
  same(t, 'rejected', result.rows.logWeightRejected, expected.rows.logWeightRejected);
  same(t, 'gradient', result.gradients.rejected, expected.gradients.rejected);
  t.end();
});

t.test('a row that is not finite', (t) => {
  const finite = randomBatch({ rows: 3, size: 7, seed: 414 });
  const policy = finite.rejected.policy.slice();
  policy[9] = Number.NaN;
  const batch = { ...finite, rejected: { ...finite.rejected, policy } };
  for (const objective of objectives) {
    const options: OracleOptions = { ...optionsOf(objective), sftWeight: 0.5 };
    t.throws(() => evaluate(batch, options), {
      code: 'ERR_SDPO_NON_FINITE',
      row: 1,
      branch: 'rejected',
      tensor: 'policy',
    });
    const skipped = evaluate(batch, { ...options, nonFinite: 'skip' });
    const expected = oracle(batch, { ...options, nonFinite: 'skip' });
    same(t, 'loss', [skipped.loss], [expected.loss]);
    same(t, 'chosen', skipped.gradients.chosen, expected.gradients.chosen);
    same(t, 'rejected', skipped.gradients.rejected, expected.gradients.rejected);
    t.same([skipped.metrics.nonFiniteRows, skipped.rows.mask[1], skipped.rows.loss[1]], [1, 0, 0]);
    for (const [metric, value] of Object.entries(expected.metrics)) {
      same(t, `${objective}: ${metric}`, [skipped.metrics[metric]], [value]);
    }
    const through = evaluate(batch, { ...options, nonFinite: 'propagate' });
    t.ok(Number.isNaN(through.loss), 'propagate lets it through');
  }
  t.end();
});

t.test('the two passes by themselves', (t) => {
  const batch = randomBatch({ rows: 3, size: 7, seed: 417 });
  for (const objective of objectives) {
    const loss = lossOf({ ...optionsOf(objective), klWeight: 0.25 });
    const moments = loss.moments(batch, { cross: true });
    const { rows } = oracle(batch, { ...optionsOf(objective), klWeight: 0.25 });
    same(t, 'm', moments.chosen.error, rows.errorChosen);
    same(
      t,
      'δ',
      moments.rejected.delta,
      rows.errorRejected.map((m, i) => m - rows.referenceErrorRejected[i]),
    );
    same(t, 'q', moments.rejected.drift, rows.driftRejected);
    const product = batch.chosen.policy.map(
      (u, at) => (u - batch.chosen.target[at]) * (batch.rejected.policy[at] - batch.rejected.target[at]),
    );
    same(
      t,
      'x',
      moments.cross as Float64Array,
      [0, 1, 2].map((i) => sum(product.subarray(7 * i, 7 * i + 7)) / 7),
    );
    const whole = loss.evaluate(batch);
    const second = loss.gradients(batch, whole.coefficients);
    t.same(second.chosen, whole.gradients.chosen, `${objective}: the fused gradient to the last bit`);
    t.same(second.rejected, whole.gradients.rejected);
  }
  t.end();
});

t.test('one object, no memory: the same call gives the same bits after other calls', (t) => {
  const base = randomBatch({ rows: 6, size: 7, seed: 415 });
  const options = optionsOf('sdpo');
  const first = evaluate(base, options);
  for (const { batch } of batchVariants(base, 416)) evaluate(batch, options);
  const again = evaluate(base, options);
  t.equal(again.loss, first.loss);
  t.same(again.gradients.chosen, first.gradients.chosen);
  t.end();
});

function same(t: Test, label: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  const compared = new Comparison();
  compared.check(label, actual, expected, float64Tolerance(expected));
  compared.end(t, label);
}

/** Rows start … end of a batch. */
function rowsOf(batch: ReturnType<typeof randomBatch>, start: number, end: number): OracleBatch {
  const size = batch.chosen.policy.length / batch.timesteps.length;
  const cut = ({ policy, reference, target }: typeof batch.chosen) => ({
    policy: policy.subarray(start * size, end * size),
    reference: reference.subarray(start * size, end * size),
    target: target.subarray(start * size, end * size),
  });
  const { chosen, rejected } = batch.transition.omega;
  return {
    timesteps: batch.timesteps.slice(start, end),
    chosen: cut(batch.chosen),
    rejected: cut(batch.rejected),
    transition: { omega: { chosen: chosen.slice(start, end), rejected: rejected.slice(start, end) } },
  };
}

/** The first `count` of every `size` elements. */
function columns(branch: ReturnType<typeof randomBatch>['chosen'], size: number, count: number) {
  const cut = (values: Float64Array) => values.filter((_, at) => at % size < count);
  return { policy: cut(branch.policy), reference: cut(branch.reference), target: cut(branch.target) };
}
