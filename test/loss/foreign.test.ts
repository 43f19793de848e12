/** Arguments that are not what they look like: of other realms, behind Proxies, with getters, lengths and prototypes that lie. */

import vm from 'node:vm';
import t from 'tap';
import {
  combineMoments,
  createRandom,
  decodeSafetensors,
  encodeSafetensors,
  type LatentArray,
  NoiseSchedule,
  noise,
  PreferenceLoss,
  randomBits,
  Tensor,
} from '../../lib/index.js';
import { BetaTracker } from '../../lib/trainer/beta-tracker.js';
import { digests, largeBatch } from '../helpers/batches.js';
import { failureOf } from '../helpers/failures.js';

const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20 });
const context = vm.createContext({});
/** The same typed array, made by another realm. */
const foreign = <T extends object>(array: T): T => {
  const make = vm.runInContext(`(values) => ${array.constructor.name}.from(values)`, context) as (values: T) => T;
  return make(array);
};
const proxy = <T extends object>(value: T): T => new Proxy(value, {});
const code = async (run: () => unknown) => ((await failureOf(async () => run())) as { code?: string }).code;

t.test('typed arrays of another realm, and of a class of the caller', async (t) => {
  const expected = digests(loss.evaluate(largeBatch(3, 40, 'float32')));
  class Own extends Float32Array {}
  for (const make of [foreign, (array: object) => Own.from(array as Float32Array)]) {
    const batch = largeBatch(3, 40, 'float32', (stored) => make(stored) as typeof stored);
    const given = { ...batch, timesteps: foreign(Float64Array.of(0, 1, 2)), keep: foreign(Uint8Array.of(1, 1, 1)) };
    given.transition = { omega: foreign(Float64Array.from(batch.transition!.omega as Float64Array)) };
    t.not(Object.getPrototypeOf(given.chosen.policy), Float32Array.prototype);
    t.same(digests(loss.evaluate(given)), expected);
    t.same(digests(await loss.evaluateAsync(given)), expected);
    const first = loss.evaluate(given);
    t.equal(loss.evaluate(given, { into: first }), first);
  }
  const mask = foreign(Uint8Array.from({ length: 40 }, (_, i) => i % 2));
  const masked = { ...largeBatch(3, 40, 'float32'), elementWeights: mask };
  t.same(digests(loss.evaluate(masked)), digests(loss.evaluate({ ...masked, elementWeights: Uint8Array.from(mask) })));
  const out = foreign(new Float64Array(9));
  t.equal(noise(3, 5, out), out);
  t.same([...out], [...noise(3, 5, new Float64Array(9))]);
  t.same([...randomBits(3, 5, foreign(new Uint32Array(9)))], [...randomBits(3, 5, new Uint32Array(9))]);
  const schedule = NoiseSchedule.preset('sd15');
  const x = noise(1, 0, new Float32Array(8));
  t.same(schedule.addNoise(foreign(x), foreign(x), [3, 4]), schedule.addNoise(x, x, [3, 4]));
  const file = encodeSafetensors({ a: { dtype: 'float32', shape: [8], data: foreign(x) } });
  t.same([...(decodeSafetensors(foreign(file)).tensors.a.data as Float32Array)], [...x]);
});

