/** Element types in native code: every mixture, exact conversions, and the same bits from every instruction set. */

import t from 'tap';
import { type LatentArray, NoiseSchedule, Tensor } from '../../lib/index.js';
import {
  type BranchName,
  branches,
  digests,
  type FullBatch,
  largeBatch,
  latents,
  storedOf,
  tensors,
} from '../helpers/batches.js';
import { jsonOf, library } from '../helpers/child.js';
import { converted, everyPattern, halves, hardNumbers, loss, mixtures, zerosOf } from '../helpers/conversions.js';
import { type DType, decode, dtypes, encode } from '../helpers/dtypes.js';

const [rows, size] = [3, 43];
const dtypeOf = (value: LatentArray): DType =>
  value instanceof Tensor ? value.dtype : value instanceof Float32Array ? 'float32' : 'float64';
const valuesOf = (value: LatentArray) => decode(dtypeOf(value), storedOf(value));

/** The batch with all tensors converted exactly to one wider dtype. */
function promoted(batch: FullBatch, to: 'float32' | 'float64'): FullBatch {
  const side = (branch: BranchName) =>
    Object.fromEntries(tensors.map((name) => [name, encode(to, valuesOf(batch[branch][name]))]));
  return { ...batch, chosen: side('chosen'), rejected: side('rejected') } as FullBatch;
}

t.test('every mixture of dtypes is computed in the widest, and gradients have the dtype of the policy', async (t) => {
  for (const [i, chosen] of mixtures.entries()) {
    // Another mixture in the other branch: 37 and 64 have no common divisor, so all of them take their turn.
    const rejected = mixtures[(37 * i + 11) % mixtures.length];
    const of = { chosen, rejected };
    const batch = largeBatch(rows, size, (branch, tensor) => of[branch][tensor]);
    const wide = [...Object.values(chosen), ...Object.values(rejected)].includes('float64') ? 'float64' : 'float32';
    const label = `${Object.values(chosen)} | ${Object.values(rejected)}`;
    const actual = loss.evaluate(batch);
    const expected = loss.evaluate(promoted(batch, wide));
    const { chosen: _c, rejected: _r, ...statistics } = digests(actual);
    t.match(digests(expected), statistics, `${label}: loss, rows and metrics as in ${wide}`);
    for (const branch of branches) {
      const dtype = of[branch].policy;
      t.equal(dtypeOf(actual.gradients[branch]), dtype);
      t.same(
        storedOf(actual.gradients[branch]),
        encode(dtype, storedOf(expected.gradients[branch])),
        `${label}: ${branch} gradient, rounded once to ${dtype}`,
      );
    }
  }
});

t.test('element weights of any dtype take part in the promotion', async (t) => {
  const values = Float64Array.from({ length: size }, (_, i) => (i % 4) / 4);
  for (const dtype of dtypes) {
    const batch = { ...largeBatch(rows, size, 'bfloat16'), elementWeights: latents(encode(dtype, values), dtype, 1) };
    const wide = dtype === 'float64' ? 'float64' : 'float32';
    const { chosen: _c, rejected: _r, ...statistics } = digests(loss.evaluate(batch));
    t.match(
      digests(loss.evaluate({ ...promoted(batch, wide), elementWeights: encode(wide, values) as Float32Array })),
      statistics,
      dtype,
    );
  }
});

t.test('every 16-bit pattern is widened exactly', async (t) => {
  for (const dtype of halves) {
    const stored = latents(everyPattern, dtype, 1);
    const expected = decode(dtype, everyPattern);
    for (const wide of ['float32', 'float64'] as const) {
      t.ok(equalNumbers(converted(zerosOf(wide), stored, -1), expected), `${dtype} beside ${wide}`);
    }
    const same = decode(dtype, converted(stored, zerosOf(dtype), 1));
    t.ok(equalNumbers(same, expected), `${dtype} read, computed with and written again`);
  }
});

/** Equal as numbers: a NaN is a NaN, and the sign of a zero is that of a difference, not of the input. */
function equalNumbers(actual: ArrayLike<number>, expected: ArrayLike<number>): boolean {
  for (let i = 0; i < expected.length; i++) {
    if (actual[i] !== expected[i] && !(Number.isNaN(actual[i]) && Number.isNaN(expected[i]))) return false;
  }
  return actual.length === expected.length;
}

t.test('results are rounded once to 16 bits: nearest, ties to even, to infinity beyond the range', async (t) => {
  for (const dtype of halves) {
    for (const wide of ['float32', 'float64'] as const) {
      const values = encode(wide, hardNumbers(dtype));
      const actual = decode(dtype, converted(zerosOf(dtype), values as Float32Array, -1));
      t.ok(equalNumbers(actual, decode(dtype, encode(dtype, values))), `${wide} to ${dtype}`);
    }
  }
  const schedule = NoiseSchedule.flow({ predictionType: 'sample' });
  for (const dtype of halves) {
    const data = latents(everyPattern, dtype, 1);
    const out = schedule.target(data, zerosOf(dtype), [500]);
    t.ok(equalNumbers(valuesOf(out), decode(dtype, everyPattern)), `1 x + 0 y in ${dtype} is x`);
  }
});

t.test('every instruction set gives the same bits', async (t) => {
  const program = `
    import { devices } from ${library};
    import { digestsOfEverything } from ${JSON.stringify(new URL('../helpers/conversions.ts', import.meta.url).href)};
    console.log(JSON.stringify({ used: devices()[0].instructionSet, digests: digestsOfEverything() }));`;
  const run = (wanted: string) =>
    jsonOf<{ used: string; digests: Record<string, unknown> }>(program, { env: { SDPO_ISA: wanted } });
  const baseline = run('baseline');
  t.equal(baseline.used, 'baseline');
  for (const wanted of ['avx2', 'avx512']) {
    const { used, digests } = run(wanted);
    const skip = used !== wanted && `this processor has none: SDPO_ISA=${wanted} uses ${used}`;
    t.test(wanted, { skip }, async (t) => t.same(digests, baseline.digests));
  }
});
