/** Calls that are captured into a graph, on the stand-in for a device: the numbers of calls, with new data at every launch, and what cannot be captured. */

import t from 'tap';
import { jsonOf, library } from '../helpers/child.js';
import { fakeDevice } from '../helpers/fake-device.js';

const fake = fakeDevice();
const url = (file: string) => JSON.stringify(new URL(file, import.meta.url).href);

const prelude = `
  const { CudaError, devices, Graph, noise, NoiseSchedule, PreferenceLoss, split, Stream, Tensor } = await import(${library});
  const { makeBatch } = await import(${url('../../lib/selftest/batches.ts')});
  const D = 'cuda:0';
  const used = () => devices()[1].totalMemory;
  const streams = () => devices()[1].multiprocessors;
  const done = () => devices()[1].model.match(/\\d+/g).map(Number); // waits, allocations
  const since = ([w, a]) => { const [waits, allocations] = done(); return [waits - w, allocations - a]; };
  const thrown = (run) => { try { run(); } catch (e) { return { name: e.name, code: e.code, cudaCode: e.cudaCode, message: e.message }; } };
  const equal = (a, b) => a.length === b.length && a.every((x, i) => Object.is(x, b[i]));
  const same = (a, b) => equal(a.packed.toHost(), b.packed.toHost()) && ['chosen', 'rejected'].every((k) => equal(a.gradients[k].toHost(), b.gradients[k].toHost()));
  const schedule = NoiseSchedule.preset('sd15');
  const options = { objective: 'sdpo', beta: 20, nonFinite: 'propagate', schedule };
  const loss = new PreferenceLoss(options);
  const shape = { rows: 3, size: 1003, dtype: 'float32' };
  const move = (values) => Tensor.from(Float64Array.from(values)).to(D);
  const made = makeBatch(shape, 1, D);
  const batch = { ...made.batch, transition: undefined, timesteps: move([1, 999, 500]) };
  const results = 'device';
  const renew = (seed) => { let i = 0; for (const branch of ['chosen', 'rejected']) for (const name of ['policy', 'reference', 'target']) noise(seed, 1e6 * i++, batch[branch][name]); };
  const show = (value) => console.log(JSON.stringify(value));
`;