t.test('what is like an array is one', async (t) => {
  const like = <T>(list: ArrayLike<T>): ArrayLike<T> => ({ ...Array.from(list), length: list.length });
  const batch = largeBatch(3, 40, 'float32');
  const numbers = { betaScale: [1, 0.5, 2], margins: [0, 1, -1], keep: [1, 0, 1] };
  const schedule = NoiseSchedule.preset('sd15');
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20, schedule });
  const { transition: _, ...scheduled } = { ...batch, timesteps: [900, 600, 0] };
  const expected = digests(loss.evaluate({ ...scheduled, ...numbers }));
  const { betaScale, margins, keep, timesteps } = { ...scheduled, ...numbers };
  const given = {
    betaScale: { chosen: like(betaScale), rejected: betaScale },
    margins: like(margins),
    keep: like(keep),
  };
  t.same(digests(loss.evaluate({ ...scheduled, ...given, timesteps: like(timesteps) })), expected);
  const x = noise(1, 0, new Float32Array(8));
  t.same(schedule.addNoise(x, x, like([3, 4])), schedule.addNoise(x, x, [3, 4]));
  t.same(Tensor.from(like([1, 2])).data, Float32Array.of(1, 2));
  const { coefficients } = loss.evaluate(scheduled);
  const a = { chosen: { a: like(coefficients.chosen.a) }, rejected: { a: like(coefficients.rejected.a) } };
  t.same(loss.gradients(batch, a).chosen, loss.gradients(batch, coefficients).chosen);
  const bad: [string, unknown][] = [
    ['ERR_SDPO_INVALID_LENGTH', like([1, 2])],
    ['ERR_SDPO_INVALID_ARG_TYPE', like([1, 2, '3'])],
    ['ERR_SDPO_INVALID_ARG_TYPE', { length: 3, 0: 1 }],
    ['ERR_SDPO_INVALID_ARG_TYPE', BigInt64Array.of(1n, 2n, 3n)],
    ['ERR_SDPO_UNKNOWN_OPTION', { length: 1.5, 0: 1 }],
  ];
  for (const [expected, betaScale] of bad) {
    t.equal(await code(() => loss.evaluate({ ...scheduled, betaScale: betaScale as number[] })), expected);
  }
  let asked = 0;
  const growing = { 0: 900, 1: 600, 2: 0, 3: 4 } as Record<string, number>;
  Object.defineProperty(growing, 'length', { get: () => (asked++ < 2 ? 3 : 4) });
  t.equal(schedule.omegas(growing as never).length, 3, 'a length that changes');
});

t.test('what has no elements of its own is an error with a code', async (t) => {
  const policy = (value: unknown) => () => {
    const batch = largeBatch(1, 4, 'float32');
    return loss.evaluate({ ...batch, chosen: { ...batch.chosen, policy: value as LatentArray } });
  };
  const revoked = () => {
    const { proxy, revoke } = Proxy.revocable([], {});
    revoke();
    return proxy;
  };
  const named = Object.defineProperty(() => {}, 'name', { value: Symbol('name') });
  const types: [string, () => unknown][] = [
    ['a Tensor behind a Proxy', policy(proxy(Tensor.from(new Float32Array(4), { shape: [1, 4] })))],
    ['a typed array behind a Proxy', policy(proxy(new Float32Array(4)))],
    ['something with the prototype of a Tensor', policy(Object.create(Tensor.prototype))],
    ['something with the prototype of an array', policy(Object.create(Float32Array.prototype))],
    ['a revoked Proxy as a list', () => loss.evaluate({ ...largeBatch(1, 4, 'float32'), timesteps: revoked() })],
    ['a revoked Proxy as options', () => new PreferenceLoss(revoked() as never)],
    ['a revoked Proxy as a shape', () => Tensor.empty(revoked())],
    ['a class whose name is no text', () => new PreferenceLoss({ objective: named as never, beta: 1 })],
    ['a Tensor behind a Proxy, its own methods', () => proxy(Tensor.from([1])).toHost()],
    ['noise into a Proxy', () => noise(1, 0, proxy(new Float32Array(4)))],
  ];
  for (const [what, run] of types) t.equal(await code(run), 'ERR_SDPO_INVALID_ARG_TYPE', what);
});

