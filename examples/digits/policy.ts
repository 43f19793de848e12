/** The denoiser as a policy of the trainer: a jax-js model with its gradient, its optimizer, a moving average, and a frozen copy as reference. */

import type { SafetensorsEntry } from 'sdpo';
import type { LinearizedPrediction, ModelInputs, Policy, PolicyState, PolicyTensors, StepOptions } from 'sdpo/trainer';
import { AdamW } from './adamw.js';
import { PIXELS } from './data.js';
import { dispose, jit, matrix, np, type Params, ref, toFloat32, vjp } from './jax.js';
import { apply, DENOISER_SHAPES, type Inputs, inputsOf } from './model.js';
import { loadWeights, WEIGHTS_FOLDER } from './weights.js';

/** What `sdpo train` reads from a config. */
export interface DigitsPolicyOptions {
  /** safetensors file with the weights of the base, relative to the config; default: the committed ones. */
  weights?: string;
  weightDecay?: number;
}

/** The module's entry for `sdpo train` (docs/cli.md). */
export default function digitsPolicy(options: DigitsPolicyOptions, context: { folder: string }): Policy {
  const file = options.weights === undefined ? 'base.safetensors' : options.weights;
  const folder = options.weights === undefined ? WEIGHTS_FOLDER : new URL(`file://${context.folder}/`);
  const base = loadWeights(new URL(file, folder), DENOISER_SHAPES);
  const policy = new DenoiserPolicy(base, { weightDecay: options.weightDecay });
  dispose(base);
  return policy;
}

const forward = jit(apply);

/** Gradient of the parameters; all arguments are consumed. Repeats the forward pass, which takes less time than the vjp of a compiled function. */
const backward = jit((params: Params, inputs: Inputs, cotangent: np.Array): Params => {
  const [prediction, pullback] = vjp((p: Params) => apply(p, [inputs[0].ref, inputs[1].ref]), [params]);
  for (const input of inputs) input.dispose();
  prediction.dispose();
  const [gradients] = pullback(cotangent) as [Params];
  pullback.dispose();
  return gradients;
});

const add = jit((a: Params, b: Params): Params => mapParams(a, (name, value) => value.add(b[name]!)));

const mix = jit((average: Params, params: Params, decay: np.Array): Params => {
  const mixed = mapParams(average, (name, value) =>
    value.mul(decay.ref).add(params[name]!.mul(np.array(1).sub(decay.ref))),
  );
  decay.dispose();
  return mixed;
});

/** A copy of `base` under training, whose reference is `base`, unless the trainer moves it. */
export class DenoiserPolicy implements Policy {
  /** The reference; what it is made of is part of the state once it has moved. */
  #base: Params;
  #moved = false;
  readonly #optimizer: AdamW;
  #params: Params;
  #gradient: Params | undefined;
  #average: Params | undefined;

  /** `base` is not consumed. */
  constructor(base: Params, { weightDecay = 0 }: { weightDecay?: number | undefined } = {}) {
    this.#base = ref(base);
    this.#params = ref(base);
    // The trainer gives the learning rate and the norm with each step.
    this.#optimizer = new AdamW(base, { learningRate: 0, weightDecay });
  }

  /** The parameters as they are; not to be consumed. */
  get params(): Params {
    return this.#params;
  }

