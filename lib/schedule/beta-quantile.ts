/** Quantiles of the beta distribution that the beta ladder of samplers takes its levels from (arXiv 2407.12173). */

/** Both parameters of the distribution. */
const SHAPE = 0.6;

/** Σ_k (1-b)_k / k! · x^k / (a+k): x^-a times the incomplete beta function. Its terms fall at least as 2^-k for x <= 1/2. */
function series(x: number): number {
  let sum = 0;
  let term = 1;
  for (let k = 0; term > 2 ** -56; k++) {
    sum += term / (SHAPE + k);
    term *= ((k + 1 - SHAPE) / (k + 1)) * x;
  }
  return sum;
}

/** The complete beta function, of which half lies below 1/2 by symmetry. */
const COMPLETE = 2 * 0.5 ** SHAPE * series(0.5);

/** The x below which a Beta(0.6, 0.6) number lies with probability p in [0, 1]. */
export function betaQuantile(p: number): number {
  if (p > 0.5) return 1 - betaQuantile(1 - p);
  if (p === 0) return 0;
  // Newton's method from above the root of a concave function: one step may pass it, the following ones rise to it.
  let x = Math.min(0.5, (p * SHAPE * COMPLETE) ** (1 / SHAPE));
  for (let i = 0; i < 50; i++) {
    const density = (x * (1 - x)) ** (SHAPE - 1) / COMPLETE;
    const next = x - ((x ** SHAPE * series(x)) / COMPLETE - p) / density;
    if (Math.abs(next - x) <= 4 * Number.EPSILON * x) return next;
    x = next;
  }
  return x;
}
