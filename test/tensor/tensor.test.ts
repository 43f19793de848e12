/** Tensors: construction, sharing and copying of memory, conversion between dtypes, views of stacked batches, and disposal. */

import { runInNewContext } from 'node:vm';
import t from 'tap';
import { type DType, type LatentArray, PreferenceLoss, type SdpoError, split, Tensor } from '../../lib/index.js';
import { digests, largeBatch, storedOf } from '../helpers/batches.js';
import { uniformNumbers } from '../helpers/cases.js';
import { decode, dtypes, encode, epsilonOf, rounding, smallestNormal, type TypedArray } from '../helpers/dtypes.js';

const halves = ['float16', 'bfloat16'] as const;
const disposed = { name: 'SdpoError', code: 'ERR_SDPO_DISPOSED' };

t.test('from shares the memory of an array that holds the dtype', async (t) => {
  const cases: [TypedArray, DType][] = [
    [Float64Array.of(1, 2), 'float64'],
    [Float32Array.of(1, 2), 'float32'],
    [Uint16Array.of(1, 2), 'float16'],
    [Uint16Array.of(1, 2), 'bfloat16'],
  ];
  for (const [data, dtype] of cases) {
    const tensor = Tensor.from(data, { dtype });
    t.equal(tensor.data, data, dtype);
    data[0] = 7;
    t.equal(tensor.toHost()[0], 7, `${dtype}: a write to the array is a write to the tensor`);
    tensor.data[1] = 9;
    t.equal(data[1], 9, `${dtype}: and the other way round`);
  }
});

t.test('from converts other numbers and chooses a dtype for them', async (t) => {
  t.match(Tensor.from([1, 2, 3]), { dtype: 'float32', shape: [3], size: 3, byteLength: 12, device: 'cpu' });
  t.match(Tensor.from(Float32Array.of(1)), { dtype: 'float32' });
  t.match(Tensor.from(Float64Array.of(1)), { dtype: 'float64', byteLength: 8 });
  t.match(Tensor.from(Int8Array.of(-1, 2)), { dtype: 'float32', size: 2 });
  const wide = Float64Array.of(0.1, -1e300);
  for (const dtype of dtypes) {
    const tensor = Tensor.from(wide, { shape: [2, 1], dtype });
    t.same(tensor.toHost(), encode(dtype, wide), `${dtype} from float64`);
    t.same(tensor.shape, [2, 1]);
  }
});

t.test('the shape is a copy that nobody can change', async (t) => {
  const shape = [2, 3];
  const tensor = Tensor.from(new Float32Array(6), { shape });
  shape[0] = 6;
  t.same(tensor.shape, [2, 3]);
  t.throws(() => (tensor.shape as number[]).push(1), TypeError);
});

t.test('empty is zeros of the shape and dtype', async (t) => {
  for (const dtype of dtypes) {
    const tensor = Tensor.empty([2, 3], { dtype, device: 'cpu' });
    t.same(tensor.toFloat64(), new Float64Array(6), dtype);
    t.equal(tensor.dtype, dtype);
    t.equal(tensor.byteLength, 6 * tensor.data.BYTES_PER_ELEMENT);
  }
  t.equal(Tensor.empty([1]).dtype, 'float32');
  t.equal(Tensor.empty([0, 4]).size, 0);
});

t.test('toHost, toFloat32 and toFloat64 are copies', async (t) => {
  for (const dtype of dtypes) {
    const tensor = Tensor.from([1, 2], { dtype });
    for (const copy of [tensor.toHost(), tensor.toFloat32(), tensor.toFloat64()]) copy.fill(0);
    t.same(tensor.toFloat64(), Float64Array.of(1, 2), dtype);
    t.equal(tensor.toHost().constructor, tensor.data.constructor, 'toHost keeps the storage');
  }
  t.same(Tensor.from([0.1], { dtype: 'float64' }).toFloat32(), Float32Array.of(0.1), 'float64 is rounded to float32');
});

t.test('to the device where it is gives the tensor itself', async (t) => {
  const tensor = Tensor.from([1]);
  t.equal(tensor.to('cpu'), tensor);
});

t.test('a disposed tensor answers every use with one error, and disposing again is harmless', async (t) => {
  const make = () => {
    const tensor = Tensor.from([1, 2, 3, 4], { shape: [2, 2] });
    tensor.dispose();
    return tensor;
  };
  const uses: Record<string, (tensor: Tensor) => unknown> = {
    data: (tensor) => tensor.data,
    toHost: (tensor) => tensor.toHost(),
    toFloat32: (tensor) => tensor.toFloat32(),
    toFloat64: (tensor) => tensor.toFloat64(),
    to: (tensor) => tensor.to('cpu'),
    split: (tensor) => split(tensor, 'halves'),
  };
  for (const [name, use] of Object.entries(uses)) t.throws(() => use(make()), disposed, name);
  t.doesNotThrow(() => make().dispose());
  t.match(make(), { shape: [2, 2], dtype: 'float32', size: 4 }, 'shape and dtype stay known');

  const byUsing = Tensor.from([1]);
  byUsing[Symbol.dispose]();
  t.throws(() => byUsing.data, disposed, 'Symbol.dispose');
});