  linearize({ latents, timesteps }: ModelInputs): LinearizedPrediction {
    const inputs = inputsOf(latents, timesteps);
    const prediction = toFloat32(forward(ref(this.#params), refInputs(inputs)));
    return {
      prediction,
      pullback: (cotangent) => {
        const gradient = backward(ref(this.#params), refInputs(inputs), matrix(cotangent as Float32Array, PIXELS));
        this.#gradient = this.#gradient === undefined ? gradient : add(this.#gradient, gradient);
      },
      release: () => {
        for (const input of inputs) input.dispose();
      },
    };
  }

  predict({ latents, timesteps }: ModelInputs): Float32Array {
    return toFloat32(forward(ref(this.#params), inputsOf(latents, timesteps)));
  }

  reference({ latents, timesteps }: ModelInputs): Float32Array {
    return toFloat32(forward(ref(this.#base), inputsOf(latents, timesteps)));
  }

  step({ learningRate, maxGradientNorm }: StepOptions): { gradientNorm: number } {
    if (this.#gradient === undefined) throw new Error('Expected a pullback before step(), received none');
    const update = this.#optimizer.step(this.#params, this.#gradient, learningRate, maxGradientNorm);
    this.#gradient = undefined;
    this.#params = update.params;
    return { gradientNorm: update.gradientNorm };
  }

  discard(): void {
    if (this.#gradient !== undefined) dispose(this.#gradient);
    this.#gradient = undefined;
  }

  updateAverage(decay: number): void {
    this.#average = mix(this.#average ?? ref(this.#base), ref(this.#params), np.array(decay));
  }

  updateReference(decay: number): void {
    this.#base = mix(this.#base, ref(this.#params), np.array(decay));
    this.#moved = true;
  }

  state(): PolicyState {
    const { first, second } = this.#optimizer.moments;
    return {
      tensors: {
        ...tensorsOf('parameters.', this.#params),
        ...tensorsOf('first.', first),
        ...tensorsOf('second.', second),
        ...(this.#average === undefined ? {} : tensorsOf('average.', this.#average)),
        ...(this.#moved ? tensorsOf('reference.', this.#base) : {}),
      },
      scalars: { updates: this.#optimizer.steps },
    };
  }

  load({ tensors, scalars }: PolicyState): void {
    const params = paramsOf('parameters.', tensors);
    const moments = { first: paramsOf('first.', tensors), second: paramsOf('second.', tensors) };
    const average = 'average.out.bias' in tensors ? paramsOf('average.', tensors) : undefined;
    const reference = 'reference.out.bias' in tensors ? paramsOf('reference.', tensors) : undefined;
    if (reference === undefined && this.#moved)
      throw new Error('Expected the reference, which has moved, received none');
    this.discard();
    dispose(this.#params);
    if (reference !== undefined) {
      dispose(this.#base);
      this.#base = reference;
      this.#moved = true;
    }
    if (this.#average !== undefined) dispose(this.#average);
    this.#params = params;
    this.#average = average;
    this.#optimizer.restore(scalars.updates as number, moments);
  }

  weights(which: 'policy' | 'average' = 'policy'): PolicyTensors {
    const params = which === 'policy' ? this.#params : this.#average;
    if (params === undefined) throw new Error('Expected a moving average (option ema), received none');
    return tensorsOf('', params);
  }

  dispose(): void {
    this.discard();
    this.#optimizer.dispose();
    for (const params of [this.#params, this.#base, this.#average]) if (params !== undefined) dispose(params);
  }
}

function mapParams(params: Params, map: (name: string, value: np.Array) => np.Array): Params {
  return Object.fromEntries(Object.entries(params).map(([name, value]) => [name, map(name, value)]));
}

function refInputs([x, embedding]: Inputs): Inputs {
  return [x.ref, embedding.ref];
}

function tensorsOf(prefix: string, params: Params): Record<string, SafetensorsEntry> {
  return Object.fromEntries(
    Object.entries(params).map(([name, value]) => [
      prefix + name,
      { dtype: 'float32' as const, shape: value.shape, data: toFloat32(value.ref) },
    ]),
  );
}

function paramsOf(prefix: string, tensors: PolicyTensors): Params {
  return Object.fromEntries(
    Object.entries(DENOISER_SHAPES).map(([name, shape]) => {
      const entry = tensors[prefix + name];
      if (entry?.dtype !== 'float32' || String(entry.shape) !== String(shape)) {
        const received = entry === undefined ? 'no such tensor' : `${entry.dtype} [${entry.shape}]`;
        throw new Error(`Expected ${prefix}${name} to be float32 [${shape}], received ${received}`);
      }
      return [name, np.array(entry.data as Float32Array<ArrayBuffer>, { shape: [...shape] })];
    }),
  );
}
