/** The denoiser of the digits example in TensorFlow.js: the same layers, started from the same committed weights. */

import { readFileSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs';
import { decodeSafetensors } from 'sdpo';
import { PIXELS } from '../digits/data.js';
import { DENOISER_SHAPES, timestepEmbedding } from '../digits/model.js';
import { WEIGHTS_FOLDER } from '../digits/weights.js';

/** Parameters under the names that the weights file gives them. */
export type Parameters<T extends tf.Tensor = tf.Tensor> = { [name: string]: T };

/** The weights that fine-tuning starts from. */
export function loadBase(): Parameters {
  const { tensors } = decodeSafetensors(readFileSync(new URL('base.safetensors', WEIGHTS_FOLDER)));
  return Object.fromEntries(
    Object.entries(DENOISER_SHAPES).map(([name, shape]) => [
      name,
      tf.tensor(tensors[name]!.data as Float32Array, [...shape], 'float32'),
    ]),
  );
}

/** A trainable copy, whose values are shared until the first step. */
export function trainable(base: Parameters): Parameters<tf.Variable> {
  return Object.fromEntries(Object.entries(base).map(([name, value]) => [name, tf.variable(value)]));
}

/** What the denoiser predicts for noisy images x, flat [rows, 64], at their timesteps: [rows, 64]. */
export function predict(parameters: Parameters, x: Float32Array, timesteps: ArrayLike<number>): tf.Tensor2D {
  return tf.tidy(() => {
    const of = (name: string) => parameters[name] as tf.Tensor2D;
    const embedding = timestepEmbedding(timesteps);
    const time = tf.tensor2d(embedding, [timesteps.length, embedding.length / timesteps.length]);
    const layer = (name: string, input: tf.Tensor2D) => {
      const sum = tf.matMul(input, of(`${name}.weight`)).add(tf.matMul(time, of(`${name}.time`)));
      const activation = sum.add<tf.Tensor2D>(of(`${name}.bias`));
      return activation.mul<tf.Tensor2D>(tf.sigmoid(activation)); // SiLU
    };
    const h1 = layer('layer1', tf.tensor2d(x, [timesteps.length, PIXELS]));
    const h2 = h1.add<tf.Tensor2D>(layer('layer2', h1));
    const h3 = h2.add<tf.Tensor2D>(layer('layer3', h2));
    return tf.matMul(h3, of('out.weight')).add<tf.Tensor2D>(of('out.bias'));
  });
}
