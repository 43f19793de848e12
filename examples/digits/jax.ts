/** The parts of jax-js that the digits experiment uses, and the one convention it follows: parameters are a flat record of arrays. */

import { numpy as np, tree } from '@jax-js/jax';
import 'sdpo/jax'; // gives Node 20 the navigator global that jax-js looks at

export { blockUntilReady, jit, nn, numpy as np, random, tree, valueAndGrad, vjp } from '@jax-js/jax';

/**
 * Named parameters (or their gradients, or an optimizer's moments).
 *
 * jax-js counts references: a function that takes an array consumes it, and `.ref` keeps it for another use. The functions of this
 * example therefore say `consumes` in their comment where a caller must pass `ref(params)` to go on using the parameters.
 */
export type Params = { [name: string]: np.Array };

/** Another reference to every array, so that the record can be given away and still be used. */
export function ref(params: Params): Params {
  return tree.ref(params) as Params;
}

/** Releases every array of the record. */
export function dispose(params: Params): void {
  tree.dispose(params);
}

/** Zeros in the shapes of `params`, which are not consumed. */
export function zerosLike(params: Params): Params {
  return Object.fromEntries(Object.entries(params).map(([name, value]) => [name, np.zeros(value.shape)]));
}

/** Copies float32 values, `[rows, columns]` in row-major order, into a new array. */
export function matrix(values: Float32Array, columns: number): np.Array {
  return np.array(values as Float32Array<ArrayBuffer>, { shape: [values.length / columns, columns] });
}

/** The values of an array, which is consumed. */
export function toFloat32(array: np.Array): Float32Array {
  return array.dataSync() as Float32Array;
}
