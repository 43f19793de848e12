/** Every option and argument of losses, tensors, noise and schedules, given wrongly. */

import t from 'tap';
import {
  createRandom,
  NoiseSchedule,
  noise,
  OBJECTIVES,
  PreferenceLoss,
  randomBits,
  split,
  Tensor,
} from '../../lib/index.js';
import { type Case, type Code, check, wrong } from '../helpers/failures.js';

// ---- Options of a loss

const make = (options: object) => () => new PreferenceLoss(wrong({ objective: 'sdpo', beta: 1, ...options }));
const option = (name: string, value: unknown, code: Code, received: string, expected = ''): Case => [
  make({ [name]: value }),
  code,
  `options.${name}`,
  expected,
  `received ${received}`,
];
const numbers = (name: string, expected: string, ...bad: number[]): Case[] => [
  option(name, '1', 'ARG_TYPE', '"1"', expected),
  ...[NaN, Infinity, -1, ...bad].map((value) => option(name, value, 'ARG_VALUE', String(value), expected)),
];
const names = (name: string, listed: string): Case[] => [
  option(name, 'none', 'ARG_VALUE', '"none"', listed),
  option(name, 1, 'ARG_TYPE', '1', listed),
];

check('options of PreferenceLoss', [
  [() => new PreferenceLoss(wrong(undefined)), 'ARG_TYPE', 'options', 'an object', 'undefined'],
  [() => new PreferenceLoss(wrong([])), 'ARG_TYPE', 'options', 'an object', 'Array of length 0'],
  [make({ objective: undefined }), 'ARG_TYPE', 'options.objective', "'sdpo'", 'undefined'],
  [make({ beta: undefined }), 'ARG_TYPE', 'options.beta', '> 0', 'undefined'],
  ...names('objective', "'diffusion-dpo', 'dpo-cm', 'sdpo'"),
  ...names('link', "'sigmoid', 'hinge', 'ipo'"),
  ...names('pairWeight', "'geometric', 'min', 'max', 'product'"),
  ...names('weightRatio', "'policy/data', 'policy/reference', 'reference/data'"),
  ...names('timestepWeighting', "'constant', 'elbo'"),
  ...names('logRatioReduction', "'mean', 'sum'"),
  ...names('sftScope', "'all', 'masked'"),
  ...names('klScope', "'all', 'masked'"),
  ...names('nonFinite', "'throw', 'skip', 'propagate'"),
  ...numbers('beta', '> 0', 0),
  ...numbers('maskThreshold', '[0, 1]', 1.01),
  ...numbers('weightSharpness', '> 0', 0),
  ...numbers('labelSmoothing', '[0, 0.5]', 0.51),
  ...numbers('sftWeight', '>= 0'),
  ...numbers('klWeight', '>= 0'),
  ...numbers('safeguard', '[0, 1]', 1.01),
  ...numbers('dmpoAlpha', '(0, 1)', 0, 1),
  ...numbers('linearFloor', '[0, 0.5)', 0.5),
  ...[NaN, Infinity].map((value) => option('weightExponent', value, 'ARG_VALUE', String(value), 'a finite number')),
  ...names('safeguardScope', "'pair', 'batch'"),
  option('logRatioClip', -0.1, 'ARG_VALUE', '-0.1'),
  option('logRatioClip', '0.1', 'ARG_TYPE', '"0.1"', '[low, high]'),
  option('timestepWindow', 100, 'ARG_TYPE', '100', '[low, high]'),
  option('timestepWindow', [800, 100], 'ARG_VALUE', '"[800,100]"', 'low <= high'),
  [make({ timestepWindow: [0, Infinity] }), 'ARG_VALUE', 'options.timestepWindow[1]', 'Infinity'],
  ...numbers('mapoScale', '> 0', 0),
  ...numbers('mapoSteps', '> 0', 0),
  ...[0, 1.5, NaN, -1, 4097].map((value) => option('threads', value, 'ARG_VALUE', String(value), 'an integer')),
  option('threads', '2', 'ARG_TYPE', '"2"'),
  option('weightGradient', 1, 'ARG_TYPE', '1', 'a boolean'),
  option('schedule', {}, 'ARG_TYPE', 'an instance of Object', 'a NoiseSchedule'),
  option('clipRange', -0.1, 'ARG_VALUE', '-0.1'),
  option('clipRange', NaN, 'ARG_VALUE', 'NaN'),
  option('clipRange', '0.1', 'ARG_TYPE', '"0.1"'),
  option('clipRange', [1, 2, 3], 'ARG_TYPE', 'Array of length 3', '[low, high]'),
  option('clipRange', [2, 1], 'ARG_VALUE', '"[2,1]"', 'low <= high'),
  [make({ clipRange: [NaN, 1] }), 'ARG_VALUE', 'options.clipRange[0]', 'NaN'],
  [make({ clipRange: [0.5, '1'] }), 'ARG_TYPE', 'options.clipRange[1]', '"1"'],
  [make({ betta: 1 }), 'UNKNOWN', 'options', 'beta', '"betta"'],
  [make({ clip_range: 0.1 }), 'UNKNOWN', 'options', '"clip_range"', "did you mean 'clipRange'?"],
  [make({ MaskThreshold: 0.1 }), 'UNKNOWN', 'options', '"MaskThreshold"', "did you mean 'maskThreshold'?"],
]);

