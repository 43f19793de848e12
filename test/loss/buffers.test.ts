/** Memory that moves or goes away: detached, resizable and shared buffers, before and during a call. */

import { inspect } from 'node:util';
import t from 'tap';
import {
  type Batch,
  type LatentArray,
  NoiseSchedule,
  noise,
  PreferenceLoss,
  type Statistics,
  Tensor,
} from '../../lib/index.js';
import { branches, digests, type FullBatch, largeBatch, latents, storedOf, tensors } from '../helpers/batches.js';
import { type DType, dtypes, type TypedArray } from '../helpers/dtypes.js';
import { failureOf } from '../helpers/failures.js';

const [rows, size] = [2, 4099];
const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20, klWeight: 0.5 });

const detach = (array: TypedArray) => structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });

interface ResizableBuffer extends ArrayBuffer {
  resize(bytes: number): void;
}
const ResizableBuffer = ArrayBuffer as unknown as new (
  bytes: number,
  options: { maxByteLength: number },
) => ResizableBuffer;

/** The same elements in a resizable buffer; the view follows the buffer's length where it is asked to. */
function resizable(stored: TypedArray, follows: boolean): TypedArray {
  const buffer = new ResizableBuffer(stored.byteLength, { maxByteLength: 2 * stored.byteLength });
  const Stored = stored.constructor as new (buffer: ArrayBuffer, offset?: number, length?: number) => TypedArray;
  const view = follows ? new Stored(buffer) : new Stored(buffer, 0, stored.length);
  view.set(stored);
  return view;
}

function shared(stored: TypedArray): TypedArray {
  const Stored = stored.constructor as new (buffer: SharedArrayBuffer) => TypedArray;
  const view = new Stored(new SharedArrayBuffer(stored.byteLength));
  view.set(stored);
  return view;
}

/** Every operand of a batch in turn, replaced by one whose storage the test can take away. */
function* operands(dtype: DType, place: (stored: TypedArray) => TypedArray) {
  for (const branch of branches) {
    for (const tensor of tensors) {
      const batch = largeBatch(rows, size, dtype);
      const stored = place(storedOf(batch[branch][tensor]));
      yield {
        name: `${dtype} ${branch}.${tensor}`,
        stored,
        batch: { ...batch, [branch]: { ...batch[branch], [tensor]: latents(stored, dtype, rows) } } as FullBatch,
      };
    }
  }
}

const calls: Record<string, (batch: Batch) => unknown> = {
  evaluate: (batch) => loss.evaluate(batch),
  evaluateAsync: (batch) => loss.evaluateAsync(batch),
  moments: (batch) => loss.moments(batch),
  gradients: (batch) => loss.gradients(batch, { chosen: { a: [1, 1] }, rejected: { a: [1, 1] } }),
};
const lengthError = (argument: string) => ({
  code: 'ERR_SDPO_INVALID_LENGTH',
  message: new RegExp(argument.replace(/^\S+ /, 'batch.')),
});

t.test('detached before the call: an error that names the argument', async (t) => {
  for (const [name, call] of Object.entries(calls)) {
    for (const dtype of dtypes) {
      for (const operand of operands(dtype, (stored) => stored)) {
        detach(operand.stored);
        t.match(await failureOf(() => call(operand.batch)), lengthError(operand.name), `${name}, ${operand.name}`);
      }
    }
    for (const elementWeights of [new Float32Array(size), Tensor.from(new Uint16Array(size), { dtype: 'bfloat16' })]) {
      detach(elementWeights instanceof Tensor ? elementWeights.data : elementWeights);
      t.match(
        await failureOf(() => call({ ...largeBatch(rows, size, 'float32'), elementWeights })),
        { code: 'ERR_SDPO_INVALID_LENGTH', message: /batch\.elementWeights/ },
        `${name}, element weights`,
      );
    }
  }
  const x0 = Tensor.from(new Float32Array(4), { shape: [2, 2] });
  detach(x0.data);
  t.match(await failureOf(() => NoiseSchedule.preset('sd15').addNoise(x0, x0, [1, 2])), {
    code: 'ERR_SDPO_INVALID_LENGTH',
    message: /x0/,
  });
});

t.test('a buffer that a getter takes away during the checks is noticed before it is read', async (t) => {
  for (const dtype of dtypes) {
    for (const asynchronous of [false, true]) {
      for (const operand of operands(dtype, (stored) => resizable(stored, true))) {
        // Row weights are read after the tensors were checked.
        const rowWeights = [1, 1];
        Object.defineProperty(rowWeights, 1, {
          get() {
            (operand.stored.buffer as ResizableBuffer).resize(0);
            return 1;
          },
        });
        const batch = { ...operand.batch, rowWeights };
        const error = await failureOf(() => (asynchronous ? loss.evaluateAsync(batch) : loss.evaluate(batch)));
        t.match(
          (error as { code?: string })?.code,
          /^ERR_SDPO_/,
          `${operand.name} ${asynchronous ? 'async' : 'sync'}: ${error?.message}`,
        );
      }
    }
  }
});

t.test('resizable buffers are read where they are by the synchronous call', async (t) => {
  for (const dtype of dtypes) {
    const expected = digests(loss.evaluate(largeBatch(rows, size, dtype)));
    for (const follows of [false, true]) {
      for (const { name, batch } of operands(dtype, (stored) => resizable(stored, follows))) {
        t.same(digests(loss.evaluate(batch)), expected, `${name}, ${follows ? 'following' : 'fixed'}`);
      }
    }
  }
});

