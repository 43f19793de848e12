/** The checks of the self-test. */

import { PreferenceLoss } from '../loss/loss.js';
import { NoiseSchedule } from '../schedule/schedule.js';
import { DTYPES } from '../tensor/dtypes.js';
import { noise, randomBits } from '../tensor/noise.js';
import { Stream } from '../tensor/stream.js';
import { split, Tensor } from '../tensor/tensor.js';
import { type CaseShape, makeBatch } from './batches.js';
import { close, identical, throws } from './compare.js';
import { againstCpu, type Check, DEFAULTS, dispose, lossFor, referenceChecks, SHAPES } from './comparisons.js';
import { deviceResultChecks } from './device-results.js';

// ---- Determinism, streams, promises

const LARGE: CaseShape = { rows: 3, size: 100_003, dtype: 'bfloat16' };

const determinism: Check[] = [
  {
    group: 'determinism',
    name: 'two runs give the same bits',
    run(device) {
      for (const dtype of DTYPES) {
        const made = makeBatch({ ...LARGE, dtype }, 900, device);
        const loss = lossFor(DEFAULTS);
        const first = loss.evaluate(made.batch);
        const second = loss.evaluate(made.batch);
        identical(dtype, second, first);
        dispose(made, first, second);
      }
    },
  },
  {
    group: 'determinism',
    name: 'the two passes by themselves give the bits of the fused call',
    run(device) {
      const made = makeBatch(LARGE, 901, device);
      const loss = lossFor(DEFAULTS);
      const fused = loss.evaluate(made.batch);
      const gradients = loss.gradients(made.batch, loss.evaluate(made.batch, { gradients: false }).coefficients);
      identical('passes', { ...fused, rows: fused.rows, metrics: fused.metrics, loss: fused.loss, gradients }, fused);
      dispose(made, fused, { ...fused, gradients });
    },
  },
  {
    group: 'determinism',
    name: 'threads, or streams, make no difference',
    run(device) {
      const made = makeBatch(LARGE, 902, device);
      const first = lossFor(DEFAULTS).evaluate(made.batch);
      const { objective, beta, clipRange, maskThreshold } = DEFAULTS;
      for (const threads of device === 'cpu' ? [1, 2, 7] : []) {
        const loss = new PreferenceLoss({ objective, beta, clipRange, maskThreshold, threads });
        const other = loss.evaluate(made.batch);
        identical(`${threads} threads`, other, first);
        dispose({ ...made, owned: [] }, other);
      }
      const streams = device === 'cpu' ? [] : [new Stream(device), new Stream(device)];
      for (const stream of streams) {
        const other = lossFor(DEFAULTS).evaluate(made.batch, { stream });
        identical('another stream', other, first);
        dispose({ ...made, owned: [] }, other);
        stream.dispose();
      }
      dispose(made, first);
    },
  },
  {
    group: 'promises',
    name: 'many calls under way give the bits of single calls',
    async run(device) {
      const made = makeBatch(LARGE, 903, device);
      const loss = lossFor(DEFAULTS);
      const expected = loss.evaluate(made.batch);
      const streams = device === 'cpu' ? [undefined] : [undefined, new Stream(device), new Stream(device)];
      const calls = Array.from({ length: 12 }, (_, i) =>
        loss.evaluateAsync(made.batch, { stream: streams[i % streams.length] }),
      );
      for (const actual of await Promise.all(calls)) {
        identical('evaluateAsync', actual, expected);
        dispose({ ...made, owned: [] }, actual);
      }
      for (const stream of streams) stream?.dispose();
      dispose(made, expected);
    },
  },
  {
    group: 'promises',
    name: 'tensors may be disposed while a call is under way',
    cudaOnly: true,
    async run(device) {
      const made = makeBatch(LARGE, 904, device);
      const loss = lossFor(DEFAULTS);
      const expected = loss.evaluate(made.batch);
      const call = loss.evaluateAsync(made.batch);
      for (const tensor of made.owned) tensor.dispose();
      const actual = await call;
      identical('evaluateAsync', actual, expected);
      dispose(made, actual, expected);
    },
  },
];

