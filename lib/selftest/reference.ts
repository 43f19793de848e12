/** A float64 reference of the loss, by its definitions and element by element; it shares no code with the backends it judges. */

/** What the reference knows of a call: the options that matter, as they are after defaults. */
export interface ReferenceOptions {
  objective: 'diffusion-dpo' | 'dpo-cm' | 'sdpo';
  link: 'sigmoid' | 'hinge' | 'ipo';
  pairWeight: 'geometric' | 'min' | 'max' | 'product';
  timestepWeighting: 'constant' | 'elbo';
  beta: number;
  clipRange: readonly [number, number];
  maskThreshold: number;
  weightSharpness: number;
  labelSmoothing: number;
  sftWeight: number;
  klWeight: number;
}

/** Flat float64 tensors [rows, size] of one branch. */
export interface ReferenceBranch {
  policy: Float64Array;
  reference: Float64Array;
  target: Float64Array;
}

export interface ReferenceBatch {
  rows: number;
  size: number;
  omega: Float64Array;
  chosen: ReferenceBranch;
  rejected: ReferenceBranch;
  elementWeights?: { chosen: Float64Array; rejected: Float64Array };
  rowWeights?: Float64Array;
}

/** m, δ, q and Σe of a row. */
interface Moments {
  error: number;
  delta: number;
  drift: number;
  weight: number;
}

export interface ReferenceResult {
  loss: number;
  rows: { loss: number[]; logit: number[]; mask: number[]; errorChosen: number[]; errorRejected: number[] };
  gradients: { chosen: Float64Array; rejected: Float64Array };
}

/** Loss, some statistics and gradients of a batch (docs/mathematics.md, sections 2 to 5). */
export function reference(batch: ReferenceBatch, options: ReferenceOptions): ReferenceResult {
  const { rows, size } = batch;
  const out: ReferenceResult = {
    loss: 0,
    rows: { loss: [], logit: [], mask: [], errorChosen: [], errorRejected: [] },
    gradients: { chosen: new Float64Array(rows * size), rejected: new Float64Array(rows * size) },
  };
  for (let row = 0; row < rows; row++) {
    const chosen = moments(batch, 'chosen', row);
    const rejected = moments(batch, 'rejected', row);
    const judged = judge(chosen, rejected, batch.omega[row]!, options);
    const share = (batch.rowWeights?.[row] ?? 1) / rows;
    out.rows.loss.push(judged.loss * (batch.rowWeights?.[row] ?? 1));
    out.rows.logit.push(judged.logit);
    out.rows.mask.push(judged.keep ? 1 : 0);
    out.rows.errorChosen.push(chosen.error);
    out.rows.errorRejected.push(rejected.error);
    out.loss += judged.loss * share;
    writeGradient(batch, 'chosen', row, out, share, judged.onChosen, options.klWeight, chosen.weight);
    writeGradient(batch, 'rejected', row, out, share, judged.onRejected, options.klWeight, rejected.weight);
  }
  return out;
}

function moments(batch: ReferenceBatch, branch: 'chosen' | 'rejected', row: number): Moments {
  const { policy, reference: frozen, target } = batch[branch];
  let error = 0;
  let delta = 0;
  let drift = 0;
  let weight = 0;
  for (let j = 0; j < batch.size; j++) {
    const at = row * batch.size + j;
    const e = batch.elementWeights?.[branch][j] ?? 1;
    const d = policy[at]! - target[at]!;
    const h = policy[at]! - frozen[at]!;
    error += e * d * d;
    delta += e * h * (2 * d - h);
    drift += e * h * h;
    weight += e;
  }
  return { error: error / weight, delta: delta / weight, drift: drift / weight, weight };
}

/** Loss of a row and its derivatives with respect to m + δ of each branch; weights are constants. */
function judge(chosen: Moments, rejected: Moments, omega: number, options: ReferenceOptions) {
  const { objective, weightSharpness: kappa } = options;
  const psiScale = options.timestepWeighting === 'elbo' ? options.beta * omega : options.beta / 2;
  const psi = { chosen: -psiScale * chosen.delta, rejected: -psiScale * rejected.delta };
  const logWeight = { chosen: -kappa * omega * chosen.error, rejected: -kappa * omega * rejected.error };
  const floor = Math.log(options.maskThreshold);
  const keep = objective === 'diffusion-dpo' || (logWeight.chosen >= floor && logWeight.rejected >= floor);
  const clip = (logarithm: number) =>
    Math.min(Math.max(Math.exp(logarithm), options.clipRange[0]), options.clipRange[1]);
  const weights = { chosen: 1, rejected: 1 };
  let pair = 1;
  if (objective === 'sdpo') {
    weights.chosen = clip(logWeight.chosen);
    weights.rejected = clip(logWeight.rejected);
  } else if (objective === 'dpo-cm') {
    pair = clip(pairOf(logWeight.chosen, logWeight.rejected, options.pairWeight));
  }
  const logit = weights.chosen * psi.chosen - weights.rejected * psi.rejected;
  const { value, slope } = link(logit, options);
  const outer = keep ? pair * slope : 0;
  return {
    keep,
    logit,
    loss:
      (keep ? pair * value : 0) + options.sftWeight * chosen.error + options.klWeight * (chosen.drift + rejected.drift),
    onChosen: options.sftWeight - outer * weights.chosen * psiScale,
    onRejected: outer * weights.rejected * psiScale,
  };
}

function pairOf(chosen: number, rejected: number, kind: ReferenceOptions['pairWeight']): number {
  if (kind === 'geometric') return (chosen + rejected) / 2;
  if (kind === 'product') return chosen + rejected;
  return kind === 'min' ? Math.min(chosen, rejected) : Math.max(chosen, rejected);
}

function link(z: number, { link: kind, labelSmoothing, beta }: ReferenceOptions): { value: number; slope: number } {
  if (kind === 'hinge') return { value: Math.max(0, 1 - z), slope: z < 1 ? -1 : 0 };
  if (kind === 'ipo') {
    const off = z / beta - 1 / (2 * beta);
    return { value: off * off, slope: (2 * off) / beta };
  }
  const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
  const value = (1 - labelSmoothing) * softplus(-z) + labelSmoothing * softplus(z);
  return { value, slope: 1 / (1 + Math.exp(-z)) - (1 - labelSmoothing) };
}

/** (2/Σe) e (A d + B h). */
function writeGradient(
  batch: ReferenceBatch,
  branch: 'chosen' | 'rejected',
  row: number,
  out: ReferenceResult,
  share: number,
  a: number,
  b: number,
  weight: number,
): void {
  const { policy, reference: frozen, target } = batch[branch];
  for (let j = 0; j < batch.size; j++) {
    const at = row * batch.size + j;
    const e = batch.elementWeights?.[branch][j] ?? 1;
    const inner = a * (policy[at]! - target[at]!) + b * (policy[at]! - frozen[at]!);
    out.gradients[branch][at] = ((2 * share * e) / weight) * inner;
  }
}
