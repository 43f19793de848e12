/** The denoiser: a multilayer perceptron with three SiLU layers of width 256 that is told the timestep at each layer. */

import { PIXELS } from './data.js';
import { jit, matrix, nn, np, type Params, random, ref, toFloat32 } from './jax.js';

const WIDTH = 256;
const EMBEDDING = 64;
const MAX_PERIOD = 1e4;

/** Every parameter of a denoiser of this width with its shape; weights are `[inputs, outputs]`. */
export function denoiserShapes(width: number): Readonly<Record<string, readonly number[]>> {
  return {
    'layer1.weight': [PIXELS, width],
    'layer1.bias': [width],
    'layer1.time': [EMBEDDING, width],
    'layer2.weight': [width, width],
    'layer2.bias': [width],
    'layer2.time': [EMBEDDING, width],
    'layer3.weight': [width, width],
    'layer3.bias': [width],
    'layer3.time': [EMBEDDING, width],
    'out.weight': [width, PIXELS],
    'out.bias': [PIXELS],
  };
}

/** The shapes of the committed weights, 213,824 values in all. */
export const DENOISER_SHAPES = denoiserShapes(WIDTH);

/** Uniform in ±1/√inputs, biases zero. */
export function initParams(shapes: Readonly<Record<string, readonly number[]>>, seed: number): Params {
  const names = Object.keys(shapes);
  // A key of its own for every parameter: split() gives `[names, 2]`.
  const keys = random.split(random.key(seed), names.length);
  const params: Params = {};
  names.forEach((name, index) => {
    const shape = [...shapes[name]!];
    const bound = 1 / Math.sqrt(shape[0]!);
    params[name] =
      shape.length === 1
        ? np.zeros(shape)
        : random.uniform(keys.ref.slice(index), shape, { minval: -bound, maxval: bound });
  });
  keys.dispose();
  return params;
}

/** Sines and cosines of each timestep at 32 frequencies, `[rows, 64]`; float64 until the last rounding. */
export function timestepEmbedding(timesteps: ArrayLike<number>): Float32Array {
  const half = EMBEDDING / 2;
  const out = new Float32Array(timesteps.length * EMBEDDING);
  for (let row = 0; row < timesteps.length; row++) {
    for (let i = 0; i < half; i++) {
      const angle = timesteps[row]! * MAX_PERIOD ** (-i / half);
      out[row * EMBEDDING + i] = Math.cos(angle);
      out[row * EMBEDDING + half + i] = Math.sin(angle);
    }
  }
  return out;
}

/** The forward pass on arrays, all of them consumed: x `[rows, 64]`, embedding `[rows, 64]`, result `[rows, 64]`. */
export function forward(p: Params, x: np.Array, embedding: np.Array): np.Array {
  const layer = (name: string, input: np.Array, time: np.Array) =>
    nn.silu(
      np
        .matmul(input, p[`${name}.weight`]!)
        .add(np.matmul(time, p[`${name}.time`]!))
        .add(p[`${name}.bias`]!),
    );
  const h1 = layer('layer1', x, embedding.ref);
  const h2 = h1.ref.add(layer('layer2', h1, embedding.ref));
  const h3 = h2.ref.add(layer('layer3', h2, embedding));
  return np.matmul(h3, p['out.weight']!).add(p['out.bias']!);
}

/** The forward pass as a function of the parameters and of `inputsOf`. */
export const apply = (p: Params, [x, embedding]: Inputs): np.Array => forward(p, x, embedding);

export type Inputs = [x: np.Array, embedding: np.Array];

/** What the denoiser is given for noisy images x `[rows, 64]` at their timesteps. */
export function inputsOf(x: Float32Array, timesteps: ArrayLike<number>): Inputs {
  return [matrix(x, PIXELS), matrix(timestepEmbedding(timesteps), EMBEDDING)];
}

const forwardJit = jit(apply);

/** What the denoiser predicts for noisy images x `[rows, 64]` at their timesteps. Does not consume the parameters. */
export function predict(params: Params, x: Float32Array, timesteps: ArrayLike<number>): Float32Array {
  return toFloat32(forwardJit(ref(params), inputsOf(x, timesteps)));
}
