/** The oracle itself: equal to the golden cases, its gradient equal to finite differences of its own loss for every combination of options. */

import t from 'tap';
import { batchVariants, defaultBeta, normalNumbers, optionCases, randomBatch, smoothBatch } from '../helpers/cases.js';
import { Comparison, differenceTolerance, goldenTolerance, largest } from '../helpers/close.js';
import { directionalSlope, dot, elementwiseGradient, rowsOfBothBranches } from '../helpers/differences.js';
import { goldenCases } from '../helpers/golden.js';
import { frozenLoss, objectives, oracle, statistics } from './oracle.js';
import { predictionTarget } from './schedule.js';

t.test('golden cases', (t) => {
  t.equal(goldenCases.length, 30);
  for (const { name, schedule, size, options, batch, expected } of goldenCases) {
    const result = oracle(batch, { ...options, schedule });
    const compared = new Comparison();
    // An exact zero of the oracle may be a rounding residue in the files, which differentiate through numbers of unit size.
    const allowed = (values: ArrayLike<number>) => ({
      relative: goldenTolerance,
      absolute: size * Number.EPSILON * largest(values),
    });
    compared.check('loss', [result.loss], [expected.loss], { relative: goldenTolerance });
    for (const statistic of statistics) {
      compared.check(statistic, result.rows[statistic], expected.rows[statistic], allowed(expected.rows[statistic]));
    }
    for (const branch of ['chosen', 'rejected'] as const) {
      const gradient = expected.gradients[branch];
      compared.check(`gradient ${branch}`, result.gradients[branch], gradient, allowed(gradient));
      const target = batch[branch].x0.map((x0, at) =>
        predictionTarget(schedule, batch.timesteps[Math.floor(at / size)], x0, batch[branch].noise[at]),
      );
      compared.check(`target ${branch}`, target, batch[branch].target, {
        relative: goldenTolerance,
        absolute: Number.EPSILON * largest(target),
      });
    }
    compared.end(t, name);
  }
  t.end();
});

for (const objective of objectives) {
  t.test(`${objective}: finite differences over all options`, (t) => {
    const compared = new Comparison();
    const seen = { kept: 0, removed: 0, inside: 0, clipped: 0 };
    let seed = 0;
    const normal = normalNumbers(70);
    for (const { name, options } of optionCases(objective)) {
      const batch = smoothBatch({ rows: 6, size: 3, seed: seed++, reduction: options.logRatioReduction }, options);
      const { gradients, rows, metrics } = oracle(batch, options);
      for (const mask of rows.mask) mask === 1 ? seen.kept++ : seen.removed++;
      metrics.clipFraction > 0 && seen.clipped++;
      metrics.clipFraction < 1 && seen.inside++;
      const loss = frozenLoss(batch, options);
      for (const branch of ['chosen', 'rejected'] as const) {
        const direction = gradients[branch].map(normal);
        const slope = directionalSlope(loss, batch, { [branch]: direction });
        compared.check(`${name} ${branch}`, [dot(gradients[branch], direction)], [slope], differenceTolerance(slope));
      }
    }
    compared.end(t, 'gradient');
    t.comment(JSON.stringify(seen));
    if (objective !== 'diffusion-dpo') {
      for (const [what, count] of Object.entries(seen)) t.ok(count > 0, `the cases reach: ${what}`);
    }
    t.end();
  });

  t.test(`${objective}: finite differences with every field of batch and call`, (t) => {
    const compared = new Comparison();
    for (const weightGradient of objective === 'diffusion-dpo' ? [false] : [false, true]) {
      const base = randomBatch({ rows: 6, size: 3, seed: 71 });
      for (const { name, batch, options: more, call } of batchVariants(base, 72)) {
        const options = {
          objective,
          beta: defaultBeta,
          maskThreshold: 0.7,
          clipRange: [0.8, 0.95] as const,
          weightGradient,
          ...more,
        };
        const { gradients } = oracle(batch, options, { ...call, gradientScale: 1 });
        const numeric = elementwiseGradient(frozenLoss(batch, options, call), batch);
        for (const branch of ['chosen', 'rejected'] as const) {
          compared.check(
            `${name} ${branch}`,
            gradients[branch],
            numeric[branch],
            differenceTolerance(largest(numeric[branch])),
          );
        }
      }
    }
    compared.end(t, 'gradient');
    t.end();
  });
}

t.test('nonFinite skip removes the row with its anchors', (t) => {
  const batch = randomBatch({ rows: 3, size: 4, seed: 5 });
  const options = { objective: 'sdpo', beta: defaultBeta, sftWeight: 1, maskThreshold: 0, nonFinite: 'skip' } as const;
  const whole = oracle(batch, options);
  batch.chosen.policy[5] = Number.NaN;
  const { loss, rows, metrics, gradients } = oracle(batch, options);
  t.equal(metrics.nonFiniteRows, 1);
  t.same([rows.loss[1], rows.mask[1]], [0, 0]);
  t.same([...rowsOfBothBranches(gradients, 1, 3)], new Array(8).fill(0));
  const compared = new Comparison();
  compared.check('loss', [loss], [whole.loss - whole.rows.loss[1] / 3], { relative: 8 * Number.EPSILON });
  compared.end(t, 'the other rows stay');
  t.end();
});
