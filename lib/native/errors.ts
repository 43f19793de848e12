/** Error classes of the package: every error carries a stable `code` and a message that names the argument, what was expected and what came. */

import { printable } from './printable.js';

/** Codes that an error of this package can carry; they are part of the public contract and do not change within a major version. */
export type ErrorCode =
  | 'ERR_SDPO_INVALID_ARG_TYPE'
  | 'ERR_SDPO_INVALID_ARG_VALUE'
  | 'ERR_SDPO_INVALID_LENGTH'
  | 'ERR_SDPO_INVALID_OPTION'
  | 'ERR_SDPO_UNKNOWN_OPTION'
  | 'ERR_SDPO_UNSUPPORTED_CONFIG'
  | 'ERR_SDPO_CONFIG'
  | 'ERR_SDPO_NON_FINITE'
  | 'ERR_SDPO_ELEMENT_WEIGHTS'
  | 'ERR_SDPO_ABORTED'
  | 'ERR_SDPO_DISPOSED'
  | 'ERR_SDPO_NO_BINARY'
  | 'ERR_SDPO_NO_PEER'
  | 'ERR_SDPO_DEVICE'
  | 'ERR_SDPO_OUT_OF_MEMORY'
  | 'ERR_SDPO_DIVERGED'
  | 'ERR_SDPO_RESUME'
  | 'ERR_SDPO_DATA'
  | 'ERR_SDPO_CHECKPOINT'
  | 'ERR_SDPO_REFERENCE_CACHE'
  | 'ERR_SDPO_FILE'
  | 'ERR_SDPO_LOCKED'
  | 'ERR_SDPO_INTERNAL';

/** An argument of the wrong JavaScript type or kind. */
export class SdpoTypeError extends TypeError {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
  override get name(): string {
    return 'TypeError';
  }
}

/** An argument of the right type whose value or length is not acceptable. */
export class SdpoRangeError extends RangeError {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
  override get name(): string {
    return 'RangeError';
  }
}

/** Everything that is not a plain argument mistake: unsupported configurations, non-finite data, devices, missing binaries. */
export class SdpoError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
  override get name(): string {
    return 'SdpoError';
  }
}

/**
 * Which tensor a non-finite value was found in. `row`: the tensors are finite, but the row's arithmetic overflowed. `gradient`: so is the row, but its
 * gradient overflowed when it was rounded to its dtype. `batch`: so are all rows, but their sum over the denominator overflowed.
 */
export type NonFiniteSource = 'policy' | 'reference' | 'target' | 'referenceError' | 'row' | 'gradient' | 'batch';

/** Thrown with `nonFinite: 'throw'` (the default) for the first row, in row order, that has a non-finite value. */
export class NonFiniteError extends SdpoError {
  /** Index of the row in the batch; -1 for 'batch'. */
  readonly row: number;
  readonly branch: 'chosen' | 'rejected';
  readonly tensor: NonFiniteSource;
  /** Index of the first non-finite element within the row, or -1 when the value is not an element of a tensor. */
  readonly element: number;
  constructor(row: number, branch: 'chosen' | 'rejected', tensor: NonFiniteSource, element: number) {
    super('ERR_SDPO_NON_FINITE', `Expected only finite values in ${nonFiniteText(row, branch, tensor, element)}`);
    this.row = row;
    this.branch = branch;
    this.tensor = tensor;
    this.element = element;
  }
}

function nonFiniteText(row: number, branch: string, tensor: NonFiniteSource, element: number): string {
  const policies = "(nonFinite: 'skip' removes such rows, 'propagate' lets them through)";
  switch (tensor) {
    case 'batch':
      return 'the loss of the batch, received rows whose sum, divided by the denominator, overflows';
    case 'gradient':
      return `the gradient of row ${row} of ${branch}, received a value beyond the range of its dtype at element ${element} (a smaller gradientScale, or a wider dtype of the policy, keeps it in range; with nonFinite 'skip' or 'propagate' it stays Infinity, for a loss scaler to see)`;
    case 'row':
      return `the finite tensors of row ${row} (${branch}), received values whose squared errors or loss overflow ${policies}`;
    default: {
      const place = element >= 0 ? ` at element ${element}` : '';
      return `row ${row} of ${branch}.${tensor}, received a non-finite value${place} ${policies}`;
    }
  }
}

/** Rejection of an asynchronous call whose signal was aborted; `cause` is the signal's reason. */
export class AbortError extends SdpoError {
  constructor(reason: unknown) {
    super('ERR_SDPO_ABORTED', 'The evaluation was aborted', { cause: reason });
  }
  override get name(): string {
    return 'AbortError';
  }
}

/** A training that met something that is not finite: which update, which pairs, at which timestep, and in which tensor it was seen. */
export class DivergenceError extends SdpoError {
  /** The update, counted from 1. */
  readonly step: number;
  /** Ids of the pairs concerned: one where the row is known, else those of the batch. */
  readonly pairs: readonly string[];
  /** Of that pair's row; undefined where no single row is to blame. */
  readonly timestep: number | undefined;
  /** 'chosen.policy', …, 'the loss of chosen', 'loss' or 'gradient' (of the parameters). */
  readonly tensor: string;
  constructor(step: number, pairs: readonly string[], timestep: number | undefined, tensor: string, cause?: unknown) {
    const first = pairs
      .slice(0, 8)
      .map((id) => printable(String(id)))
      .join(', ');
    const shown = pairs.length > 8 ? `${first} and ${pairs.length - 8} more` : first;
    const at = timestep === undefined ? '' : ` at timestep ${timestep}`;
    super(
      'ERR_SDPO_DIVERGED',
      `Expected finite values in update ${step}, received a non-finite value in ${tensor} (pairs ${shown}${at})`,
      { cause },
    );
    this.step = step;
    this.pairs = pairs;
    this.timestep = timestep;
    this.tensor = tensor;
  }
  override get name(): string {
    return 'DivergenceError';
  }
}

/** What the addon tells about a failure of a device. */
export interface DeviceFailure {
  message: string;
  cudaCode: string;
  operation: string;
  device: string;
  shapes: string;
  contextLost: boolean;
  outOfMemory: boolean;
}

/**
 * A failure that CUDA reported: `ERR_SDPO_OUT_OF_MEMORY` where memory was asked for and not given, `ERR_SDPO_DEVICE` for everything else.
 * Kernels run later than the call that started them, so an error may belong to earlier work on the same device.
 */
export class CudaError extends SdpoError {
  /** CUDA's own name, e.g. 'cudaErrorIllegalAddress'. */
  readonly cudaCode: string;
  /** What was being done, e.g. 'launching the loss'. */
  readonly operation: string;
  /** Name of the device, 'cuda:0'; 'cpu' where page-locked memory of the host was asked for. */
  readonly device: string;
  /** Of what: bytes, or rows, elements and dtype; empty where there is nothing to say. */
  readonly shapes: string;
  /** Whether the process can no longer use this device; every later call fails at once with this error. */
  readonly contextLost: boolean;
  constructor(failure: DeviceFailure) {
    super(failure.outOfMemory ? 'ERR_SDPO_OUT_OF_MEMORY' : 'ERR_SDPO_DEVICE', failure.message);
    this.cudaCode = failure.cudaCode;
    this.operation = failure.operation;
    this.device = failure.device;
    this.shapes = failure.shapes;
    this.contextLost = failure.contextLost;
  }
  override get name(): string {
    return 'CudaError';
  }
}
