/**
 * Adapter to TensorFlow.js: the preference loss as a differentiable scalar.
 *
 * @module sdpo/tfjs
 */

import type * as Tf from '@tensorflow/tfjs';
import type { Batch, BranchBatch, BranchName } from '../loss/batch.js';
import type { CallOptions, CoefficientInput } from '../loss/call-options.js';
import { PreferenceLoss } from '../loss/loss.js';
import type { Statistics } from '../loss/result.js';
import { checkOptions, failType, failValue } from '../native/validate.js';
import type { LatentArray } from '../tensor/operand.js';
import { Tensor } from '../tensor/tensor.js';
import { checkPart, checkShape } from './branch.js';
import { importPeer } from './peer.js';

const tf = await importPeer('@tensorflow/tfjs', 'sdpo/tfjs', () => import('@tensorflow/tfjs'));

/** One branch of a batch; all tensors are float32 and none is disposed of. */
export interface TfjsBranch {
  /** u_θ: prediction [rows, …] of the model being trained. The gradient flows to it and to nothing else. */
  policy: Tf.Tensor;
  /** u_ref: prediction of the frozen reference model, as a tensor in the shape of the policy's. */
  reference?: Tf.Tensor | LatentArray | undefined;
  /** In place of `reference`: its mean squared error per row. */
  referenceError?: ArrayLike<number> | undefined;
  /** u: what the model should predict, `schedule.target(x0, noise, timesteps)`; as a tensor in the shape of the policy's prediction. */
  target: Tf.Tensor | LatentArray;
}

/** A batch as `PreferenceLoss.evaluate` takes it, on tensors of TensorFlow.js. */
export interface TfjsBatch extends Omit<Batch, 'chosen' | 'rejected'> {
  chosen: TfjsBranch;
  rejected: TfjsBranch;
}

/** A batch whose predictions are still to come. */
export interface TfjsGivens extends Omit<TfjsBatch, 'chosen' | 'rejected'> {
  chosen: Omit<TfjsBranch, 'policy'>;
  rejected: Omit<TfjsBranch, 'policy'>;
}

export interface TfjsCallOptions extends Pick<CallOptions, 'denominator' | 'maskThreshold'> {
  /** Called with the loss in float64, row statistics and metrics, once per evaluation and before it returns. */
  onResult?: ((result: Statistics) => void) | undefined;
}

export interface DifferentiableLoss {
  /**
   * The loss of a batch as a float32 scalar that TensorFlow.js can differentiate (once, not twice) with respect to both predictions. For the
   * function that `optimizer.minimize` is given.
   * @throws as `PreferenceLoss.evaluate`; TypeError or RangeError where a tensor is not float32 or not of the prediction's shape.
   */
  (batch: TfjsBatch, call?: TfjsCallOptions): Tf.Scalar;
  /** The loss as a function of the two predictions alone, for `tf.grads` and `tf.valueAndGrads`. */
  given(batch: TfjsGivens, call?: TfjsCallOptions): (chosen: Tf.Tensor, rejected: Tf.Tensor) => Tf.Scalar;
}

/**
 * Makes a preference loss differentiable by TensorFlow.js. The loss and its gradient are computed by sdpo, so predictions are read back from
 * the backend, synchronously: the cpu and wasm backends can do that, and webgl at the price of waiting; webgpu cannot.
 */
export function preferenceLoss(loss: PreferenceLoss): DifferentiableLoss {
  if (!(loss instanceof PreferenceLoss)) failType('loss', 'a PreferenceLoss', loss);
  const evaluate = (batch: TfjsBatch, call: TfjsCallOptions = {}): Tf.Scalar => {
    call = checkOptions('call', call, ['denominator', 'maskThreshold', 'onResult']);
    const { onResult, ...options } = call;
    if (onResult !== undefined && typeof onResult !== 'function') failType('call.onResult', 'a function', onResult);
    checkPart('batch', batch);
    const chosen = checkPolicy('chosen', batch.chosen);
    const rejected = checkPolicy('rejected', batch.rejected);
    const host: Batch = {
      ...batch,
      chosen: readBranch('chosen', batch.chosen),
      rejected: readBranch('rejected', batch.rejected),
    };

    const differentiable = tf.customGrad(() => {
      const result = loss.evaluate(host, { ...options, gradients: false });
      onResult?.(result);
      // The second pass waits for a backward pass: evaluating without one costs no gradient, and dy goes in before anything is rounded.
      const gradFunc = (dy: Tf.Tensor) => {
        const scale = dy.dataSync()[0]!;
        const coefficients = {
          chosen: scaled(result.coefficients.chosen, scale, host.chosen),
          rejected: scaled(result.coefficients.rejected, scale, host.rejected),
        };
        const gradients = loss.gradients(host, coefficients);
        return [toTfjs(gradients.chosen, chosen.shape), toTfjs(gradients.rejected, rejected.shape)];
      };
      return { value: tf.scalar(result.loss), gradFunc };
    });
    return differentiable(chosen, rejected) as Tf.Scalar;
  };

  const given = (batch: TfjsGivens, call?: TfjsCallOptions) => {
    checkPart('batch', batch);
    for (const name of ['chosen', 'rejected'] as const) {
      checkPart(`batch.${name}`, batch[name]);
      if ('policy' in batch[name]) failType(`batch.${name}.policy`, 'left out of what is given', batch[name].policy);
    }
    return (chosen: Tf.Tensor, rejected: Tf.Tensor) =>
      evaluate(
        { ...batch, chosen: { ...batch.chosen, policy: chosen }, rejected: { ...batch.rejected, policy: rejected } },
        call,
      );
  };
  return Object.assign(evaluate, { given });
}

function checkPolicy(name: BranchName, branch: unknown): Tf.Tensor {
  checkPart(`batch.${name}`, branch);
  const { policy } = branch;
  if (!(policy instanceof tf.Tensor)) failType(`batch.${name}.policy`, 'a tensor of TensorFlow.js', policy);
  if (policy.rank === 0)
    failValue(`batch.${name}.policy`, 'of shape [rows, ...]', 'a scalar', 'ERR_SDPO_INVALID_LENGTH');
  return policy;
}

/** A branch as the core takes it. */
function readBranch(name: BranchName, branch: TfjsBranch): BranchBatch {
  const read = (field: 'policy' | 'reference' | 'target') => {
    const value = branch[field];
    if (!(value instanceof tf.Tensor)) return value;
    const argument = `batch.${name}.${field}`;
    if (value.dtype !== 'float32') failType(argument, 'of dtype float32', value.dtype);
    checkShape(argument, value.shape, branch.policy.shape, `batch.${name}.policy`);
    return Tensor.from(value.dataSync<'float32'>(), { shape: value.shape });
  };
  return {
    ...branch,
    policy: read('policy') as Tensor,
    reference: read('reference'),
    target: read('target') as LatentArray,
  };
}

/** Coefficients of the gradient of dy · loss; a removed row stays 0, whatever dy is. Without a reference tensor there is no drift to have a coefficient. */
function scaled({ a, b }: { a: Float64Array; b: Float64Array }, dy: number, branch: BranchBatch): CoefficientInput {
  const times = (values: Float64Array) => (dy === 1 ? values : values.map((value) => (value === 0 ? 0 : dy * value)));
  return branch.reference === undefined ? { a: times(a) } : { a: times(a), b: times(b) };
}

function toTfjs(gradient: LatentArray, shape: number[]): Tf.Tensor {
  return tf.tensor((gradient as Tensor).data as Float32Array, shape, 'float32');
}
