/**
 * Results of a study that nobody ran: the shape of real ones with invented numbers, for the tests of the report. The arms differ by effects that
 * are chosen here, so a test can know what the report has to say.
 */

import { createRandom } from 'sdpo';
import type { Measures, StudyCell, StudyConfig, StudyResults, StudyRun } from '../lib/index.js';
import { planCells } from '../lib/plan.js';

const SEEDS = [0, 1, 2, 3, 4];
const kl = { objective: 'diffusion-dpo', klWeight: 0.3 } as const;

export const config: StudyConfig = {
  title: 'Invented results for a test',
  experiment: './none.ts',
  options: { steps: 400 },
  arms: {
    dpo: { title: 'Diffusion-DPO', loss: { objective: 'diffusion-dpo' } },
    'dpo-cm': { title: 'DPO-C&M', loss: { objective: 'dpo-cm' } },
    sdpo: { title: 'SDPO (κ calibrated)', loss: { objective: 'sdpo' } },
    'dpo-kl': { title: 'Diffusion-DPO + 0.3 KL', loss: kl },
    'dpo-kl-1': { title: 'Diffusion-DPO + 1.0 KL', family: 'dpo-kl', loss: { ...kl, klWeight: 1 } },
    'dpo-sft': { title: 'Diffusion-DPO + SFT', loss: { objective: 'diffusion-dpo', sftWeight: 1 } },
    'mask-random': {
      title: 'random mask <at the same rate>',
      loss: { objective: 'sdpo' },
      settings: { control: 'random' },
    },
    'mask-only': { title: 'mask without weight', loss: { objective: 'dpo-cm', clipRange: [1, 1] } },
  },
  groups: [
    {
      name: 'headline',
      sources: ['N1', 'on-policy'],
      betas: [3, 10, 30, 100],
      arms: ['dpo', 'dpo-cm', 'sdpo', 'dpo-kl'],
      seeds: SEEDS,
    },
    { name: 'anchors', sources: ['N1'], betas: [3, 10, 30, 100], arms: ['dpo-kl-1', 'dpo-sft'], seeds: [0, 1, 2] },
    {
      name: 'controls',
      sources: ['N1', 'on-policy'],
      betas: [10],
      arms: ['mask-random', 'mask-only'],
      seeds: [0, 1, 2],
    },
    { name: 'sources', sources: ['C'], betas: [10, 100], arms: ['dpo', 'dpo-cm', 'sdpo'], seeds: [0, 1, 2] },
    {
      name: 'learning rate',
      sources: ['N1'],
      betas: [3, 10, 30, 100],
      arms: ['dpo', 'sdpo'],
      seeds: [0, 1, 2],
      settings: { learningRateFactor: 1 / 3 },
    },
  ],
  questions: [
    {
      question: 'Does SDPO beat Diffusion-DPO at the same β on N1?',
      arm: 'sdpo',
      baseline: 'dpo',
      sources: ['N1'],
      betas: [3, 10, 30, 100],
    },
    {
      question: 'Do SDPO and DPO-C&M differ?',
      arm: 'sdpo',
      baseline: 'dpo-cm',
      sources: ['N1', 'on-policy'],
      betas: [3, 10, 30, 100],
    },
    {
      question: 'Does SDPO beat a KL anchor?',
      arm: 'sdpo',
      baseline: 'dpo-kl',
      sources: ['N1', 'on-policy'],
      betas: [3, 10, 30, 100],
    },
    {
      question: 'Does SDPO beat Diffusion-DPO where the chosen are clean?',
      arm: 'sdpo',
      baseline: 'dpo',
      sources: ['C'],
      betas: [10, 100],
    },
    { question: 'Does an anchor that was not run help?', arm: 'dpo-sft', baseline: 'dpo', sources: ['C'], betas: [10] },
    { question: 'Is it the mask?', arm: 'mask-random', baseline: 'sdpo', sources: ['N1', 'on-policy'], betas: [10] },
  ],
  decidingMetric: 'good',
};

/** What an arm adds to the deciding metric of Diffusion-DPO after the last step, where it was run. */
export const EFFECTS: Readonly<Record<string, number>> = {
  'dpo-cm': 0.2,
  sdpo: 0.2,
  'dpo-kl': 0.32,
  'dpo-kl-1': 0.3,
  'dpo-sft': 0.02,
  'mask-random': 0.03,
  'mask-only': 0.19,
};
/** Where SDPO is worse, by so much. */
const HARM = -0.15;

