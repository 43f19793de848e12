/** A policy without a framework for the tests of the command line: a linear model with its gradient by hand and Adam, as a module of a user would be. */

import { setTimeout as sleep } from 'node:timers/promises';

const BETAS = [0.9, 0.999];
const EPSILON = 1e-8;
/** Scale of the timesteps in the model. */
const TIME = 1e-3;

/** u = W x + v t + b of every row. */
class LinearPolicy {
  #size;
  #delay;
  #parameters;
  #frozen;
  #average;
  #gradient;
  #first;
  #second;
  #updates = 0;
  /** Whether the reference is no longer what the policy began with. */
  #moved = false;

  constructor(size, { delay, scale }) {
    this.#size = size;
    this.#delay = delay;
    // Some weights that are all different; where they come from does not matter.
    const fill = (count, from) => Float32Array.from({ length: count }, (_, i) => scale * Math.sin(from + 7 * i));
    this.#parameters = { weight: fill(size * size, 1), time: fill(size, 2), bias: fill(size, 3) };
    this.#frozen = copy(this.#parameters);
    this.#gradient = zerosLike(this.#parameters);
    this.#first = zerosLike(this.#parameters);
    this.#second = zerosLike(this.#parameters);
  }

  linearize(inputs) {
    return {
      prediction: this.#forward(this.#parameters, inputs),
      pullback: (cotangent) => this.#pullback(inputs, cotangent),
    };
  }

  predict(inputs) {
    return this.#forward(this.#parameters, inputs);
  }

  reference(inputs) {
    return this.#forward(this.#frozen, inputs);
  }

  async step({ learningRate, maxGradientNorm }) {
    if (this.#delay > 0) await sleep(this.#delay);
    let squares = 0;
    for (const values of Object.values(this.#gradient)) for (const g of values) squares += g * g;
    const gradientNorm = Math.sqrt(squares);
    if (Number.isFinite(gradientNorm)) {
      this.#update(learningRate, Math.min(1, maxGradientNorm / (gradientNorm + EPSILON)));
    }
    this.discard();
    return { gradientNorm };
  }

  discard() {
    this.#gradient = zerosLike(this.#parameters);
  }

  updateAverage(decay) {
    this.#average ??= copy(this.#frozen);
    this.#mix(this.#average, decay);
  }

  updateReference(decay) {
    this.#moved = true;
    this.#mix(this.#frozen, decay);
  }

  state() {
    const groups = { parameters: this.#parameters, first: this.#first, second: this.#second, average: this.#average };
    if (this.#moved) groups.reference = this.#frozen;
    const tensors = {};
    for (const [group, values] of Object.entries(groups)) Object.assign(tensors, tensorsOf(`${group}.`, values ?? {}));
    return { tensors, scalars: { updates: this.#updates } };
  }

  load({ tensors, scalars }) {
    const read = (group) => mapValues(this.#frozen, (_, name) => tensors[`${group}.${name}`].data.slice());
    this.#parameters = read('parameters');
    this.#first = read('first');
    this.#second = read('second');
    if ('average.bias' in tensors) this.#average = read('average');
    this.#moved = 'reference.bias' in tensors;
    if (this.#moved) this.#frozen = read('reference');
    this.#updates = scalars.updates;
  }

  weights(which = 'policy') {
    return tensorsOf('', which === 'policy' ? this.#parameters : this.#average);
  }

  #mix(into, decay) {
    for (const [name, values] of Object.entries(this.#parameters)) {
      const mixed = into[name];
      values.forEach((value, i) => {
        mixed[i] = decay * mixed[i] + (1 - decay) * value;
      });
    }
  }

  #forward({ weight, time, bias }, { latents, timesteps }) {
    const size = this.#size;
    return latents.map((_, at) => {
      const [row, i] = [Math.floor(at / size), at % size];
      let sum = bias[i] + time[i] * TIME * timesteps[row];
      for (let j = 0; j < size; j++) sum += weight[i * size + j] * latents[row * size + j];
      return sum;
    });
  }

  #pullback({ latents, timesteps }, cotangent) {
    const size = this.#size;
    const { weight, time, bias } = this.#gradient;
    for (let at = 0; at < latents.length; at++) {
      const [row, i, g] = [Math.floor(at / size), at % size, cotangent[at]];
      bias[i] += g;
      time[i] += g * TIME * timesteps[row];
      for (let j = 0; j < size; j++) weight[i * size + j] += g * latents[row * size + j];
    }
  }

  #update(learningRate, scale) {
    this.#updates++;
    const [correction1, correction2] = BETAS.map((beta) => 1 - beta ** this.#updates);
    for (const [name, values] of Object.entries(this.#parameters)) {
      const [first, second, gradient] = [this.#first[name], this.#second[name], this.#gradient[name]];
      for (let i = 0; i < values.length; i++) {
        const g = scale * gradient[i];
        first[i] = BETAS[0] * first[i] + (1 - BETAS[0]) * g;
        second[i] = BETAS[1] * second[i] + (1 - BETAS[1]) * g * g;
        values[i] -= (learningRate * first[i]) / correction1 / (Math.sqrt(second[i] / correction2) + EPSILON);
      }
    }
  }
}

function mapValues(values, map) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, map(value, name)]));
}

const copy = (values) => mapValues(values, (value) => value.slice());
const zerosLike = (values) => mapValues(values, (value) => new Float32Array(value.length));

function tensorsOf(prefix, values) {
  return Object.fromEntries(
    Object.entries(values).map(([name, data]) => [
      `${prefix}${name}`,
      { dtype: 'float32', shape: [data.length], data: data.slice() },
    ]),
  );
}

/** Options: `delay`, milliseconds that an update takes longer, and `scale` of the first weights. */
export default function linearPolicy({ delay = 0, scale = 0.1 }, { shape }) {
  return new LinearPolicy(
    shape.reduce((product, axis) => product * axis, 1),
    { delay, scale },
  );
}

/** What is no policy. */
export const broken = () => ({ predict() {}, weights() {} });

/** A policy whose reference cannot move. */
export function fixed(options, context) {
  return Object.assign(linearPolicy(options, context), { updateReference: undefined });
}

/** A policy whose weights cannot be had. */
export function unsaved(options, context) {
  return Object.assign(linearPolicy(options, context), { weights: undefined });
}

/** An error of the module itself. */
export function failing() {
  throw new Error('the weights are not here');
}
