/**
 * Adapter to jax-js: the preference loss of a model, and its gradient with respect to the model's parameters.
 *
 * @module sdpo/jax
 */

import type { Array as JaxArray } from '@jax-js/jax';
import type { Batch, BranchBatch, BranchName } from '../loss/batch.js';
import type { AsyncCallOptions } from '../loss/call-options.js';
import { PreferenceLoss } from '../loss/loss.js';
import type { Statistics } from '../loss/result.js';
import { checkBoolean, checkOptions, failType, failValue } from '../native/validate.js';
import type { DType } from '../tensor/dtypes.js';
import type { LatentArray } from '../tensor/operand.js';
import { type BranchViews, split, Tensor } from '../tensor/tensor.js';
import { checkPart, checkShape, shapeText } from './branch.js';
import { type Apply, type ArrayTree, compiledModel, type JaxFunctions, type Model, tracedModel } from './jax-model.js';
import { importPeer } from './peer.js';

export type { Apply, ArrayTree } from './jax-model.js';

// Node 20 has no navigator, whose name jax-js reads while it compiles a kernel. This is what newer versions of Node have there.
(globalThis as { navigator?: unknown }).navigator ??= { userAgent: `Node.js/${process.versions.node.split('.')[0]}` };

const jax = await importPeer('@jax-js/jax', 'sdpo/jax', () => import('@jax-js/jax'));
const { numpy: np, tree } = jax;

/** One branch of a batch. Arrays of jax-js are consumed; as `reference` or `target` they have the shape of the branch's prediction. */
export interface JaxBranch<I extends ArrayTree> {
  /** What the model is given for the rows of this branch, every array [rows, …]. Left out where the batch has stacked `inputs`. */
  inputs?: I | undefined;
  /** u_ref: prediction of the frozen reference model, where it was made before. */
  reference?: LatentArray | JaxArray | undefined;
  /** In place of `reference`: its mean squared error per row. */
  referenceError?: ArrayLike<number> | undefined;
  /** u: what the model should predict, `schedule.target(x0, noise, timesteps)`. */
  target: LatentArray | JaxArray;
}

/** A batch as `PreferenceLoss.evaluate` takes it, with the inputs of the model in place of its predictions. */
export interface JaxBatch<P extends ArrayTree, I extends ArrayTree> extends Omit<Batch, 'chosen' | 'rejected'> {
  chosen: JaxBranch<I>;
  rejected: JaxBranch<I>;
  /** In place of the `inputs` of the branches: both stacked, all chosen rows before all rejected ones. Consumed. */
  inputs?: I | undefined;
  /** In place of the `reference` of the branches: parameters with which the model predicts it. Consumed. */
  referenceParams?: P | undefined;
}

/** Options of a call, as those of `PreferenceLoss.evaluateAsync`. */
export type JaxCallOptions = Omit<AsyncCallOptions, 'into'>;

export interface JaxStatistics extends Pick<Statistics, 'loss' | 'rows' | 'metrics'> {
  /** Milliseconds spent in the loss, the model left out. */
  readonly lossMilliseconds: number;
}

export interface JaxEvaluation<P extends ArrayTree> extends JaxStatistics {
  /** ∂loss/∂params in the structure of the parameters; its arrays belong to the caller. */
  readonly gradients: P;
}

export interface PreferenceValueAndGrad<P extends ArrayTree, I extends ArrayTree> {
  /** Statistics alone: no backward pass. */
  (params: P, batch: JaxBatch<P, I>, call: JaxCallOptions & { gradients: false }): Promise<JaxStatistics>;
  /**
   * Loss, gradient with respect to the parameters, row statistics and metrics. Consumes the parameters and every jax-js array of the batch,
   * also where it rejects; pass `tree.ref(params)` to go on using them.
   *
   * Rejects as `PreferenceLoss.evaluateAsync` does, and with a TypeError or RangeError where the prediction is not an array [2 · rows, …].
   */
  (params: P, batch: JaxBatch<P, I>, call?: JaxCallOptions): Promise<JaxEvaluation<P>>;
  /** Releases what was compiled. */
  dispose(): void;
}

const CALL_FIELDS = ['gradients', 'gradientScale', 'denominator', 'maskThreshold', 'signal'];
const BRANCH_FIELDS = ['inputs', 'reference', 'referenceError', 'target'];
const BRANCHES: readonly BranchName[] = ['chosen', 'rejected'];

