/** The preference loss: checks a batch, makes one native call, and gives loss, gradients, statistics and metrics. */

import { type Batch, BRANCHES, type EvaluateOptions, type Fixed, fix, prepare } from './batch.js';
import { abandoned, layOut, type PendingCall, run, runAsync, withStack } from './call.js';
import { PASS, type ROW_OUTPUT } from './contract.js';
import { AbortError } from './errors.js';
import { type LatentArray, sameKind } from './operand.js';
import { type PreferenceLossOptions, type ResolvedOptions, resolveOptions } from './options.js';
import { type Evaluation, type Gradients, ResultBuffers, type Statistics } from './result.js';
import type { Stream } from './stream.js';
import { split, Tensor } from './tensor.js';
import {
  checkBoolean,
  checkNumber,
  checkNumberAbove,
  checkNumbers,
  checkOptions,
  failType,
  failValue,
} from './validate.js';

/** Options of a call that forms gradients. */
export interface CallOptions extends EvaluateOptions {
  /** A previous result of the same shapes, dtypes and kinds, whose buffers are written again and which is returned: no allocation of D elements. */
  into?: Statistics;
}

export interface AsyncCallOptions extends CallOptions {
  /** Aborts between rows (long rows: between pieces of a row); the promise rejects with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal;
}

/** The moments of a branch, one entry per row. */
export interface BranchMoments {
  /** m: mean squared error of the policy. */
  error: Float64Array;
  /** δ = m - r, accumulated without cancellation. */
  delta: Float64Array;
  /** q: mean squared distance to the reference; NaN with a `referenceError`. */
  drift: Float64Array;
}

export interface Moments {
  chosen: BranchMoments;
  rejected: BranchMoments;
  /** x = mean d_c d_r per row; present where it was asked for. */
  cross?: Float64Array;
}

/** Gradient coefficients of a branch: ∂L/∂policy = (2/D)(a d + b h) per row; b defaults to 0. */
export interface CoefficientInput {
  a: ArrayLike<number>;
  b?: ArrayLike<number>;
}

const CALL_FIELDS = ['gradients', 'gradientScale', 'denominator', 'maskThreshold', 'stream', 'into'];
const ASYNC_CALL_FIELDS = [...CALL_FIELDS, 'signal'];

/**
 * Diffusion-DPO, DPO-C&M or SDPO over pairs of predictions, with the gradient with respect to both predictions. Reusable and stateless: a call
 * leaves nothing for the next. Mathematics: docs/mathematics.md.
 */
export class PreferenceLoss {
  /** The options with all defaults filled in. */
  readonly options: ResolvedOptions;
  readonly #fixed: Fixed;

  /** @throws TypeError or RangeError with code ERR_SDPO_… for a wrong, unknown or unused option. */
  constructor(options: PreferenceLossOptions) {
    this.options = resolveOptions(options);
    this.#fixed = fix(this.options);
  }

  /**
   * Loss, gradients, row statistics and metrics of one batch, in one native call on the calling thread and its helpers.
   * @throws TypeError or RangeError for wrong arguments; NonFiniteError with `nonFinite: 'throw'`; SdpoError ERR_SDPO_ELEMENT_WEIGHTS where the
   *   element weights of a row are negative or sum to 0.
   */
  evaluate<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    call: CallOptions & { gradients: false },
  ): Statistics;
  evaluate<C extends LatentArray, R extends LatentArray>(batch: Batch<C, R>, call?: CallOptions): Evaluation<C, R>;
  evaluate(batch: Batch, call: CallOptions = {}): Statistics {
    const pending = this.#prepare(batch, call, CALL_FIELDS);
    try {
      run(pending);
    } catch (error) {
      throw abandoned(pending, error);
    }
    return finished(pending);
  }

