/** The measures of the example as an evaluation module of `sdpo train` (docs/cli.md). */

import type { EvaluationContext } from 'sdpo/trainer';
import { loadDigits } from './data.js';
import { Evaluator } from './evaluation.js';
import { JUDGE_SHAPES } from './judge.js';
import { DenoiserPolicy } from './policy.js';
import { loadWeights, WEIGHTS_FOLDER } from './weights.js';

/** What the module reads from a config. */
export interface MeasureOptions {
  /** Samples of each evaluation. Default 512. */
  samples?: number;
}

/** Reward, validity and both of samples from always the same noise. */
export default function measureDigits({ samples = 512 }: MeasureOptions) {
  const judge = loadWeights(new URL('judge.safetensors', WEIGHTS_FOLDER), JUDGE_SHAPES);
  const evaluator = new Evaluator(loadDigits(), judge, samples);
  return ({ policy }: EvaluationContext): Record<string, number> => {
    if (!(policy instanceof DenoiserPolicy)) throw new Error('Expected the policy of policy.ts, received another one');
    const { reward, valid, good } = evaluator.evaluate(policy.params);
    return { reward, valid, good };
  };
}
