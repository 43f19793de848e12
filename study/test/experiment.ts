/**
 * An experiment of milliseconds for the tests of studies: a model of one parameter, fine-tuned with the real loss. Settings make a run crash,
 * throw, wait or measure nonsense.
 */

import { appendFileSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { createRandom, NoiseSchedule, noise, PreferenceLoss, type PreferenceLossOptions } from 'sdpo';
import type { Experiment, ExperimentContext, StudyCell, StudyRun } from '../lib/index.js';

const ROWS = 8;
const EVALUATIONS = 4;

/** What the chosen and rejected samples are centred on, per source. */
const CENTRES: Readonly<Record<string, readonly [number, number]>> = { near: [0.5, -0.5], far: [2, -1] };

const experiment: Experiment = {
  metrics: { good: 'Good', drift: 'Drift' },
  sources: { near: 'Both branches near zero.', far: 'Chosen samples far from zero.' },
  async prepare({ shared, progress }) {
    progress(0, 1);
    appendFileSync(join(shared, 'prepared.txt'), 'x');
    writeFileSync(join(shared, 'base.json'), '0');
    progress(1, 1);
  },
  async run(cell, context) {
    await disturb(cell, context);
    return finetune(cell, context);
  },
};

export default experiment;

/** What the settings ask for, once or in every attempt. */
async function disturb({ id, settings }: StudyCell, { shared, signal }: ExperimentContext): Promise<void> {
  appendFileSync(join(shared, 'started.txt'), `${id}\n`);
  if (settings.wait !== undefined) await wait(Number(settings.wait), undefined, { signal });
  if (settings.fail === 'throw') throw new Error('this arm is broken');
  const crashed = join(shared, `${id}.crashed`);
  if (settings.fail === 'always' || (settings.fail === 'once' && !existsSync(crashed))) {
    writeFileSync(crashed, '');
    console.error('no more memory on this machine');
    process.kill(process.pid, 'SIGKILL');
    await wait(10_000);
  }
}

function finetune(cell: StudyCell, { options, progress }: ExperimentContext): StudyRun {
  const steps = Number(options.steps);
  const schedule = NoiseSchedule.preset('cogvideox-2b', { inferenceSteps: 50 });
  const loss = new PreferenceLoss({ ...cell.loss, beta: cell.beta, schedule } as PreferenceLossOptions);
  const [chosen, rejected] = CENTRES[cell.source];
  const random = createRandom(cell.seed);
  let parameter = 0;
  const trajectory: StudyRun['trajectory'][number][] = [];
  const measure = () => ({ good: Math.exp(-((parameter - chosen) ** 2)), drift: Math.abs(parameter) });
  const began = performance.now();
  for (let step = 0; step <= steps; step++) {
    if (step % Math.max(1, Math.floor(steps / EVALUATIONS)) === 0) trajectory.push({ step, metrics: measure() });
    if (step === steps) break;
    const timesteps = Float64Array.from({ length: ROWS }, () => Math.floor(1 + random() * 900));
    const spread = noise(cell.seed, step * ROWS, new Float64Array(ROWS));
    const branch = (centre: number) => ({
      policy: new Float64Array(ROWS).fill(parameter),
      reference: new Float64Array(ROWS),
      target: spread.map((x) => centre + 0.1 * x),
    });
    const { gradients } = loss.evaluate({ timesteps, chosen: branch(chosen), rejected: branch(rejected) });
    const sum = (values: Float64Array) => values.reduce((a, b) => a + b, 0);
    parameter -= 0.1 * (sum(gradients.chosen as Float64Array) + sum(gradients.rejected as Float64Array));
    progress(step + 1, steps);
  }
  const best = trajectory.reduce((a, b) => (b.metrics.good > a.metrics.good ? b : a));
  const final = cell.settings.fail === 'nan' ? { good: Number.NaN, drift: 0 } : measure();
  return {
    cell,
    trajectory,
    final,
    peak: best,
    bins: { weightChosen: [0.9, null, 0.5] },
    samples: [Array.from({ length: 4 }, (_, i) => (i * 85 + cell.seed) % 256)],
    steps,
    seconds: (performance.now() - began) / 1000,
  };
}
