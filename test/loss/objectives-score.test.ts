/** The objectives without weights: loss, logit and gradient against their naive formulas, over options, batches, dtypes and extreme values. */

import t from 'tap';
import { type Objective, PreferenceLoss } from '../../lib/index.js';
import {
  anchorOptions,
  batchVariants,
  defaultBeta,
  normalNumbers,
  type RandomBatch,
  randomBatch,
} from '../helpers/cases.js';
import {
  Comparison,
  differenceStep,
  differenceTolerance,
  float64Tolerance,
  largest,
  largestError,
} from '../helpers/close.js';
import { directionalSlope, dot, elementwiseGradient } from '../helpers/differences.js';
import { epsilonOf, mapped } from '../helpers/dtypes.js';
import { evaluateWith } from '../helpers/evaluate.js';
import { check } from '../helpers/failures.js';
import type { OracleBatch, OracleResult, PerBranch } from '../oracle/oracle.js';
import { formulas, type ScoreOptions, scaledOdds, scoreLoss } from '../oracle/score.js';

const branches = ['chosen', 'rejected'] as const;
const lossOf = (options: ScoreOptions) => new PreferenceLoss(options as ScoreOptions & { objective: Objective });

/** Weightings and reductions; an objective that reads no reference has no implicit reward to apply them to. */
const weightings = (objective: string): Partial<ScoreOptions>[] =>
  formulas[objective].reads === 'no reference'
    ? [{}]
    : [
        {},
        { timestepWeighting: 'elbo' },
        { timestepWeighting: 'elbo', logRatioReduction: 'sum' },
        { logRatioReduction: 'sum' },
      ];

/** Losses and logits are differences of terms: of logarithms of order one, or of two odds times T. */
function compareRows(
  compared: Comparison,
  label: string,
  result: OracleResult,
  expected: ReturnType<typeof scoreLoss>,
  { mapoSteps = 1 }: ScoreOptions,
) {
  const allowed = (values: ArrayLike<number>) => ({
    relative: float64Tolerance(values).relative,
    absolute: 4 * Number.EPSILON * Math.max(1, mapoSteps, largest(values)),
  });
  compared.check(`${label}: loss`, [result.loss], [expected.loss], allowed([expected.loss]));
  for (const name of ['loss', 'logit', 'mask', 'rewardChosen', 'rewardRejected'] as const) {
    compared.check(`${label}: ${name}`, result.rows[name], expected.rows[name], allowed(expected.rows[name]));
  }
}

