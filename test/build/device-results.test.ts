/** Calls whose results stay on the device, on the stand-in for one: the numbers of the host's call, no wait, and no allocation after the first. */

import t from 'tap';
import type {
  Batch,
  DeviceBatch,
  DeviceEvaluation,
  DeviceStatistics,
  Evaluation,
  PreferenceLoss,
  Tensor,
} from '../../lib/index.js';
import { jsonOf, library } from '../helpers/child.js';
import { fakeDevice } from '../helpers/fake-device.js';

/** The types of the overloads, which the compiler checks: what lies on the device is never taken for what is on the host. */
export function typesOfResults(loss: PreferenceLoss, batch: DeviceBatch, host: Batch<Tensor, Tensor>): unknown[] {
  const onDevice: DeviceEvaluation = loss.evaluate(batch, { results: 'device' });
  const statistics: DeviceStatistics = loss.evaluate(host, { results: 'device', gradients: false, into: onDevice });
  const onHost: Evaluation<Tensor, Tensor> = loss.evaluate(host, { results: 'host' });
  // @ts-expect-error: there are no gradients
  statistics.gradients;
  // @ts-expect-error: a result of the host is no result of the device
  loss.evaluate(batch, { results: 'device', into: onHost });
  return [loss.gradients(batch, onDevice.coefficients), statistics.toHost().loss.toFixed(), onDevice.rows.mask.pointer];
}

const fake = fakeDevice();
const url = (file: string) => JSON.stringify(new URL(file, import.meta.url).href);

const prelude = `
  const { devices, NoiseSchedule, noise, PreferenceLoss, split, Stream, Tensor } = await import(${library});
  const { makeBatch } = await import(${url('../../lib/selftest/batches.ts')});
  const D = 'cuda:0';
  const used = () => devices()[1].totalMemory;
  const done = () => devices()[1].model.match(/\\d+/g).map(Number); // waits, allocations
  const shape = { rows: 5, size: 1003, dtype: 'float32' };
  const options = { beta: 20, nonFinite: 'propagate' };
  const move = (values, dtype = 'float64') => Tensor.from(Float64Array.from(values), { dtype }).to(D);
  const thrown = (run) => { try { run(); } catch (e) { return { name: e.name, code: e.code, message: e.message }; } };
  const equal = (a, b) => a.length === b.length && a.every((x, i) => Object.is(x, b[i]));
  const unequal = (device, host) => {
    const back = device.toHost();
    const wrong = [];
    const see = (name, a, b) => { if (!equal([...a], [...b])) wrong.push(name); };
    see('loss', device.loss.toHost(), [host.loss]);
    see('toHost().loss', [back.loss], [host.loss]);
    for (const name of Object.keys(host.rows)) {
      see('rows.' + name, device.rows[name].toHost(), host.rows[name]);
      see('toHost().rows.' + name, back.rows[name], host.rows[name]);
    }
    for (const name of Object.keys(host.metrics)) {
      see('metrics.' + name, device.metrics[name].toHost(), [host.metrics[name]]);
      see('toHost().metrics.' + name, [back.metrics[name]], [host.metrics[name]]);
    }
    for (const branch of ['chosen', 'rejected']) {
      for (const k of ['a', 'b']) {
        see('coefficients.' + branch + '.' + k, device.coefficients[branch][k].toHost(), host.coefficients[branch][k]);
        see('toHost().coefficients.' + branch + '.' + k, back.coefficients[branch][k], host.coefficients[branch][k]);
      }
      if (host.gradients) see('gradients.' + branch, device.gradients[branch].toHost(), host.gradients[branch].toHost());
    }
    return wrong;
  };
  const show = (value) => console.log(JSON.stringify(value));
`;