// ---- Elementwise operations and copies

/** How far the normals of two libraries of mathematics lie apart: native/core/philox.h derives it, for the largest radius. */
const NORMAL_ERROR = 13 * 2 ** -53 * Math.sqrt(66 * Math.LN2);

const elementwise: Check[] = [
  {
    group: 'noise',
    name: 'Philox4x32-10 gives the published words',
    run() {
      // Random123, kat_vectors: counter and key zero.
      close('words', randomBits(0, 0, new Uint32Array(4)), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8], 0);
    },
  },
  {
    group: 'noise',
    name: 'normals are those of the CPU, at any offset',
    run(device) {
      for (const [offset, count] of [
        [0, 4097],
        [3, 1],
        [2 ** 33 + 5, 1023],
      ] as const) {
        const out = Tensor.empty([count], { dtype: 'float64', device });
        noise(12345678901, offset, out);
        const expected = noise(12345678901, offset, new Float64Array(count));
        close(`offset ${offset}`, out.toFloat64(), expected, device === 'cpu' ? 0 : NORMAL_ERROR);
        out.dispose();
      }
    },
  },
  {
    group: 'schedule',
    name: 'addNoise and target are a x + b y, rounded once',
    run(device) {
      const schedule = NoiseSchedule.preset('cogvideox-2b');
      const timesteps = [3, 500, 999];
      for (const dtype of DTYPES) {
        const made = makeBatch({ rows: 3, size: 1003, dtype }, 905, 'cpu');
        const [x, e] = [made.batch.chosen.policy, made.batch.chosen.target as Tensor];
        const others = e.toFloat64();
        const [onX, onE] = [x.to(device), e.to(device)];
        for (const name of ['addNoise', 'target'] as const) {
          const actual = schedule[name](onX, onE, timesteps);
          const [a, s] = [schedule.signal.bind(schedule), schedule.sigma.bind(schedule)];
          const expected = x.toFloat64().map((value, i) => {
            const t = timesteps[Math.floor(i / 1003)]!;
            const other = others[i]!;
            return name === 'addNoise' ? a(t) * value + s(t) * other : a(t) * other - s(t) * value;
          });
          const rounded = Tensor.from(expected, { dtype }).toFloat64();
          close(`${name}, ${dtype}`, actual.toFloat64(), rounded, 0);
          actual.dispose();
        }
        for (const tensor of [onX, onE]) if (device !== 'cpu') tensor.dispose();
        dispose(made);
      }
    },
  },
  {
    group: 'copies',
    name: 'there and back gives the same bits',
    run(device) {
      // Three chunks of a staged copy, its edges, and small ones.
      for (const count of [0, 1, 3, 32767, 32768, 5 * 2 ** 20 + 1]) {
        const data = Uint16Array.from({ length: count }, (_, i) => (i * 40503) & 0xffff);
        const tensor = Tensor.from(data, { dtype: 'bfloat16' }).to(device);
        close(`${count} elements`, tensor.toHost(), data, 0);
        if (device !== 'cpu') tensor.dispose();
      }
    },
  },
  {
    group: 'copies',
    name: 'views, in both directions; zeros',
    run(device) {
      const values = Float32Array.from({ length: 6 * 30_011 }, (_, i) => i);
      const host = Tensor.from(values, { shape: [6, 30_011] });
      const there = host.to(device);
      for (const layout of ['halves', 'interleaved'] as const) {
        const [expected, actual] = [split(host, layout), split(there, layout)];
        for (const branch of ['chosen', 'rejected'] as const) {
          const rows = expected[branch].toHost();
          close(`${layout} down`, actual[branch].toHost(), rows, 0);
          const copy = expected[branch].to(device);
          close(`${layout} up`, copy.toHost(), rows, 0);
          if (device !== 'cpu') copy.dispose();
        }
      }
      if (device !== 'cpu') there.dispose();
      const zeros = Tensor.empty([3, 1000], { dtype: 'float16', device });
      close('zeros', zeros.toFloat64(), new Float64Array(3000), 0);
      zeros.dispose();
    },
  },
];