t.test('views outlive the tensor they were split from', async (t) => {
  const stacked = Tensor.from([1, 2, 3, 4]);
  const { rejected } = split(stacked, 'halves');
  stacked.dispose();
  t.same(rejected.toFloat64(), Float64Array.of(3, 4));
});

t.test('16-bit tensors read every bit pattern exactly', async (t) => {
  const bits = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
  for (const dtype of halves) {
    const tensor = Tensor.from(bits, { dtype });
    const expected = decode(dtype, bits);
    for (const values of [tensor.toFloat64(), Float64Array.from(tensor.toFloat32())]) {
      t.equal(firstDifference(values, expected), -1, dtype);
    }
    const again = Tensor.from(expected, { dtype }).toHost();
    const isNumber = (_: number, i: number) => !Number.isNaN(expected[i]);
    t.same(again.filter(isNumber), bits.filter(isNumber), `${dtype}: writing what was read gives the bits again`);
    t.ok(
      again.every((stored, i) => isNumber(0, i) || Number.isNaN(decode(dtype, [stored])[0])),
      `${dtype}: NaN stays NaN`,
    );
  }
});

t.test('numbers are rounded once, to nearest, ties to even', async (t) => {
  const uniform = uniformNumbers(7);
  for (const dtype of halves) {
    const patterns = Uint16Array.from({ length: 2 ** 15 }, (_, i) => i);
    const grid = decode(dtype, patterns).filter(Number.isFinite);
    const values: number[] = [
      0,
      -0,
      Infinity,
      -Infinity,
      1e-320,
      -1e-320,
      1e300,
      -1e300,
      65504,
      65519.99,
      65520,
      3.4e38,
      3.4e39,
    ];
    for (let i = 0; i + 1 < grid.length; i++) {
      const tie = (grid[i] + grid[i + 1]) / 2;
      // Just off the tie by less than float32 can tell: rounding by way of float32 would fall onto the tie.
      values.push(tie, -tie, tie * (1 + 2 ** -40), tie * (1 - 2 ** -40), grid[i] + uniform() * (grid[i + 1] - grid[i]));
    }
    const stored = Tensor.from(values, { dtype }).toHost();
    // The sign is that of the number, also where it is rounded to zero.
    const expected = encode(dtype, values.map(Math.abs)).map((bits, i) => bits | (isNegative(values[i]) ? 0x8000 : 0));
    t.equal(firstDifference(stored, expected), -1, `${dtype}: ${values.length} numbers`);
    const round = rounding(dtype);
    const spacing = epsilonOf(dtype) * smallestNormal(dtype);
    t.equal(round(spacing / 2), 0, 'the reference itself rounds the smallest tie to even');
    t.equal(Tensor.from([1.5 * spacing], { dtype }).toFloat64()[0], 2 * spacing, `${dtype}: a tie of subnormals`);
  }
});

const isNegative = (value: number) => value < 0 || Object.is(value, -0);

function firstDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  for (let i = 0; i < expected.length; i++) if (!Object.is(actual[i], expected[i])) return i;
  return actual.length === expected.length ? -1 : expected.length;
}

t.test('split gives views without a copy', async (t) => {
  const stacked = Tensor.from(
    Float32Array.from({ length: 12 }, (_, i) => i),
    { shape: [4, 3] },
  );
  const first = split(stacked, 'halves');
  t.same(first.chosen.toHost(), Float32Array.of(0, 1, 2, 3, 4, 5));
  t.same(first.rejected.toHost(), Float32Array.of(6, 7, 8, 9, 10, 11));
  const second = split(stacked, 'interleaved');
  t.same(second.chosen.toHost(), Float32Array.of(0, 1, 2, 6, 7, 8));
  t.same(second.rejected.toHost(), Float32Array.of(3, 4, 5, 9, 10, 11));
  t.same(second.rejected.shape, [2, 3]);
  stacked.data[3] = -1;
  t.equal(second.rejected.toHost()[0], -1, 'a write to the stacked tensor is seen in the view');
  first.rejected.data[0] = -2;
  t.equal(stacked.data[6], -2, 'and the other way round');
  t.throws(
    () => second.chosen.data,
    { code: 'ERR_SDPO_INVALID_ARG_VALUE', message: /toHost/ },
    'rows that lie apart have no data',
  );
  t.equal(split(Tensor.empty([2, 3]), 'interleaved').rejected.data.length, 3, 'a single row is contiguous');
});