if ('missing' in fake) {
  t.pass('not run', { skip: fake.missing });
} else {
  const { env } = fake;
  const run = <T>(body: string) => jsonOf<T>(prelude + body, { env });

  t.test('every number per row may be a list or a tensor, and the results are those of the host', async (t) => {
    const result = run<Record<string, string[]>>(`
      const out = {};
      const schedule = NoiseSchedule.preset('cogvideox-2b');
      const timesteps = [0, 999, 500, 20, 741];
      const omega = [0.5, Infinity, 0, 1.25, 3];
      const [chosenOmega, rejectedOmega] = [omega, omega.toReversed()];
      const list = [0.5, 1, 2, 0, 1.5];
      const xi = { chosen: [0.3, -1, 2, 0.1, 0], rejected: [1, 0.25, -0.5, 0, -2] };
      const both = (x, make) => ({ chosen: make(x.chosen), rejected: make(x.rejected) });
      const weights = { rowWeights: list };
      const cases = {
        timesteps: [{ schedule }, {}, { timesteps: move(timesteps) }, { timesteps }],
        'float32 timesteps': [{ schedule }, {}, { timesteps: move(timesteps, 'float32') }, { timesteps }],
        'timesteps per branch': [{ schedule }, {}, { timesteps: both({ chosen: timesteps, rejected: timesteps.toReversed() }, move) }, { timesteps: { chosen: timesteps, rejected: timesteps.toReversed() } }],
        'one branch on the device': [{ schedule }, {}, { timesteps: { chosen: timesteps, rejected: move(timesteps.toReversed()) } }, { timesteps: { chosen: timesteps, rejected: timesteps.toReversed() } }],
        'lists on the host': [{ schedule }, {}, { timesteps }, { timesteps }],
        elbo: [{ schedule, timestepWeighting: 'elbo', logRatioReduction: 'sum', weightSharpness: 0.7 }, {}, { timesteps: move([1, 999, 500, 20, 741]) }, { timesteps: [1, 999, 500, 20, 741] }],
        omega: [{}, {}, { timesteps, transition: { omega: move(omega) } }, { timesteps, transition: { omega } }],
        'omega per branch, one on the host': [{ timestepWeighting: 'elbo' }, {}, { timesteps: move(timesteps), transition: { omega: { chosen: chosenOmega, rejected: move(rejectedOmega) } } }, { timesteps, transition: { omega: { chosen: chosenOmega, rejected: rejectedOmega } } }],
        offsets: [{ schedule, weightSharpness: 0.7 }, {}, { timesteps: move(timesteps), transition: { offsetChosen: move(list), offsetRejected: list } }, { timesteps, transition: { offsetChosen: list, offsetRejected: list } }],
        'row weights': [{ schedule }, {}, { timesteps: move(timesteps), rowWeights: move(list, 'float32') }, { timesteps, ...weights }],
        'row weights on the host': [{ schedule }, { maskThreshold: [0, 0.5, 0.9, 1, 0.99] }, { timesteps: move(timesteps), ...weights }, { timesteps, ...weights }],
        noise: [{ schedule, weightSharpness: 0.7 }, {}, { timesteps: move(timesteps), weightNoise: both(xi, move) }, { timesteps, weightNoise: xi }],
        'noise on the host': [{ schedule, weightSharpness: 0.7 }, {}, { timesteps: move(timesteps), weightNoise: xi }, { timesteps, weightNoise: xi }],
        'noise on the device, timesteps on the host': [{ schedule, weightSharpness: 0.7 }, {}, { timesteps, weightNoise: both(xi, move) }, { timesteps, weightNoise: xi }],
        'reference errors': [{ schedule }, {}, { timesteps: move(timesteps), error: (x) => move(x) }, { timesteps, error: (x) => x }],
        scales: [{ schedule, safeguard: 0.5 }, { gradientScale: 8, denominator: 3 }, { timesteps: move(timesteps) }, { timesteps }],
        statistics: [{ schedule }, { gradients: false }, { timesteps: move(timesteps) }, { timesteps }],
      };
      for (const objective of ['sdpo', 'dpo-cm']) {
        for (const [name, [more, call, onDevice, onHost]] of Object.entries(cases)) {
          const loss = new PreferenceLoss({ ...options, objective, ...more });
          const { batch } = makeBatch(shape, 3, D);
          const with_ = ({ error, ...scalars }) => {
            const branch = (b, values) => (error ? { policy: b.policy, target: b.target, referenceError: error(values) } : b);
            return { ...batch, transition: undefined, ...scalars, chosen: branch(batch.chosen, [0.2, 0.3, 0.4, 0.5, 0.6]), rejected: branch(batch.rejected, [0.6, 0.5, 0.4, 0.3, 0.2]) };
          };
          const expected = loss.evaluate(with_(onHost), call);
          const actual = loss.evaluate(with_(onDevice), { ...call, results: 'device' });
          out[objective + ': ' + name] = unequal(actual, expected);
        }
      }
      show(out);`);
    for (const [name, wrong] of Object.entries(result)) t.same(wrong, [], name);
    t.equal(Object.keys(result).length, 34);
  });

  t.test('element weights, stacked policies, streams', async (t) => {
    const result = run<Record<string, unknown>>(`
      const loss = new PreferenceLoss({ ...options, objective: 'sdpo' });
      const stream = new Stream(D);
      const weighted = makeBatch({ ...shape, elementWeights: true }, 4, D).batch;
      const apart = makeBatch({ ...shape, elementWeights: 'of each branch' }, 4, D).batch;
      const stacked = makeBatch({ ...shape, layout: 'halves' }, 5, D).batch;
      const actual = loss.evaluate(stacked, { results: 'device', stream });
      // Work of another stream on what the call reads and writes comes after it.
      const expected = loss.evaluate(makeBatch({ ...shape, layout: 'halves' }, 5, D).batch);
      const later = loss.evaluate(stacked, { results: 'device', into: actual, stream: new Stream(D) });
      show({
        weighted: unequal(loss.evaluate(weighted, { results: 'device', stream }), loss.evaluate(weighted)),
        apart: unequal(loss.evaluate(apart, { results: 'device', stream }), loss.evaluate(apart)),
        differ: loss.evaluate(apart).rows.errorRejected[0] !== loss.evaluate(weighted).rows.errorRejected[0],
        stacked: unequal(actual, expected),
        packed: actual.packed.shape, dtype: actual.packed.dtype, device: actual.loss.device,
        stackedShape: actual.gradients.stacked.shape,
        same: later === actual,
        view: equal([...actual.packed.toHost().subarray(0, 5)], [...actual.rows.loss.toHost()]),
      });`);
    t.same(result, {
      weighted: [],
      apart: [],
      differ: true,
      stacked: [],
      packed: [5 * 27 + 22],
      dtype: 'float64',
      device: 'cuda:0',
      stackedShape: [10, 1003],
      same: true,
      view: true,
    });
  });

  t.test('nothing waits, and with a result to write into nothing is allocated', async (t) => {
    const result = run<{ first: number[]; later: number[]; wrong: string[]; blocking: number; read: number }>(`
      const schedule = NoiseSchedule.preset('sd15');
      const loss = new PreferenceLoss({ ...options, objective: 'sdpo', schedule });
      const made = makeBatch(shape, 6, D);
      const timesteps = move([1, 999, 500, 20, 741]);
      const batch = { ...made.batch, transition: undefined, timesteps, rowWeights: [1, 2, 3, 4, 5] };
      loss.evaluate(batch, { results: 'device' }).dispose(); // uploads the table of the schedule
      const since = ([w, a]) => { const [waits, allocations] = done(); return [waits - w, allocations - a]; };
      let start = done();
      const result = loss.evaluate(batch, { results: 'device' });
      const first = since(start);
      start = done();
      for (let i = 0; i < 20; i++) loss.evaluate(batch, { results: 'device', into: result });
      const gradients = loss.gradients(batch, result.coefficients);
      const later = since(start);
      start = done();
      const host = { ...batch, timesteps: [1, 999, 500, 20, 741] };
      const expected = loss.evaluate(host);
      const blocking = since(start)[0];
      start = done();
      result.toHost();
      const read = since(start)[0];
      const wrong = unequal(result, expected);
      for (const branch of ['chosen', 'rejected']) if (!equal(gradients[branch].toHost(), expected.gradients[branch].toHost())) wrong.push('gradients() of ' + branch);
      show({ first, later, wrong, blocking, read });`);
    t.same(result.first, [0, 3], 'a call makes two gradients and one block of results');
    t.same(result.later, [0, 2], 'with into none; gradients by themselves make two');
    t.same(result.wrong, []);
    t.equal(result.blocking, 1, 'a call with results on the host is seen to wait');
    t.ok(result.read > 0, 'and so is a look at the results');
  });

  t.test('a value that a list may not have makes its row count as not finite', async (t) => {
    const result = run<Record<string, unknown>>(`
      const out = {};
      const schedule = NoiseSchedule.preset('sd15');
      const good = [1, 2, 3, 4, 5];
      for (const nonFinite of ['skip', 'propagate']) {
        const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20, nonFinite, schedule });
        const { batch } = makeBatch(shape, 7, D);
        const at = (name, change) => {
          const result = loss.evaluate({ ...batch, transition: undefined, timesteps: move(good), ...change }, { results: 'device' });
          const zero = result.gradients.chosen.toHost().subarray(1003, 2 * 1003);
          out[nonFinite + ' ' + name] = [result.metrics.nonFiniteRows.toHost()[0], Number.isNaN(result.rows.loss.toHost()[1]), zero.every((x) => (nonFinite === 'skip' ? x === 0 : Number.isNaN(x)))];
        };
        const bad = (x, other = 1) => move([other, x, other, other, other]);
        for (const t of [-1, 1000, 2.5, NaN, Infinity]) at('timestep ' + t, { timesteps: bad(t) });
        for (const w of [-1, NaN, Infinity]) at('weight ' + w, { rowWeights: bad(w) });
        for (const o of [-1, NaN]) at('omega ' + o, { transition: { omega: bad(o) } });
        at('offset', { transition: { offsetChosen: bad(Infinity) } });
        at('noise', { weightNoise: { chosen: bad(NaN), rejected: good } });
        at('policy', { chosen: { ...batch.chosen, policy: (() => { const x = batch.chosen.policy.toFloat32(); x[1003 + 5] = NaN; return Tensor.from(x, { shape: [5, 1003] }).to(D); })() } });
      }
      show(out);`);
    t.equal(Object.keys(result).length, 26);
    for (const [name, [count, notANumber, gradient]] of Object.entries(result) as [string, unknown[]][]) {
      t.same([count, notANumber, gradient], [1, name.startsWith('propagate'), true], name);
    }
  });

  t.test('wrong arguments', async (t) => {
    const result = run<Record<string, { code: string; message: string }>>(`
      const schedule = NoiseSchedule.preset('sd15');
      const make = (more = {}) => new PreferenceLoss({ ...options, objective: 'sdpo', schedule, ...more });
      const { batch: whole } = makeBatch(shape, 8, D);
      const { transition, ...batch } = { ...whole, timesteps: move([1, 2, 3, 4, 5]) };
      const device = { results: 'device' };
      const result = make().evaluate(batch, device);
      const other = make().evaluate({ ...makeBatch({ ...shape, rows: 2 }, 9, D).batch, timesteps: [1, 2] }, device);
      const gone = move([1, 2, 3, 4, 5]);
      gone.dispose();
      const freed = make().evaluate(batch, device);
      freed.dispose();
      const at = (change, call = device, more) => thrown(() => make(more).evaluate({ ...batch, ...change }, call));
      const host = makeBatch(shape, 8, 'cpu').batch;
      show({
        throws: at({}, device, { nonFinite: 'throw' }),
        name: at({}, { results: 'gpu' }),
        cpu: thrown(() => make().evaluate({ ...host, timesteps: [1, 2, 3, 4, 5] }, device)),
        async: await make().evaluateAsync(batch, device).catch((e) => ({ code: e.code, message: e.message })),
        onHost: at({}, {}),
        weightsOnHost: at({ timesteps: [1, 2, 3, 4, 5], rowWeights: move([1, 2, 3, 4, 5]) }, {}),
        dtype: at({ timesteps: move([1, 2, 3, 4, 5], 'float16') }),
        place: at({ timesteps: Tensor.from([1, 2, 3, 4]) }),
        shape: at({ rowWeights: move([1, 2]) }),
        disposed: at({ timesteps: gone }),
        list: at({ timesteps: [1, 2, 3, 4, 1000] }),
        rows: at({ timesteps: move([1, 2]) }),
        type: at({ timesteps: 'late' }),
        missing: at({ timesteps: { chosen: [1, 2, 3, 4, 5] } }),
        flow: at({}, device, { schedule: NoiseSchedule.preset('sd3') }),
        none: at({}, device, { schedule: undefined }),
        half: at({ transition: { omega: { chosen: move([1, 2, 3, 4, 5]) } } }),
        ratio: at({ transition: { offsetChosen: move([1, 2, 3, 4, 5]) } }, device, { weightRatio: 'policy/reference' }),
        into: at({}, { ...device, into: other }),
        intoHost: at({}, { ...device, into: make().evaluate({ ...batch, timesteps: [1, 2, 3, 4, 5] }) }),
        hostInto: at({ timesteps: [1, 2, 3, 4, 5] }, { into: result }),
        intoDisposed: at({}, { ...device, into: freed }),
        view: thrown(() => freed.loss.toHost()),
        back: thrown(() => freed.toHost()),
        coefficients: thrown(() => make().gradients(batch, other.coefficients)),
        tensors: thrown(() => make().gradients({ ...batch, timesteps: [1, 2, 3, 4, 5] }, { chosen: { a: result.coefficients.chosen.a }, rejected: result.coefficients.rejected })),
      });`);
    const expected: Record<string, [string, RegExp]> = {
      throws: ['ERR_SDPO_INVALID_OPTION', /options\.nonFinite.*'skip' or 'propagate'.*received "throw"/],
      name: ['ERR_SDPO_INVALID_ARG_VALUE', /call\.results.*'host', 'device'.*"gpu"/],
      cpu: ['ERR_SDPO_DEVICE', /call\.results.*cpu/],
      async: ['ERR_SDPO_INVALID_OPTION', /call\.results.*evaluateAsync/],
      onHost: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.timesteps/],
      weightsOnHost: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.rowWeights/],
      dtype: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.timesteps.*float64 or float32/],
      place: ['ERR_SDPO_INVALID_LENGTH', /batch\.timesteps.*5.*4/],
      shape: ['ERR_SDPO_INVALID_LENGTH', /batch\.rowWeights.*\[5\].*\[2\]/],
      disposed: ['ERR_SDPO_DISPOSED', /batch\.timesteps/],
      list: ['ERR_SDPO_INVALID_ARG_VALUE', /batch\.timesteps\[4\].*1000/],
      rows: ['ERR_SDPO_INVALID_LENGTH', /batch\.timesteps.*\[5\].*\[2\]/],
      type: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.timesteps.*Tensor.*received "late"/],
      missing: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.timesteps\.rejected/],
      flow: ['ERR_SDPO_INVALID_OPTION', /batch\.timesteps.*flow/],
      none: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.transition\.omega/],
      half: ['ERR_SDPO_INVALID_ARG_TYPE', /batch\.transition\.omega\.rejected/],
      ratio: ['ERR_SDPO_INVALID_OPTION', /offsetChosen/],
      into: ['ERR_SDPO_INVALID_LENGTH', /call\.into.*5 rows on cuda:0.*2 rows/],
      intoHost: ['ERR_SDPO_INVALID_ARG_TYPE', /call\.into/],
      hostInto: ['ERR_SDPO_INVALID_ARG_TYPE', /call\.into/],
      intoDisposed: ['ERR_SDPO_DISPOSED', /call\.into/],
      view: ['ERR_SDPO_DISPOSED', /tensor/],
      back: ['ERR_SDPO_DISPOSED', /tensor/],
      coefficients: ['ERR_SDPO_INVALID_LENGTH', /coefficients.*5 rows.*2 rows/],
      tensors: ['ERR_SDPO_INVALID_ARG_TYPE', /coefficients\.chosen\.a/],
    };
    t.same(Object.keys(result).sort(), Object.keys(expected).sort());
    for (const [name, [code, message]] of Object.entries(expected)) t.match(result[name], { code, message }, name);
  });

  t.test('the checks of the self-test pass', async (t) => {
    const result = run<unknown[]>(`
      const { deviceResultChecks } = await import(${url('../../lib/selftest/device-results.ts')});
      const held = used();
      const out = [];
      for (const { name, run } of deviceResultChecks) {
        try { await run(D); out.push('ok'); } catch (e) { out.push(name + ': ' + e.message); }
      }
      show([...out, used() - held]);`);
    t.same(result, ['ok', 'ok', 'ok', 'ok', 5 * 8 * 1000], 'what stays are the tables of the schedules');
  });

  t.test('failures and disposal leave nothing behind', async (t) => {
    const result = run<Record<string, unknown>>(`
      const loss = new PreferenceLoss({ ...options, objective: 'sdpo' });
      const made = makeBatch(shape, 10, D);
      const held = used();
      const result = loss.evaluate(made.batch, { results: 'device', gradients: false });
      result.loss.dispose(); // a view frees nothing
      const withResult = used() - held;
      result[Symbol.dispose ?? 'dispose']();
      result.dispose();
      const afterUsing = used() - held;
      const big = makeBatch({ rows: 1, size: 2 ** 22, dtype: 'float32' }, 11, D);
      const filled = used();
      const fill = [];
      try { for (;;) fill.push(Tensor.empty([2 ** 22], { device: D })); } catch {}
      const full = used();
      const failed = thrown(() => loss.evaluate(big.batch, { results: 'device' })).code;
      show({ withResult, afterUsing, failed, left: used() - full });`);
    t.same(result, { withResult: 8 * (5 * 27 + 22), afterUsing: 0, failed: 'ERR_SDPO_OUT_OF_MEMORY', left: 0 });
  });
}
