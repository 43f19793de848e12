/** Configs and metrics as text, damaged. */

import { readFileSync } from 'node:fs';
import { loadConfig } from '../../lib/cli/config.js';
import { makeLoss, makeSchedule } from '../../lib/cli/train-setup.js';
import { jsonlWriter } from '../../lib/trainer/writers.js';
import { mutateJson } from './mutate.js';
import { demand, type Seed, type Target } from './target.js';

function configs(): Seed[] {
  const config = {
    policy: { module: 'policy.mjs', options: { width: 8 } },
    data: { format: 'safetensors', files: ['pairs.safetensors'] },
    schedule: { config: { _class_name: 'DDIMScheduler', beta_schedule: 'scaled_linear', num_train_timesteps: 100 } },
    loss: { objective: 'sdpo', beta: 5, maskThreshold: 0.5 },
    training: { steps: 10, pairsPerStep: 4, learningRate: { peak: 0.001 } },
    out: 'run',
  };
  const preset = { ...config, schedule: { preset: 'sd15' }, loss: { objective: 'diffusion-dpo', beta: 2000 } };
  return [config, preset].map((content, i) => ({
    name: `config ${i}`,
    bytes: Buffer.from(JSON.stringify(content, null, 1)),
    alter: (random) => mutateJson(content, random),
  }));
}

export const configTarget = (): Target => ({
  name: 'config',
  seeds: configs(),
  read(path) {
    const loaded = loadConfig(path);
    makeLoss(loaded, makeSchedule(loaded));
  },
});

const STEPS = 12;

function metrics(): Seed[] {
  const lines = Array.from({ length: STEPS }, (_, i) =>
    JSON.stringify({ step: i + 1, kind: 'train', metrics: { 'é/loss': i } }),
  );
  return ['\n', '\r\n'].map((end) => ({
    name: JSON.stringify(end),
    bytes: Buffer.from(lines.map((line) => line + end).join('')),
  }));
}

/** After a resumption from a step, what was kept is the beginning of the file byte by byte, and a line follows. */
export const metricsTarget = (): Target => ({
  name: 'metrics',
  seeds: metrics(),
  async read(path, _, damaged) {
    const from = damaged.length % (STEPS + 2);
    const writer = jsonlWriter(path, { from });
    const entry = { step: from + 1, kind: 'train', metrics: { loss: 1 } } as const;
    await writer.write(entry);
    await writer.close?.();
    const line = `${JSON.stringify(entry)}\n`;
    const after = readFileSync(path);
    demand(after.subarray(-line.length).toString() === line, 'the new line is not the last one');
    const kept = after.subarray(0, -line.length);
    const same = damaged.subarray(0, kept.length).equals(kept);
    const closed = damaged.equals(kept.subarray(0, -1)) && kept.at(-1) === 0x0a;
    demand(same || closed, 'what was kept is not the beginning of the file');
    demand(kept.length === 0 || kept.at(-1) === 0x0a, 'the new line follows a torn one');
    for (const text of kept
      .toString()
      .split('\n')
      .filter((part) => part.trim() !== '')) {
      demand(JSON.parse(text.replace(/^\ufeff/, '')).step <= from, 'a later step was kept');
    }
    // Only whole lines of later steps may go, and one that is torn.
    const cut = damaged.subarray(kept.length).toString().split('\n');
    const [first] = cut.filter((part) => part.trim() !== '');
    if (first !== undefined && cut.length > 1) demand(JSON.parse(first).step > from, 'an earlier step was cut off');
  },
});
