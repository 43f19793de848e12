/** Holds noise levels and transition weights to an oracle in exact arithmetic: 256-bit fixed point, explicit Gaussians, Bayes' rule, no closed form. */

import t from 'tap';
import { type DiffusersConfig, NoiseSchedule, type PredictionType } from '../../lib/schedule/schedule.js';

const BITS = 256n;
const ONE = 1n << BITS;

/** The exact value of a double (below 2^-256 it is cut off). */
function exact(value: number): bigint {
  if (value === 0) return 0n;
  const exponent = Math.floor(Math.log2(Math.abs(value))) - 60;
  const mantissa = BigInt(value / 2 ** exponent);
  const shift = BITS + BigInt(exponent);
  return shift >= 0n ? mantissa << shift : mantissa >> -shift;
}

function toNumber(value: bigint): number {
  const sign = value < 0n ? -1 : 1;
  const magnitude = value < 0n ? -value : value;
  const excess = magnitude.toString(2).length - 64;
  if (excess <= 0) return (sign * Number(magnitude)) / 2 ** Number(BITS);
  return sign * Number(magnitude >> BigInt(excess)) * 2 ** (excess - Number(BITS));
}

const times = (a: bigint, b: bigint): bigint => (a * b) >> BITS;
const over = (a: bigint, b: bigint): bigint => (a << BITS) / b;
const square = (a: bigint): bigint => times(a, a);

function root(value: bigint): bigint {
  if (value === 0n) return 0n;
  const target = value << BITS;
  let guess = 1n << BigInt(Math.ceil(target.toString(2).length / 2));
  for (;;) {
    const next = (guess + target / guess) >> 1n;
    if (next >= guess) return guess;
    guess = next;
  }
}

/** π by Machin's formula. */
const PI = (() => {
  const arctanInverse = (n: bigint): bigint => {
    let term = ONE / n;
    let sum = term;
    for (let k = 1n; term !== 0n; k++) {
      term = -term / (n * n);
      sum += term / (2n * k + 1n);
    }
    return sum;
  };
  return 4n * (4n * arctanInverse(5n) - arctanInverse(239n));
})();

function cosine(x: bigint): bigint {
  const xx = square(x);
  let term = ONE;
  let sum = ONE;
  for (let k = 1n; term !== 0n; k++) {
    term = -times(term, xx) / ((2n * k - 1n) * (2n * k));
    sum += term;
  }
  return sum;
}

interface Case {
  config: DiffusersConfig & { num_train_timesteps: number };
  /** The final ᾱ is ᾱ_0. */
  endsNoisy?: boolean;
}

const LATENT = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' };
const TABLES: Record<string, Case> = {
  linear: { config: { _class_name: 'DDPMScheduler', num_train_timesteps: 1000 } },
  scaled: { config: { _class_name: 'DDIMScheduler', num_train_timesteps: 1000, ...LATENT } },
  'scaled, final alpha 0': {
    config: { _class_name: 'PNDMScheduler', num_train_timesteps: 1000, ...LATENT },
    endsNoisy: true,
  },
  cosine: { config: { _class_name: 'DDPMScheduler', num_train_timesteps: 1000, beta_schedule: 'squaredcos_cap_v2' } },
  'zero terminal SNR': {
    config: { _class_name: 'DDIMScheduler', num_train_timesteps: 1000, ...LATENT, rescale_betas_zero_snr: true },
  },
  'SNR shift': { config: { _class_name: 'CogVideoXDDIMScheduler', num_train_timesteps: 1000, snr_shift_scale: 3 } },
  'SNR shift and zero terminal SNR': {
    config: { _class_name: 'CogVideoXDPMScheduler', num_train_timesteps: 1000, rescale_betas_zero_snr: true },
  },
  'few timesteps': { config: { _class_name: 'DDPMScheduler', num_train_timesteps: 7, beta_end: 0.5 } },
};

