/** The shared problem of the adapter tests as tensors of TensorFlow.js, and the network that predicts in it. */

import * as tf from '@tensorflow/tfjs';
import type { TfjsBatch } from '../../lib/adapters/tfjs.js';
import {
  inputSize,
  type ParameterName,
  type Problem,
  parameterNames,
  parameterShapes,
  rowShape,
  rows,
} from './adapters.js';

export type Variables = Record<ParameterName, tf.Variable>;

export const predictionShape = [rows, ...rowShape];

export function predict({ w1, b1, w2 }: Variables, inputs: Float32Array): tf.Tensor {
  const x = tf.tensor2d(inputs, [inputs.length / inputSize, inputSize]);
  return tf.matMul(tf.tanh(tf.matMul(x, w1 as tf.Tensor2D).add(b1)), w2 as tf.Tensor2D).reshape([-1, ...rowShape]);
}

export function variablesOf({ params }: Problem): Variables {
  return Object.fromEntries(
    parameterNames.map((name) => [name, tf.variable(tf.tensor(params[name], [...parameterShapes[name]]))]),
  ) as Variables;
}

/** References as tensors, targets as typed arrays. */
export function batchOf({ chosen, rejected, omega }: Problem, variables: Variables): TfjsBatch {
  const branch = ({ inputs, reference, target }: Problem['chosen']) => ({
    policy: predict(variables, inputs),
    reference: tf.tensor(reference, predictionShape),
    target,
  });
  return {
    timesteps: new Float64Array(rows),
    transition: { omega },
    chosen: branch(chosen),
    rejected: branch(rejected),
  };
}
