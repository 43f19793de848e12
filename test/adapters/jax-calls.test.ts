/** Calls of the jax-js adapter: what they own and free, what they refuse, and what they need around them. */

import t from 'tap';
import { NoiseSchedule, PreferenceLoss } from '../../lib/index.js';
import {
  documentedProgram,
  inputSize,
  lossWithOmega,
  makeProblem,
  outputSize,
  rows,
  withoutPeer,
} from '../helpers/adapters.js';
import { normalNumbers } from '../helpers/cases.js';
import { runProgram } from '../helpers/child.js';

/** Every memory that jax-js makes: its size shows whether arrays stay behind. */
const memories: WebAssembly.Memory[] = [];
const Memory = WebAssembly.Memory;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.push(this);
  }
};
const { apply, array, batchOf, np, paramsOf, preferenceValueAndGrad, tree } = await import('../helpers/jax-problem.js');
type JaxArray = import('../helpers/jax-problem.js').JaxArray;
type Params = import('../helpers/jax-problem.js').Params;

t.test('nothing is left behind, whether a call succeeds or fails', async (t) => {
  // An array of the smallest size here fills a page of the memory, whose growth is watched.
  const size = 2 ** 14;
  const model = (params: { scale: JaxArray }, x: JaxArray) => np.tanh(x).mul(params.scale);
  const draw = (count: number, seed: number) => Float32Array.from({ length: count * size }, normalNumbers(seed));
  const params = { scale: array(draw(1, 1), [size]) };
  const branch = (seed: number) => ({
    inputs: array(draw(2, seed), [2, size]),
    reference: array(draw(2, seed + 1), [2, size]),
    target: array(draw(2, seed + 2), [2, size]),
  });
  const owned = { chosen: branch(2), rejected: branch(5) };
  const refCounts = () => tree.leaves<JaxArray>([params, owned.chosen, owned.rejected]).map((one) => one.refCount);
  const before = refCounts();
  const batch = () => ({ timesteps: [0, 0], transition: { omega: [0.01, 0.02] }, ...tree.ref(owned) });
  const withTarget = (given: ReturnType<typeof batch>, target: Float32Array) => {
    given.chosen.target.dispose();
    return { ...given, chosen: { ...given.chosen, target } };
  };
  const broken = draw(2, 9).fill(NaN, 0, 1);
  const failures: [string, () => object, object?][] = [
    ['wrong rows', () => ({ ...batch(), timesteps: [0, 0, 0] })],
    ['NaN', () => withTarget(batch(), broken)],
    ['unknown field', () => ({ ...batch(), typo: 1 })],
    ['unknown option', batch, { typo: 1 }],
    ['two references', () => ({ ...batch(), referenceParams: tree.ref(params) })],
    ['aborted', batch, { signal: AbortSignal.abort() }],
  ];

  for (const compiled of [true, false]) {
    const step = preferenceValueAndGrad(model, lossWithOmega({ objective: 'sdpo', beta: 2 }), { jit: compiled });
    const turn = async () => {
      const { gradients } = await step(tree.ref(params), batch());
      const count = gradients.scale.refCount;
      tree.dispose(gradients);
      await step(tree.ref(params), batch(), { gradients: false });
      const { chosen, rejected, ...rest } = batch();
      for (const { reference } of [chosen, rejected]) reference.dispose();
      const without = ({ inputs, target }: typeof chosen) => ({ inputs, target });
      const referenceParams = tree.ref(params);
      const predicted = { ...rest, referenceParams, chosen: without(chosen), rejected: without(rejected) };
      tree.dispose((await step(tree.ref(params), predicted)).gradients);
      return count;
    };
    const failing = (make: () => object, call?: object) =>
      step(tree.ref(params), make() as ReturnType<typeof batch>, call).then(
        () => t.fail('did not fail'),
        () => {},
      );
    const bytes = () => memories.map((memory) => memory.buffer.byteLength);
    t.equal(await turn(), 1, 'the gradients are ours alone');
    t.same(refCounts(), before, 'as before');
    const settled = bytes();
    t.ok(Math.max(...settled) > 0, 'the memory of jax-js is seen');
    for (let i = 0; i < 20; i++) await turn();
    t.same(bytes(), settled, `no growth over 20 calls of each form, jit ${compiled}`);
    for (const [name, make, call] of failures) {
      await failing(make, call);
      t.same(refCounts(), before, `as before: ${name}, jit ${compiled}`);
    }
    const failed = bytes();
    for (let i = 0; i < 10; i++) for (const [, make, call] of failures) await failing(make, call);
    t.same(bytes(), failed, `no growth over failures, jit ${compiled}`);
    step.dispose();
  }
  tree.dispose([params, owned.chosen, owned.rejected]);
  t.throws(() => params.scale.ref, 'the last references were ours');
});