/** A value other than the default, and the objectives that use the option. */
const WEIGHTED = ['dpo-cm', 'sdpo'];
const LINKED = ['diffusion-dpo', ...WEIGHTED];
const WITH_REFERENCE = [...LINKED, 'dspo', 'dmpo', 'linear-dpo'];
const used: Record<string, [value: unknown, users: readonly string[]]> = {
  clipRange: [0.2, WEIGHTED],
  maskThreshold: [0.5, WEIGHTED],
  weightSharpness: [2, WEIGHTED],
  weightExponent: [-1, WEIGHTED],
  weightRatio: ['reference/data', WEIGHTED],
  weightGradient: [true, WEIGHTED],
  pairWeight: ['min', WEIGHTED],
  timestepWeighting: ['elbo', WITH_REFERENCE],
  logRatioReduction: ['sum', WITH_REFERENCE],
  logRatioClip: [0.1, WITH_REFERENCE],
  link: ['hinge', LINKED],
  labelSmoothing: [0.1, LINKED],
  dmpoAlpha: [0.5, ['dmpo']],
  mapoScale: [0.1, ['mapo']],
  mapoSteps: [50, ['mapo']],
  linearFloor: [0.1, ['linear-dpo']],
};
check(
  'an option that the objective does not use',
  Object.entries(used).flatMap(([name, [value, users]]) =>
    OBJECTIVES.filter((objective) => !users.includes(objective)).map(
      (objective): Case => [
        make({ objective, [name]: value }),
        'OPTION',
        `options.${name}`,
        `'${objective}' does not use it`,
      ],
    ),
  ),
);
check('label smoothing belongs to the sigmoid link', [
  [make({ link: 'hinge', labelSmoothing: 0.1 }), 'OPTION', 'options.labelSmoothing', "'hinge'", '0.1'],
  [make({ link: 'ipo', labelSmoothing: 0.1 }), 'OPTION', 'options.labelSmoothing', "'ipo'", '0.1'],
]);

t.test('unused options may be spelt out at their defaults, and undefined is the default', async (t) => {
  const defaults = {
    clipRange: 0.1,
    maskThreshold: 0.9,
    weightSharpness: 1,
    weightRatio: 'policy/data',
    weightGradient: false,
  } as const;
  t.doesNotThrow(make({ objective: 'diffusion-dpo', ...defaults, pairWeight: 'geometric' }));
  t.doesNotThrow(make({ objective: 'diffusion-dpo', clipRange: [0.9, 1.1] }));
  const { options } = new PreferenceLoss({
    objective: 'sdpo',
    beta: 1,
    link: undefined,
    threads: undefined,
    clipRange: 2,
  });
  t.match(options, { ...defaults, clipRange: [0, 3], link: 'sigmoid', nonFinite: 'throw', labelSmoothing: 0 });
  t.ok(Object.isFrozen(options));
});

// ---- Tensors, noise and schedules

const schedule = NoiseSchedule.preset('sd15');
const array = () => Float32Array.from({ length: 12 }, (_, i) => i / 10);
const disposed = () => {
  const tensor = Tensor.from(array(), { shape: [2, 6] });
  tensor.dispose();
  return tensor;
};