for (const [objective, { reads, variants = [{}] }] of Object.entries(formulas)) {
  t.test(`${objective}: every combination of options`, async (t) => {
    const rows = new Comparison();
    const againstOracle = new Comparison();
    const againstItself = new Comparison();
    const normal = normalNumbers(900);
    let seed = 900;
    for (const variant of variants) {
      for (const weighting of weightings(objective)) {
        for (const anchors of anchorOptions) {
          const options: ScoreOptions = { objective, beta: defaultBeta, ...variant, ...weighting, ...anchors };
          const label = JSON.stringify(options);
          const batch = randomBatch({ rows: 6, size: 3, seed: seed++, reduction: options.logRatioReduction });
          const loss = lossOf(options);
          const result = evaluateWith(loss, batch);
          compareRows(rows, label, result, scoreLoss(batch, options), options);
          for (const branch of branches) {
            const direction = result.gradients[branch].map(normal);
            const along = [dot(result.gradients[branch], direction)];
            const slope = directionalSlope((moved) => scoreLoss(moved, options, {}, batch).loss, batch, {
              [branch]: direction,
            });
            againstOracle.check(`${label} ${branch}`, along, [slope], differenceTolerance(slope));
            if (formulas[objective].stopped) continue;
            const own = directionalSlope((moved) => evaluateWith(loss, moved).loss, batch, { [branch]: direction });
            againstItself.check(`${label} ${branch}`, along, [own], differenceTolerance(own));
          }
        }
      }
    }
    rows.end(t, 'loss and rows');
    againstOracle.end(t, "gradient, against finite differences of the naive formula's loss");
    if (!formulas[objective].stopped) {
      againstItself.end(t, "gradient, against finite differences of the package's loss");
    }
  });

  t.test(`${objective}: every field of a batch and of a call`, async (t) => {
    const compared = new Comparison();
    const base = randomBatch({ rows: 6, size: 3, seed: 950 });
    for (const { name, batch, options: more, call, weightsOnly } of batchVariants(base, 951)) {
      if (weightsOnly) continue;
      if (reads === 'reference tensor' && batch.chosen.referenceError) continue;
      if (reads === 'no reference' && more?.timestepWeighting) continue;
      const anchors = batch.chosen.reference ? { klWeight: 0.7, klScope: 'masked' } : {};
      const options = { objective, beta: defaultBeta, ...variants[0], sftWeight: 0.3, ...anchors, ...more };
      const expected = scoreLoss(batch, options as ScoreOptions, call);
      const result = evaluateWith(lossOf(options as ScoreOptions), batch, 'float64', call);
      compareRows(compared, name, result, expected, options as ScoreOptions);
      compared.check(`${name}: clipFraction`, [result.metrics.clipFraction], [0], { relative: 0 });
      const removed = expected.rows.mask.filter((mask) => mask === 0).length / 6;
      compared.check(`${name}: maskFraction`, [result.metrics.maskFraction], [removed], float64Tolerance([1]));
      const numeric = elementwiseGradient(
        (moved) => scoreLoss(moved, options as ScoreOptions, call, batch).loss,
        batch,
      );
      for (const branch of branches) {
        const scaled = numeric[branch].map((value) => value * (call?.gradientScale ?? 1));
        compared.check(
          `${name}: ${branch}`,
          result.gradients[branch],
          scaled,
          differenceTolerance(largest(numeric[branch])),
        );
      }
    }
    compared.end(t, 'loss, rows and gradients');
  });

  // A running float32 mean of D terms errs like √D roundings; so does the exact formula at errors and drifts that are off by as much.
  t.test(`${objective}: float32, within twice what naive means would err`, async (t) => {
    for (const size of [1, 17, 4097, 40_000]) {
      const options: ScoreOptions = { objective, beta: defaultBeta, ...variants[0], sftWeight: 0.3, klWeight: 0.7 };
      const batch = randomBatch({ rows: 2, size, seed: 970 + size, dtype: 'float32' });
      const loss = lossOf(options);
      const exact = evaluateWith(loss, batch);
      const single = evaluateWith(loss, batch, 'float32');
      const off = Math.sqrt(size) * epsilonOf('float32');
      const moved = [
        [1, 1, 1, 1],
        [1, -1, 1, -1],
        [1, 1, -1, -1],
        [1, -1, -1, 1],
        [-1, 1, 1, 1],
      ].map(([a, b, c, d]) => evaluateWith(loss, stretched(batch, [a * off, b * off], [c * off, d * off])));
      const error = (read: (result: OracleResult) => ArrayLike<number>) =>
        2 * Math.max(...moved.map((each) => largestError(read(each), read(exact))));
      const compared = new Comparison();
      for (const [name, read] of Object.entries<(result: OracleResult) => ArrayLike<number>>({
        'batch loss': (result) => [result.loss],
        loss: (result) => result.rows.loss,
        logit: (result) => result.rows.logit,
        'gradient chosen': (result) => result.gradients.chosen,
        'gradient rejected': (result) => result.gradients.rejected,
      })) {
        const relative = 2 * epsilonOf('float32');
        compared.check(name, read(single), read(exact), { relative, absolute: error(read) });
      }
      compared.end(t, `D = ${size}`);
    }
  });

  t.test(`${objective}: logits far out`, async (t) => {
    const compared = new Comparison();
    for (const factor of [1e-3, 1, 1e3]) {
      for (const better of branches) {
        const batch = randomBatch({ rows: 1, size: 5, seed: 980 });
        for (const branch of branches) {
          const near = branch === better ? 1e-3 : 1;
          for (const [j, target] of batch[branch].target.entries()) {
            const error = batch[branch].policy[j] - target;
            batch[branch].policy[j] = target + near * error;
            batch[branch].reference[j] = target + error / 2;
          }
        }
        const options: ScoreOptions = { objective, ...variants[0], beta: 1e4 * factor };
        if (reads === 'no reference') options.mapoSteps = 1e4 * factor;
        const result = evaluateWith(lossOf(options), batch);
        const label = `β = ${options.beta}, ${better} is better`;
        compareRows(compared, label, result, scoreLoss(batch, options), options);
        t.equal(Math.sign(result.rows.logit[0]), better === 'chosen' ? 1 : -1, label);
        for (const branch of branches) {
          t.ok(result.gradients[branch].every(Number.isFinite), `${label}: finite gradient of ${branch}`, {
            gradient: [...result.gradients[branch]],
          });
        }
      }
    }
    compared.end(t, 'loss and rows');
  });
}

