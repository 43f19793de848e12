/** The options of a validation on held-out pairs, and what names its best step. */

import type { PreferenceLoss } from '../loss/loss.js';
import { isReferenceFree } from '../loss/options.js';
import {
  checkBoolean,
  checkInteger,
  checkOneOf,
  checkOptions,
  type Filled,
  failType,
  failValue,
} from '../native/validate.js';
import type {
  BestStep,
  MaybePromise,
  PairDataset,
  PairSource,
  Policy,
  Reference,
  ReferencePrediction,
  TrainingRows,
} from './types.js';

/** What the best step is told by: a metric of the log, and whether less of it is better. */
const CRITERIA = {
  loss: { metric: 'loss', sign: -1 },
  accuracy: { metric: 'rewards/accuracies', sign: 1 },
  margin: { metric: 'rewards/margins', sign: 1 },
} as const satisfies { readonly [K in BestStep['criterion']]: { readonly metric: string; readonly sign: 1 | -1 } };

export const VALIDATION_CRITERIA = Object.keys(CRITERIA) as readonly BestStep['criterion'][];

export interface ValidationOptions<C = unknown> {
  /** Pairs that `data` does not have, of the same shape. All of them are evaluated, in their order. */
  data: PairDataset<C>;
  /** Updates between validations. */
  every: number;
  /** Whether there is one before the first update. Default false. */
  atStart?: boolean | undefined;
  /** Rows made of each pair, with timesteps and noise as in training but fixed by the seed. Default 1. */
  timestepsPerPair?: number | undefined;
  /** Pairs of one forward pass. Default those of a part of an update, `pairsPerStep / accumulate`. */
  batchSize?: number | undefined;
  /** What names the best step: the lowest `loss`, the highest `accuracy` (`rewards/accuracies`) or `margin` (`rewards/margins`). Default `loss`. */
  best?: BestStep['criterion'] | undefined;
  /**
   * Gives reference predictions for the held-out rows. Default: the policy's own `reference`, or else the trainer's `reference` where that is a
   * function. A cache is not asked: it keeps the rows of updates.
   */
  reference?: ((rows: TrainingRows<C>) => MaybePromise<ReferencePrediction>) | undefined;
}

/** Options with the defaults filled in. */
export type ResolvedValidation<C> = Filled<Omit<ValidationOptions<C>, 'reference'>> &
  Pick<ValidationOptions<C>, 'reference'>;

const FIELDS = ['data', 'every', 'atStart', 'timestepsPerPair', 'batchSize', 'best', 'reference'];

/** Checks the options and fills in the defaults; `given` are those of the trainer, of which the data have been checked. */
export function resolveValidation<C>(
  argument: string,
  validation: ValidationOptions<C>,
  given: {
    readonly data: PairSource<C>;
    readonly policy: Policy<C>;
    readonly loss: PreferenceLoss;
    readonly reference?: Reference<C> | ((rows: TrainingRows<C>) => MaybePromise<ReferencePrediction>) | undefined;
  },
  pairsPerPart: number,
): ResolvedValidation<C> {
  validation = checkOptions(argument, validation, FIELDS);
  const { data, every, atStart = false, timestepsPerPair = 1, batchSize = pairsPerPart, best = 'loss' } = validation;
  if (data?.kind !== 'indexed') failType(`${argument}.data`, 'a PairDataset', data);
  if (String(data.shape) !== String(given.data.shape)) {
    failValue(`${argument}.data.shape`, `[${given.data.shape}], as the data to train on`, `[${data.shape}]`);
  }
  const { policy, loss } = given;
  const reference =
    validation.reference ??
    (policy.reference === undefined
      ? typeof given.reference === 'function'
        ? given.reference
        : undefined
      : async ({ inputs }: TrainingRows<C>) => ({ prediction: await policy.reference!(inputs) }));
  const needed = !isReferenceFree(loss.options.objective);
  if (needed && reference === undefined) {
    failType(`${argument}.reference`, 'a function, since the policy has no reference()', reference);
  }
  if (validation.reference !== undefined && typeof validation.reference !== 'function') {
    failType(`${argument}.reference`, 'a function', validation.reference);
  }
  return {
    data,
    every: checkInteger(`${argument}.every`, every, 1),
    atStart: checkBoolean(`${argument}.atStart`, atStart),
    timestepsPerPair: checkInteger(`${argument}.timestepsPerPair`, timestepsPerPair, 1),
    batchSize: checkInteger(`${argument}.batchSize`, batchSize, 1),
    best: checkOneOf(`${argument}.best`, best, VALIDATION_CRITERIA),
    reference: needed || validation.reference !== undefined ? reference : undefined,
  };
}

/** The best of some entries of a log by a criterion and of the one `before` them, the first among equals; undefined where none has a finite number. */
export function bestStep(
  entries: readonly { readonly step: number; readonly metrics: Readonly<Record<string, number | null>> }[],
  criterion: BestStep['criterion'],
  before?: BestStep | undefined,
): BestStep | undefined {
  const { metric, sign } = CRITERIA[criterion];
  let best = before;
  for (const { step, metrics } of entries) {
    const value = metrics[metric];
    if (typeof value !== 'number' || !Number.isFinite(value)) continue;
    if (best === undefined || sign * value > sign * best.value) best = { step, criterion, value };
  }
  return best;
}