t.test('the gradient of two views is one stacked gradient, bitwise that of separate tensors', async (t) => {
  const [rows, size] = [3, 37];
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20 });
  for (const dtype of dtypes) {
    const batch = largeBatch(rows, size, dtype);
    const expected = loss.evaluate(batch);
    for (const layout of ['halves', 'interleaved'] as const) {
      const label = `${dtype}, ${layout}`;
      const stack = (chosen: LatentArray, rejected: LatentArray) =>
        stackRows(storedOf(chosen), storedOf(rejected), rows, layout);
      const views = (tensor: 'policy' | 'reference' | 'target') => {
        const data = stack(batch.chosen[tensor], batch.rejected[tensor]);
        return split(Tensor.from(data, { shape: [2 * rows, size], dtype }), layout);
      };
      const [policy, reference, target] = [views('policy'), views('reference'), views('target')];
      const out = loss.evaluate({
        ...batch,
        chosen: { policy: policy.chosen, reference: reference.chosen, target: target.chosen },
        rejected: { policy: policy.rejected, reference: reference.rejected, target: target.rejected },
      });
      t.same(digests(out), digests(expected), label);
      const { stacked, chosen, rejected } = out.gradients;
      t.same(stacked?.shape, [2 * rows, size], `${label}: shape`);
      t.same(
        stacked?.toHost(),
        stack(expected.gradients.chosen, expected.gradients.rejected),
        `${label}: stacked gradient`,
      );
      stacked?.data.fill(0);
      t.ok(
        [chosen, rejected].every((view) => view.toFloat64().every((value) => value === 0)),
        `${label}: branches are views of it`,
      );
    }
  }
});

/** Rows of two arrays one after the other, as a stacked batch has them. */
function stackRows(
  chosen: TypedArray,
  rejected: TypedArray,
  rows: number,
  layout: 'halves' | 'interleaved',
): TypedArray {
  const size = chosen.length / rows;
  const out = new (chosen.constructor as new (length: number) => TypedArray)(2 * chosen.length);
  for (let row = 0; row < rows; row++) {
    const at = layout === 'halves' ? [row, rows + row] : [2 * row, 2 * row + 1];
    out.set(chosen.subarray(row * size, (row + 1) * size), at[0] * size);
    out.set(rejected.subarray(row * size, (row + 1) * size), at[1] * size);
  }
  return out;
}

t.test('only the two views of one tensor get a stacked gradient', async (t) => {
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 });
  const stacked = Tensor.from(Float32Array.of(1, 2, 3, 4), { shape: [2, 2] });
  const other = Tensor.from(Float32Array.of(1, 2, 3, 4), { shape: [2, 2] });
  const halves = split(stacked, 'halves');
  const gradients = (chosen: Tensor, rejected: Tensor) => {
    const reference = Float32Array.of(0, 1);
    const target = Float32Array.of(1, 1);
    const side = (policy: Tensor) => ({ policy, reference, target });
    const batch = { timesteps: [0], chosen: side(chosen), rejected: side(rejected), transition: { omega: [1] } };
    return loss.evaluate(batch).gradients;
  };
  t.ok(gradients(halves.chosen, halves.rejected).stacked, 'the two views');
  t.notOk(gradients(halves.chosen, split(other, 'halves').rejected).stacked, 'views of two tensors');
  t.notOk(gradients(halves.rejected, halves.chosen).stacked, 'views the wrong way round');
  t.notOk(gradients(halves.chosen, split(stacked, 'interleaved').rejected).stacked, 'views of two layouts');
  t.notOk(gradients(halves.chosen, halves.chosen).stacked, 'one view twice');
});

t.test('errors of tensors name the argument', async (t) => {
  const failure = (call: () => unknown) => {
    try {
      call();
    } catch (error) {
      return error as SdpoError;
    }
    throw new Error('nothing was thrown');
  };
  t.match(
    failure(() => Tensor.from([1, 2], { shape: [3] })),
    { code: 'ERR_SDPO_INVALID_LENGTH', message: /data .*\[3\].*length 2/ },
  );
  t.match(
    failure(() => split(Tensor.empty([3, 2]), 'halves')),
    { code: 'ERR_SDPO_INVALID_LENGTH', message: /tensor .*even/ },
  );
});

t.test('typed arrays of another realm are what they are here', async (t) => {
  const foreign = (type: string, values: number[]) => runInNewContext(`${type}.from(values)`, { values });
  const bits = Tensor.from(foreign('Uint16Array', [0x3f80, 0x4000]), { dtype: 'bfloat16' });
  t.same(bits.toFloat64(), Float64Array.of(1, 2), 'bits, not numbers');
  t.throws(() => Tensor.from(foreign('Uint16Array', [1])), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  const doubles = Tensor.from(foreign('Float64Array', [1 / 3]));
  t.equal(doubles.dtype, 'float64');
  t.ok(doubles.data instanceof Float64Array);
});