t.test('dmpo: the loss vanishes at its optimum, where the gradient turns', async (t) => {
  const dmpoAlpha = 0.2;
  const optimum = Math.log((1 - dmpoAlpha) / dmpoAlpha);
  // m_c = 0, r = 0 on both sides: z = (β/2) m_r with m_r = v².
  const at = (z: number) => {
    const values = (value: number) => Float64Array.of(value);
    const branch = (policy: number) => ({ policy: values(policy), reference: values(0), target: values(0) });
    const batch = {
      timesteps: [500],
      transition: { omega: [1] },
      chosen: branch(0),
      rejected: branch(Math.sqrt(z)),
    };
    return lossOf({ objective: 'dmpo', beta: 2, dmpoAlpha }).evaluate(batch);
  };
  t.ok(Math.abs(at(optimum).loss) <= 4 * Number.EPSILON, 'loss');
  t.ok(at(optimum * 0.9).gradients.rejected[0] < 0, 'a larger margin is better before it');
  t.ok(at(optimum * 1.1).gradients.rejected[0] > 0, 'and worse behind it');
});

// ---- mapo

t.test('mapo without a reference', async (t) => {
  const options = { objective: 'mapo', beta: defaultBeta, mapoSteps: 8, sftWeight: 0.3 };
  const batch = randomBatch({ rows: 3, size: 5, seed: 990 });
  const bare = (branch: 'chosen' | 'rejected') => ({ policy: batch[branch].policy, target: batch[branch].target });
  const result = evaluateWith(lossOf(options), { ...batch, chosen: bare('chosen'), rejected: bare('rejected') });
  const withReference = evaluateWith(lossOf(options), batch);
  t.equal(result.loss, withReference.loss, 'the reference does not enter the loss');
  t.same(result.rows.logit, withReference.rows.logit);
  for (const branch of branches) t.same(result.gradients[branch], withReference.gradients[branch], branch);
  for (const name of ['Chosen', 'Rejected'] as const) {
    t.same([...result.rows[`referenceError${name}`]], [0, 0, 0], 'r counts as 0');
    t.ok(result.rows[`drift${name}`].every(Number.isNaN), 'there is no drift');
    const reward = result.rows[`error${name}`].map((m) => (-defaultBeta / 2) * m);
    t.same(result.rows[`reward${name}`], reward, 'the reward is -(β/2) m');
  }
  const error = [0.1, 0.2, 0.3];
  const cached = { ...bare('rejected'), referenceError: error };
  const mixed = evaluateWith(lossOf(options), { ...batch, chosen: bare('chosen'), rejected: cached });
  t.equal(mixed.loss, result.loss, 'a reference error may be given for one branch');
  t.same([...mixed.rows.referenceErrorChosen], [0, 0, 0]);
  t.ok(largestError(mixed.rows.referenceErrorRejected, error) <= Number.EPSILON);
});