/** ᾱ_t in fixed point, straight from the definitions. */
function exactAlphas({ config }: Case): bigint[] {
  const steps = config.num_train_timesteps;
  const cog = String(config._class_name).startsWith('CogVideoX');
  const start = exact((config.beta_start as number) ?? (cog ? 0.00085 : 0.0001));
  const end = exact((config.beta_end as number) ?? (cog ? 0.012 : 0.02));
  const schedule = config.beta_schedule ?? (cog ? 'scaled_linear' : 'linear');
  const between = (a: bigint, b: bigint, i: number): bigint => a + ((b - a) * BigInt(i)) / BigInt(steps - 1);
  // cos²(((i/T + 0.008) / 1.008) π/2) with the decimal fractions as ratios of integers.
  const level = (i: number): bigint =>
    square(cosine((PI * (BigInt(i) * 1000n + 8n * BigInt(steps))) / (1008n * 2n * BigInt(steps))));
  let alphas: bigint[] = [];
  let product = ONE;
  for (let i = 0; i < steps; i++) {
    let beta: bigint;
    if (schedule === 'linear') beta = between(start, end, i);
    else if (schedule === 'scaled_linear') beta = square(between(root(start), root(end), i));
    else {
      beta = ONE - over(level(i + 1), level(i));
      const cap = exact(0.999);
      if (beta > cap) beta = cap;
    }
    product = times(product, ONE - beta);
    alphas.push(product);
  }
  if (cog) {
    const k = exact((config.snr_shift_scale as number) ?? 3);
    alphas = alphas.map((alpha) => over(alpha, k + times(ONE - k, alpha)));
  }
  if (config.rescale_betas_zero_snr) {
    const roots = alphas.map(root);
    const [first, last] = [roots[0], roots[steps - 1]];
    alphas = roots.map((r) => square(over(times(r - last, first), first - last)));
  }
  return alphas;
}

interface Level {
  a: bigint;
  s: bigint;
}

/** ω of the transition between two levels, from the Gaussians q(x_p|x_0) and q(x_t|x_p) by Bayes' rule. */
function exactOmega(here: Level, previous: Level, eta: number, type: PredictionType): number {
  if (previous.s === 0n || (type === 'epsilon' && here.a === 0n)) return Infinity;
  const alpha = over(here.a, previous.a);
  const stepVariance = square(here.s) - times(square(alpha), square(previous.s));
  if (stepVariance <= 0n) return 0; // nothing happens in such a transition
  const precision = over(ONE, square(previous.s)) + over(square(alpha), stepVariance);
  const variance = over(square(exact(eta)), precision);
  const onData =
    eta === 1
      ? times(over(ONE, precision), over(previous.a, square(previous.s)))
      : previous.a - over(times(root(square(previous.s) - variance), here.a), here.s);
  const derivative = type === 'epsilon' ? over(here.s, here.a) : type === 'sample' ? ONE : here.s;
  return toNumber(over(square(times(onData, derivative)), 2n * variance));
}

/** The same formula in doubles on levels that are right to the last bit: what the tables and the stable form have to compete with. */
function naiveOmega(here: Level, previous: Level, eta: number): number {
  const [a, s, ap, sp] = [here.a, here.s, previous.a, previous.s].map(toNumber);
  const alpha = a / ap;
  const variance = (eta * eta) / (1 / sp ** 2 + alpha ** 2 / (s ** 2 - alpha ** 2 * sp ** 2));
  const onData = ap - (Math.sqrt(sp ** 2 - variance) * a) / s;
  return onData ** 2 / (2 * variance);
}

const ETAS = [1, 0.75, 0.5, 0.1];

t.test('noise levels of tables agree with exact arithmetic', async (t) => {
  for (const [name, each] of Object.entries(TABLES)) {
    const schedule = NoiseSchedule.fromDiffusers(each.config, { inferenceSteps: 1 });
    const alphas = exactAlphas(each);
    const steps = alphas.length;
    const rescaled = each.config.rescale_betas_zero_snr === true;
    let worst = 0;
    for (let step = 0; step < steps; step++) {
      const signal = toNumber(root(alphas[step]));
      const sigma = toNumber(root(ONE - alphas[step]));
      // A product or sum of t+1 terms loses at most a few units of rounding per term. Rescaling subtracts the last √ᾱ, so it magnifies that error
      // of √ᾱ by √ᾱ / (√ᾱ - √ᾱ_T), which for the rescaled r' = (r - r_T) c is about 1 + r_T / (r - r_T) <= 1 + 1 / r'.
      const roundings = 8 * (step + 2) * Number.EPSILON;
      const condition = rescaled && signal > 0 ? 1 + 1 / signal : 1;
      const errors = [
        Math.abs(schedule.signal(step) - signal) / (signal === 0 ? 1 : signal) / condition,
        Math.abs(schedule.sigma(step) - sigma) / sigma,
      ];
      worst = Math.max(worst, ...errors.map((error) => error / roundings));
    }
    t.ok(worst <= 1, `${name}: largest error ${worst.toPrecision(2)} of its bound`);
    if (rescaled) {
      t.equal(schedule.signal(steps - 1), 0, `${name}: the terminal SNR is exactly 0`);
      t.equal(schedule.sigma(steps - 1), 1);
    }
  }
});

