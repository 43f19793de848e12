/** Gradients of the oracle: the chain rule written by hand, from the loss of a row back to its predictions. */

import { both, clipBounds, elementWeightsOf, inScope, linkValue, type Row, rowCount, type Settings } from './row.js';
import type { BranchName, OracleBatch, PerBranch } from './types.js';

/** ∂loss/∂m with r fixed, and ∂loss/∂q, of one branch. */
interface Slope {
  m: number;
  q: number;
}

/** The chain rule by hand: loss → ψ and λ → m and q. The row weight is applied by the caller. */
export function rowSlope(row: Row, settings: Settings): PerBranch<Slope> {
  const { psi, lambda, z } = row;
  const toPsi = { chosen: 0, rejected: 0 };
  const toLambda = { chosen: 0, rejected: 0 };
  if (row.keep) {
    const slope = linkSlope(settings, z);
    switch (settings.objective) {
      case 'diffusion-dpo':
        toPsi.chosen = slope;
        toPsi.rejected = -slope;
        break;
      case 'dpo-cm': {
        toPsi.chosen = row.pair * slope;
        toPsi.rejected = -row.pair * slope;
        const through = linkValue(settings, z) * clipSlope(settings, row.logPair);
        const share = pairShare(settings, lambda);
        toLambda.chosen = through * share.chosen;
        toLambda.rejected = through * share.rejected;
        break;
      }
      case 'sdpo':
        toPsi.chosen = slope * row.clipped.chosen;
        toPsi.rejected = -slope * row.clipped.rejected;
        toLambda.chosen = slope * psi.chosen * clipSlope(settings, lambda.chosen);
        toLambda.rejected = -slope * psi.rejected * clipSlope(settings, lambda.rejected);
        break;
    }
  }
  const sft = inScope(settings.sftWeight, settings.sftScope, row.keep) ? settings.sftWeight : 0;
  const kl = inScope(settings.klWeight, settings.klScope, row.keep) ? settings.klWeight : 0;
  return both((name) => {
    const reduction = settings.logRatioReduction === 'sum' ? row.weightSum[name] : 1;
    let toM = name === 'chosen' ? sft : 0;
    if (toPsi[name] !== 0) {
      toM -=
        toPsi[name] * settings.beta * (settings.timestepWeighting === 'elbo' ? row.omega[name] * reduction : 1 / 2);
    }
    if (settings.weightGradient && settings.weightRatio !== 'reference/data' && toLambda[name] !== 0) {
      toM -= toLambda[name] * settings.weightSharpness * row.omega[name] * reduction;
      if (row.noiseTerm[name] !== 0) toM += (toLambda[name] * row.noiseTerm[name]) / (2 * row.m[name]); // it grows as √m
    }
    return { m: toM, q: kl };
  });
}

/** How a change of each branch's λ moves the logarithm of the pair weight; a tie of min and max counts as chosen. */
function pairShare({ pairWeight }: Settings, { chosen, rejected }: PerBranch<number>): PerBranch<number> {
  switch (pairWeight) {
    case 'geometric':
      return { chosen: 1 / 2, rejected: 1 / 2 };
    case 'product':
      return { chosen: 1, rejected: 1 };
    case 'min':
      return chosen <= rejected ? { chosen: 1, rejected: 0 } : { chosen: 0, rejected: 1 };
    case 'max':
      return chosen >= rejected ? { chosen: 1, rejected: 0 } : { chosen: 0, rejected: 1 };
  }
}

/** Adds factor · (∂m/∂u · slope.m + ∂q/∂u · slope.q); a zero slope writes zeros whatever the tensors hold. */
export function addGradient(
  out: Float64Array,
  batch: OracleBatch,
  name: BranchName,
  i: number,
  row: Row,
  slope: Slope,
  factor: number,
): void {
  if (row.skipped) return;
  const { policy, reference, target } = batch[name];
  const size = policy.length / rowCount(batch);
  const weights = elementWeightsOf(batch, name, i, size);
  for (let j = 0; j < size; j++) {
    const at = i * size + j;
    const perElement = (2 * weights[j] * factor) / row.weightSum[name];
    if (slope.m !== 0) out[at] += perElement * slope.m * (policy[at] - target[at]);
    if (slope.q !== 0) out[at] += perElement * slope.q * (policy[at] - (reference as ArrayLike<number>)[at]);
  }
}

/** Derivative of clip(e^λ): zero outside, and exactly on an edge. */
function clipSlope(settings: Settings, lambda: number): number {
  const [low, high] = clipBounds(settings);
  const weight = Math.exp(lambda);
  return weight > low && weight < high ? weight : 0;
}

function linkSlope({ link, labelSmoothing, beta }: Settings, z: number): number {
  switch (link) {
    case 'sigmoid':
      return labelSmoothing / (1 + Math.exp(-z)) - (1 - labelSmoothing) / (1 + Math.exp(z));
    case 'hinge':
      return z < 1 ? -1 : 0;
    case 'ipo':
      return (2 / beta) * (z / beta - 1 / (2 * beta));
  }
}