// ---- Errors

const errors: Check[] = [
  {
    group: 'errors',
    name: 'a non-finite value is named: row, branch, tensor and element',
    async run(device) {
      for (const [branch, tensor] of [
        ['chosen', 'policy'],
        ['rejected', 'reference'],
        ['rejected', 'target'],
      ] as const) {
        const made = makeBatch({ rows: 4, size: 5003, dtype: 'float32' }, 906, 'cpu');
        (made.batch[branch][tensor] as Tensor).data[2 * 5003 + 4001] = Number.NaN;
        const owned = [...made.owned];
        const move = (value: Tensor) => {
          const moved = value.to(device);
          owned.push(moved);
          return moved;
        };
        const moved = (name: 'chosen' | 'rejected') => {
          const { policy, reference: frozen, target } = made.batch[name];
          return { policy: move(policy), reference: move(frozen as Tensor), target: move(target as Tensor) };
        };
        const batch = { ...made.batch, chosen: moved('chosen'), rejected: moved('rejected') };
        const loss = lossFor(DEFAULTS);
        const where = { row: 2, branch, tensor, element: 4001 };
        await throws(`${branch}.${tensor}`, () => loss.evaluate(batch), 'ERR_SDPO_NON_FINITE', where);
        await throws(`${branch}.${tensor}`, () => loss.evaluateAsync(batch), 'ERR_SDPO_NON_FINITE', where);
        dispose({ ...made, owned });
      }
    },
  },
  {
    group: 'errors',
    name: 'a disposed tensor, an aborted call, an unknown device',
    async run(device) {
      const made = makeBatch({ rows: 2, size: 9, dtype: 'float32' }, 907, device);
      const loss = lossFor(DEFAULTS);
      await throws('device', () => made.batch.chosen.policy.to('cuda:99'), 'ERR_SDPO_DEVICE');
      const aborted = { signal: AbortSignal.abort() };
      await throws('abort', () => loss.evaluateAsync(made.batch, aborted), 'ERR_SDPO_ABORTED');
      const weights = Tensor.from(new Float32Array(9)).to(device);
      const batch = { ...made.batch, elementWeights: weights };
      await throws('element weights', () => loss.evaluate(batch), 'ERR_SDPO_ELEMENT_WEIGHTS');
      weights.dispose();
      made.batch.chosen.policy.dispose();
      await throws('disposed', () => loss.evaluate(made.batch), 'ERR_SDPO_DISPOSED');
      dispose(made);
    },
  },
  {
    group: 'errors',
    name: 'tensors of two devices in one call; data of a device',
    cudaOnly: true,
    async run(device) {
      const shape: CaseShape = { rows: 2, size: 9, dtype: 'float32' };
      const [here, there] = [makeBatch(shape, 908, 'cpu'), makeBatch(shape, 908, device)];
      const mixed = { ...there.batch, rejected: here.batch.rejected };
      await throws('mixed', () => lossFor(DEFAULTS).evaluate(mixed), 'ERR_SDPO_DEVICE');
      await throws('data', () => there.batch.chosen.policy.data, 'ERR_SDPO_DEVICE');
      dispose(here);
      dispose(there);
    },
  },
  {
    group: 'errors',
    name: 'memory that is not there, and life after it',
    cudaOnly: true,
    async run(device) {
      const shape = [2 ** 20, 2 ** 26];
      await throws('allocation', () => Tensor.empty(shape, { device }), 'ERR_SDPO_OUT_OF_MEMORY', {
        name: 'CudaError',
        device,
        contextLost: false,
      });
      const made = makeBatch({ rows: 2, size: 9, dtype: 'float32' }, 909, device);
      const result = lossFor(DEFAULTS).evaluate(made.batch);
      dispose(made, result);
    },
  },
];

export const CHECKS: readonly Check[] = [
  ...referenceChecks(),
  ...SHAPES.map(againstCpu),
  ...determinism,
  ...deviceResultChecks,
  ...elementwise,
  ...errors,
];