t.test('absurd sizes are errors of a readable length', async (t) => {
  const sizes: [string, string, () => unknown][] = [
    ['ERR_SDPO_OUT_OF_MEMORY', 'more elements than an array can have', () => Tensor.empty([1, 2 ** 40])],
    ['ERR_SDPO_INVALID_LENGTH', 'more elements than a number can count', () => Tensor.empty([2 ** 40, 2 ** 40])],
    ['ERR_SDPO_INVALID_LENGTH', 'the same in a row, of none', () => Tensor.empty([0, 2 ** 40, 2 ** 40])],
    ['ERR_SDPO_INVALID_LENGTH', 'a million axes', () => Tensor.empty(Array(1e6).fill(1))],
    ['ERR_SDPO_INVALID_ARG_TYPE', 'four billion entries that are none', () => Tensor.from(new Array(2 ** 32 - 1))],
    ['ERR_SDPO_INVALID_ARG_VALUE', 'a number of 10^5 digits', () => noise(10n ** 100000n, 0, new Float32Array(1))],
  ];
  for (const [expected, what, run] of sizes) {
    const error = (await failureOf(async () => run())) as Error & { code: string };
    t.equal(error.code, expected, what);
    t.ok(error.message.length < 300, 'readable', { length: error.message.length });
  }
  const least = { _class_name: 'PNDMScheduler', num_train_timesteps: 1, beta_start: 5e-324 };
  t.notSame(NoiseSchedule.fromDiffusers(least).transition(0).omega, Number.NaN, 'the least noise there is');
  const header = (text: string) => {
    const json = new TextEncoder().encode(text);
    const out = new Uint8Array(8 + json.length);
    new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true);
    out.set(json, 8);
    return out;
  };
  const long = 'x'.repeat(1e6);
  for (const text of [
    `{"z":{"dtype":"F32","shape":["${long}"],"data_offsets":[0,0]}}`,
    `{"${long}":{"dtype":"F32","shape":[1],"data_offsets":[0,0]}}`,
    `{"z":{"dtype":"${long}","shape":[0],"data_offsets":[0,0]}}`,
    `{"z":{"dtype":"F32","shape":[${Array(1e5).fill(1)}],"data_offsets":[0,0]}}`,
  ]) {
    const error = (await failureOf(async () => decodeSafetensors(header(text)))) as Error & { code: string };
    t.equal(error.code, 'ERR_SDPO_INVALID_ARG_VALUE');
    t.ok(error.message.length < 1000, 'readable', { length: error.message.length });
  }
});

t.test('what is checked is what is used', async (t) => {
  const batch = largeBatch(2, 8, 'float32');
  const expected = digests(loss.evaluate(batch));
  const lying = Float64Array.from(batch.timesteps as Float64Array);
  Object.defineProperty(lying, 'length', { value: 1 });
  t.same(digests(loss.evaluate({ ...batch, timesteps: lying })), expected, 'a list that says it is shorter');
  const short = Float64Array.of(0.05);
  Object.defineProperty(short, 'length', { value: 2 });
  t.equal(await code(() => loss.evaluate({ ...batch, rowWeights: short })), 'ERR_SDPO_INVALID_LENGTH', 'or longer');

  let reads = 0;
  const shape = new Proxy([2, 8], {
    get: (of, field) => (field === '1' && reads++ > 0 ? 2 ** 40 : Reflect.get(of, field)),
  });
  t.same(Tensor.empty(shape).shape, [2, 8], 'an axis that changes');
  const moments = loss.moments(batch);
  const { error } = moments.chosen;
  let asked = 0;
  const changing = {
    ...moments.chosen,
    get error() {
      return asked++ === 0 ? error : (['a', 'b'] as never);
    },
  };
  t.equal(
    loss.objective({ ...moments, chosen: changing }, { transition: batch.transition }).rows.errorChosen[0],
    error[0],
  );
  asked = 0;
  t.equal(combineMoments([{ ...moments, chosen: changing }]).chosen.error[0], error[0]);

  const polluted = Object.prototype as { [name: string]: unknown };
  t.teardown(() => {
    for (const name of ['cross', 'dtype', 'elements', 'stream', 'gradientScale', 'predictionType', 'range', 'window'])
      delete polluted[name];
  });
  Object.assign(polluted, {
    cross: true,
    dtype: 'float16',
    elements: [1, 1],
    gradientScale: 7,
    predictionType: 'sample',
    range: [0, 3],
    window: 2,
  });
  t.notOk(Object.hasOwn(loss.moments(batch), 'cross'), 'an option of a prototype');
  t.equal(Tensor.from([1, 2], {}).dtype, 'float32');
  t.same(digests(loss.evaluate(batch)), expected);
  t.equal(NoiseSchedule.preset('sd15', {}).predictionType, 'epsilon');
  const drawn = NoiseSchedule.preset('sd15').sampleTimesteps(4, { random: createRandom(1) });
  t.ok(Math.max(...drawn) > 3);
  t.equal(new BetaTracker({ target: 1 }).window, 512);
});