if ('missing' in fake) {
  t.pass('not run', { skip: fake.missing });
} else {
  const run = <T>(body: string, node: string[] = []) => jsonOf<T>(prelude + body, { env: fake.env, node });

  t.test('every launch has the numbers of a call with what is in the tensors by then', async (t) => {
    const result = run<Record<string, unknown>>(`
      const stream = new Stream(D);
      const list = [0.5, 1, 2];
      const given = { ...batch, rowWeights: list };
      const out = loss.reserve(given, { stream });
      let start = done();
      const graph = Graph.capture(stream, () => { loss.evaluate(given, { results, stream, into: out }); });
      const capturing = since(start);
      const untouched = out.packed.toHost().every(Number.isNaN);
      const equals = [], idle = [];
      for (const seed of [1, 2, 3]) {
        renew(seed);
        start = done();
        graph.launch();
        graph.launch();
        idle.push(since(start));
        equals.push(same(out, loss.evaluate(given, { results })));
      }
      // Lists are those of the capture; tensors are read.
      const expected = loss.evaluate({ ...batch, rowWeights: [0.5, 1, 2] }, { results });
      list.fill(7);
      graph.launch();
      show({ capturing, untouched, equals, idle, list: same(out, expected), device: graph.device });`);
    t.same(result, {
      capturing: [0, 0],
      untouched: true,
      equals: [true, true, true],
      idle: [
        [0, 0],
        [0, 0],
        [0, 0],
      ],
      list: true,
      device: 'cuda:0',
    });
  });

  t.test('several calls: noise, samples, the loss, its gradients by themselves', async (t) => {
    const result = run<unknown>(`
      const stream = new Stream(D);
      const epsilon = Tensor.empty([3, 1003], { device: D });
      const out = loss.reserve(batch, { stream });
      let x, gradients;
      const graph = Graph.capture(stream, () => {
        noise(5, 0, epsilon, { stream });
        x = schedule.addNoise(batch.chosen.target, epsilon, [1, 2, 3], { stream });
        loss.evaluate({ ...batch, chosen: { ...batch.chosen, policy: x } }, { results, stream, into: out });
        gradients = loss.gradients({ ...batch, chosen: { ...batch.chosen, policy: x } }, out.coefficients, { stream });
      });
      renew(9);
      graph.launch();
      const y = schedule.addNoise(batch.chosen.target, noise(5, 0, Tensor.empty([3, 1003], { device: D })), [1, 2, 3]);
      const expected = loss.evaluate({ ...batch, chosen: { ...batch.chosen, policy: y } }, { results });
      show([equal(x.toHost(), y.toHost()), same(out, expected), ...['chosen', 'rejected'].map((k) => equal(gradients[k].toHost(), expected.gradients[k].toHost()))]);`);
    t.same(result, [true, true, true, true]);
  });

  t.test('a launch is a call that uses the tensors, whatever the streams of others', async (t) => {
    const result = run<unknown>(`
      const [stream, other] = [new Stream(D), new Stream(D)];
      const out = loss.reserve(batch, { stream });
      noise(1, 0, batch.chosen.policy, { stream: other }); // which a capture cannot wait for, and need not
      const graph = Graph.capture(stream, () => { loss.evaluate(batch, { results, stream, into: out }); });
      const equals = [];
      for (const seed of [4, 5]) {
        for (const name of ['policy', 'target']) noise(seed, 77, batch.rejected[name], { stream: other });
        graph.launch();
        noise(seed, 99, batch.rejected.target, { stream: other }); // not before the graph has read it
        const late = loss.evaluate(batch, { results, stream: other });
        noise(seed, 77, batch.rejected.target, { stream: other });
        const expected = loss.evaluate(batch, { results });
        equals.push(same(out, expected), same(out, late));
      }
      show(equals);`);
    t.same(result, [true, false, true, false]);
  });

  t.test('what cannot be captured is refused, and nothing is left of the capture', async (t) => {
    const result = run<Record<string, Record<string, string>>>(`
      const stream = new Stream(D);
      const capture = (body) => thrown(() => Graph.capture(stream, body));
      const out = {};
      out.growth = capture(() => loss.evaluate(batch, { results, stream }));
      out.reserve = capture(() => loss.reserve(batch, { stream }));
      loss.reserve(batch, { stream }).dispose();
      out.host = capture(() => loss.evaluate({ ...batch, timesteps: [1, 2, 3] }, { stream }));
      out.synchronize = capture(() => stream.synchronize());
      out.copy = capture(() => batch.chosen.policy.toHost({ stream }));
      out.wait = capture(() => stream.wait(new Stream(D)));
      out.waited = capture(() => new Stream(D).wait(stream));
      out.twice = capture(() => Graph.capture(stream, () => {}));
      out.promise = capture(() => loss.evaluateAsync({ ...batch, timesteps: [1, 2, 3] }, { stream }));
      out.async = capture(async () => { throw new Error('later'); });
      out.own = capture(() => { throw new TypeError('mine'); });
      out.default = thrown(() => Graph.capture(Stream.external(D, 0n), () => {}));
      out.stream = thrown(() => Graph.capture(undefined, () => {}));
      out.body = thrown(() => Graph.capture(stream, 1));
      out.throws = thrown(() => new PreferenceLoss({ ...options, nonFinite: 'throw' }).reserve(batch));
      out.cpu = thrown(() => loss.reserve(makeBatch(shape, 1, 'cpu').batch));
      out.option = thrown(() => loss.reserve(batch, { results: 'device' }));
      // The stream and the tensors are as they were.
      const into = loss.reserve(batch, { stream });
      const graph = Graph.capture(stream, () => { loss.evaluate(batch, { results, stream, into }); });
      graph.launch();
      out.after = { code: String(same(into, loss.evaluate(batch, { results }))) };
      graph.dispose();
      graph.dispose();
      out.disposed = thrown(() => graph.launch());
      const second = Graph.capture(stream, () => { loss.evaluate(batch, { results, stream, into }); });
      stream.dispose();
      out.streamDisposed = thrown(() => second.launch());
      show(out);`);
    const unsupported = { name: 'CudaError', code: 'ERR_SDPO_DEVICE', cudaCode: 'cudaErrorStreamCaptureUnsupported' };
    const reserve = { ...unsupported, message: /growing a workspace during a capture \(reserve it before\)/ };
    const captured = { code: 'ERR_SDPO_INVALID_ARG_VALUE', message: /being captured/ };
    t.match(result, {
      growth: reserve,
      reserve,
      host: { ...unsupported, message: /a call whose results the host reads \(leave them on the device\)/ },
      synchronize: unsupported,
      copy: unsupported,
      wait: captured,
      waited: captured,
      twice: captured,
      promise: { code: 'ERR_SDPO_INVALID_ARG_TYPE', message: /body/ },
      async: { code: 'ERR_SDPO_INVALID_ARG_TYPE', message: /over when it returns/ },
      own: { name: 'TypeError', message: 'mine' },
      default: unsupported,
      stream: { code: 'ERR_SDPO_INVALID_ARG_TYPE' },
      body: { code: 'ERR_SDPO_INVALID_ARG_TYPE' },
      throws: { code: 'ERR_SDPO_INVALID_OPTION' },
      cpu: { code: 'ERR_SDPO_DEVICE' },
      option: { code: 'ERR_SDPO_UNKNOWN_OPTION' },
      after: { code: 'true' },
      disposed: { code: 'ERR_SDPO_DISPOSED', message: /graph/ },
      streamDisposed: { code: 'ERR_SDPO_DISPOSED', message: /stream/ },
    });
  });

  t.test('tensors and the stream stay as long as the graph, and go with it', async (t) => {
    const result = run<Record<string, unknown>>(
      `
      const stream = new Stream(D);
      const out = loss.reserve(batch, { stream });
      const expected = loss.evaluate(batch, { results });
      const [packed, gradient] = [expected.packed.toHost(), expected.gradients.chosen.toHost()];
      expected.dispose();
      for (const tensor of Object.values(expected.gradients)) tensor.dispose();
      const alias = Tensor.fromPointer(out.gradients.chosen.pointer, { shape: [3, 1003], dtype: 'float32', device: D });
      const graph = Graph.capture(stream, () => { loss.evaluate(batch, { results, stream, into: out }); });
      const held = used();
      for (const tensor of [...made.owned, batch.timesteps, ...Object.values(out.gradients)]) tensor.dispose();
      const kept = used() === held;
      graph.launch();
      stream.synchronize();
      const right = equal(out.packed.toHost(), packed) && equal(alias.toHost(), gradient);
      stream.dispose();
      const live = streams();
      out.dispose();
      graph.dispose();
      const left = [used(), streams()];
      // Nobody disposes these.
      (() => {
        const stream = new Stream(D);
        const made = makeBatch(shape, 1, D);
        const batch = { ...made.batch, transition: undefined, timesteps: [1, 2, 3] };
        const into = loss.reserve(batch, { stream });
        Graph.capture(stream, () => { loss.evaluate(batch, { results, stream, into }); }).launch();
      })();
      for (let i = 0; i < 20 && used() + streams() > left[0]; i++) { await new Promise(setImmediate); gc(); }
      show({ kept, right, live, left, collected: [used(), streams()] });`,
      ['--expose-gc'],
    );
    const table = 8 * 1000; // of omega, which goes with the schedule
    t.same(result, { kept: true, right: true, live: 1, left: [table, 0], collected: [table, 0] });
  });
}
