/** Every field of a batch, every option of a call and every coefficient, given wrongly. */

import t from 'tap';
import { type Evaluation, NoiseSchedule, PreferenceLoss, Tensor } from '../../lib/index.js';
import { type Case, type Code, check, wrong } from '../helpers/failures.js';

// ---- Batches

const [rows, size] = [2, 6];
const schedule = NoiseSchedule.preset('sd15');
const loss = new PreferenceLoss({ objective: 'sdpo', beta: 1, schedule });
const array = () => Float32Array.from({ length: rows * size }, (_, i) => i / 10);
const branch = (change: object = {}) => ({ policy: array(), reference: array(), target: array(), ...change });
const valid = (change: object = {}) => ({ timesteps: [10, 20], chosen: branch(), rejected: branch(), ...change });
const referenceError = [0.1, 0.1];
const cached = { reference: undefined, referenceError };
const disposed = () => {
  const tensor = Tensor.from(array(), { shape: [rows, size] });
  tensor.dispose();
  return tensor;
};

/** The same checks must stand before each of the four calls that take a batch. */
const zero = { a: [0, 0] };
const calls: Record<string, (batch: unknown) => unknown> = {
  evaluate: (batch) => loss.evaluate(wrong(batch)),
  evaluateAsync: (batch) => loss.evaluateAsync(wrong(batch)),
  moments: (batch) => loss.moments(wrong(batch)),
  gradients: (batch) => loss.gradients(wrong(batch), { chosen: zero, rejected: zero }),
};

