/** The judge: a small classifier that says which digit an image shows. It stands for the people whose preference is learnt. */

import { CLASSES, PIXELS } from './data.js';
import { jit, matrix, nn, np, type Params, ref, toFloat32 } from './jax.js';

const HIDDEN = 128;

/** Every parameter with its shape; weights are `[inputs, outputs]`. */
export const JUDGE_SHAPES: Readonly<Record<string, readonly number[]>> = {
  'hidden.weight': [PIXELS, HIDDEN],
  'hidden.bias': [HIDDEN],
  'out.weight': [HIDDEN, CLASSES],
  'out.bias': [CLASSES],
};

/** Logits `[rows, 10]` of images `[rows, 64]`. Consumes both arguments. */
export function judgeLogits(p: Params, x: np.Array): np.Array {
  const hidden = nn.relu(np.matmul(x, p['hidden.weight']!).add(p['hidden.bias']!));
  return np.matmul(hidden, p['out.weight']!).add(p['out.bias']!);
}

const probabilitiesJit = jit((p: Params, x: np.Array) => nn.softmax(judgeLogits(p, x), -1));

/** The judge's probability of each digit, `[rows, 10]`. Does not consume the parameters. */
export function classify(judge: Params, images: Float32Array): Float32Array {
  return toFloat32(probabilitiesJit(ref(judge), matrix(images, PIXELS)));
}

/** The most probable digit of each row of `probabilities`. */
export function mostProbable(probabilities: Float32Array): Uint8Array {
  return Uint8Array.from({ length: probabilities.length / CLASSES }, (_, row) => {
    const values = probabilities.subarray(row * CLASSES, (row + 1) * CLASSES);
    return values.indexOf(Math.max(...values));
  });
}
