/** Gradients of the package against finite differences of the oracle's loss and of the package's own, and in float32 against the naive formula. */

import t from 'tap';
import {
  anchorOptions,
  batchVariants,
  defaultBeta,
  normalNumbers,
  optionCases,
  randomBatch,
  randomShapes,
  shapes,
  sizeOf,
  smoothBatch,
} from '../helpers/cases.js';
import { Comparison, differenceTolerance, float64Tolerance, roundingOf } from '../helpers/close.js';
import { directionalSlope, dot } from '../helpers/differences.js';
import { evaluateWith, lossOf } from '../helpers/evaluate.js';
import { naiveTolerances } from '../oracle/naive.js';
import {
  frozenLoss,
  links,
  type OracleOptions,
  objectives,
  oracle,
  pairWeights,
  statistics,
} from '../oracle/oracle.js';

for (const objective of objectives) {
  t.test(`${objective}: every combination of options, float64`, (t) => {
    const exact = new Comparison();
    const againstOracle = new Comparison();
    const againstItself = new Comparison();
    const normal = normalNumbers(170);
    let seed = 1000;
    for (const { name, options } of optionCases(objective)) {
      const batch = smoothBatch({ rows: 6, size: 3, seed: seed++, reduction: options.logRatioReduction }, options);
      const loss = lossOf(options);
      const { gradients } = evaluateWith(loss, batch);
      const expected = oracle(batch, options).gradients;
      const frozen = frozenLoss(batch, options);
      for (const branch of ['chosen', 'rejected'] as const) {
        const label = `${name} ${branch}`;
        exact.check(label, gradients[branch], expected[branch], float64Tolerance(expected[branch]));
        const direction = expected[branch].map(normal);
        const slope = directionalSlope(frozen, batch, { [branch]: direction });
        againstOracle.check(label, [dot(gradients[branch], direction)], [slope], differenceTolerance(slope));
        if (weightsAreConstant(options)) {
          const own = directionalSlope((moved) => evaluateWith(loss, moved).loss, batch, { [branch]: direction });
          againstItself.check(label, [dot(gradients[branch], direction)], [own], differenceTolerance(own));
        }
      }
    }
    exact.end(t, "the oracle's gradient");
    againstOracle.end(t, "finite differences of the oracle's loss");
    againstItself.end(t, "finite differences of the package's own loss");
    t.end();
  });

  t.test(`${objective}: every field of a batch and of a call, float64`, (t) => {
    const compared = new Comparison();
    for (const weightGradient of objective === 'diffusion-dpo' ? [false] : [false, true]) {
      const base = randomBatch({ rows: 6, size: 5, seed: 171 });
      for (const { name, batch, options: more, call, weightsOnly } of batchVariants(base, 172)) {
        if (objective === 'diffusion-dpo' && weightsOnly) continue;
        const weighted = { maskThreshold: 0.7, clipRange: [0.8, 0.95] as const, weightGradient };
        const options = { objective, beta: defaultBeta, ...(objective !== 'diffusion-dpo' && weighted), ...more };
        const label = `${name}, weightGradient ${weightGradient}`;
        const expected = oracle(batch, options, call);
        const result = evaluateWith(lossOf(options), batch, 'float64', call);
        compared.check(`${label}: loss`, [result.loss], [expected.loss], float64Tolerance([expected.loss]));
        for (const statistic of statistics) {
          const column = expected.rows[statistic];
          compared.check(`${label}: ${statistic}`, result.rows[statistic], column, float64Tolerance(column));
        }
        for (const [metric, value] of Object.entries(expected.metrics)) {
          compared.check(`${label}: metric ${metric}`, [result.metrics[metric]], [value], float64Tolerance([value]));
        }
        for (const branch of ['chosen', 'rejected'] as const) {
          const gradient = expected.gradients[branch];
          compared.check(`${label}: ${branch}`, result.gradients[branch], gradient, float64Tolerance(gradient));
        }
      }
    }
    compared.end(t, 'loss, rows, metrics and gradients');
    t.end();
  });

  t.test(`${objective}: every shape, float64 and float32`, (t) => {
    let seed = 173;
    const choices = shapeOptions(objective);
    for (const [k, shape] of [...shapes, ...randomShapes(4, seed)].entries()) {
      const size = sizeOf(shape);
      const compared = new Comparison();
      for (const options of [choices[k % 4], choices[(k + 1) % 4]]) {
        const batch = randomBatch({ rows: 3, size, seed: seed++, dtype: 'float32' });
        const expected = oracle(batch, options);
        const allowed = naiveTolerances(batch, options, 'float32');
        const loss = lossOf(options);
        const double = evaluateWith(loss, batch, 'float64');
        const single = evaluateWith(loss, batch, 'float32');
        compared.check('float64 loss', [double.loss], [expected.loss], float64Tolerance([expected.loss]));
        compared.check('float32 loss', [single.loss], [expected.loss], allowed.loss);
        for (const branch of ['chosen', 'rejected'] as const) {
          const gradient = expected.gradients[branch];
          compared.check(`float64 ${branch}`, double.gradients[branch], gradient, float64Tolerance(gradient));
          compared.check(`float32 ${branch}`, single.gradients[branch], gradient, {
            relative: roundingOf('float32').relative,
            absolute: allowed.gradients[branch].absolute,
          });
        }
      }
      compared.end(t, `[${shape}]`);
    }
    t.end();
  });
}

/** Whether the plain derivative of the loss is its gradient: nothing that depends on the policy is under a stop-gradient. */
function weightsAreConstant({ objective, weightGradient, weightRatio }: OracleOptions): boolean {
  return objective === 'diffusion-dpo' || weightGradient === true || weightRatio === 'reference/data';
}

/** A handful of option sets per objective, each with another link, pair weight and anchor. */
function shapeOptions(objective: OracleOptions['objective']): OracleOptions[] {
  return pairWeights.map((pairWeight, i) => ({
    objective,
    beta: defaultBeta,
    link: links[i % links.length],
    ...anchorOptions[(2 * i + 1) % anchorOptions.length],
    ...(objective !== 'diffusion-dpo' && { maskThreshold: 0.7, clipRange: [0.8, 0.95], weightGradient: i % 2 === 1 }),
    ...(objective === 'dpo-cm' && { pairWeight }),
  }));
}
