/** Trains the denoiser that fine-tuning starts from, and the judge, and writes both to `weights/`, which is committed. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { BASE_STEPS, BATCH, EMA_DECAY, JUDGE_BATCH, trainBase, trainJudge } from './base.js';
import { loadDigits } from './data.js';
import { Evaluator } from './evaluation.js';
import { classify, mostProbable } from './judge.js';
import { startProgress } from './progress.js';
import { saveWeights, WEIGHTS_FOLDER } from './weights.js';

const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: String(BASE_STEPS) },
    'judge-steps': { type: 'string', default: '2000' },
    batch: { type: 'string', default: String(BATCH) },
    seed: { type: 'string', default: '0' },
    out: { type: 'string', default: fileURLToPath(WEIGHTS_FOLDER) },
    quiet: { type: 'boolean', default: false },
  },
});
const steps = Number(options.steps);
const judgeSteps = Number(options['judge-steps']);
const batch = Number(options.batch);
const seed = Number(options.seed);

const digits = loadDigits();
const follow = <T>(label: string, steps: number, train: (onStep: (step: number, loss: number) => void) => T): T => {
  const progress = startProgress(label, steps, options.quiet);
  return train((step, loss) => {
    progress.update(step, `loss ${loss.toFixed(4)}`);
    if (step === steps) progress.stop();
  });
};
const judge = follow('judge', judgeSteps, (onStep) => trainJudge(digits.train, { steps: judgeSteps, seed, onStep }));
const correct = mostProbable(classify(judge, digits.test.images)).filter(
  (digit, row) => digit === digits.test.labels[row],
);
console.log(`judge: ${((100 * correct.length) / digits.test.labels.length).toFixed(1)} % of the test digits right`);

const base = await follow('base', steps, (onStep) => trainBase(digits.train, { steps, batch, seed, onStep }));
const { reward, valid, good } = new Evaluator(digits, judge, 2048).evaluate(base);
console.log(`base: reward ${reward.toFixed(3)}, valid ${valid.toFixed(3)}, good ${good.toFixed(3)} (2048 samples)`);

mkdirSync(options.out, { recursive: true });
const recipe = { script: 'examples/digits/train-base.ts', seed: String(seed) };
const files = {
  'base.safetensors': saveWeights(base, {
    ...recipe,
    steps: String(steps),
    batch: String(batch),
    ema: String(EMA_DECAY),
  }),
  'judge.safetensors': saveWeights(judge, { ...recipe, steps: String(judgeSteps), batch: String(JUDGE_BATCH) }),
};
for (const [name, bytes] of Object.entries(files)) {
  writeFileSync(join(options.out, name), bytes);
  console.log(`wrote ${join(options.out, name)} (${bytes.length} bytes)`);
}
