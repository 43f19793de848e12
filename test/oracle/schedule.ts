/** Transition weights of the float64 oracle: noise tables by definition and ω from two explicit Gaussians, with none of the closed forms that `lib/` uses. */

export type PredictionType = 'epsilon' | 'v_prediction' | 'sample' | 'flow_prediction';

/** A diffusers scheduler config, restricted to the fields that the oracle understands. */
export interface SchedulerConfig {
  _class_name: string;
  num_train_timesteps?: number;
  beta_start?: number;
  beta_end?: number;
  beta_schedule?: string;
  rescale_betas_zero_snr?: boolean;
  snr_shift_scale?: number;
  set_alpha_to_one?: boolean;
  shift?: number;
}

export interface OracleSchedule {
  config: SchedulerConfig;
  predictionType: PredictionType;
  inferenceSteps: number;
  eta?: number;
}

/** x = signal · x_0 + sigma · ε. */
interface Level {
  signal: number;
  sigma: number;
}

/** A normal distribution of x_p whose mean is linear in x_0 and x_t. */
interface Conditional {
  mean(x0: number, xt: number): number;
  variance: number;
}

/** ω of the transition that an n-step sampler makes from `t`: the KL divergence of the two Gaussians for an error of one in the prediction. */
export function transitionWeight(schedule: OracleSchedule, t: number): number {
  const here = levelAt(schedule.config, t);
  const previous = previousLevel(schedule, t);
  if (previous.sigma === 0) return Infinity; // a point mass on clean data has no density
  if (schedule.predictionType === 'epsilon' && here.signal === 0) return Infinity; // x_0 cannot be read off the noise
  if (previous.sigma === here.sigma) return 0; // no step at all: both distributions are the same point
  const reverse = reverseConditional(here, previous, schedule.eta ?? 1);
  const xt = 0; // any x_t: it cancels, and with 0 the predictions below are exact
  const meanOfData = reverse.mean(predictedData(schedule.predictionType, here, xt, 0), xt);
  const meanOfPolicy = reverse.mean(predictedData(schedule.predictionType, here, xt, 1), xt);
  return (meanOfPolicy - meanOfData) ** 2 / (2 * reverse.variance);
}

/** a_t and s_t. */
export function levelAt(config: SchedulerConfig, t: number): Level {
  if (isFlow(config)) return flowLevel(t / steps(config));
  return vpLevel(cumulativeAlphas(config)[t]);
}

/** What the model should predict for x_0 and ε at level t. */
export function predictionTarget(schedule: OracleSchedule, t: number, x0: number, noise: number): number {
  const { signal, sigma } = levelAt(schedule.config, t);
  switch (schedule.predictionType) {
    case 'epsilon':
      return noise;
    case 'sample':
      return x0;
    case 'v_prediction':
      return signal * noise - sigma * x0;
    case 'flow_prediction':
      return noise - x0;
  }
}

/** x̂_0 from a prediction u at x_t. */
function predictedData(type: PredictionType, { signal, sigma }: Level, xt: number, u: number): number {
  switch (type) {
    case 'epsilon':
      return (xt - sigma * u) / signal;
    case 'sample':
      return u;
    case 'v_prediction':
      return signal * xt - sigma * u;
    case 'flow_prediction':
      return xt - sigma * u;
  }
}

/**
 * The distribution of x_p given x_t and x_0. For η = 1 it is Bayes' rule on x_p | x_0 ~ N(a_p x_0, s_p²) and
 * x_t | x_p ~ N(α x_p, v); for other η the DDIM construction: variance η² times that one, and the mean that keeps the
 * marginal of x_p.
 */
function reverseConditional(here: Level, previous: Level, eta: number): Conditional {
  const alpha = here.signal / previous.signal;
  const stepVariance = here.sigma ** 2 - alpha ** 2 * previous.sigma ** 2;
  const precision = 1 / previous.sigma ** 2 + alpha ** 2 / stepVariance;
  if (eta === 1) {
    return {
      variance: 1 / precision,
      mean: (x0, xt) => ((previous.signal * x0) / previous.sigma ** 2 + (alpha * xt) / stepVariance) / precision,
    };
  }
  const variance = eta ** 2 / precision;
  return {
    variance,
    mean: (x0, xt) =>
      previous.signal * x0 + (Math.sqrt(previous.sigma ** 2 - variance) * (xt - here.signal * x0)) / here.sigma,
  };
}

function previousLevel({ config, inferenceSteps }: OracleSchedule, t: number): Level {
  if (isFlow(config)) {
    const shift = config.shift ?? 1;
    const sigma = t / steps(config);
    const tau = sigma / (shift - (shift - 1) * sigma) - 1 / inferenceSteps;
    return flowLevel(tau < 1e-9 ? 0 : (shift * tau) / (1 + (shift - 1) * tau));
  }
  const previous = t - Math.floor(steps(config) / inferenceSteps);
  const alphas = cumulativeAlphas(config);
  if (previous >= 0) return vpLevel(alphas[previous]);
  return vpLevel(config.set_alpha_to_one === false ? alphas[0] : 1);
}

function isFlow(config: SchedulerConfig): boolean {
  return config._class_name.startsWith('FlowMatch');
}

function steps(config: SchedulerConfig): number {
  return config.num_train_timesteps ?? 1000;
}

function flowLevel(sigma: number): Level {
  return { signal: 1 - sigma, sigma };
}

function vpLevel(cumulativeAlpha: number): Level {
  return { signal: Math.sqrt(cumulativeAlpha), sigma: Math.sqrt(1 - cumulativeAlpha) };
}

const tables = new WeakMap<SchedulerConfig, number[]>();

/** ᾱ_0 … ᾱ_(T-1), in the order in which diffusers builds them: betas, SNR shift, zero terminal SNR. */
function cumulativeAlphas(config: SchedulerConfig): number[] {
  let alphas = tables.get(config);
  if (alphas) return alphas;
  let product = 1;
  alphas = betas(config).map((beta) => {
    product *= 1 - beta;
    return product;
  });
  const k = config.snr_shift_scale ?? 1;
  alphas = alphas.map((alpha) => alpha / (k + (1 - k) * alpha));
  if (config.rescale_betas_zero_snr) {
    const roots = alphas.map(Math.sqrt);
    const first = roots[0];
    const last = roots[roots.length - 1];
    alphas = roots.map((root) => (((root - last) * first) / (first - last)) ** 2);
  }
  tables.set(config, alphas);
  return alphas;
}

function betas(config: SchedulerConfig): number[] {
  const count = steps(config);
  const { beta_start: start = 1e-4, beta_end: end = 0.02 } = config;
  const between = (low: number, high: number, i: number) => low + ((high - low) * i) / (count - 1);
  const cosine = (t: number) => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
  return Array.from({ length: count }, (_, i) => {
    switch (config.beta_schedule) {
      case 'linear':
        return between(start, end, i);
      case 'scaled_linear':
        return between(Math.sqrt(start), Math.sqrt(end), i) ** 2;
      case 'squaredcos_cap_v2':
        return Math.min(1 - cosine((i + 1) / count) / cosine(i / count), 0.999);
      default:
        throw new Error(`the oracle has no beta schedule ${config.beta_schedule}`);
    }
  });
}