t.test('mapo: the odds from no error to a huge one', async (t) => {
  const [mapoScale, mapoSteps] = [0.5, 4];
  const beta = 2;
  const switched = 0.02 / mapoScale; // where the code goes from a series to the closed form
  const errors = [
    0,
    1e-300,
    1e-12,
    1e-3,
    switched * (1 - 1e-9),
    switched,
    switched * (1 + 1e-9),
    0.5,
    30,
    1e3,
    1e5,
    1e200,
  ];
  const one = (m: number) => ({ policy: Float64Array.of(Math.sqrt(m)), target: Float64Array.of(0) });
  const loss = new PreferenceLoss({ objective: 'mapo', beta, mapoScale, mapoSteps });
  const compared = new Comparison();
  for (const chosen of errors) {
    for (const rejected of errors) {
      const batch = { timesteps: [1], transition: { omega: [0] }, chosen: one(chosen), rejected: one(rejected) };
      const { rows, coefficients } = loss.evaluate(batch);
      const label = `m_c = ${chosen}, m_r = ${rejected}`;
      const odds = [scaledOdds(mapoScale * rows.errorChosen[0]), scaledOdds(mapoScale * rows.errorRejected[0])];
      const z = mapoSteps * (odds[0] - odds[1]);
      const ulps = { relative: 8 * Number.EPSILON, absolute: 8 * mapoSteps * Number.EPSILON };
      compared.check(`${label}: logit`, rows.logit, [z], ulps);
      // dφ/dx = φ (1 - φ - x)/x by the quotient rule, and -1/2 where x is 0; a relative error of φ counts 1/x times in it.
      const slopes = odds.map((phi, k) => {
        const x = mapoScale * [rows.errorChosen[0], rows.errorRejected[0]][k];
        return x < 1e-2 ? -1 / 2 + x / 6 - x ** 3 / 180 + x ** 5 / 5040 : (phi * (1 - phi - x)) / x;
      });
      const factor = (beta / (1 + Math.exp(z))) * mapoSteps * mapoScale;
      const derived = { relative: Number.EPSILON ** 0.75, absolute: Number.EPSILON };
      compared.check(`${label}: A chosen`, coefficients.chosen.a, [1 - factor * slopes[0]], derived);
      compared.check(`${label}: A rejected`, coefficients.rejected.a, [factor * slopes[1]], derived);
    }
  }
  compared.end(t, 'logit and coefficients');
});

t.test('mapo: T is the number of training timesteps, and steep margins keep their gradient', async (t) => {
  const options: ScoreOptions = { objective: 'mapo', beta: 0.1 };
  t.equal(lossOf(options).options.mapoSteps, 1000);
  const batch = randomBatch({ rows: 3, size: 5, seed: 991, error: 0.05 });
  const result = evaluateWith(lossOf(options), batch);
  const compared = new Comparison();
  compareRows(compared, 'default T', result, scoreLoss(batch, options), options);
  const normal = normalNumbers(992);
  for (const branch of branches) {
    const direction = result.gradients[branch].map(normal);
    const bends = 10; // the logit bends over a length that is so many times shorter than in the other cases
    const naively = (moved: OracleBatch) => scoreLoss(moved, options, {}, batch).loss;
    const slope = directionalSlope(naively, batch, { [branch]: direction }, differenceStep / bends);
    compared.check(branch, [dot(result.gradients[branch], direction)], [slope], differenceTolerance(bends));
  }
  compared.end(t, 'T = 1000');
});

// ---- Options that an objective does not use