t.test('a buffer that was made too short is an error', async (t) => {
  for (const follows of [false, true]) {
    for (const operand of operands('float32', (stored) => resizable(stored, follows))) {
      (operand.stored.buffer as ResizableBuffer).resize(operand.stored.byteLength - 4);
      for (const [name, call] of Object.entries(calls)) {
        t.match(await failureOf(() => call(operand.batch)), lengthError(operand.name), `${name}, ${operand.name}`);
      }
    }
    const bits = resizable(new Uint16Array(8), follows);
    const tensor = Tensor.from(bits, { shape: [2, 4], dtype: 'float16' });
    (bits.buffer as ResizableBuffer).resize(6);
    const side = { policy: tensor, reference: new Float32Array(8), target: new Float32Array(8) };
    const batch = { timesteps: [1, 1], chosen: side, rejected: side, transition: { omega: [1, 1] } };
    t.match(await failureOf(() => loss.evaluate(batch)), {
      code: 'ERR_SDPO_INVALID_LENGTH',
      message: /batch\.chosen\.policy/,
    });
  }
});

t.test('resizable buffers are copied by the asynchronous call, and may shrink while it runs', async (t) => {
  for (const dtype of dtypes) {
    const expected = digests(loss.evaluate(largeBatch(rows, size, dtype)));
    for (const { name, stored, batch } of operands(dtype, (array) => resizable(array, true))) {
      const pending = loss.evaluateAsync(batch);
      (stored.buffer as ResizableBuffer).resize(0);
      t.same(digests(await pending), expected, name);
    }
  }
  const elementWeights = resizable(new Float32Array(size).fill(1), true) as Float32Array;
  const weighted = { ...largeBatch(rows, size, 'float32'), elementWeights };
  const expected = digests(loss.evaluate(weighted));
  const pending = loss.evaluateAsync(weighted);
  (elementWeights.buffer as ResizableBuffer).resize(0);
  t.same(digests(await pending), expected, 'element weights');
});

t.test('scalars are read before the asynchronous call returns', async (t) => {
  const batch = largeBatch(rows, size, 'float32');
  const expected = digests(loss.evaluate(batch));
  const pending = loss.evaluateAsync(batch);
  (batch.timesteps as Float64Array).fill(NaN);
  (batch.transition!.omega as Float64Array).fill(NaN);
  t.same(digests(await pending), expected);
});

t.test('shared buffers are read and written like others', async (t) => {
  for (const dtype of dtypes) {
    const expected = digests(loss.evaluate(largeBatch(rows, size, dtype)));
    for (const { name, batch } of operands(dtype, shared)) {
      t.same(digests(loss.evaluate(batch)), expected, name);
      t.same(digests(await loss.evaluateAsync(batch)), expected, `${name}, async`);
    }
  }
  const out = shared(new Float32Array(100)) as Float32Array;
  t.same(noise(1, 0, out), noise(1, 0, new Float32Array(100)), 'noise');
});

t.test('inputs are not written', async (t) => {
  for (const dtype of dtypes) {
    const batch = largeBatch(rows, size, dtype);
    const each = () =>
      branches.flatMap((branch) => tensors.map((name) => storedOf(batch[branch][name] as LatentArray).slice()));
    const before = each();
    loss.evaluate(batch);
    await loss.evaluateAsync(batch);
    t.same(each(), before, dtype);
  }
});

t.test('what a result is asked for first after it was written again, or gave its buffer away', async (t) => {
  const [batch, other] = [largeBatch(rows, size, 'float32'), largeBatch(rows, size, 'bfloat16')];
  const call = { gradients: false } as const;
  const expected = digests(loss.evaluate(batch, call));
  const into = loss.evaluate(other, call);
  t.same(digests(loss.evaluate(batch, { ...call, into })), expected, 'nothing was asked for before');
  const { rows: columns, metrics, coefficients } = into;
  loss.evaluate(other, { ...call, into });
  t.not(metrics.loss, loss.evaluate(batch, call).metrics.loss);
  loss.evaluate(batch, { ...call, into });
  t.ok(columns === into.rows && metrics === into.metrics && coefficients === into.coefficients, 'the same objects');
  t.same(digests(into), expected, 'with other numbers');
  for (const give of [
    (result: Statistics) => detach(result.rows.loss),
    (result: Statistics) => detach(result.coefficients.chosen.a),
  ]) {
    const given = loss.evaluate(batch, call);
    give(given);
    t.same(given.metrics, metrics, 'metrics are numbers, not views');
  }
  const { loss: number, ...rest } = loss.evaluate(batch, call);
  t.same({ number, ...rest }, { number: into.loss, rows: columns, metrics, coefficients, gradients: undefined });
  t.match(inspect(loss.evaluate(batch)), /^{\n {2}loss: .*\bgradients: .*\brows: .*\bmetrics: .*\bcoefficients: /s);
});

t.test('a gradient of `into` may be a tensor of its own branch', async (t) => {
  for (const dtype of dtypes) {
    for (const branch of branches) {
      for (const tensor of tensors) {
        const batch = largeBatch(rows, size, dtype);
        const expected = digests(loss.evaluate(batch));
        const into = loss.evaluate(batch);
        const gradient: LatentArray = into.gradients[branch];
        (gradient instanceof Tensor ? gradient.data : gradient).set(storedOf(batch[branch][tensor]));
        const given = { ...batch, [branch]: { ...batch[branch], [tensor]: into.gradients[branch] } };
        t.same(digests(loss.evaluate(given, { into })), expected, `${dtype}, ${branch}.${tensor}`);
      }
    }
  }
});