  /**
   * The same result off the event loop. The arrays of the batch must neither be written nor transferred until the promise settles (arrays of
   * resizable buffers are copied). Rejects as `evaluate` throws, with the caller's stack, and with an AbortError once `signal` is aborted. On
   * a device no thread waits, a tensor may be disposed meanwhile, and an aborted call rejects when the device is done with it.
   */
  evaluateAsync<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    call: AsyncCallOptions & { gradients: false },
  ): Promise<Statistics>;
  evaluateAsync<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    call?: AsyncCallOptions,
  ): Promise<Evaluation<C, R>>;
  async evaluateAsync(batch: Batch, call: AsyncCallOptions = {}): Promise<Statistics> {
    const trace: { stack?: string } = {};
    Error.captureStackTrace(trace, this.evaluateAsync);
    const pending = this.#prepare(batch, call, ASYNC_CALL_FIELDS);
    const signal = call.signal;
    try {
      if (signal !== undefined && !(signal instanceof AbortSignal)) failType('call.signal', 'an AbortSignal', signal);
      if (signal?.aborted) throw new AbortError(signal.reason);
      pending.result.pending = true;
      await runAsync(pending, signal);
    } catch (error) {
      throw withStack(abandoned(pending, error), trace.stack);
    } finally {
      pending.result.pending = false;
    }
    return finished(pending);
  }

  /**
   * First pass alone: the moments m, δ, q of every row (and x = mean d_c d_r with `cross`), for statistics that need a barrier before the
   * gradient. Throws as `evaluate` does.
   */
  moments(batch: Batch, call: { cross?: boolean; stream?: Stream } = {}): Moments {
    checkOptions('call', call, ['cross', 'stream']);
    const cross = checkBoolean('call.cross', call.cross ?? false);
    const prepared = prepare(batch, { stream: call.stream }, this.options, this.#fixed);
    const result = new ResultBuffers(prepared.rows);
    run(layOut(prepared, result, PASS.moments | (cross ? PASS.cross : 0)));
    const branch = (error: string, delta: string, drift: string): BranchMoments => ({
      error: ResultBuffers.column(result, error as keyof typeof ROW_OUTPUT),
      delta: ResultBuffers.column(result, delta as keyof typeof ROW_OUTPUT),
      drift: ResultBuffers.column(result, drift as keyof typeof ROW_OUTPUT),
    });
    return {
      chosen: branch('errorChosen', 'deltaChosen', 'driftChosen'),
      rejected: branch('errorRejected', 'deltaRejected', 'driftRejected'),
      ...(cross ? { cross: ResultBuffers.column(result, 'cross') } : {}),
    };
  }

  /**
   * Second pass alone: (2/D)(a d + b h) for every row, from coefficients such as `evaluate(batch, { gradients: false }).coefficients`. A row with
   * a = b = 0 is written as zeros without being read.
   */
  gradients<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    coefficients: { chosen: CoefficientInput; rejected: CoefficientInput },
    call: { stream?: Stream } = {},
  ): Gradients<C, R> {
    checkOptions('call', call, ['stream']);
    const prepared = prepare(batch, { stream: call.stream }, this.options, this.#fixed);
    const result = new ResultBuffers(prepared.rows);
    checkOptions('coefficients', coefficients, BRANCHES);
    for (const branch of BRANCHES) {
      const { a, b } = readCoefficients(`coefficients.${branch}`, coefficients[branch], prepared.rows);
      if (b !== undefined && batch[branch].reference === undefined) {
        failType(`coefficients.${branch}.b`, 'left out where the batch has a referenceError', b);
      }
      ResultBuffers.column(result, branch === 'chosen' ? 'aChosen' : 'aRejected').set(a);
      if (b !== undefined) ResultBuffers.column(result, branch === 'chosen' ? 'bChosen' : 'bRejected').set(b);
    }
    const gradients = allocateGradients(batch);
    const pending = layOut(prepared, result, PASS.gradients, gradients, true);
    try {
      run(pending);
    } catch (error) {
      throw abandoned(pending, error);
    }
    return gradients as Gradients<C, R>;
  }

  #prepare(batch: Batch, call: CallOptions, fields: readonly string[]): PendingCall {
    checkOptions('call', call, fields);
    const wanted = checkBoolean('call.gradients', call.gradients ?? true);
    if (call.gradientScale !== undefined) checkNumber('call.gradientScale', call.gradientScale);
    if (call.denominator !== undefined) checkNumberAbove('call.denominator', call.denominator, 0);
    const earlier = call.into instanceof ResultBuffers ? ResultBuffers.takeScalars(call.into) : undefined;
    const prepared = prepare(batch, call, this.options, this.#fixed, earlier);
    const result = call.into === undefined ? new ResultBuffers(prepared.rows) : reuse(call.into, prepared.rows);
    const reused = wanted ? reusedGradients(result, batch) : undefined;
    const gradients = wanted ? (reused ?? allocateGradients(batch)) : undefined;
    result.gradients = gradients;
    const cross = this.options.safeguard === undefined ? 0 : PASS.cross;
    const passes = PASS.moments | PASS.objective | cross | (wanted ? PASS.gradients : 0);
    return layOut(prepared, result, passes, gradients, reused === undefined);
  }
}