const badBatches: readonly [batch: unknown, code: Code, ...parts: string[]][] = [
  [undefined, 'ARG_TYPE', 'batch', 'an object', 'undefined'],
  ['batch', 'ARG_TYPE', 'batch', 'an object', '"batch"'],
  [valid({ timestep: [1] }), 'UNKNOWN', 'batch', 'timesteps', '"timestep"'],
  [valid({ timesteps: undefined }), 'ARG_TYPE', 'batch.timesteps', 'undefined'],
  [valid({ timesteps: '10' }), 'ARG_TYPE', 'batch.timesteps', '"10"'],
  [valid({ timesteps: 10 }), 'ARG_TYPE', 'batch.timesteps', '10'],
  [valid({ timesteps: [10, 1.5] }), 'ARG_VALUE', 'batch.timesteps[1]', '1.5'],
  [valid({ timesteps: [10, NaN] }), 'ARG_VALUE', 'batch.timesteps[1]', 'NaN'],
  [valid({ timesteps: [1000, 1] }), 'ARG_VALUE', 'batch.timesteps[0]', '999', '1000'],
  [valid({ timesteps: [10, '20'] }), 'ARG_TYPE', 'batch.timesteps[1]', '"20"'],
  [valid({ timesteps: BigInt64Array.of(1n, 2n) }), 'ARG_TYPE', 'batch.timesteps', 'BigInt64Array of length 2'],
  [valid({ timesteps: [] }), 'LENGTH', 'batch.timesteps', 'at least one row', 'Array of length 0'],
  [valid({ timesteps: { chosen: [1, 2] } }), 'ARG_TYPE', 'batch.timesteps.rejected', 'undefined'],
  [
    valid({ timesteps: { chosen: [1, 2], rejected: [1] } }),
    'LENGTH',
    'batch.timesteps.rejected',
    'length 2',
    'length 1',
  ],
  [valid({ timesteps: { chosen: [1, 2], rejected: [1, -1] } }), 'ARG_VALUE', 'batch.timesteps.rejected[1]', '-1'],
  [valid({ timesteps: { chosen: [1], rejects: [1] } }), 'UNKNOWN', 'batch.timesteps', 'rejected', '"rejects"'],
  [valid({ chosen: undefined }), 'ARG_TYPE', 'batch.chosen', 'an object', 'undefined'],
  [valid({ chosen: array() }), 'ARG_TYPE', 'batch.chosen', 'an object', 'Float32Array of length 12'],
  [valid({ rejected: branch({ ref: array() }) }), 'UNKNOWN', 'batch.rejected', 'reference', '"ref"'],
  [valid({ rejected: branch({ policy: undefined }) }), 'ARG_TYPE', 'batch.rejected.policy', 'undefined'],
  [valid({ rejected: branch({ target: null }) }), 'ARG_TYPE', 'batch.rejected.target', 'null'],
  [
    valid({ chosen: branch({ policy: Array.from(array()) }) }),
    'ARG_TYPE',
    'batch.chosen.policy',
    'Float32Array',
    'Array of length 12',
  ],
  [
    valid({ chosen: branch({ policy: new Uint16Array(12) }) }),
    'ARG_TYPE',
    'batch.chosen.policy',
    'Tensor.from(bits',
    'Uint16Array of length 12',
  ],
  [
    valid({ chosen: branch({ target: new Int32Array(12) }) }),
    'ARG_TYPE',
    'batch.chosen.target',
    'Int32Array of length 12',
  ],
  [
    valid({ chosen: branch({ policy: new Float32Array(13) }) }),
    'LENGTH',
    'batch.chosen.policy',
    '2 rows',
    'Float32Array of length 13',
  ],
  [
    valid({ chosen: branch({ policy: new Float32Array(0) }) }),
    'LENGTH',
    'batch.chosen.policy',
    'one or more elements',
    'length 0',
  ],
  [
    valid({ chosen: branch({ target: new Float32Array(14) }) }),
    'LENGTH',
    'batch.chosen.target',
    '6 elements',
    '7 elements',
  ],
  [
    valid({ rejected: branch({ policy: new Float32Array(10) }) }),
    'LENGTH',
    'batch.rejected.policy',
    '6 elements',
    '5 elements',
  ],
  [
    valid({ rejected: branch({ reference: Tensor.empty([3, 4]) }) }),
    'LENGTH',
    'batch.rejected.reference',
    '[2, ...]',
    '[3, 4]',
  ],
  [
    valid({ rejected: branch({ target: Tensor.empty([2, 0]) }) }),
    'LENGTH',
    'batch.rejected.target',
    'one or more',
    '[2, 0]',
  ],
  [
    valid({ chosen: branch({ reference: undefined }) }),
    'ARG_TYPE',
    'batch.chosen',
    'either reference or referenceError',
    'neither',
  ],
  [
    valid({ chosen: branch({ referenceError }) }),
    'ARG_TYPE',
    'batch.chosen',
    'either reference or referenceError',
    'both',
  ],
  [
    valid({ chosen: branch({ ...cached, referenceError: [1] }) }),
    'LENGTH',
    'batch.chosen.referenceError',
    'length 2',
    'length 1',
  ],
  [valid({ chosen: branch({ ...cached, referenceError: '12' }) }), 'ARG_TYPE', 'batch.chosen.referenceError', '"12"'],
  [
    valid({ rejected: branch({ ...cached, referenceError: [1, '2'] }) }),
    'ARG_TYPE',
    'batch.rejected.referenceError[1]',
    '"2"',
  ],
  [valid({ chosen: branch({ policy: disposed() }) }), 'DISPOSED', 'batch.chosen.policy', 'live tensor', 'disposed'],
  [valid({ rejected: branch({ target: disposed() }) }), 'DISPOSED', 'batch.rejected.target', 'live tensor', 'disposed'],
  [valid({ rowWeights: [1] }), 'LENGTH', 'batch.rowWeights', 'length 2', 'length 1'],
  [valid({ rowWeights: [1, -1] }), 'ARG_VALUE', 'batch.rowWeights[1]', '>= 0', '-1'],
  [valid({ rowWeights: [NaN, 1] }), 'ARG_VALUE', 'batch.rowWeights[0]', 'NaN'],
  [valid({ rowWeights: ['1', 1] }), 'ARG_TYPE', 'batch.rowWeights[0]', '"1"'],
  [valid({ rowWeights: '2' }), 'ARG_TYPE', 'batch.rowWeights', '"2"'],
  [valid({ rowWeights: -2 }), 'ARG_VALUE', 'batch.rowWeights', '>= 0', '-2'],
  [valid({ elementWeights: new Float32Array(5) }), 'LENGTH', 'batch.elementWeights', 'length 5'],
  [valid({ elementWeights: new Float32Array(10) }), 'LENGTH', 'batch.elementWeights', '6 or 2 x 6', 'length 10'],
  [valid({ elementWeights: [1, 1, 1, 1, 1, 1] }), 'ARG_TYPE', 'batch.elementWeights', 'Array of length 6'],
  [valid({ elementWeights: new Uint16Array(6) }), 'ARG_TYPE', 'batch.elementWeights', 'Uint16Array of length 6'],
  [valid({ elementWeights: disposed() }), 'DISPOSED', 'batch.elementWeights', 'live tensor', 'disposed'],
  [valid({ transition: { omegas: [1, 1] } }), 'UNKNOWN', 'batch.transition', 'omega', '"omegas"'],
  [valid({ transition: [1, 1] }), 'ARG_TYPE', 'batch.transition', 'Array of length 2'],
  [valid({ transition: { omega: [1] } }), 'LENGTH', 'batch.transition.omega', 'length 2', 'length 1'],
  [valid({ transition: { omega: [1, -1] } }), 'ARG_VALUE', 'batch.transition.omega[1]', '>= 0', '-1'],
  [valid({ transition: { omega: [NaN, 1] } }), 'ARG_VALUE', 'batch.transition.omega[0]', 'NaN'],
  [valid({ transition: { omega: [1, '1'] } }), 'ARG_TYPE', 'batch.transition.omega[1]', '"1"'],
  [valid({ transition: { omega: { chosen: [1, 1] } } }), 'ARG_TYPE', 'batch.transition.omega.rejected', 'undefined'],
  [valid({ transition: { offsetChosen: [1] } }), 'LENGTH', 'batch.transition.offsetChosen', 'length 2', 'length 1'],
  [
    valid({ transition: { offsetRejected: [1, Infinity] } }),
    'ARG_VALUE',
    'batch.transition.offsetRejected[1]',
    'Infinity',
  ],
  [valid({ weightNoise: { chosen: [1, 1] } }), 'ARG_TYPE', 'batch.weightNoise.rejected', 'undefined'],
  [valid({ weightNoise: [1, 1] }), 'ARG_TYPE', 'batch.weightNoise', 'Array of length 2'],
  [valid({ weightNoise: { chosen: [1, NaN], rejected: [1, 1] } }), 'ARG_VALUE', 'batch.weightNoise.chosen[1]', 'NaN'],
];
for (const [name, call] of Object.entries(calls)) {
  check(
    `batches, ${name}`,
    badBatches.map(([batch, ...rest]): Case => [() => call(batch), ...rest]),
  );
}

