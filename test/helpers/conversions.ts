/** Conversions that native code makes, reached through public calls, and digests of everything an instruction set could change. */

import { type LatentArray, noise, PreferenceLoss, Tensor } from '../../lib/index.js';
import { digestOf, digests, largeBatch, latents, storedOf } from './batches.js';
import { uniformNumbers } from './cases.js';
import { type DType, decode, dtypes, encode, type TypedArray } from './dtypes.js';

export const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20, klWeight: 0.5, threads: 1 });

/** Without an anchor, so that a batch needs no reference. */
const plain = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, threads: 1 });

export const halves = ['float16', 'bfloat16'] as const;

/** Every choice of dtypes for policy, reference and target. */
export const mixtures = dtypes.flatMap((policy) =>
  dtypes.flatMap((reference) => dtypes.map((target) => ({ policy, reference, target }))),
);

export const everyPattern = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
const count = everyPattern.length;

/** The second pass with a = ±D/2 and one of the tensors zero is a conversion: ±(policy - target), rounded to the policy's dtype. */
export function converted(policy: LatentArray, target: LatentArray, sign: 1 | -1): TypedArray {
  const zeros = new Float32Array(1);
  const side = { policy, target, referenceError: zeros };
  const batch = { timesteps: [0], chosen: side, rejected: side, transition: { omega: [1] } };
  const a = [(sign * count) / 2];
  return storedOf(plain.gradients(batch, { chosen: { a }, rejected: { a: [0] } }).chosen);
}

export const zerosOf = (dtype: DType) => latents(encode(dtype, new Float64Array(count)), dtype, 1);
/** Numbers on, beside and between those of a 16-bit dtype: ties, subnormals, overflow, infinities and NaN. */
export function hardNumbers(dtype: DType): Float64Array {
  const uniform = uniformNumbers(3);
  const grid = decode(dtype, everyPattern.subarray(0, 2 ** 15)).filter(Number.isFinite);
  const special = [0, 1e-320, 1e-46, 1e39, 1e300, 65519.999, 65520, 3.3961e38, Infinity, NaN];
  return Float64Array.from({ length: count }, (_, i) => {
    const sign = i % 2 === 0 ? 1 : -1;
    if (i < 2 * special.length) return sign * special[i >> 1];
    const at = Math.floor(uniform() * (grid.length - 1));
    const tie = (grid[at] + grid[at + 1]) / 2;
    // The last two are off the tie by less than float32 can tell, so that rounding twice would be seen.
    const choices = [
      grid[at],
      tie,
      grid[at] + uniform() * (grid[at + 1] - grid[at]),
      tie * (1 + 2 ** -40),
      tie * (1 - 2 ** -40),
    ];
    return sign * choices[i % choices.length];
  });
}

/** What must not depend on the instruction set: evaluations in all dtypes, conversions of all patterns, noise. */
export function digestsOfEverything(): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [i, { policy, reference, target }] of mixtures.entries()) {
    const of = { policy, reference, target };
    const batch = largeBatch(2, 4096 + 19 + i, (_, tensor) => of[tensor]);
    const weighted = { ...batch, elementWeights: Float32Array.from({ length: 4096 + 19 + i }, (_, e) => (e % 3) / 2) };
    out[`${policy} ${reference} ${target}`] = [batch, weighted].map((each) => [
      digests(loss.evaluate(each)),
      digestOf(loss.moments(each, { cross: true }).cross!),
    ]);
  }
  for (const dtype of halves) {
    const stored = latents(everyPattern, dtype, 1);
    const hard = hardNumbers(dtype);
    out[dtype] = [
      digestOf(converted(stored, zerosOf(dtype), 1)),
      digestOf(converted(zerosOf('float32'), stored, -1)),
      digestOf(converted(zerosOf('float64'), stored, -1)),
      digestOf(converted(zerosOf(dtype), Float32Array.from(hard), -1)),
      digestOf(converted(zerosOf(dtype), hard, -1)),
    ];
  }
  for (const dtype of dtypes) out[`noise ${dtype}`] = digestOf(noise(5, 3, Tensor.empty([5000], { dtype })).toHost());
  return out;
}
