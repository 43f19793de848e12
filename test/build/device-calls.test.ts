/** Device tensors, streams, promises and errors, on a stand-in for a CUDA device: late, forgetful, and without order between streams. */

import t from 'tap';
import { jsonOf, library, runProgram } from '../helpers/child.js';
import { fakeDevice } from '../helpers/fake-device.js';

const fake = fakeDevice();
const url = (file: string) => JSON.stringify(new URL(file, import.meta.url).href);

const prelude = `
  const { CudaError, devices, noise, NoiseSchedule, PreferenceLoss, split, Stream, Tensor } = await import(${library});
  const { makeBatch } = await import(${url('../../lib/selftest/batches.ts')});
  const D = 'cuda:0';
  const used = () => devices()[1].totalMemory;
  const streams = () => devices()[1].multiprocessors;
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20 });
  const shape = { rows: 3, size: 1003, dtype: 'float32' };
  const thrown = (run) => { try { run(); } catch (e) { return { name: e.name, code: e.code, message: e.message }; } };
  const fields = (e) => ({ name: e.name, code: e.code, cudaCode: e.cudaCode, operation: e.operation, device: e.device, contextLost: e.contextLost, is: e instanceof CudaError });
  const equal = (a, b) => a.length === b.length && a.every((x, i) => Object.is(x, b[i]));
  const same = (a, b) => a.loss === b.loss && ['chosen', 'rejected'].every((k) => equal(a.gradients[k].toHost(), b.gradients[k].toHost()));
  const show = (value) => console.log(JSON.stringify(value));
`;

