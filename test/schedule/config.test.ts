/** Scheduler configs: published files, class defaults, fields that pass, fields that must not, and `ignore`. */

import t, { type Test } from 'tap';
import { REFUSED, SCHEDULERS } from '../../lib/schedule/classes.js';
import { type DiffusersConfig, NoiseSchedule } from '../../lib/schedule/schedule.js';

const CLASSES = [
  'DDPMScheduler',
  'DDIMScheduler',
  'PNDMScheduler',
  'CogVideoXDDIMScheduler',
  'CogVideoXDPMScheduler',
  'EulerDiscreteScheduler',
  'FlowMatchEulerDiscreteScheduler',
  'UniPCMultistepScheduler',
];
const FLOWS = CLASSES.slice(6);

/** A config of the class with no field that is not needed. */
function bare(className: string): DiffusersConfig {
  const solver = SCHEDULERS[className].table !== undefined && SCHEDULERS[className].flow !== undefined;
  return { _class_name: className, ...(solver && { use_flow_sigmas: true, prediction_type: 'flow_prediction' }) };
}

const PUBLISHED: Record<string, Record<string, unknown>> = {
  'Stable Diffusion 1.5': {
    _class_name: 'PNDMScheduler',
    _diffusers_version: '0.6.0',
    beta_end: 0.012,
    beta_schedule: 'scaled_linear',
    beta_start: 0.00085,
    clip_sample: false,
    num_train_timesteps: 1000,
    set_alpha_to_one: false,
    skip_prk_steps: true,
    steps_offset: 1,
    trained_betas: null,
  },
  'Stable Diffusion XL': {
    _class_name: 'EulerDiscreteScheduler',
    _diffusers_version: '0.19.0.dev0',
    beta_end: 0.012,
    beta_schedule: 'scaled_linear',
    beta_start: 0.00085,
    clip_sample: false,
    interpolation_type: 'linear',
    num_train_timesteps: 1000,
    prediction_type: 'epsilon',
    sample_max_value: 1,
    set_alpha_to_one: false,
    skip_prk_steps: true,
    steps_offset: 1,
    timestep_spacing: 'leading',
    trained_betas: null,
    use_karras_sigmas: false,
  },
  'CogVideoX-2B': {
    _class_name: 'CogVideoXDDIMScheduler',
    _diffusers_version: '0.30.0.dev0',
    beta_end: 0.012,
    beta_schedule: 'scaled_linear',
    beta_start: 0.00085,
    clip_sample: false,
    clip_sample_range: 1,
    num_train_timesteps: 1000,
    prediction_type: 'v_prediction',
    rescale_betas_zero_snr: true,
    sample_max_value: 1,
    set_alpha_to_one: true,
    snr_shift_scale: 3,
    steps_offset: 0,
    timestep_spacing: 'trailing',
    trained_betas: null,
  },
  'Wan2.1': {
    _class_name: 'UniPCMultistepScheduler',
    _diffusers_version: '0.33.0.dev0',
    beta_end: 0.02,
    beta_schedule: 'linear',
    beta_start: 0.0001,
    disable_corrector: [],
    dynamic_thresholding_ratio: 0.995,
    final_sigmas_type: 'zero',
    flow_shift: 3,
    lower_order_final: true,
    num_train_timesteps: 1000,
    predict_x0: true,
    prediction_type: 'flow_prediction',
    rescale_betas_zero_snr: false,
    sample_max_value: 1,
    shift_terminal: null,
    sigma_max: null,
    sigma_min: null,
    solver_order: 2,
    solver_p: null,
    solver_type: 'bh2',
    steps_offset: 0,
    thresholding: false,
    time_shift_type: 'exponential',
    timestep_spacing: 'linspace',
    trained_betas: null,
    use_beta_sigmas: false,
    use_dynamic_shifting: false,
    use_exponential_sigmas: false,
    use_flow_sigmas: true,
    use_karras_sigmas: false,
  },
  'Stable Diffusion 3': {
    _class_name: 'FlowMatchEulerDiscreteScheduler',
    _diffusers_version: '0.29.0.dev0',
    num_train_timesteps: 1000,
    shift: 3,
  },
  'FLUX.1-schnell': {
    _class_name: 'FlowMatchEulerDiscreteScheduler',
    _diffusers_version: '0.30.0.dev0',
    base_image_seq_len: 256,
    base_shift: 0.5,
    max_image_seq_len: 4096,
    max_shift: 1.15,
    num_train_timesteps: 1000,
    shift: 1,
    use_dynamic_shifting: false,
  },
  'a DDPM model': {
    _class_name: 'DDPMScheduler',
    _diffusers_version: '0.24.0',
    beta_end: 0.02,
    beta_schedule: 'linear',
    beta_start: 0.0001,
    clip_sample: false,
    clip_sample_range: 1,
    dynamic_thresholding_ratio: 0.995,
    num_train_timesteps: 1000,
    prediction_type: 'epsilon',
    sample_max_value: 1,
    steps_offset: 0,
    thresholding: false,
    timestep_spacing: 'leading',
    trained_betas: null,
    variance_type: 'fixed_small',
  },
};

