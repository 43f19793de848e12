/**
 * Writes lib/selftest/golden.ts: what the objectives without weights give for a small batch, from the oracle of the tests, whose formulas and
 * gradients (finite differences) share nothing with the backends. Needed again when an objective is added:
 *
 *   npx tsx scripts/selftest-golden.ts
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { makeBatch } from '../lib/selftest/batches.js';
import type { GoldenCase } from '../lib/selftest/golden.js';
import { elementwiseGradient } from '../test/helpers/differences.js';
import { formulas, type ScoreOptions, scoreLoss } from '../test/oracle/score.js';

const shape = { rows: 3, size: 7, dtype: 'float64', elementWeights: true, rowWeights: true } as const;
const DIGITS = 10; // the differences give no more

/** One set of options for each objective, under which its terms are of the order of 1. */
function optionsOf(objective: string): ScoreOptions {
  return {
    objective,
    beta: 2,
    sftWeight: 0.3,
    ...(objective === 'mapo' ? { mapoSteps: 8 } : {}),
    ...formulas[objective].variants?.[0],
  };
}

export function goldenCases(): GoldenCase[] {
  return Object.keys(formulas).map((objective, k) => {
    const seed = 300 + k;
    const { omega, ...numbers } = makeBatch(shape, seed, 'cpu').numbers;
    const batch = { ...numbers, timesteps: omega, transition: { omega } };
    const options = optionsOf(objective);
    const { loss, rows } = scoreLoss(batch, options);
    const gradient = elementwiseGradient((moved) => scoreLoss(moved, options, {}, batch).loss, batch);
    const round = (values: ArrayLike<number>) => Array.from(values, (value) => Number(value.toPrecision(DIGITS)));
    return {
      seed,
      shape,
      options: options as GoldenCase['options'],
      loss: round([loss])[0],
      logit: round(rows.logit),
      gradients: { chosen: round(gradient.chosen), rejected: round(gradient.rejected) },
    };
  });
}

const file = fileURLToPath(new URL('../lib/selftest/golden.ts', import.meta.url));

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = `/** Reference values of the objectives without weights, written by scripts/selftest-golden.ts from the oracle of the tests. */

import type { PreferenceLossOptions } from '../loss/options.js';
import type { CaseShape } from './batches.js';

export interface GoldenCase {
  /** Of the batch, by makeBatch. */
  seed: number;
  shape: CaseShape;
  options: PreferenceLossOptions;
  loss: number;
  logit: readonly number[];
  gradients: { chosen: readonly number[]; rejected: readonly number[] };
}

// biome-ignore format: numbers read best in rows
export const GOLDEN: readonly GoldenCase[] = [
${goldenCases()
  .map((one) => `  ${JSON.stringify(one)},`)
  .join('\n')}
];
`;
  writeFileSync(file, text);
}