const lossOf = (options: object) => new PreferenceLoss({ objective: 'sdpo', beta: 1, ...options });
check('a batch that does not fit the options', [
  [() => lossOf({}).evaluate(wrong(valid())), 'ARG_TYPE', 'batch.transition.omega', 'no schedule', 'undefined'],
  [
    () => lossOf({ schedule, klWeight: 1 }).evaluate(wrong(valid({ chosen: branch(cached) }))),
    'OPTION',
    'batch.chosen.reference',
    'klWeight',
  ],
  [
    () =>
      lossOf({ schedule, weightRatio: 'reference/data' }).evaluate(
        wrong(valid({ weightNoise: { chosen: [1, 1], rejected: [1, 1] } })),
      ),
    'OPTION',
    'batch.weightNoise',
    "'reference/data'",
  ],
  ...['offsetChosen', 'offsetRejected'].map(
    (name): Case => [
      () =>
        lossOf({ weightRatio: 'policy/reference' }).evaluate(
          wrong(valid({ transition: { omega: [1, 1], [name]: [0.1, 0.1] } })),
        ),
      'OPTION',
      `batch.transition.${name}`,
      "'policy/reference'",
      'log q cancels',
    ],
  ),
]);

// ---- Options of a call

const call = (options: unknown) => () => loss.evaluate(wrong(valid()), wrong(options));
const tensorBatch = (dtype: 'float16' | 'float32') =>
  valid({ chosen: branch({ policy: Tensor.empty([rows, size], { dtype }) }) });