/**
 * `valueAndGrad` for a preference loss of a model. `loss` is evaluated on the host; its gradient is the cotangent for the vjp of `apply`.
 * Both branches go through the model in one pass.
 *
 * @param apply predicts [n, …] in float32 (or float64) for inputs of n rows, and consumes its arguments.
 * @param options.jit compiles the model, once per set of shapes. Default true; false is for models that cannot be traced by `jit`.
 */
export function preferenceValueAndGrad<P extends ArrayTree, I extends ArrayTree>(
  apply: Apply<P, I>,
  loss: PreferenceLoss,
  options: { jit?: boolean } = {},
): PreferenceValueAndGrad<P, I> {
  if (typeof apply !== 'function') failType('apply', 'a function (params, inputs) => prediction', apply);
  if (!(loss instanceof PreferenceLoss)) failType('loss', 'a PreferenceLoss', loss);
  options = checkOptions('options', options, ['jit']);
  const compile = checkBoolean('options.jit', options.jit ?? true);
  const model = (compile ? compiledModel : tracedModel)(jax as unknown as JaxFunctions, apply);

  const valueAndGrad = async (params: P, batch: JaxBatch<P, I>, call: JaxCallOptions = {}) => {
    const result = await evaluate(model, loss, params, batch, call).catch((error) => {
      try {
        disposeArguments(params, batch);
      } catch {
        // Whatever is wrong with the arguments, the first error says more about it.
      }
      throw error;
    });
    disposeArguments(params, batch);
    return result;
  };
  return Object.assign(valueAndGrad, { dispose: model.dispose }) as PreferenceValueAndGrad<P, I>;
}

/** The work of a call, on borrowed arguments. */
async function evaluate<P extends ArrayTree, I extends ArrayTree>(
  model: Model<P, I>,
  loss: PreferenceLoss,
  params: P,
  batch: JaxBatch<P, I>,
  call: JaxCallOptions,
): Promise<JaxStatistics | JaxEvaluation<P>> {
  call = checkOptions('call', call, CALL_FIELDS);
  checkBatch(batch);
  const { inputs: stackedInputs, referenceParams, ...rest } = batch;
  const { inputs, rows }: BranchInputs<I> =
    stackedInputs === undefined ? inputsOfBranches(batch) : { inputs: [stackedInputs] };

  const frozen = 'apply(referenceParams, inputs)';
  const reference = referenceParams && (await readPrediction(frozen, model.predict(referenceParams, inputs), rows));
  const wanted = call.gradients ?? true;
  const point = wanted ? model.linearize(params, inputs) : { prediction: model.predict(params, inputs) };
  try {
    const policy = await readPrediction('apply(params, inputs)', point.prediction, rows);
    if (reference !== undefined) checkShape(frozen, reference.shape, policy.shape, 'apply(params, inputs)');
    const [chosen, rejected] = await Promise.all([
      readBranch(batch, 'chosen', policy, reference),
      readBranch(batch, 'rejected', policy, reference),
    ]);
    const began = performance.now();
    const { signal, ...options } = call;
    const host: Batch = { ...rest, chosen, rejected };
    // jax-js computes on this thread; handing a small loss to another one would cost more than the loss. Only an abort needs that.
    const out = signal === undefined ? loss.evaluate(host, options) : await loss.evaluateAsync(host, call);
    const lossMilliseconds = performance.now() - began;
    const statistics = { loss: out.loss, rows: out.rows, metrics: out.metrics, lossMilliseconds };
    if (!('pullback' in point)) return statistics;
    const { shape, dtype, device } = policy;
    const gradient = out.gradients.stacked!.data as Float32Array<ArrayBuffer>;
    return { ...statistics, gradients: point.pullback(np.array(gradient, { shape, dtype, device })) };
  } finally {
    if ('release' in point) point.release();
  }
}

/** Checks what the core does not see. */
function checkBatch(batch: unknown): void {
  checkPart('batch', batch);
  for (const name of BRANCHES) {
    const branch = checkOptions(`batch.${name}`, batch[name], BRANCH_FIELDS);
    if ((branch.inputs === undefined) === (batch.inputs === undefined)) {
      const received = batch.inputs === undefined ? undefined : branch.inputs;
      failType(
        `batch.${name}.inputs`,
        'given where the batch has no stacked inputs, and left out where it has them',
        received,
      );
    }
    if (batch.referenceParams !== undefined) {
      for (const field of ['reference', 'referenceError']) {
        if (branch[field] === undefined) continue;
        failType(`batch.${name}.${field}`, 'left out where the batch has referenceParams', branch[field]);
      }
    }
  }
}