t.test('errors name the argument', async (t) => {
  const problem = makeProblem(9);
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 2, schedule: NoiseSchedule.preset('sd15') });
  const step = preferenceValueAndGrad(apply, loss);
  const refused = (change: (batch: ReturnType<typeof batchOf>) => object, message: RegExp, code: string) =>
    t.rejects(step(paramsOf(problem), change(batchOf(problem)) as ReturnType<typeof batchOf>), { message, code });
  const x = (count: number) => array(new Float32Array(count * inputSize), [count, inputSize]);

  await refused(
    () => undefined as never,
    /^Expected batch to be an object, received undefined/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  await refused(
    (b) => ({ ...b, timesteps: [1, 2] }),
    /Expected batch\.timesteps to be of length 5/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  await refused(
    (b) => ({ ...b, rows: 4 }),
    /Expected batch\.rows to be 5, the rows of the batch/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  await refused(
    (b) => ({ ...b, chosen: { ...b.chosen, inputs: x(rows + 1) }, rejected: { ...b.rejected, inputs: x(rows - 1) } }),
    /Expected batch\.rejected\.inputs to be arrays of shape \[6, \.\.\.\], received "shape \[4, 4\]"/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  await refused(
    (b) => ({ ...b, inputs: x(2 * rows) }),
    /Expected batch\.chosen\.inputs to be .*left out/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  await refused(
    (b) => ({ ...b, chosen: { target: b.chosen.target } }),
    /Expected batch\.chosen\.inputs to be given/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  await refused(
    (b) => ({ ...b, referenceParams: paramsOf(problem) }),
    /Expected batch\.chosen\.reference to be left out/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  await refused(
    (b) => ({ ...b, chosen: { ...b.chosen, policy: b.chosen.target } }),
    /Expected batch\.chosen to have only the fields inputs, reference, referenceError, target, received "policy"/,
    'ERR_SDPO_UNKNOWN_OPTION',
  );
  await refused(
    (b) => ({ ...b, row_weights: [1] }),
    /received "row_weights" \(did you mean 'rowWeights'\?\)/,
    'ERR_SDPO_UNKNOWN_OPTION',
  );
  // Fewer axes with as many elements: jax-js would broadcast it.
  await refused(
    (b) => ({ ...b, rejected: { ...b.rejected, reference: b.rejected.reference.reshape([rows, outputSize]) } }),
    /Expected batch\.rejected\.reference to be of shape \[5, 2, 3, 2, 2\] as the prediction, received "shape \[5, 24\]"/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  await refused(
    (b) => ({ ...b, chosen: { ...b.chosen, target: b.chosen.target.subarray(1) } }),
    /Expected batch\.chosen\.target/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  const nowhere = batchOf(problem);
  nowhere.chosen.target = nowhere.chosen.target.map(() => Infinity);
  await t.rejects(step(paramsOf(problem), nowhere), {
    code: 'ERR_SDPO_NON_FINITE',
    row: 0,
    branch: 'chosen',
    tensor: 'target',
  });
  await t.rejects(step(paramsOf(problem), batchOf(problem), { signal: AbortSignal.abort('enough') }), {
    name: 'AbortError',
    cause: 'enough',
  });
  await t.rejects(step(paramsOf(problem), batchOf(problem), { into: {} } as object), {
    code: 'ERR_SDPO_UNKNOWN_OPTION',
  });

  const wrong = async (model: (params: Params, x: JaxArray) => unknown, message: RegExp, code: string) => {
    const other = preferenceValueAndGrad(model as typeof apply, loss);
    await t.rejects(other(paramsOf(problem), batchOf(problem)), { message, code });
  };
  await wrong(
    (params, x) => apply(params, x).sum(),
    /Expected apply\(params, inputs\) to be of shape \[10, \.\.\.\], 5 chosen rows before 5 rejected ones, received "shape \[\]"/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  await wrong(
    (params, x) => apply(params, x).astype(np.int32),
    /Expected apply\(params, inputs\) to be of dtype float32.*received "int32"/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  t.throws(() => preferenceValueAndGrad(undefined as never, loss), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  t.throws(() => preferenceValueAndGrad(apply, {} as never), { message: /Expected loss to be a PreferenceLoss/ });
  t.throws(() => preferenceValueAndGrad(apply, loss, { jitted: true } as object), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
});

t.test('parameters can be any tree, inputs too', async (t) => {
  const model = (params: { layers: JaxArray[] }, [x, { shift }]: [JaxArray, { shift: JaxArray }]) =>
    params.layers.reduce((hidden, layer) => np.tanh(np.matmul(hidden, layer)), x.add(shift));
  const step = preferenceValueAndGrad(model, lossWithOmega({ objective: 'diffusion-dpo', beta: 2 }));
  const square = (scale: number) => np.eye(3).mul(scale);
  const branch = (value: number) => ({
    inputs: [np.ones([2, 3]).mul(value), { shift: np.ones([2, 3]) }] as [JaxArray, { shift: JaxArray }],
    reference: new Float32Array(6),
    target: new Float32Array(6).fill(0.5),
  });
  const { gradients } = await step(
    { layers: [square(0.5), square(0.7)] },
    { timesteps: [0, 0], transition: { omega: [1, 1] }, chosen: branch(0.3), rejected: branch(0.9) },
  );
  t.equal(gradients.layers.length, 2);
  t.same(
    gradients.layers.map((layer) => layer.shape),
    [
      [3, 3],
      [3, 3],
    ],
  );
  tree.dispose(gradients);
});

t.test('the examples of the documentation run, also where there is no navigator', (t) => {
  t.ok(globalThis.navigator, 'given by the adapter on Node 20');
  const program = `delete globalThis.navigator;\n${documentedProgram('jax-js')}`;
  const { status, stdout, stderr } = runProgram(program);
  t.equal(status, 0, stderr);
  t.match(stdout, /^loss 0\.\d+, implicit accuracy (1|0\.[89]\d*)$/m);
  t.end();
});

t.test('without jax-js the error says what to install', (t) => {
  const { status, stderr } = withoutPeer(t, 'jax');
  t.equal(status, 1);
  t.match(stderr, /SdpoError: Expected @jax-js\/jax to be installed, since sdpo\/jax .* npm install @jax-js\/jax/);
  t.match(stderr, /code: 'ERR_SDPO_NO_PEER'/);
  t.end();
});