const result = () => loss.evaluate(wrong(valid())) as Evaluation;
const badCalls: Case[] = [
  [call(null), 'ARG_TYPE', 'call', 'an object', 'null'],
  [call({ gradient: true }), 'UNKNOWN', 'call', 'gradients', '"gradient"'],
  [call({ signal: AbortSignal.abort() }), 'UNKNOWN', 'call', '"signal"'],
  [call({ gradients: 1 }), 'ARG_TYPE', 'call.gradients', 'a boolean', '1'],
  [call({ gradientScale: '2' }), 'ARG_TYPE', 'call.gradientScale', '"2"'],
  [call({ gradientScale: Infinity }), 'ARG_VALUE', 'call.gradientScale', 'Infinity'],
  [call({ denominator: 0 }), 'ARG_VALUE', 'call.denominator', '> 0', '0'],
  [call({ denominator: NaN }), 'ARG_VALUE', 'call.denominator', 'NaN'],
  [call({ denominator: '4' }), 'ARG_TYPE', 'call.denominator', '"4"'],
  [call({ maskThreshold: 1.5 }), 'ARG_VALUE', 'call.maskThreshold', '[0, 1]', '1.5'],
  [call({ maskThreshold: [0.5] }), 'LENGTH', 'call.maskThreshold', 'length 2', 'length 1'],
  [call({ maskThreshold: [0.5, NaN] }), 'ARG_VALUE', 'call.maskThreshold[1]', 'NaN'],
  [call({ maskThreshold: '0.5' }), 'ARG_TYPE', 'call.maskThreshold', '"0.5"'],
  [call({ into: {} }), 'ARG_TYPE', 'call.into', 'a result', 'an instance of Object'],
  [
    () => loss.evaluate(wrong({ timesteps: [1], chosen: branch(), rejected: branch() }), { into: result() }),
    'LENGTH',
    'call.into',
    '1 rows',
    '2 rows',
  ],
  [
    () => loss.evaluate(wrong(valid({ rejected: branch({ policy: new Float64Array(12) }) })), { into: result() }),
    'LENGTH',
    'call.into.gradients.rejected',
    'batch.rejected.policy',
    'Float32Array of length 12',
  ],
  [
    () => loss.evaluate(wrong(tensorBatch('float32')), { into: result() }),
    'LENGTH',
    'call.into.gradients.chosen',
    'Float32Array',
  ],
  [
    () =>
      loss.evaluate(wrong(tensorBatch('float16')), {
        into: loss.evaluate(wrong(tensorBatch('float32'))) as Evaluation,
      }),
    'LENGTH',
    'call.into.gradients.chosen',
    'Tensor',
  ],
  [
    () => loss.evaluateAsync(wrong(valid()), { signal: wrong({ aborted: false }) }),
    'ARG_TYPE',
    'call.signal',
    'an AbortSignal',
    'Object',
  ],
  [() => loss.evaluateAsync(wrong(valid()), wrong({ abort: 1 })), 'UNKNOWN', 'call', 'signal', '"abort"'],
  [() => loss.moments(wrong(valid()), wrong({ gradients: true })), 'UNKNOWN', 'call', 'cross', '"gradients"'],
  [() => loss.moments(wrong(valid()), { cross: wrong(1) }), 'ARG_TYPE', 'call.cross', 'a boolean', '1'],
  [
    () => lossOf({ objective: 'diffusion-dpo', schedule }).evaluate(wrong(valid()), { maskThreshold: 0.5 }),
    'OPTION',
    'call.maskThreshold',
    "'diffusion-dpo'",
  ],
];
check('options of a call', badCalls);

const gradients =
  (coefficients: unknown, batch: object = valid()) =>
  () =>
    loss.gradients(wrong(batch), wrong(coefficients));
check('coefficients of gradients', [
  [gradients(undefined), 'ARG_TYPE', 'coefficients', 'undefined'],
  [gradients({ chosen: zero }), 'ARG_TYPE', 'coefficients.rejected', 'undefined'],
  [gradients({ chosen: zero, rejected: zero, other: 1 }), 'UNKNOWN', 'coefficients', '"other"'],
  [gradients({ chosen: { a: [0] }, rejected: zero }), 'LENGTH', 'coefficients.chosen.a', 'length 2', 'length 1'],
  [gradients({ chosen: zero, rejected: { a: [0, 0], b: 1 } }), 'ARG_TYPE', 'coefficients.rejected.b', '1'],
  [gradients({ chosen: zero, rejected: { a: ['0', 0] } }), 'ARG_TYPE', 'coefficients.rejected.a[0]', '"0"'],
  [
    gradients({ chosen: { a: [0, 0], b: [0, 1] }, rejected: zero }, valid({ chosen: branch(cached) })),
    'ARG_TYPE',
    'coefficients.chosen.b',
    'referenceError',
  ],
]);

t.test('a batch is read once, and nothing of a prototype is an option', async (t) => {
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 });
  let reads = 0;
  const changing = valid();
  const { policy } = changing.chosen;
  Object.defineProperty(changing.chosen, 'policy', {
    enumerable: true,
    get: () => (reads++ === 0 ? policy : new Float64Array(100)),
  });
  const { gradients } = loss.evaluate<Float64Array, Float64Array>(wrong(changing));
  t.equal(gradients.chosen.length, policy.length);
  t.equal(reads, 1);
  const list = [1, 1];
  let asked = 0;
  const numbers = new Proxy(list, {
    get: (target, name) => (name === '1' && asked++ > 0 ? -1 : Reflect.get(target, name)),
  });
  t.doesNotThrow(() => loss.evaluate(wrong(valid({ rowWeights: numbers }))));
  t.equal(asked, 1, 'an entry of a list too');
  const expected = loss.evaluate(valid()).gradients.chosen;
  const prototype = Object.prototype as { gradientScale?: number };
  prototype.gradientScale = 7;
  try {
    t.same(loss.evaluate(valid(), {}).gradients.chosen, expected);
  } finally {
    delete prototype.gradientScale;
  }
});