function sameSchedule(t: Test, a: NoiseSchedule, b: NoiseSchedule, label: string): void {
  const steps = a.family === 'flow' ? [1, 250.5, 500, 1000] : [0, 1, 19, 20, 500, 998, 999];
  for (const method of ['signal', 'sigma', 'transition'] as const) {
    t.strictSame(
      steps.map((step) => a[method](step)),
      steps.map((step) => b[method](step)),
      `${label}: ${method}`,
    );
  }
}

t.test('published configs are read, and agree with the presets', async (t) => {
  const presets = {
    'Stable Diffusion 1.5': 'sd15',
    'Stable Diffusion XL': 'sdxl',
    'CogVideoX-2B': 'cogvideox-2b',
    'Wan2.1': 'wan2.1-1.3b',
    'Stable Diffusion 3': 'sd3',
    'FLUX.1-schnell': 'flux-schnell',
  } as const;
  for (const [name, config] of Object.entries(PUBLISHED)) {
    // The pipeline of Stable Diffusion 3 runs the ladder of the class, and a config does not say so.
    const call = name === 'Stable Diffusion 3' ? { ladder: 'scheduler' as const } : {};
    const schedule = NoiseSchedule.fromDiffusers(JSON.parse(JSON.stringify(config)), call);
    if (name in presets) sameSchedule(t, schedule, NoiseSchedule.preset(presets[name as keyof typeof presets]), name);
    else t.match(schedule, { family: 'variance-preserving', predictionType: 'epsilon' });
  }
});

t.test('absent fields have the defaults of the class', async (t) => {
  const betas = { num_train_timesteps: 1000, beta_start: 0.0001, beta_end: 0.02, beta_schedule: 'linear' };
  const cog = {
    num_train_timesteps: 1000,
    beta_start: 0.00085,
    beta_end: 0.012,
    beta_schedule: 'scaled_linear',
    set_alpha_to_one: true,
    snr_shift_scale: 3,
  };
  const explicit: Record<string, DiffusersConfig> = {
    DDPMScheduler: { ...betas, prediction_type: 'epsilon', rescale_betas_zero_snr: false },
    DDIMScheduler: { ...betas, set_alpha_to_one: true, prediction_type: 'epsilon' },
    PNDMScheduler: { ...betas, set_alpha_to_one: false, prediction_type: 'epsilon' },
    CogVideoXDDIMScheduler: { ...cog, prediction_type: 'epsilon' },
    CogVideoXDPMScheduler: { ...cog, prediction_type: 'epsilon' },
    EulerDiscreteScheduler: { ...betas, prediction_type: 'epsilon' },
    FlowMatchEulerDiscreteScheduler: { num_train_timesteps: 1000, shift: 1 },
    UniPCMultistepScheduler: { num_train_timesteps: 1000, flow_shift: 1 },
  };
  for (const name of CLASSES) {
    const schedule = NoiseSchedule.fromDiffusers(bare(name));
    sameSchedule(t, schedule, NoiseSchedule.fromDiffusers({ ...bare(name), ...explicit[name] }), name);
    t.equal(schedule.predictionType, FLOWS.includes(name) ? 'flow_prediction' : 'epsilon');
    t.equal(schedule.family, FLOWS.includes(name) ? 'flow' : 'variance-preserving');
  }
});

