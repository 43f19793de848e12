/** AdamW (Loshchilov & Hutter, arXiv 1711.05101) over a flat record of parameters, with clipping by the global gradient norm. */

import { dispose, jit, np, type Params, ref, zerosLike } from './jax.js';

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
  readonly #norm = compileNorm();
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
   * One step. Consumes the parameters and the gradients and returns the new parameters, and the gradient norm before clipping. Where that is not
   * finite, the parameters come back as they were and the moments stay. The arguments override the options for this step, for schedules.
   */
  step(
    params: Params,
    gradients: Params,
    learningRate = this.#options.learningRate,
    maxGradientNorm = this.#options.maxGradientNorm,
  ): { params: Params; gradientNorm: number } {
    const gradientNorm: number = this.#norm(ref(gradients)).item();
    if (!Number.isFinite(gradientNorm)) {
      dispose(gradients);
      return { params, gradientNorm };
    }
    this.#steps++;
    const [beta1, beta2] = this.#options.betas;
    const next = this.#update(
      { params, gradients, first: this.#first, second: this.#second },
      np.array(learningRate),
      np.array(Math.min(1, maxGradientNorm / (gradientNorm + 1e-6))),
      np.array(1 - beta1 ** this.#steps),
      np.array(1 - beta2 ** this.#steps),
    );
    this.#first = next.first;
    this.#second = next.second;
    return { params: next.params, gradientNorm };
  }

  /** Updates made. */
  get steps(): number {
    return this.#steps;
  }

  /** The moments, which are not consumed. */
  get moments(): { first: Params; second: Params } {
    return { first: this.#first, second: this.#second };
  }

  /** Goes on from moments, which are consumed, after so many updates. */
  restore(steps: number, { first, second }: { first: Params; second: Params }): void {
    dispose(this.#first);
    dispose(this.#second);
    this.#first = first;
    this.#second = second;
    this.#steps = steps;
  }

  /** Releases the moments and the compiled functions. */
  dispose(): void {
    dispose(this.#first);
    dispose(this.#second);
    this.#norm.dispose();
    this.#update.dispose();
  }
}

type State = { params: Params; gradients: Params; first: Params; second: Params };

/** Global norm of a record of arrays, which are consumed. */
function compileNorm() {
  return jit((gradients: Params) =>
    np.sqrt(
      Object.values(gradients)
        .map((gradient) => np.square(gradient).sum())
        .reduce((sum, value) => sum.add(value)),
    ),
  );
}

/** The whole update as one compiled function; what changes from step to step comes in as arrays, the rest is constant. */
function compileUpdate({ betas: [beta1, beta2], epsilon, weightDecay }: Required<AdamWOptions>) {
  return jit((state: State, rate: np.Array, scale: np.Array, correction1: np.Array, correction2: np.Array) => {
    const next = { params: {} as Params, first: {} as Params, second: {} as Params };
    for (const name of Object.keys(state.params)) {
      const gradient = state.gradients[name]!.mul(scale.ref);
      const first = state.first[name]!.mul(beta1).add(gradient.ref.mul(1 - beta1));
      const second = state.second[name]!.mul(beta2).add(np.square(gradient).mul(1 - beta2));
      const direction = first.ref
        .div(correction1.ref)
        .div(np.sqrt(second.ref.div(correction2.ref)).add(epsilon))
        .add(state.params[name]!.ref.mul(weightDecay));
      next.params[name] = state.params[name]!.sub(direction.mul(rate.ref));
      next.first[name] = first;
      next.second[name] = second;
    }
    for (const scalar of [scale, rate, correction1, correction2]) scalar.dispose();
    return next;
  });
}