check('tensors', [
  [() => Tensor.from(wrong('12')), 'ARG_TYPE', 'data', '"12"'],
  [() => Tensor.from(wrong(12)), 'ARG_TYPE', 'data', '12'],
  [() => Tensor.from(wrong(['1'])), 'ARG_TYPE', 'data[0]', 'a number', '"1"'],
  [() => Tensor.from(wrong(BigInt64Array.of(1n))), 'ARG_TYPE', 'data', 'BigInt64Array'],
  [() => Tensor.from(wrong(new DataView(new ArrayBuffer(8)))), 'ARG_TYPE', 'data', 'DataView'],
  [() => Tensor.from(new Uint16Array(2)), 'ARG_TYPE', 'options.dtype', "'float16' or 'bfloat16'", 'undefined'],
  [
    () => Tensor.from(new Uint16Array(2), { dtype: 'float32' }),
    'ARG_TYPE',
    'data',
    "'float32'",
    'Uint16Array of length 2',
  ],
  [() => Tensor.from([1], { dtype: wrong('bf16') }), 'ARG_VALUE', 'options.dtype', "'bfloat16'", '"bf16"'],
  [() => Tensor.from([1], { dtype: wrong(16) }), 'ARG_TYPE', 'options.dtype', '16'],
  [() => Tensor.from([1], { shape: wrong(1) }), 'ARG_TYPE', 'options.shape', '1'],
  [() => Tensor.from([1], { shape: [] }), 'LENGTH', 'options.shape', 'at least one axis', 'Array of length 0'],
  [() => Tensor.from([1], { shape: [1, -1] }), 'ARG_VALUE', 'options.shape[1]', '-1'],
  [() => Tensor.from([1], { shape: [0.5, 2] }), 'ARG_VALUE', 'options.shape[0]', '0.5'],
  [() => Tensor.from([1, 2, 3], { shape: [2, 2] }), 'LENGTH', 'data', 'length 4', 'Array of length 3'],
  [() => Tensor.from([1], wrong({ type: 'float32' })), 'UNKNOWN', 'options', 'dtype', '"type"'],
  [() => Tensor.empty(wrong(4)), 'ARG_TYPE', 'shape', '4'],
  [() => Tensor.empty([NaN]), 'ARG_VALUE', 'shape[0]', 'NaN'],
  [() => Tensor.empty([1], { device: 'tpu' }), 'DEVICE', 'options.device', 'cpu', '"tpu"'],
  [() => Tensor.empty([1], wrong({ shape: [1] })), 'UNKNOWN', 'options', '"shape"'],
  [() => Tensor.empty([1]).to('cuda:99'), 'DEVICE', 'device', 'cpu', '"cuda:99"'],
  [() => Tensor.empty([1]).to(wrong(0)), 'ARG_TYPE', 'device', '0'],
  [() => split(wrong(array()), 'halves'), 'ARG_TYPE', 'tensor', 'Tensor.from', 'Float32Array of length 12'],
  [() => split(Tensor.empty([2]), wrong('columns')), 'ARG_VALUE', 'layout', "'interleaved'", '"columns"'],
  [() => split(Tensor.empty([3, 2]), 'halves'), 'LENGTH', 'tensor', 'even'],
  [() => split(disposed(), 'halves'), 'DISPOSED', 'live tensor'],
]);

const apart = split(Tensor.empty([4, 2]), 'interleaved').chosen;
check('noise', [
  [() => noise(wrong('1'), 0, array()), 'ARG_TYPE', 'seed', '"1"'],
  [() => noise(-1, 0, array()), 'ARG_VALUE', 'seed', '-1'],
  [() => noise(0.5, 0, array()), 'ARG_VALUE', 'seed', '0.5'],
  [() => noise(2 ** 53, 0, array()), 'ARG_VALUE', 'seed', 'bigint'],
  [() => noise(1n << 64n, 0, array()), 'ARG_VALUE', 'seed', '2^64'],
  [() => noise(-1n, 0, array()), 'ARG_VALUE', 'seed', '-1n'],
  [() => noise(1, -1, array()), 'ARG_VALUE', 'offset', '-1'],
  [() => noise(1, wrong(1n), array()), 'ARG_TYPE', 'offset', '1n'],
  [() => noise(1, NaN, array()), 'ARG_VALUE', 'offset', 'NaN'],
  [() => noise(1, 0, wrong(new Uint16Array(2))), 'ARG_TYPE', 'out', 'Tensor', 'Uint16Array'],
  [() => noise(1, 0, wrong([1, 2])), 'ARG_TYPE', 'out', 'Array of length 2'],
  [() => noise(1, 0, disposed()), 'DISPOSED', 'out', 'live tensor'],
  [() => noise(1, 0, apart), 'ARG_VALUE', 'contiguous'],
  [() => randomBits(1, 0, wrong(new Int32Array(2))), 'ARG_TYPE', 'out', 'a Uint32Array', 'Int32Array'],
  [() => randomBits(-1, 0, new Uint32Array(2)), 'ARG_VALUE', 'seed', '-1'],
  [() => createRandom(wrong(undefined)), 'ARG_TYPE', 'seed', 'undefined'],
  [() => createRandom(1, -1), 'ARG_VALUE', 'position', '-1'],
  [() => createRandom(1, wrong('0')), 'ARG_TYPE', 'position', '"0"'],
]);

for (const name of ['addNoise', 'target'] as const) {
  const run = (x0: unknown, epsilon: unknown, timesteps: unknown) => () =>
    schedule[name](wrong(x0), wrong(epsilon), wrong(timesteps));
  check(`schedule.${name}`, [
    [run(array(), array(), '12'), 'ARG_TYPE', 'timesteps', '"12"'],
    [run(array(), array(), [1, 0.5]), 'ARG_VALUE', 'timesteps[1]', '0.5'],
    [run(array(), array(), [1, 2, 3, 4, 5]), 'LENGTH', 'x0', '5 rows', 'length 12'],
    [run([1, 2], array(), [1, 2]), 'ARG_TYPE', 'x0', 'Array of length 2'],
    [run(array(), new Uint16Array(12), [1, 2]), 'ARG_TYPE', 'noise', 'Uint16Array'],
    [run(array(), new Float64Array(12), [1, 2]), 'ARG_TYPE', 'noise', 'float32', 'Float64Array'],
    [run(array(), new Float32Array(10), [1, 2]), 'LENGTH', 'noise', '6 elements', 'length 10'],
    [run(disposed(), array(), [1, 2]), 'DISPOSED', 'x0', 'live tensor'],
  ]);
}
