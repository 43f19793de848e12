/** The Python package: its tables are those of lib/, and its tests pass (with /usr/bin/python3 and its torch, or SDPO_PYTHON's). */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { NoiseSchedule } from '../../lib/index.js';
import { PRESET_NAMES } from '../../lib/schedule/presets.js';
import { pythonTables, tablesFile } from '../../python/tables.js';
import { missing, runPythonTests } from '../helpers/python.js';

const folder = mkdtempSync(join(tmpdir(), 'sdpo-python-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

t.test('python/sdpo/tables.json is what lib/ says', (t) => {
  t.equal(readFileSync(tablesFile, 'utf8'), pythonTables(), 'else write it again: npx tsx python/tables.ts');
  t.end();
});

/** Schedules of every kind with what they answer, for the Python port to be compared with. */
function scheduleReference(): string {
  const config = (name: string, fields = {}) => ({ _class_name: name, ...fields });
  const schedules = [
    ...PRESET_NAMES.map((name) => NoiseSchedule.preset(name, { inferenceSteps: 20, eta: 0.5 })),
    ...PRESET_NAMES.map((name) => NoiseSchedule.preset(name)),
    NoiseSchedule.fromDiffusers(
      config('DDPMScheduler', { beta_schedule: 'squaredcos_cap_v2', prediction_type: 'v_prediction' }),
    ),
    NoiseSchedule.fromDiffusers(config('DDIMScheduler', { rescale_betas_zero_snr: true, set_alpha_to_one: false })),
    NoiseSchedule.fromDiffusers(
      config('EulerDiscreteScheduler', { rescale_betas_zero_snr: true, num_train_timesteps: 100 }),
    ),
    NoiseSchedule.fromDiffusers(
      config('CogVideoXDPMScheduler', { trained_betas: [0.1, 0.2, 0.3, 0.4], prediction_type: 'sample' }),
    ),
    NoiseSchedule.flow({ shift: 2.5, trainSteps: 100, predictionType: 'epsilon', eta: 0.3 }),
    NoiseSchedule.flow({ predictionType: 'sample', inferenceSteps: 7 }),
    NoiseSchedule.variancePreserving({
      alphasCumprod: [0.9, 0.5, 0.1, 0],
      finalAlphaCumprod: 0.95,
      predictionType: 'epsilon',
      inferenceSteps: 2,
    }),
  ];
  const cases = schedules.map((schedule) => {
    const flow = schedule.family === 'flow';
    const last = schedule.trainSteps - (flow ? 0 : 1);
    const timesteps = [
      ...new Set([0.001, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 1].map((x) => (flow ? x * last : Math.round(x * last)))),
    ];
    return {
      record: schedule.toJSON(),
      timesteps,
      signal: timesteps.map((t) => schedule.signal(t)),
      sigma: timesteps.map((t) => schedule.sigma(t)),
      previous: timesteps.map((t) => schedule.transition(t).previous),
      omega: [...schedule.omegas(timesteps)].map((omega) => (omega === Infinity ? 'Infinity' : omega)),
    };
  });
  return JSON.stringify(cases);
}

t.test('its tests', { skip: missing(), timeout: 600_000 }, async (t) => {
  const reference = join(folder, 'schedules.json');
  writeFileSync(reference, scheduleReference());
  const modules = [
    'test_golden',
    'test_gradients',
    'test_formula',
    'test_options',
    'test_schedule',
    'test_compile',
    'test_graphs',
    'test_cuda',
  ];
  await runPythonTests(t, modules, { SDPO_SCHEDULE_REFERENCE: reference });
});