const STEPS = [0, 100, 200, 300, 400];
const BINS = 10;
const SIDE = 8;

/** `count` images of a ring whose size depends on the seed. */
function rings(count: number, seed: number, noisy: number): number[][] {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => {
    const radius = 1.5 + 1.8 * random();
    return Array.from({ length: SIDE * SIDE }, (_, i) => {
      const distance = Math.hypot((i % SIDE) - 3.5, Math.floor(i / SIDE) - 3.5);
      const ink = 255 * Math.exp(-((distance - radius) ** 2)) + 255 * noisy * (random() - 0.5);
      return Math.round(Math.min(255, Math.max(0, ink)));
    });
  });
}

function inventRun(cell: StudyCell): StudyRun {
  const { arm, source, beta, seed, settings } = cell;
  const random = createRandom(seed * 1000 + beta);
  const shared = 0.08 * (random() - 0.5);
  const own =
    0.015 *
    (createRandom([...cell.id].reduce((sum, letter) => (Math.imul(sum, 31) + letter.charCodeAt(0)) >>> 0, 7))() - 0.5);
  const effect = source === 'C' && arm !== 'dpo' ? HARM : (EFFECTS[arm] ?? 0);
  const strength = 0.15 * Math.log10(beta) + (settings.learningRateFactor === undefined ? 0 : 0.1);
  // Diffusion-DPO falls apart at small β after a good start; the others do so less.
  const collapse = Math.max(0, 0.5 - strength) * (arm === 'dpo' ? 0.6 : 0.12);
  const at = (step: number): Measures => {
    const progress = step / 400;
    const good = 0.4 + (0.2 + effect) * progress + shared + own * progress - collapse * progress ** 3;
    const reward = 0.5 + 0.45 * progress * (1 - strength / 2) + own;
    return { good, reward, valid: 0.85 + 0.3 * (effect - 0.3) * progress + shared, coverage: 0.5 * good };
  };
  const trajectory = STEPS.map((step) => ({ step, metrics: at(step) }));
  const best = trajectory.slice(1).reduce((a, b) => (b.metrics.good > a.metrics.good ? b : a));
  const masked = arm !== 'dpo' && !arm.startsWith('dpo-kl');
  const overBins = (value: (t: number) => number | null) =>
    Array.from({ length: BINS }, (_, i) => value((i + 0.5) / BINS));
  return {
    cell,
    trajectory,
    final: at(400),
    peak: best,
    bins: {
      weightChosen: overBins((t) => 1 - Math.exp(-6 * t) * (0.9 - effect)),
      weightRejected: overBins((t) => 1 - Math.exp(-5 * t)),
      kept: overBins((t) => (masked ? Math.min(1, 1.4 * t) : 1)),
      driftChosen: overBins((t) => 0.2 * (1 - t) * (0.4 - effect)),
      driftRejected: overBins((t) => 0.3 * (1 - t) * (0.4 - effect)),
      gradientNorm: overBins((t) => 2 - t),
      gradientNormCv: overBins((t) => (t < 0.1 && masked ? null : 0.5 + t * effect)),
      rows: overBins(() => 120),
    },
    samples: rings(16, seed + beta, 0.6 - effect),
    before: rings(16, seed, 0.4),
    steps: 400,
    ...(arm === 'dpo' && beta === 3 && seed === 4
      ? { diverged: 'the loss was not finite at step 212', steps: 212 }
      : {}),
    seconds: 5 + seed / 3,
  };
}

/** Results of the declaration above, of all its runs. */
export function inventedResults(): StudyResults {
  return {
    title: config.title,
    config,
    metrics: {
      good: 'good: valid and preferred',
      reward: "reward: judge's probability",
      valid: 'valid: near a real digit',
      coverage: 'coverage',
    },
    sources: {
      N1: 'noisy chosen, clean rejected',
      'on-policy': "the base's own samples",
      C: 'clean chosen, noisy rejected',
    },
    environment: {
      sdpo: '0.0.0',
      node: '20.0.0',
      processor: 'invented',
      cores: 2,
      started: '2000-01-01',
      finished: '2000-01-02',
    },
    runs: planCells(config).map(inventRun),
  };
}