/** The result of a call that is over: nothing reads its scalars any more. */
function finished({ result, scalars }: PendingCall): ResultBuffers {
  ResultBuffers.keepScalars(result, scalars);
  return result.finish();
}

/** Fresh gradients of the kind of each policy; views of one stacked gradient where the policies are the two views of one stacked tensor. */
function allocateGradients(batch: Batch): Gradients {
  const chosen = batch.chosen.policy;
  const rejected = batch.rejected.policy;
  if (chosen instanceof Tensor && rejected instanceof Tensor) {
    const from = Tensor.origin(chosen);
    const other = Tensor.origin(rejected);
    const complementary = from?.part === 'chosen' && other?.part === 'rejected';
    if (complementary && from.base === other.base && from.layout === other.layout) {
      const stacked = Tensor.allocate(from.base.shape, from.base.dtype, from.base.device, false);
      return { ...split(stacked, from.layout), stacked };
    }
  }
  const gradient = sameKind(chosen);
  try {
    return { chosen: gradient, rejected: sameKind(rejected) };
  } catch (error) {
    if (gradient instanceof Tensor) gradient.dispose();
    throw error;
  }
}

function reuse(into: unknown, rows: number): ResultBuffers {
  if (!(into instanceof ResultBuffers)) failType('call.into', 'a result of evaluate or evaluateAsync', into);
  if (into.pending) failValue('call.into', 'a result that no call is writing', 'the result of a pending evaluateAsync');
  const { count } = ResultBuffers.raw(into);
  if (count !== rows)
    failValue('call.into', `a result of ${rows} rows`, `one of ${count} rows`, 'ERR_SDPO_INVALID_LENGTH');
  return into;
}

/** The gradients of an earlier result, where it has any, if they fit the batch. */
function reusedGradients(result: ResultBuffers, batch: Batch): Gradients | undefined {
  const gradients = result.gradients;
  if (gradients === undefined) return undefined;
  for (const branch of BRANCHES) {
    const old = gradients[branch];
    const policy = batch[branch].policy;
    const same =
      old instanceof Tensor
        ? policy instanceof Tensor &&
          old.dtype === policy.dtype &&
          old.device === policy.device &&
          sameShape(old.shape, policy.shape)
        : old.constructor === policy?.constructor && old.length === (policy as Float32Array).length;
    if (!same)
      failValue(
        `call.into.gradients.${branch}`,
        `of the kind, dtype, shape and device of batch.${branch}.policy`,
        old,
        'ERR_SDPO_INVALID_LENGTH',
      );
  }
  return gradients;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}

function readCoefficients(
  argument: string,
  value: unknown,
  rows: number,
): { a: ArrayLike<number>; b?: ArrayLike<number> } {
  checkOptions(argument, value, ['a', 'b']);
  const a = checkNumbers(`${argument}.a`, value.a, rows);
  return value.b === undefined ? { a } : { a, b: checkNumbers(`${argument}.b`, value.b, rows) };
}