t.test('every field that is followed changes the schedule', async (t) => {
  const changes: [className: string, field: string, value: unknown][] = [
    ['DDPMScheduler', 'num_train_timesteps', 500],
    ['DDPMScheduler', 'beta_start', 0.001],
    ['DDPMScheduler', 'beta_end', 0.01],
    ['DDPMScheduler', 'beta_schedule', 'scaled_linear'],
    ['DDPMScheduler', 'beta_schedule', 'squaredcos_cap_v2'],
    ['DDPMScheduler', 'rescale_betas_zero_snr', true],
    ['DDPMScheduler', 'prediction_type', 'sample'],
    ['DDIMScheduler', 'set_alpha_to_one', false],
    ['PNDMScheduler', 'set_alpha_to_one', true],
    ['CogVideoXDDIMScheduler', 'snr_shift_scale', 1],
    ['CogVideoXDPMScheduler', 'rescale_betas_zero_snr', true],
    ['EulerDiscreteScheduler', 'rescale_betas_zero_snr', true],
    ['FlowMatchEulerDiscreteScheduler', 'shift', 3],
    ['FlowMatchEulerDiscreteScheduler', 'num_train_timesteps', 500],
    ['UniPCMultistepScheduler', 'flow_shift', 5],
  ];
  for (const [name, field, value] of changes) {
    const steps = [1, 19, 499];
    const [a, b] = [bare(name), { ...bare(name), [field]: value }].map((config) => {
      const schedule = NoiseSchedule.fromDiffusers(config, { inferenceSteps: 50 });
      return steps.map((step) => [schedule.signal(step), schedule.transition(step)]);
    });
    t.notSame(a, b, `${name}.${field} = ${value}`);
    t.strictSame(
      NoiseSchedule.fromDiffusers({ ...bare(name), [field]: value }, { ignore: [field] }).toJSON(),
      NoiseSchedule.fromDiffusers(bare(name)).toJSON(),
      `${name}.${field} ignored`,
    );
  }
});