if ('missing' in fake) {
  t.pass('not run', { skip: fake.missing });
} else {
  const { env } = fake;
  const run = <T>(body: string, node: string[] = [], more: Record<string, string> = {}) =>
    jsonOf<T>(prelude + body, { env: { ...env, ...more }, node });

  t.test('a tensor there and back', async (t) => {
    const result = run<Record<string, unknown>>(`
      const host = Tensor.from(Float32Array.from({ length: 12 }, (_, i) => i), { shape: [4, 3] });
      const there = host.to(D);
      const { rejected } = split(there, 'interleaved');
      const alias = Tensor.fromPointer(there.pointer + 12n, { shape: [2, 3], dtype: 'float32', device: D, rowStride: 6 });
      show({
        device: there.device, same: there.to(D) === there, host: [...there.to('cpu').data], pointer: typeof there.pointer,
        view: [...rejected.toHost()], offset: Number(rejected.pointer - there.pointer), alias: [...alias.toHost()],
        data: thrown(() => there.data), hostPointer: thrown(() => host.pointer).code,
        zeros: Tensor.empty([5], { dtype: 'float64', device: D }).toFloat64().every((x) => x === 0),
        noise: thrown(() => noise(1, 0, rejected)).code,
      });`);
    t.match(result, {
      device: 'cuda:0',
      same: true,
      host: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
      pointer: 'bigint',
      view: [3, 4, 5, 9, 10, 11],
      offset: 12,
      alias: [3, 4, 5, 9, 10, 11],
      data: { code: 'ERR_SDPO_DEVICE', message: /toHost.*cuda:0/ },
      hostPointer: 'ERR_SDPO_INVALID_ARG_VALUE',
      zeros: true,
      noise: 'ERR_SDPO_INVALID_ARG_VALUE',
    });
  });

  t.test('a calibration leaves no memory behind', async (t) => {
    const left = run<number[]>(`
      const { calibrate, pairsFromArray } = await import(${url('../../lib/trainer/index.ts')});
      const pair = (i) => ({ id: String(i), chosen: noise(1, 8 * i, new Float32Array(8)), rejected: noise(2, 8 * i, new Float32Array(8)) });
      const made = [];
      const reference = ({ inputs }) => {
        const prediction = Tensor.from(inputs.latents, { shape: [inputs.latents.length / 8, 8] }).to(D);
        made.push(prediction);
        return { prediction };
      };
      const data = pairsFromArray(Array.from({ length: 16 }, (_, i) => pair(i)), { shape: [8] });
      await calibrate({ reference, data, schedule: NoiseSchedule.preset('sd15'), batches: 3, batchSize: 4 });
      const during = used();
      for (const tensor of made) tensor.dispose();
      show([made.length, during, used()]);`);
    t.equal(left[0], 3);
    t.ok(left[1] > 0, 'the predictions lie there');
    t.equal(left[2], 0, 'and nothing else');
  });

  t.test('calls that share a tensor take effect in order, whatever their streams', async (t) => {
    const result = run<boolean[]>(`
      const schedule = NoiseSchedule.preset('sd15');
      const timesteps = [1, 500, 999];
      const [a, b] = [new Stream(D), new Stream(D)];
      const make = (device, one, two, three) => {
        const e = noise(7, 0, Tensor.empty([3, 1003], { device }), { stream: one });
        const x = noise(8, 0, Tensor.empty([3, 1003], { device }), { stream: two });
        const y = schedule.addNoise(x, e, timesteps, { stream: three });
        noise(9, 0, e, { stream: one });
        const z = schedule.target(y, e, timesteps, { stream: two });
        const branch = { policy: x, reference: y, target: z };
        const out = loss.evaluate({ timesteps, transition: { omega: [1, 1, 1] }, chosen: branch, rejected: { ...branch, policy: e } }, { stream: three });
        return [...[e, x, y, z].map((tensor) => tensor.toHost()), out.gradients.chosen.toHost(), out.gradients.rejected.toHost()];
      };
      const expected = make('cpu');
      show([[a, b, undefined], [undefined, a, b], [b, undefined, a]].flatMap((order) => make(D, ...order).map((x, i) => equal(x, expected[i]))));`);
    t.same(result, new Array(18).fill(true));
  });

  t.test(
    'memory: freed when disposed, when a call is over, when a call fails, and by the garbage collector',
    async (t) => {
      const result = run<Record<string, unknown>>(
        `
      const out = {};
      const made = makeBatch({ ...shape, layout: 'halves' }, 1, D);
      const expected = loss.evaluate(makeBatch({ ...shape, layout: 'halves' }, 1, 'cpu').batch);
      const before = used();
      const call = loss.evaluateAsync(made.batch);
      for (const tensor of made.owned) tensor.dispose();
      out.stays = used() === before + 2 * 3 * 1003 * 4;
      const result = await call;
      out.same = same(result, expected);
      out.view = thrown(() => made.batch.chosen.policy.toHost()).code;
      result.gradients.stacked.dispose();
      result.gradients.stacked.dispose();
      out.gradientView = thrown(() => result.gradients.chosen.toHost()).code;
      out.afterDispose = used();

      const bad = makeBatch(shape, 2, 'cpu');
      bad.batch.chosen.policy.data[5] = NaN;
      const owned = [];
      const move = (x) => (owned.push(x.to(D)), owned.at(-1));
      const moved = (b) => ({ policy: move(b.policy), reference: move(b.reference), target: move(b.target) });
      const batch = { ...bad.batch, chosen: moved(bad.batch.chosen), rejected: moved(bad.batch.rejected) };
      const held = used();
      out.failed = thrown(() => loss.evaluate(batch)).code;
      out.failedAsync = await loss.evaluateAsync(batch).catch((e) => e.code);
      out.afterFailure = used() - held;
      owned.forEach((x) => x.dispose());

      (() => { for (let i = 0; i < 8; i++) Tensor.empty([2 ** 20], { device: D }); new Stream(D); })();
      for (let i = 0; i < 20 && used() + streams() > 0; i++) { await new Promise(setImmediate); gc(); }
      out.afterCollection = [used(), streams()];
      show(out);`,
        ['--expose-gc'],
      );
      t.same(result, {
        stays: true,
        same: true,
        view: 'ERR_SDPO_DISPOSED',
        gradientView: 'ERR_SDPO_DISPOSED',
        afterDispose: 0,
        failed: 'ERR_SDPO_NON_FINITE',
        failedAsync: 'ERR_SDPO_NON_FINITE',
        afterFailure: 0,
        afterCollection: [0, 0],
      });
    },
  );

  t.test('V8 is told of device memory, and collects what nobody disposed before the device is full', async (t) => {
    // 3 GiB go through a device of 256 MiB; the objects that own them are a few kilobytes, no reason to collect anything.
    const made = run<number>(`
      let made = 0;
      for (; made < 200; made++) {
        Tensor.empty([2 ** 22], { device: D });
        await new Promise(setImmediate);
      }
      show(made);`);
    t.equal(made, 200);
  });

  t.test('out of memory says what was asked for, and gives back what it took', async (t) => {
    const result = run<{ allocation: object; call: object; left: number; after: boolean }>(`
      const allocation = (() => { try { Tensor.empty([2 ** 30], { device: D }); } catch (e) { return { ...fields(e), message: e.message, shapes: e.shapes }; } })();
      const tensor = () => Tensor.empty([1, 9 * 2 ** 20], { device: D });
      const branch = (t) => ({ policy: t, reference: t, target: t });
      const [c, r] = [tensor(), tensor()];
      const fill = Array.from({ length: 4 }, tensor);
      const batch = { timesteps: [1], transition: { omega: [1] }, chosen: branch(c), rejected: branch(r) };
      const held = used();
      const call = fields((() => { try { loss.evaluate(batch); } catch (e) { return e; } })());
      const left = used() - held;
      fill.forEach((x) => x.dispose());
      show({ allocation, call, left, after: loss.evaluate(batch).loss > 0 });`);
    const expected = { name: 'CudaError', code: 'ERR_SDPO_OUT_OF_MEMORY', cudaCode: 'cudaErrorMemoryAllocation' };
    t.match(result.allocation, { ...expected, contextLost: false, is: true, shapes: '4294967296 bytes' });
    t.match(result, { call: { ...expected, device: 'cuda:0' }, left: 0, after: true });
  });

  t.test('a lost context: every promise settles, and later calls fail at once with the cause', async (t) => {
    const result = run<{ settled: object[]; later: object[] }>(
      `
      const made = makeBatch(shape, 3, D);
      const settled = await Promise.allSettled(Array.from({ length: 5 }, () => loss.evaluateAsync(made.batch)));
      const fail = (run) => { try { run(); } catch (e) { return fields(e); } };
      const later = [fail(() => loss.evaluate(made.batch)), fail(() => Tensor.empty([4], { device: D })), fail(() => made.owned[0].toHost()), fail(() => new Stream(D))];
      for (const tensor of made.owned) tensor.dispose();
      show({ settled: settled.map((s) => s.status === 'fulfilled' ? 'ok' : { ...fields(s.reason), here: /run|eval|input/.test(s.reason.stack) }), later });`,
      [],
      { SDPO_FAKE_LOSE: '3' },
    );
    const lost = {
      name: 'CudaError',
      code: 'ERR_SDPO_DEVICE',
      cudaCode: 'cudaErrorIllegalAddress',
      operation: 'running a kernel',
      device: 'cuda:0',
      contextLost: true,
      is: true,
    };
    t.same(result.settled, ['ok', 'ok', { ...lost, here: true }, { ...lost, here: true }, { ...lost, here: true }]);
    t.same(result.later, [lost, lost, lost, lost]);
  });

  t.test('an aborted call rejects when the device is done with it', async (t) => {
    const result = run<unknown>(`
      const made = makeBatch(shape, 4, D);
      const controller = new AbortController();
      const call = loss.evaluateAsync(made.batch, { signal: controller.signal });
      const other = loss.evaluateAsync(made.batch);
      controller.abort('enough');
      const error = await call.catch((e) => e);
      show({ name: error.name, code: error.code, cause: error.cause, other: (await other).loss === loss.evaluate(made.batch).loss });`);
    t.same(result, { name: 'AbortError', code: 'ERR_SDPO_ABORTED', cause: 'enough', other: true });
  });

  t.test('streams: foreign handles, waiting, and wrong ones', async (t) => {
    const result = run<Record<string, unknown>>(`
      const made = makeBatch(shape, 5, D);
      const expected = loss.evaluate(made.batch);
      const own = new Stream(D);
      const foreign = Stream.external(D, own.handle);
      const same1 = same(loss.evaluate(made.batch, { stream: foreign }), expected);
      const out = Tensor.empty([3, 1003], { device: D });
      const alias = Tensor.fromPointer(out.pointer, { shape: [3, 1003], dtype: 'float32', device: D });
      noise(1, 0, out, { stream: own });
      const other = new Stream(D);
      other.wait(own);
      const seen = equal(alias.toHost({ stream: other }), noise(1, 0, new Float32Array(3009)));
      own.synchronize();
      const pending = loss.evaluateAsync(made.batch, { stream: other });
      other.dispose();
      const late = same(await pending, expected);
      foreign.dispose();
      const host = makeBatch(shape, 5, 'cpu').batch;
      show({ same1, seen, late, alive: streams(),
        disposed: thrown(() => loss.evaluate(made.batch, { stream: other })), handle: thrown(() => other.handle).code,
        host: thrown(() => loss.evaluate(host, { stream: own })), type: thrown(() => loss.evaluate(made.batch, { stream: 1n })).code,
        mixed: thrown(() => loss.evaluate({ ...made.batch, rejected: host.rejected })),
        moments: equal(loss.moments(made.batch, { stream: own }).chosen.error, expected.rows.errorChosen),
        into: thrown(() => loss.evaluate(host, { into: expected })).code });`);
    t.match(result, {
      same1: true,
      seen: true,
      late: true,
      alive: 1,
      disposed: { code: 'ERR_SDPO_DISPOSED', message: /call\.stream/ },
      handle: 'ERR_SDPO_DISPOSED',
      host: { code: 'ERR_SDPO_DEVICE', message: /call\.stream.*cpu.*cuda:0/ },
      type: 'ERR_SDPO_INVALID_ARG_TYPE',
      mixed: { code: 'ERR_SDPO_DEVICE', message: /batch\.rejected\.policy to be on cuda:0 as batch\.chosen\.policy/ },
      moments: true,
      into: 'ERR_SDPO_INVALID_LENGTH',
    });
  });

  t.test('buffers of a result that are transferred while a call is under way are not written', async (t) => {
    const result = run<unknown>(`
      const made = makeBatch(shape, 6, D);
      const into = loss.evaluate(made.batch);
      const call = loss.evaluateAsync(made.batch, { into });
      structuredClone(into.rows.loss.buffer, { transfer: [into.rows.loss.buffer] });
      show(await call.catch((e) => e.code));`);
    t.equal(result, 'ERR_SDPO_INTERNAL');
  });

  const ends: Record<string, string> = {
    'with calls under way, left to end': "loss.evaluateAsync(made.batch).then(() => console.log('settled'));",
    'with calls under way, by process.exit':
      "for (let i = 0; i < 9; i++) loss.evaluateAsync(made.batch); console.log('settled'); process.exit();",
    'with a worker that is terminated while its calls are under way': `
      const { Worker } = await import('node:worker_threads');
      const text = \`
        import { parentPort } from 'node:worker_threads';
        import { register } from 'tsx/esm/api';
        register();
        const { PreferenceLoss } = await import(${library.replaceAll('"', "'")});
        const { makeBatch } = await import(${url('../../lib/selftest/batches.ts').replaceAll('"', "'")});
        const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20 });
        const made = makeBatch({ rows: 3, size: 1003, dtype: 'float32' }, 7, 'cuda:0');
        for (let i = 0; i < 30; i++) loss.evaluateAsync(made.batch);
        parentPort.postMessage('started');
        await new Promise((resolve) => setTimeout(resolve, 10000));\`;
      const worker = new Worker(text, { eval: true });
      await new Promise((resolve) => worker.once('message', resolve));
      await worker.terminate();
      await new Promise((resolve) => setTimeout(resolve, 200));
      for (const tensor of made.owned) tensor.dispose();
      console.log(used() === 0 ? 'settled' : 'leak of ' + used());`,
  };
  for (const [when, body] of Object.entries(ends)) {
    t.test(`the process ends ${when}`, async (t) => {
      const result = runProgram(`${prelude} const made = makeBatch(shape, 7, D); ${body}`, { env });
      t.same(result, { status: 0, signal: null, stdout: 'settled\n', stderr: '' });
    });
  }
}