interface BranchInputs<I> {
  inputs: I[];
  /** Of each branch, where they are not stacked. */
  rows?: number;
}

/**
 * The inputs of each branch and their rows, which are those of their first array. A wrong number of rows in one could make up for that of the
 * other once they are stacked.
 */
function inputsOfBranches<I extends ArrayTree>(batch: JaxBatch<ArrayTree, I>): BranchInputs<I> {
  let rows: number | undefined;
  const inputs = BRANCHES.map((name) => {
    const given = batch[name].inputs as I;
    for (const leaf of tree.leaves(given)) {
      if (leaf instanceof jax.Array) rows ??= leaf.shape[0];
      if (leaf instanceof jax.Array && leaf.shape.length > 0 && leaf.shape[0] === rows) continue;
      const received = leaf instanceof jax.Array ? shapeText(leaf.shape) : leaf;
      failValue(
        `batch.${name}.inputs`,
        `arrays of shape [${rows ?? 'rows'}, ...]`,
        received,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    return given;
  });
  return { inputs, ...(rows !== undefined && { rows }) };
}

/** A prediction on the host, its branches as views of one stacked tensor so that their gradients come stacked too. */
interface Prediction extends BranchViews {
  shape: number[];
  dtype: JaxArray['dtype'];
  device: JaxArray['device'];
}

/**
 * Reads a prediction back, and consumes it also where it is refused.
 *
 * @param rows of the inputs of each branch; undefined where they came stacked, and the prediction says how many they are
 */
async function readPrediction(argument: string, prediction: unknown, rows?: number): Promise<Prediction> {
  try {
    if (!(prediction instanceof jax.Array)) failType(argument, 'one array of jax-js', prediction);
    const { shape, dtype, device } = prediction;
    // jax-js takes float64 data, which the cotangent is, only where the runtime knows Float16Array as well.
    const dtypes = 'Float16Array' in globalThis ? ['float32', 'float64'] : ['float32'];
    if (!dtypes.includes(dtype)) failType(argument, `of dtype ${dtypes.join(' or ')} (astype() converts)`, dtype);
    if (shape.length === 0 || (rows === undefined ? shape[0]! % 2 !== 0 : shape[0] !== 2 * rows)) {
      failValue(
        argument,
        `of shape [${rows === undefined ? '2 x rows' : 2 * rows}, ...], ${rows ?? 'all'} chosen rows before ${rows ?? 'all'} rejected ones`,
        shapeText(shape),
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    const stacked = Tensor.from((await prediction.ref.data()) as Float32Array, { shape, dtype: dtype as DType });
    return { ...split(stacked, 'halves'), shape, dtype, device };
  } finally {
    tree.dispose(prediction as ArrayTree);
  }
}

/** A branch as the core takes it. */
async function readBranch(
  batch: JaxBatch<ArrayTree, ArrayTree>,
  name: BranchName,
  policy: Prediction,
  reference: Prediction | undefined,
): Promise<BranchBatch> {
  const { inputs: _, ...branch } = batch[name];
  const read = async (field: 'reference' | 'target') => {
    const value = branch[field];
    if (!(value instanceof jax.Array)) return value;
    const { shape, dtype } = value;
    checkShape(`batch.${name}.${field}`, shape, policy[name].shape, 'the prediction');
    if (!['float32', 'float64'].includes(dtype)) {
      failType(`batch.${name}.${field}`, 'of dtype float32 or float64', dtype);
    }
    return Tensor.from((await value.ref.data()) as Float32Array, { shape, dtype: dtype as DType });
  };
  return {
    ...branch,
    policy: policy[name],
    reference: reference?.[name] ?? (await read('reference')),
    target: (await read('target')) as LatentArray,
  };
}

/** Gives up what a call was given. Anything that is not an array of jax-js is passed over. */
function disposeArguments(params: ArrayTree, batch: Partial<JaxBatch<ArrayTree, ArrayTree>> | undefined): void {
  tree.dispose(params);
  tree.dispose(batch?.inputs);
  tree.dispose(batch?.referenceParams);
  for (const name of BRANCHES) {
    const branch = batch?.[name];
    tree.dispose(branch?.inputs);
    tree.dispose(branch?.reference as ArrayTree | undefined);
    tree.dispose(branch?.target as ArrayTree | undefined);
  }
}