t.test('trained betas', async (t) => {
  const schedule = NoiseSchedule.fromDiffusers({ _class_name: 'DDPMScheduler', trained_betas: [0.5, 0.5, 0.75] });
  t.equal(schedule.trainSteps, 3);
  t.equal(schedule.inferenceSteps, 3);
  t.strictSame(
    [0, 1, 2].map((step) => schedule.signal(step) ** 2).map((x) => Math.round(x * 1e12) / 1e12),
    [0.5, 0.25, 0.0625],
  );
  // One step back for η = 1 in terms of x_0: half the gain in SNR, 1 from 1/3.
  t.ok(
    Math.abs(
      NoiseSchedule.fromDiffusers(
        { _class_name: 'DDPMScheduler', trained_betas: [0.5, 0.5, 0.75] },
        { predictionType: 'sample' },
      ).transition(1).omega -
        1 / 3,
    ) <=
      8 * Number.EPSILON,
  );
  const make = (fields: object) => () => NoiseSchedule.fromDiffusers({ _class_name: 'DDPMScheduler', ...fields });
  t.throws(make({ trained_betas: [0.5], num_train_timesteps: 2 }), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.doesNotThrow(make({ trained_betas: [0.5, 0.5], num_train_timesteps: 2 }));
  t.throws(make({ trained_betas: [] }), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(make({ trained_betas: 'linear' }), { name: 'TypeError', message: /config\.trained_betas/ });
  t.throws(make({ trained_betas: [0.5, 1.5] }), { name: 'RangeError', message: /config\.trained_betas\[1\]/ });
  t.throws(make({ trained_betas: [0.5, '0'] }), { name: 'TypeError', message: /config\.trained_betas\[1\]/ });
});

t.test('zero terminal SNR of Euler is the smallest float16', async (t) => {
  const euler = NoiseSchedule.fromDiffusers({ _class_name: 'EulerDiscreteScheduler', rescale_betas_zero_snr: true });
  t.equal(euler.signal(999), 2 ** -12);
  t.ok(euler.transition(999).omega < Infinity, 'epsilon still says something about x_0');
  const ddim = NoiseSchedule.fromDiffusers({ _class_name: 'DDIMScheduler', rescale_betas_zero_snr: true });
  t.equal(ddim.signal(999), 0);
  t.equal(euler.signal(998), ddim.signal(998));
  // With these betas the last entry but one is even smaller; a single step back from the last is then no transition.
  const single = { _class_name: 'EulerDiscreteScheduler', rescale_betas_zero_snr: true };
  t.equal(NoiseSchedule.fromDiffusers(single, { inferenceSteps: 1000 }).transition(999).omega, 0);
});

t.test('fields without influence pass in every class', async (t) => {
  const harmless: DiffusersConfig = {
    _diffusers_version: '0.33.0',
    _use_default_values: ['shift'],
    _anything: { at: 'all' },
    skip_prk_steps: true,
    solver_order: 3,
    solver_type: 'bh1',
    algorithm_type: 'dpmsolver',
    lower_order_final: false,
    euler_at_final: true,
    disable_corrector: [0],
    predict_x0: false,
    dynamic_thresholding_ratio: 0.9,
    clip_sample_range: 2,
    sample_max_value: 2,
    clip_sample: false,
    thresholding: false,
    use_exponential_sigmas: null,
    timestep_type: 'discrete',
    use_dynamic_shifting: false,
    invert_sigmas: false,
    shift_terminal: null,
    stochastic_sampling: false,
    trained_betas: null,
    beta_start: undefined,
  };
  /** Fields of ladders, bounds and clipping, which a class without them drops. */
  const unread: DiffusersConfig = {
    timestep_spacing: 'trailing',
    steps_offset: 1,
    interpolation_type: 'log_linear',
    sigma_min: 0.002,
    sigma_max: 80,
    base_shift: 0.4,
    max_shift: 2,
    base_image_seq_len: 1,
    max_image_seq_len: 2,
    time_shift_type: 'linear',
    final_sigmas_type: 'sigma_min',
    lambda_min_clipped: -5,
    original_inference_steps: 3,
    use_karras_sigmas: true,
    use_lu_lambdas: true,
    use_uniform_sigmas: true,
    variance_type: 'learned_range',
    clip_sample: true,
    thresholding: true,
    set_alpha_to_one: false,
    beta_start: 0.5,
    beta_schedule: 'anything',
  };
  for (const name of Object.keys(SCHEDULERS)) {
    const { reads, demands = [] } = SCHEDULERS[name];
    const foreign = Object.entries(unread).filter(([field]) => !(field in reads) && !demands.includes(field));
    const schedule = NoiseSchedule.fromDiffusers({ ...harmless, ...Object.fromEntries(foreign), ...bare(name) });
    const plain = NoiseSchedule.fromDiffusers(bare(name));
    if (plain.trainSteps === 1000) sameSchedule(t, schedule, plain, name);
    t.strictSame(schedule.toJSON(), plain.toJSON(), `${name}: the record leaves them out`);
  }
});

t.test('fields that clip are errors that name them, unless ignored', async (t) => {
  for (const [name, { demands = [] }] of Object.entries(SCHEDULERS)) {
    for (const field of demands) {
      const config = { ...bare(name), [field]: field === 'scale_factors' ? [0.5] : true };
      const shown = field === 'scale_factors' ? 'Array of length 1' : 'true';
      t.throws(() => NoiseSchedule.fromDiffusers(config), {
        name: 'SdpoError',
        code: 'ERR_SDPO_UNSUPPORTED_CONFIG',
        message: new RegExp(
          `^Expected config\\.${field} to be .*received ${shown} .*ignore: \\['${field}'\\] leaves it out`,
        ),
      });
      const ignored = NoiseSchedule.fromDiffusers(config, { ignore: [field] });
      t.strictSame(ignored.toJSON(), NoiseSchedule.fromDiffusers(bare(name)).toJSON());
    }
  }
});

t.test(
  'fields that mean another schedule are errors where the class does not read them, and none proposes to ignore them',
  async (t) => {
    const changed: Record<string, unknown> = {
      rescale_betas_zero_snr: true,
      snr_shift_scale: 3,
      shift: 3,
      flow_shift: 3,
      use_flow_sigmas: true,
      use_dynamic_shifting: true,
      shift_terminal: 0.02,
      invert_sigmas: true,
      stochastic_sampling: true,
      timestep_type: 'continuous',
      timestep_values: [1, 2],
    };
    let refused = 0;
    for (const [name, { reads, table }] of Object.entries(SCHEDULERS)) {
      for (const [field, value] of Object.entries(changed)) {
        const config = { ...bare(name), [field]: value };
        if (field in reads) continue;
        if (field === 'use_flow_sigmas' && table === undefined) {
          t.doesNotThrow(() => NoiseSchedule.fromDiffusers(config), `${name} is a flow, as the field says`);
          continue;
        }
        refused++;
        try {
          NoiseSchedule.fromDiffusers(config);
          t.fail(`${name}.${field} passed`);
        } catch (error) {
          const { message } = error as Error;
          t.match(error, { name: 'SdpoError', code: 'ERR_SDPO_UNSUPPORTED_CONFIG' });
          t.ok(
            message.startsWith(`Expected config.${field} to be `) && message.includes(`a ${name} does not read it`),
            message,
          );
          t.notOk(message.includes('ignore'), message);
        }
      }
    }
    t.ok(refused > 150, `${refused} fields`);
  },
);

t.test('what is read, but cannot be followed, says why', async (t) => {
  const cases: [DiffusersConfig, RegExp][] = [
    [
      { _class_name: 'DDPMScheduler', some_new_field: 1 },
      /"some_new_field" = 1, whose influence on DDPMScheduler is not known/,
    ],
    [{ _class_name: 'DDPMScheduler', constructor: 1 }, /"constructor" = 1/],
    [
      { _class_name: 'DDPMScheduler', variance_type: 'learned_range' },
      /variance_type .*the model predicts the variance/,
    ],
    [{ _class_name: 'DDPMScheduler', variance_type: 'fixed_large_log' }, /variance_type .*root of a negative number/],
    [{ _class_name: 'UnCLIPScheduler', variance_type: 'fixed_large' }, /variance_type to be 'fixed_small_log'/],
    [{ _class_name: 'DDPMScheduler', beta_schedule: 'exp' }, /beta_schedule of a DDPMScheduler to be .*"exp"/],
    [{ _class_name: 'DDPMScheduler', beta_schedule: 5 }, /beta_schedule .*received 5/],
    [{ _class_name: 'DDPMScheduler', prediction_type: 'flow_prediction' }, /prediction_type .*"flow_prediction"/],
    [{ _class_name: 'FlowMatchEulerDiscreteScheduler', prediction_type: 'epsilon' }, /prediction_type .*"epsilon"/],
    [{ ...bare('UniPCMultistepScheduler'), prediction_type: 'v_prediction' }, /prediction_type .*"v_prediction"/],
    [
      { _class_name: 'EulerDiscreteScheduler', timestep_spacing: 'other' },
      /timestep_spacing .*'linspace' or 'leading' or 'trailing'/,
    ],
    [
      { _class_name: 'EulerDiscreteScheduler', use_karras_sigmas: true, use_beta_sigmas: true },
      /use_beta_sigmas to be false with/,
    ],
    [
      { _class_name: 'EulerDiscreteScheduler', timestep_type: 'continuous', prediction_type: 'v_prediction' },
      /timestep_type to be 'discrete', .*¼ ln σ.*variancePreserving/,
    ],
    [
      { ...bare('DPMSolverMultistepScheduler'), use_karras_sigmas: true },
      /use_karras_sigmas to be false with use_flow_sigmas/,
    ],
    [{ ...bare('UniPCMultistepScheduler'), use_beta_sigmas: true }, /use_beta_sigmas to be false with use_flow_sigmas/],
    [
      { _class_name: 'UniPCMultistepScheduler', shift_terminal: 0.1 },
      /shift_terminal to be absent without use_flow_sigmas/,
    ],
    [
      { _class_name: 'FlowMatchEulerDiscreteScheduler', invert_sigmas: true, stochastic_sampling: true },
      /invert_sigmas to be false, .*noises afresh/,
    ],
    [{ _class_name: 'FlowMatchLCMScheduler', invert_sigmas: true }, /invert_sigmas to be false/],
  ];
  for (const [config, message] of cases) {
    t.throws(() => NoiseSchedule.fromDiffusers(config), { code: 'ERR_SDPO_UNSUPPORTED_CONFIG', message });
  }
  // Timesteps are ¼ ln σ only with v_prediction.
  t.doesNotThrow(() =>
    NoiseSchedule.fromDiffusers({ _class_name: 'EulerDiscreteScheduler', timestep_type: 'continuous' }),
  );
});

t.test('the class', async (t) => {
  for (const name of ['NewScheduler', 'toString', '', 5, null, undefined]) {
    t.throws(() => NoiseSchedule.fromDiffusers({ _class_name: name }), {
      code: 'ERR_SDPO_UNSUPPORTED_CONFIG',
      message: /config\._class_name to be one of DDPMScheduler, .*UniPCMultistepScheduler, .*received/,
    });
  }
  for (const [name, reason] of Object.entries(REFUSED)) {
    t.throws(() => NoiseSchedule.fromDiffusers({ _class_name: name }), {
      code: 'ERR_SDPO_UNSUPPORTED_CONFIG',
      message: `received "${name}" (${reason})`,
    });
    t.notOk(name in SCHEDULERS);
  }
  // A solver of both families is what use_flow_sigmas says.
  const solver = { _class_name: 'UniPCMultistepScheduler' };
  t.match(NoiseSchedule.fromDiffusers(solver), { family: 'variance-preserving', predictionType: 'epsilon' });
  t.match(NoiseSchedule.fromDiffusers({ ...solver, use_flow_sigmas: true }), { family: 'flow' });
  const flax = NoiseSchedule.fromDiffusers({ _class_name: 'FlaxPNDMScheduler' });
  sameSchedule(t, flax, NoiseSchedule.fromDiffusers({ _class_name: 'PNDMScheduler' }), 'Flax');
});

t.test('the prediction type of the options takes the place of the config', async (t) => {
  const config = { _class_name: 'DDIMScheduler', prediction_type: 'anything' };
  t.throws(() => NoiseSchedule.fromDiffusers(config), { code: 'ERR_SDPO_UNSUPPORTED_CONFIG', message: /"anything"/ });
  t.equal(NoiseSchedule.fromDiffusers(config, { predictionType: 'v_prediction' }).predictionType, 'v_prediction');
  const flow = NoiseSchedule.fromDiffusers(
    { _class_name: 'FlowMatchEulerDiscreteScheduler' },
    { predictionType: 'sample' },
  );
  t.equal(flow.predictionType, 'sample');
  t.throws(() => NoiseSchedule.fromDiffusers(config, { predictionType: 'flow_prediction' }), {
    name: 'RangeError',
    message: /options\.predictionType to be one of 'epsilon', 'v_prediction', 'sample'/,
  });
});

t.test('values of the wrong type or size', async (t) => {
  const make = (fields: object) => () =>
    NoiseSchedule.fromDiffusers({ _class_name: 'CogVideoXDDIMScheduler', ...fields });
  t.throws(make({ num_train_timesteps: 0 }), { name: 'RangeError', message: /config\.num_train_timesteps/ });
  t.throws(make({ num_train_timesteps: 1e12 }), { name: 'RangeError', message: /config\.num_train_timesteps/ });
  t.throws(make({ num_train_timesteps: '1000' }), { name: 'TypeError', message: /config\.num_train_timesteps/ });
  t.throws(make({ beta_start: -0.1 }), { name: 'RangeError', message: /config\.beta_start/ });
  t.throws(make({ beta_end: 1.1 }), { name: 'RangeError', message: /config\.beta_end/ });
  t.throws(make({ beta_end: '0.1' }), { name: 'TypeError', message: /config\.beta_end/ });
  t.throws(make({ snr_shift_scale: 0 }), { name: 'RangeError', message: /config\.snr_shift_scale/ });
  t.throws(make({ set_alpha_to_one: 1 }), { name: 'TypeError', message: /config\.set_alpha_to_one/ });
  t.throws(make({ rescale_betas_zero_snr: 'yes' }), { name: 'TypeError', message: /config\.rescale_betas_zero_snr/ });
  t.throws(make({ rescale_betas_zero_snr: true, num_train_timesteps: 1 }), {
    name: 'RangeError',
    message: /config\.rescale_betas_zero_snr/,
  });
  t.doesNotThrow(make({ num_train_timesteps: 1 }));
  const flow = (fields: object) => () =>
    NoiseSchedule.fromDiffusers({ _class_name: 'FlowMatchEulerDiscreteScheduler', ...fields });
  t.throws(flow({ shift: 0 }), { name: 'RangeError', message: /config\.shift/ });
  t.throws(flow({ shift: '3' }), { name: 'TypeError', message: /config\.shift/ });
  t.throws(flow({ num_train_timesteps: 1.5 }), { name: 'RangeError', message: /config\.num_train_timesteps/ });
});

t.test('only a parsed object is a config', async (t) => {
  const text = JSON.stringify(PUBLISHED['Stable Diffusion 3']);
  for (const wrong of [text, null, undefined, 5, [], new Map(), new (class Config {})(), () => ({})]) {
    t.throws(() => NoiseSchedule.fromDiffusers(wrong as never), {
      name: 'TypeError',
      code: 'ERR_SDPO_INVALID_ARG_TYPE',
      message: /Expected config to be/,
    });
  }
  t.doesNotThrow(() => NoiseSchedule.fromDiffusers(Object.assign(Object.create(null), JSON.parse(text))));
});

t.test('wrong options', async (t) => {
  const make = (options: unknown) => () =>
    NoiseSchedule.fromDiffusers({ _class_name: 'DDPMScheduler' }, options as never);
  t.throws(make({ inference_steps: 5 }), { code: 'ERR_SDPO_UNKNOWN_OPTION', message: /inferenceSteps/ });
  t.throws(make({ ignore: 'clip_sample' }), { name: 'TypeError', message: /options\.ignore/ });
  t.throws(make({ ignore: [5] }), { name: 'TypeError', message: /options\.ignore\[0\]/ });
  t.throws(make(null), { name: 'TypeError' });
  t.throws(make({ eta: 0 }), { name: 'RangeError', message: /options\.eta/ });
  t.throws(make({ inferenceSteps: 1001 }), { name: 'RangeError', message: /between 1 and 1000/ });
});
