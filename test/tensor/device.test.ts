/** Devices where there is none: what devices() lists, why CUDA is not used, and the rules of memory and streams that need no device. */

import t from 'tap';
import { CudaError, devices, noise, PreferenceLoss, SdpoError, Stream, split, Tensor } from '../../lib/index.js';
import { cudaSupport } from '../../lib/tensor/device.js';
import { type Access, DEFAULT_LANE, DeviceMemory, enlist, type Lane, Leased } from '../../lib/tensor/device-memory.js';

/** A tensor on a device that does not exist; what would touch its memory must not get that far. */
function elsewhere(device = 'cuda:0', shape = [2, 3]): { tensor: Tensor; freed: () => number; memory: DeviceMemory } {
  let freed = 0;
  const memory = new DeviceMemory(device, 4096n, 1 << 20, () => {
    freed++;
  });
  return { tensor: Tensor.onDevice(memory, shape, 'float32'), freed: () => freed, memory };
}

const host = () => Tensor.empty([2, 3]);
const loss = new PreferenceLoss({ objective: 'sdpo', beta: 1 });
const none = devices().length === 1;

t.test('devices', async (t) => {
  const [cpu, ...others] = devices();
  t.match(cpu, { name: 'cpu', type: 'cpu', threads: Number, instructionSet: String });
  for (const [k, device] of others.entries()) {
    t.match(device, { name: `cuda:${k}`, type: 'cuda', model: String, computeCapability: /^\d+\.\d$/ });
  }
  const support = cudaSupport();
  t.equal(support.runtimeVersion === null, !support.built);
  if (none) t.ok(support.reason, 'without a CUDA device there is a reason');
});

t.test('a device that is not there says why', { skip: none ? false : 'there is a device' }, async (t) => {
  const reason = cudaSupport().reason as string;
  const expected = { code: 'ERR_SDPO_DEVICE' };
  const uses: Record<string, () => unknown> = {
    to: () => host().to('cuda:0'),
    empty: () => Tensor.empty([1], { device: 'cuda:0' }),
    fromPointer: () => Tensor.fromPointer(4096n, { shape: [1], dtype: 'float32', device: 'cuda:0' }),
    Stream: () => new Stream('cuda:0'),
    external: () => Stream.external('cuda:0', 0n),
  };
  for (const [name, use] of Object.entries(uses)) {
    t.throws(use, expected, name);
    t.throws(use, { message: new RegExp(`\\(cpu\\), received "cuda:0": ${reason.replace(/[.()]/g, '\\$&')}`) }, name);
  }
  t.throws(() => host().to('gpu'), { code: 'ERR_SDPO_DEVICE', message: /received "gpu"$/ });
  t.throws(() => new Stream('cpu'), { code: 'ERR_SDPO_DEVICE', message: /a CUDA device/ });
});

