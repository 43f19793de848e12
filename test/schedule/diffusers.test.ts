/** Noise levels, ladders and transitions against what diffusers' own schedulers compute (test/oracle/diffusers_reference.py, in float64). */

import { readFileSync } from 'node:fs';
import t from 'tap';
import { type DiffusersConfig, type FromDiffusersOptions, NoiseSchedule } from '../../lib/schedule/schedule.js';

interface Case {
  name: string;
  config: DiffusersConfig;
  options: FromDiffusersOptions;
  levels?: [timestep: number, signal: number, sigma: number][];
  ladder: (number | null)[];
  omega?: [timestep: number, omega: number | null][];
}

interface Reference {
  published: Record<string, DiffusersConfig>;
  resolutions: { line?: number[]; empirical?: boolean; tokens: number; steps?: number; mu: number }[];
  cases: Case[];
}

const reference: Reference = JSON.parse(readFileSync(new URL('./diffusers.json', import.meta.url), 'utf8'));

const TOLERANCE = 1e-6;

function close(actual: number, expected: number | null, absolute = 0): boolean {
  if (expected === null) return actual === Infinity;
  return Math.abs(actual - expected) <= TOLERANCE * Math.abs(expected) + absolute;
}

t.test('every case has the levels, the ladder and the transitions of the class', async (t) => {
  let weights = 0;
  for (const { name, config, options, levels = [], ladder, omega = [] } of reference.cases) {
    const schedule = NoiseSchedule.fromDiffusers(config, options);
    const problems: string[] = [];
    for (const [step, signal, sigma] of levels) {
      // The class takes 1 - ᾱ of a rounded ᾱ.
      if (!close(schedule.signal(step), signal, 1e-12))
        problems.push(`a at ${step}: ${schedule.signal(step)}, not ${signal}`);
      if (!close(schedule.sigma(step), sigma, 1e-9))
        problems.push(`s at ${step}: ${schedule.sigma(step)}, not ${sigma}`);
    }
    const visited = schedule.samplerLadder();
    const flow = schedule.family === 'flow';
    const found = [...visited.sigma].map((sigma, i) => (flow ? sigma : sigma / visited.signal[i]));
    if (found.length !== ladder.length) problems.push(`${found.length} levels, not ${ladder.length}`);
    found.forEach((value, i) => {
      if (!close(value, ladder[i], 1e-12)) problems.push(`level ${i}: ${value}, not ${ladder[i]}`);
    });
    for (const [step, expected] of omega) {
      const actual = schedule.transition(step).omega;
      weights++;
      // Where the last step does nothing, the rounding of the timestep is left.
      if (!close(actual, expected, 1e-9)) problems.push(`omega at ${step}: ${actual}, not ${expected}`);
    }
    t.strictSame(problems.slice(0, 3), [], name);
  }
  t.ok(weights > 1000, `${weights} weights`);
});
