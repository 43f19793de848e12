/** The shared problem of the adapter tests as arrays of jax-js, and the network that predicts in it. */

import type { Array as JaxArray } from '@jax-js/jax';
import { inputSize, type Problem, parameterNames, parameterShapes, rowShape, rows } from './adapters.js';

// Imported at run time: a test may have to look at the globals first, and the adapter before that provides those that are missing.
export const { preferenceValueAndGrad } = await import('../../lib/adapters/jax.js');
export const { lax, nn, numpy: np, tree, valueAndGrad } = await import('@jax-js/jax');

export type { JaxArray };
export type Params = { w1: JaxArray; b1: JaxArray; w2: JaxArray };

export const array = (values: ArrayLike<number>, shape: readonly number[]) =>
  np.array(Float32Array.from(values), { shape: [...shape] });

export function apply({ w1, b1, w2 }: Params, x: JaxArray): JaxArray {
  return np.matmul(np.tanh(np.matmul(x, w1).add(b1)), w2).reshape([-1, ...rowShape]);
}

export function paramsOf({ params }: Problem): Params {
  return Object.fromEntries(
    parameterNames.map((name) => [name, array(params[name], parameterShapes[name])]),
  ) as unknown as Params;
}

/** References as arrays of jax-js, targets as typed arrays. */
export function batchOf({ chosen, rejected, omega }: Problem) {
  const branch = ({ inputs, reference, target }: Problem['chosen']) => ({
    inputs: array(inputs, [rows, inputSize]),
    reference: array(reference, [rows, ...rowShape]),
    target,
  });
  return {
    timesteps: new Float64Array(rows),
    transition: { omega },
    chosen: branch(chosen),
    rejected: branch(rejected),
  };
}
