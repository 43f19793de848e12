/** Declarations and results of studies, and the file of a run, damaged. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { planCells, readStudy } from '../../study/lib/plan.js';
import { readResults } from '../../study/lib/results-file.js';
import { keyOf, StudyFolder } from '../../study/lib/run-file.js';
import type { StudyConfig } from '../../study/lib/types.js';
import { mutateJson } from './mutate.js';
import { demand, type Seed, type Target } from './target.js';

const config: StudyConfig = {
  title: 'Two arms',
  experiment: './none.mjs',
  decidingMetric: 'good',
  options: { steps: 4 },
  arms: {
    dpo: { title: 'Diffusion-DPO', loss: { objective: 'diffusion-dpo' } },
    sdpo: { title: 'SDPO', loss: { objective: 'sdpo' }, settings: { keep: 0.5 } },
  },
  groups: [{ name: 'all', sources: ['N1'], betas: [1, 10], arms: ['dpo', 'sdpo'], seeds: [0, 1] }],
  questions: [{ question: 'Which?', arm: 'sdpo', baseline: 'dpo', sources: ['N1'], betas: [1, 10] }],
} as unknown as StudyConfig;

const [cell] = planCells(config);

const run = { final: [0.5, null], peak: [0.6, 0.1], peakStep: 2, steps: 4, seconds: 1.5 };
const results = {
  ...{
    title: config.title,
    config,
    metrics: { good: 'good', other: 'other' },
  },
  ...{ sources: { N1: 'noise' }, environment: { cpu: 'x', node: '20' }, measures: ['good', 'other'] },
  runs: [
    {
      cell: ['dpo', 'N1', 1, 0],
      ...run,
      trajectory: [
        [0, 0.1],
        [2, 0.6, 0.1],
        [4, 0.5, null],
      ],
      bins: { loss: [1, null] },
    },
    { cell: ['sdpo', 'N1', 10, 1], ...run, trajectory: [[0, 0.1]], samples: ['AAEC'], diverged: 'at step 3' },
  ],
};
const stored = {
  key: keyOf(config, cell),
  run: {
    ...{ cell, trajectory: [{ step: 0, metrics: { good: 0.1 } }], final: { good: 0.5, other: null } },
    ...{ peak: { step: 0, metrics: { good: 0.5 } }, bins: {}, samples: [], steps: 4, seconds: 1 },
  },
};

const seedOf = (name: string, content: unknown): Seed => ({
  name,
  bytes: Buffer.from(JSON.stringify(content, null, 1)),
  alter: (random) => mutateJson(content, random),
});

export const studyTarget = (): Target => ({
  name: 'study',
  seeds: [seedOf('declaration', config), seedOf('results', results), seedOf('run', stored)],
  read(path, { name }, damaged) {
    if (name === 'declaration') {
      demand(planCells(readStudy(path)).length >= 0, 'a plan that is none');
    } else if (name === 'results') {
      for (const { final, trajectory } of readResults(path).runs) {
        demand(
          Object.values(final).every((value) => typeof value === 'number'),
          'a measure that is no number',
        );
        demand(Array.isArray(trajectory), 'a trajectory that is none');
      }
    } else {
      const folder = join(dirname(path), 'study');
      mkdirSync(join(folder, 'runs'), { recursive: true });
      writeFileSync(join(folder, 'runs', `${cell.id}.json`), damaged);
      const found = new StudyFolder(folder, config).read(cell);
      if (found !== undefined)
        demand(
          Object.values(found.final).every((value) => typeof value === 'number'),
          'a measure',
        );
    }
  },
});
