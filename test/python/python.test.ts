/** The Python package: its tables are those of lib/, and its tests pass (with /usr/bin/python3 and its torch, or SDPO_PYTHON's). */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type DiffusersConfig, type FromDiffusersOptions, NoiseSchedule } from '../../lib/index.js';
import { PRESET_NAMES, PRESETS, type PresetName } from '../../lib/schedule/presets.js';
import { interpreters, runPythonTests } from '../helpers/python.js';

const folder = mkdtempSync(join(tmpdir(), 'sdpo-python-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

interface Known {
  config: DiffusersConfig;
  options: FromDiffusersOptions;
}

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Schedules of every kind with what they answer, for the Python port to be compared with. */
function scheduleReference(): string {
  const config = (name: string, fields = {}) => ({ _class_name: name, ...fields });
  const size = (name: PresetName) => ('pixelsPerToken' in PRESETS[name] ? { width: 832, height: 1216 } : {});
  const { cases: known } = JSON.parse(readFileSync(join(root, 'test/schedule/diffusers.json'), 'utf8'));
  const schedules = [
    ...PRESET_NAMES.map((name) => NoiseSchedule.preset(name, { inferenceSteps: 20, eta: 0.5, ...size(name) })),
    ...PRESET_NAMES.map((name) => NoiseSchedule.preset(name, size(name))),
    ...known.map(({ config: given, options }: Known) => NoiseSchedule.fromDiffusers(given, options)),
    NoiseSchedule.preset('sd3').withShift({ shift: 5 }),
    NoiseSchedule.preset('flux-dev', { mu: 0.8 }).withShift({ imageSeqLen: 1024 }),
    NoiseSchedule.preset('sdxl', { ladder: [999, 749.5, 499, 249], variance: 'fresh' }),
    NoiseSchedule.preset('mochi', { ladder: [0, 100, 500.5], variance: 'forward' }),
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
  const cases = schedules.map((schedule: NoiseSchedule) => {
    const flow = schedule.family === 'flow';
    const last = schedule.trainSteps - (flow ? 0 : 1);
    const fractions = [0.001, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, schedule.inverted ? 0 : 1];
    const timesteps = [...new Set(fractions.map((x) => (flow ? x * last : Math.round(x * last))))];
    return {
      record: schedule.toJSON(),
      timesteps,
      signal: timesteps.map((t) => schedule.signal(t)),
      sigma: timesteps.map((t) => schedule.sigma(t)),
      previous: timesteps.map((t) => schedule.transition(t).previous),
      ladder: Object.values(schedule.samplerLadder()).map((list) => [...list]),
      omega: [...schedule.omegas(timesteps)].map((omega) => (omega === Infinity ? 'Infinity' : omega)),
    };
  });
  return JSON.stringify(cases);
}

const modules = [
  'test_golden',
  'test_gradients',
  'test_formula',
  'test_calls',
  'test_backends',
  'test_recipes',
  'test_options',
  'test_schedule',
  'test_compile',
  'test_cuda',
  'test_device_path',
  'test_graphs',
];
for (const python of interpreters()) {
  t.test(python.name, { skip: python.skip, timeout: 600_000 }, async (t) => {
    const reference = join(folder, 'schedules.json');
    writeFileSync(reference, scheduleReference());
    await runPythonTests(t, python, modules, { SDPO_SCHEDULE_REFERENCE: reference });
  });
}