t.test(
  "omega agrees with Bayes' rule in exact arithmetic, for every table, prediction type, stride and eta",
  async (t) => {
    for (const [name, each] of Object.entries(TABLES)) {
      const alphas = exactAlphas(each);
      const steps = alphas.length;
      const levels = alphas.map((alpha): Level => ({ a: root(alpha), s: root(ONE - alpha) }));
      const final: Level = each.endsNoisy ? levels[0] : { a: ONE, s: 0n };
      let worst = 0;
      let naive = 0;
      let stable = 0;
      for (const inferenceSteps of [1, Math.min(50, steps), steps]) {
        const stride = Math.floor(steps / inferenceSteps);
        for (const eta of ETAS) {
          for (const predictionType of ['epsilon', 'v_prediction', 'sample'] as const) {
            const schedule = NoiseSchedule.fromDiffusers(each.config, { inferenceSteps, eta, predictionType });
            // Every timestep at the ends, where the special cases are, and every seventh between.
            for (let step = 0; step < steps; step += step > 50 && step < steps - 50 ? 7 : 1) {
              const p = step - stride;
              const previous = p < 0 ? final : levels[p];
              const expected = exactOmega(levels[step], previous, eta, predictionType);
              const { omega, previous: to } = schedule.transition(step);
              if (to !== p) t.fail(`${name}: previous of ${step} is ${to}`);
              if (expected === Infinity || expected === 0) {
                if (omega !== expected)
                  t.fail(`${name}, n = ${inferenceSteps}, t = ${step}: ${omega}, not ${expected}`);
                continue;
              }
              const error = Math.abs(omega - expected) / expected;
              // The rounding of the table (see above), times the condition of the two differences in ω: ᾱ_p - ᾱ_t (taken between the smaller of the powers
              // or of their complements) and, after a rescaling, √ᾱ - √ᾱ_T.
              const [here, there] = [alphas[step], square(previous.a)].map(toNumber);
              const difference = toNumber(square(previous.a) - alphas[step]);
              const condition = Math.max(1, Math.min(there, toNumber(ONE - alphas[step])) / difference);
              const rescaling = each.config.rescale_betas_zero_snr && here > 0 ? 1 + 1 / Math.sqrt(here) : 1;
              worst = Math.max(worst, error / (16 * (step + 2) * Number.EPSILON * condition * rescaling));
              if (predictionType === 'sample') {
                stable = Math.max(stable, error);
                naive = Math.max(naive, Math.abs(naiveOmega(levels[step], previous, eta) - expected) / expected);
              }
            }
          }
        }
      }
      t.ok(worst <= 1, `${name}: largest error ${worst.toPrecision(2)} of its bound`);
      t.ok(
        stable <= 2 * naive,
        `${name}: relative error ${stable.toExponential(1)}, naive formula ${naive.toExponential(1)}`,
      );
    }
  },
);

t.test("omega of flows agrees with Bayes' rule in exact arithmetic", async (t) => {
  for (const shift of [1, 3, 5, 0.5]) {
    const k = exact(shift);
    let worst = 0;
    for (const inferenceSteps of [1, 4, 28, 50, 1000]) {
      for (const eta of ETAS) {
        for (const predictionType of ['flow_prediction', 'sample', 'epsilon'] as const) {
          const schedule = NoiseSchedule.flow({ shift, inferenceSteps, eta, predictionType });
          for (let timestep = 1000; timestep > 0; timestep -= 13.37) {
            const sigma = exact(timestep) / 1000n;
            const tau = over(sigma, k - times(k - ONE, sigma)) - ONE / BigInt(inferenceSteps);
            const clean = tau < exact(1e-9);
            const to = clean ? 0n : over(times(k, tau), ONE + times(k - ONE, tau));
            const expected = exactOmega({ a: ONE - sigma, s: sigma }, { a: ONE - to, s: to }, eta, predictionType);
            const { omega, previous } = schedule.transition(timestep);
            if (clean || expected === Infinity) {
              if (omega !== Infinity || (clean && previous !== 0)) t.fail(`t = ${timestep}: ${omega}, ${previous}`);
              continue;
            }
            const toTime = toNumber(to) * 1000;
            // Subtracting 1/n from τ leaves an error of ε relative to τ, not to the result; σ - σ_p then magnifies by σ / (σ - σ_p); 1 - σ by 1 / (1 - σ).
            const condition =
              (timestep / toTime) *
              (timestep / (timestep - toTime)) *
              Math.max(1, 1000 / (1000.001 - toTime)) *
              Math.max(shift, 1 / shift);
            const bound = 32 * Number.EPSILON * condition;
            worst = Math.max(
              worst,
              Math.abs(omega - expected) / expected / bound,
              Math.abs(previous - toTime) / toTime / bound,
            );
          }
        }
      }
    }
    t.ok(worst <= 1, `shift ${shift}: largest error ${worst.toPrecision(2)} of its bound`);
  }
});