t.test('wrong pointers, before any device is asked', async (t) => {
  const options = { shape: [2, 3], dtype: 'float32' as const, device: 'cpu' };
  t.throws(() => Tensor.fromPointer(1 as unknown as bigint, options), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  t.throws(() => Tensor.fromPointer(4n, { ...options, rowStride: 2 }), { code: 'ERR_SDPO_INVALID_ARG_VALUE' });
  t.throws(() => Tensor.fromPointer(4n, options), { code: 'ERR_SDPO_DEVICE', message: /options\.device/ });
  t.throws(() => host().pointer, { code: 'ERR_SDPO_INVALID_ARG_VALUE', message: /on a CUDA device/ });
});

t.test('all tensors of a call lie on one device', async (t) => {
  const branch = (change: object = {}) => ({ policy: host(), reference: host(), target: host(), ...change });
  const there = () => elsewhere().tensor;
  const batch = (chosen: object, rejected: object, more: object = {}) =>
    ({
      timesteps: [1, 2],
      transition: { omega: [1, 1] },
      chosen: branch(chosen),
      rejected: branch(rejected),
      ...more,
    }) as never;
  const wrong: [unknown, RegExp][] = [
    [
      batch({ reference: there() }, {}),
      /batch\.chosen\.reference to be on cpu as batch\.chosen\.policy, received one on cuda:0/,
    ],
    [batch({}, { target: there() }), /batch\.rejected\.target to be on cpu.*\.to\('cpu'\)/],
    [batch({ policy: there() }, {}), /batch\.chosen\.reference to be on cuda:0.*\.to\('cuda:0'\)/],
    [batch({}, {}, { elementWeights: elsewhere('cuda:0', [3]).tensor }), /batch\.elementWeights to be on cpu/],
    [batch({ policy: new Float32Array(6), target: there() }, {}), /batch\.chosen\.target to be on cpu/],
  ];
  for (const [value, message] of wrong) {
    t.throws(() => loss.evaluate(value as never), { code: 'ERR_SDPO_DEVICE', message });
    await t.rejects(loss.evaluateAsync(value as never), { code: 'ERR_SDPO_DEVICE', message });
    t.throws(() => loss.moments(value as never), { code: 'ERR_SDPO_DEVICE', message });
  }
  t.throws(() => loss.evaluate(batch({}, {}), { stream: 1 as never }), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  t.throws(() => noise(1, 0, host(), { stream: {} as never }), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
});

t.test('a tensor on a device has no data, and ends with its owner', async (t) => {
  const { tensor, freed } = elsewhere('cuda:1', [4, 3]);
  t.match(tensor, { device: 'cuda:1', shape: [4, 3], size: 12, byteLength: 48, pointer: 4096n });
  t.throws(() => tensor.data, { code: 'ERR_SDPO_DEVICE', message: /toHost\(\).*cuda:1/ });
  const { chosen, rejected } = split(tensor, 'interleaved');
  t.equal(rejected.pointer, 4096n + 12n);
  t.equal(split(tensor, 'halves').rejected.pointer, 4096n + 24n);
  chosen.dispose();
  t.equal(freed(), 0, 'a view frees nothing');
  t.throws(() => chosen.pointer, { code: 'ERR_SDPO_DISPOSED' });
  t.doesNotThrow(() => rejected.pointer);
  tensor[Symbol.dispose]();
  tensor.dispose();
  t.equal(freed(), 1, 'freed once');
  t.throws(() => rejected.pointer, { code: 'ERR_SDPO_DISPOSED' }, 'views end with the tensor');
  t.equal(tensor.device, 'cuda:1', 'the device stays known');
});

t.test('what a call uses is freed when the last call is over', async (t) => {
  let freed = 0;
  const leased = new Leased(() => {
    freed++;
  });
  leased.retain();
  leased.retain();
  leased.dispose();
  t.ok(leased.disposed);
  leased.release();
  t.equal(freed, 0);
  leased.release();
  t.equal(freed, 1);
  leased.dispose();
  t.equal(freed, 1, 'and once');
});

t.test('which streams a call waits for', async (t) => {
  const lane = (handle: bigint): { -readonly [K in keyof Lane]: Lane[K] } => ({ handle, disposed: false });
  const [a, b, c] = [lane(1n), lane(2n), lane(3n)];
  const [x, y] = [elsewhere('cuda:3').memory, elsewhere('cuda:3').memory];
  const read = (memory: DeviceMemory): Access => ({ memory, writes: false });
  const write = (memory: DeviceMemory): Access => ({ memory, writes: true });
  const waits = (on: Lane, ...accesses: Access[]) => {
    const seen: [number, bigint, bigint][] = [];
    enlist(on, accesses, (...wait) => seen.push(wait));
    return seen;
  };
  t.same(waits(a, write(x)), [], 'nothing before');
  t.same(waits(a, read(x)), [], 'its own stream is in order anyway');
  t.same(waits(b, read(x), read(y)), [[4, 2n, 1n]], 'a read waits for the write');
  t.same(waits(c, read(x)), [[4, 3n, 1n]], 'and not for other reads');
  t.same(
    waits(DEFAULT_LANE, write(x), read(x)),
    [
      [4, 0n, 1n],
      [4, 0n, 2n],
      [4, 0n, 3n],
    ],
    'a write waits for both',
  );
  t.same(waits(a, read(x)), [[4, 1n, 0n]], 'the default stream is one like the others');
  x.settle(DEFAULT_LANE);
  t.same(waits(b, read(x)), [], 'what is done is not waited for');
  t.same(waits(c, write(y)), [[4, 3n, 2n]]);
  c.disposed = true;
  t.same(waits(a, read(y)), [], 'nor is a stream that is gone: its handle means nothing any more');
});

t.test('a CUDA failure as an error', async (t) => {
  const failure = {
    message: 'launching the loss on cuda:0 (2 rows of 3 float32): cudaErrorLaunchFailure, unspecified launch failure',
    cudaCode: 'cudaErrorLaunchFailure',
    operation: 'launching the loss',
    device: 'cuda:0',
    shapes: '2 rows of 3 float32',
    contextLost: true,
    outOfMemory: false,
  };
  const error = new CudaError(failure);
  const { outOfMemory, ...fields } = failure;
  t.ok(error instanceof SdpoError);
  t.match(error, { ...fields, name: 'CudaError', code: 'ERR_SDPO_DEVICE' });
  t.equal(new CudaError({ ...failure, outOfMemory: !outOfMemory }).code, 'ERR_SDPO_OUT_OF_MEMORY');
});
