/** A small study of the experiment of milliseconds, to be written into a folder of a test and changed there. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StudyConfig } from '../lib/index.js';

export const declaration: StudyConfig = {
  title: 'A study of milliseconds',
  experiment: fileURLToPath(new URL('experiment.ts', import.meta.url)),
  options: { steps: 8 },
  arms: {
    dpo: { title: 'Diffusion-DPO', loss: { objective: 'diffusion-dpo' } },
    sdpo: { title: 'SDPO', loss: { objective: 'sdpo', maskThreshold: 0.5 } },
  },
  groups: [
    { name: 'headline', sources: ['near'], betas: [1, 10], arms: ['dpo', 'sdpo'], seeds: [0, 1] },
    { name: 'other', sources: ['near', 'far'], betas: [10], arms: ['dpo', 'sdpo'], seeds: [0] },
  ],
  questions: [{ question: 'Is SDPO better?', arm: 'sdpo', baseline: 'dpo', sources: ['near'], betas: [1, 10] }],
  decidingMetric: 'good',
};

/** Runs of the declaration above: 2 β × 2 arms × 2 seeds of the first group, and the other source's two. */
export const RUNS = 10;

/** Writes a declaration as it is given, right or wrong; gives the path of the file. */
export function declare(folder: string, config: unknown = declaration, name = 'study.json'): string {
  const file = join(folder, name);
  writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config));
  return file;
}
