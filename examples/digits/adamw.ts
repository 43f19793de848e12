/** AdamW (Loshchilov & Hutter, arXiv 1711.05101) over a flat record of parameters, with clipping by the global gradient norm. */

import { dispose, jit, np, type Params, zerosLike } from './jax.js';

export interface AdamWOptions {
  learningRate: number;
  /** Decay of the first and the second moment. Default 0.9 and 0.999. */
  betas?: readonly [number, number];
  /** Added to the root of the second moment. Default 1e-8. */
  epsilon?: number;
  /** Decoupled weight decay. Default 0. */
  weightDecay?: number;
  /** Gradients with a larger global norm are scaled down to it. Default: no clipping. */
  maxGradientNorm?: number;
}

/** Keeps the moments of one set of parameters. */
export class AdamW {
  readonly #options: Required<AdamWOptions>;
  readonly #update: ReturnType<typeof compileUpdate>;
  #first: Params;
  #second: Params;
  #steps = 0;

  /** `params` gives the shapes and is not consumed. */
  constructor(params: Params, options: AdamWOptions) {
    this.#options = { betas: [0.9, 0.999], epsilon: 1e-8, weightDecay: 0, maxGradientNorm: Infinity, ...options };
    this.#update = compileUpdate(this.#options);
    this.#first = zerosLike(params);
    this.#second = zerosLike(params);
  }

  /**
   * One step. Consumes the parameters and the gradients and returns the new parameters, and the gradient norm before clipping.
   * `learningRate` overrides the option for this step, for schedules.
   */
  step(
    params: Params,
    gradients: Params,
    learningRate = this.#options.learningRate,
  ): { params: Params; gradientNorm: number } {
    this.#steps++;
    const [beta1, beta2] = this.#options.betas;
    const result = this.#update(
      { params, gradients, first: this.#first, second: this.#second },
      np.array(learningRate),
      np.array(1 - beta1 ** this.#steps),
      np.array(1 - beta2 ** this.#steps),
    );
    this.#first = result.first;
    this.#second = result.second;
    return { params: result.params, gradientNorm: result.norm.item() };
  }

  /** Releases the moments and the compiled update. */
  dispose(): void {
    dispose(this.#first);
    dispose(this.#second);
    this.#update.dispose();
  }
}

type State = { params: Params; gradients: Params; first: Params; second: Params };

/** The whole update as one compiled function; what changes from step to step comes in as arrays, the rest is constant. */
function compileUpdate({ betas: [beta1, beta2], epsilon, weightDecay, maxGradientNorm }: Required<AdamWOptions>) {
  return jit((state: State, rate: np.Array, correction1: np.Array, correction2: np.Array) => {
    const names = Object.keys(state.params);
    const squares = names.map((name) => np.square(state.gradients[name].ref).sum());
    const norm = np.sqrt(squares.reduce((sum, value) => sum.add(value)));
    const scale = Number.isFinite(maxGradientNorm)
      ? np.minimum(np.array(maxGradientNorm).div(norm.ref.add(1e-6)), 1)
      : np.array(1);
    const next = { params: {} as Params, first: {} as Params, second: {} as Params, norm };
    for (const name of names) {
      const gradient = state.gradients[name].mul(scale.ref);
      const first = state.first[name].mul(beta1).add(gradient.ref.mul(1 - beta1));
      const second = state.second[name].mul(beta2).add(np.square(gradient).mul(1 - beta2));
      const direction = first.ref
        .div(correction1.ref)
        .div(np.sqrt(second.ref.div(correction2.ref)).add(epsilon))
        .add(state.params[name].ref.mul(weightDecay));
      next.params[name] = state.params[name].sub(direction.mul(rate.ref));
      next.first[name] = first;
      next.second[name] = second;
    }
    for (const scalar of [scale, rate, correction1, correction2]) scalar.dispose();
    return next;
  });
}