const strangers = {
  clipRange: 0.3,
  maskThreshold: 0.5,
  weightSharpness: 2,
  weightRatio: 'reference/data',
  weightGradient: true,
  pairWeight: 'min',
  link: 'hinge',
  labelSmoothing: 0.1,
  timestepWeighting: 'elbo',
  logRatioReduction: 'sum',
  dmpoAlpha: 0.3,
  mapoScale: 2,
  mapoSteps: 10,
};
const used: Record<string, (keyof typeof strangers)[]> = {
  dspo: ['timestepWeighting', 'logRatioReduction'],
  dmpo: ['timestepWeighting', 'logRatioReduction', 'dmpoAlpha'],
  mapo: ['mapoScale', 'mapoSteps'],
};
for (const [objective, own] of Object.entries(used)) {
  const make = (options: object) => () => lossOf({ objective, beta: 1, ...options });
  const others = Object.entries(strangers).filter(([name]) => !own.includes(name as keyof typeof strangers));
  check(
    `${objective}: unused options`,
    others.map(([name, value]) => [make({ [name]: value }), 'OPTION', `options.${name}`, `'${objective}'`]),
  );
  t.test(`${objective}: used options`, async (t) => {
    for (const name of own) t.equal(make({ [name]: strangers[name] })().options[name], strangers[name], name);
  });
}
check(
  'the weights belong to others',
  ['diffusion-dpo', 'dpo-cm', 'sdpo'].flatMap((objective) =>
    (['dmpoAlpha', 'mapoScale', 'mapoSteps'] as const).map((name) => [
      () => lossOf({ objective, beta: 1, [name]: strangers[name] }),
      'OPTION' as const,
      `options.${name}`,
      `'${objective}'`,
    ]),
  ),
);
check('values out of range', [
  ...[0, 1, -0.1, Number.NaN].map(
    (value) =>
      [
        () => lossOf({ objective: 'dmpo', beta: 1, dmpoAlpha: value }),
        'ARG_VALUE',
        'options.dmpoAlpha',
        String(value),
      ] as const,
  ),
  [() => lossOf({ objective: 'mapo', beta: 1, mapoScale: 0 }), 'ARG_VALUE', 'options.mapoScale', '0'],
  [() => lossOf({ objective: 'mapo', beta: 1, mapoSteps: -1 }), 'ARG_VALUE', 'options.mapoSteps', '-1'],
]);

const small = randomBatch({ rows: 2, size: 3, seed: 993 });
const without = (branch: 'chosen' | 'rejected', referenceError?: number[]): OracleBatch => ({
  ...small,
  [branch]: { policy: small[branch].policy, target: small[branch].target, ...(referenceError && { referenceError }) },
});
check('what a batch must bring', [
  ...branches.map(
    (branch) =>
      [
        () => evaluateWith(lossOf({ objective: 'dspo', beta: 1 }), without(branch, [1, 1])),
        'OPTION',
        `batch.${branch}.reference`,
        "'dspo'",
      ] as const,
  ),
  [() => evaluateWith(lossOf({ objective: 'dmpo', beta: 1 }), without('rejected')), 'ARG_TYPE', 'batch.rejected'],
  [
    () => evaluateWith(lossOf({ objective: 'mapo', beta: 1, klWeight: 1 }), without('chosen')),
    'OPTION',
    'batch.chosen.reference',
    'klWeight',
  ],
  [
    () => evaluateWith(lossOf({ objective: 'dmpo', beta: 1 }), small, 'float64', { maskThreshold: 0.5 }),
    'OPTION',
    'call.maskThreshold',
    "'dmpo'",
  ],
]);

/** The batch with every error and every drift stretched by a relative amount of its own per branch. */
function stretched(batch: RandomBatch, error: readonly number[], drift: readonly number[]): OracleBatch {
  const branch = (name: 'chosen' | 'rejected', k: number) => {
    const { policy, reference, target } = batch[name];
    const moved = mapped(policy, (u, j) => target[j] + (1 + error[k]) * (u - target[j]));
    return {
      policy: moved,
      target,
      reference: mapped(moved, (u, j) => u - (1 + drift[k]) * (policy[j] - reference[j])),
    };
  };
  const both: PerBranch<ReturnType<typeof branch>> = { chosen: branch('chosen', 0), rejected: branch('rejected', 1) };
  return { ...batch, ...both };
}
