/** TensorFlow.js on its Wasm and its plain JavaScript backends: the loss written with its operations and differentiated by it. */

import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type * as Tf from '@tensorflow/tfjs';
import { type Batch, beta, clipRange, maskThreshold, type Stored } from '../data.js';
import { extraPeak } from '../memory.js';
import { type Prepared, type Provider, timeCalls } from '../provider.js';

const require = createRequire(import.meta.url);

let loaded: typeof Tf | undefined;

/** The two packages' CommonJS builds, which Node can load, without the checks and the advice of their development mode. */
function load(): typeof Tf {
  if (loaded === undefined) {
    loaded = require('@tensorflow/tfjs') as typeof Tf;
    loaded.enableProdMode();
    const wasm = require('@tensorflow/tfjs-backend-wasm') as { setWasmPaths(folder: string): void };
    const folder = dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'));
    wasm.setWasmPaths(join(folder, 'wasm-out/'));
  }
  return loaded;
}

/** In Node both backends run on one thread: the Wasm one finds no threads there. */
export function tfjs(backend: 'wasm' | 'cpu'): Provider {
  return {
    name: `tfjs ${backend}`,
    kind: 'peer',
    threads: 1,
    refuses: ({ case: c }) => (c.dtype === 'float32' ? undefined : `has no ${c.dtype}`),
    prepare: (batch) => prepare(batch, backend),
  };
}

async function prepare(batch: Batch, backend: 'wasm' | 'cpu'): Promise<Prepared> {
  const tf = load();
  const { rows, size, objective, gradients } = batch.case;
  const { chosen, rejected } = batch.inputs;
  const select = async () => {
    if (tf.getBackend() !== backend && !(await tf.setBackend(backend))) throw new Error(`no backend ${backend}`);
  };
  await select();
  const latents = (stored: Stored) => tf.tensor2d(stored as Float32Array, [rows, size]);
  const policies = [latents(chosen.policy), latents(rejected.policy)];
  const [referenceC, targetC, referenceR, targetR] = [
    chosen.reference,
    chosen.target,
    rejected.reference,
    rejected.target,
  ].map(latents);
  const omega = tf.tensor1d(Float32Array.from(batch.omega));

  const clip = (weight: Tf.Tensor) => tf.clipByValue(weight, 1 - clipRange, 1 + clipRange);
  const meanSquare = (a: Tf.Tensor, b: Tf.Tensor) => tf.mean(tf.squaredDifference(a, b), 1);
  /** tfjs has no stop-gradient; a custom gradient of zero is one. */
  const stopGradient = tf.customGrad((x) => ({
    value: (x as Tf.Tensor).clone(),
    gradFunc: (dy: Tf.Tensor) => tf.zerosLike(dy),
  }));
  const loss = (policyC: Tf.Tensor, policyR: Tf.Tensor): Tf.Scalar => {
    const errorC = meanSquare(policyC, targetC);
    const errorR = meanSquare(policyR, targetR);
    const psiC = tf.mul(tf.sub(errorC, meanSquare(referenceC, targetC)), -beta / 2);
    const psiR = tf.mul(tf.sub(errorR, meanSquare(referenceR, targetR)), -beta / 2);
    if (objective === 'diffusion-dpo') return tf.mean(tf.softplus(tf.sub(psiR, psiC)));
    const logC = tf.neg(tf.mul(omega, stopGradient(errorC)));
    const logR = tf.neg(tf.mul(omega, stopGradient(errorR)));
    const keep = tf.cast(tf.greaterEqual(tf.minimum(logC, logR), Math.log(maskThreshold)), 'float32');
    if (objective === 'dpo-cm') {
      const pair = clip(tf.exp(tf.mul(tf.add(logC, logR), 0.5)));
      return tf.mean(tf.mul(tf.mul(keep, pair), tf.softplus(tf.sub(psiR, psiC))));
    }
    const logit = tf.sub(tf.mul(clip(tf.exp(logC)), psiC), tf.mul(clip(tf.exp(logR)), psiR));
    return tf.mean(tf.mul(keep, tf.softplus(tf.neg(logit))));
  };
  const valueAndGradients = tf.valueAndGrads((...p: Tf.Tensor[]) => loss(p[0], p[1]));

  const call = (): Tf.Tensor[] => {
    if (!gradients) return [tf.tidy(() => loss(policies[0], policies[1]))];
    const { value, grads } = valueAndGradients(policies);
    return [value, ...grads];
  };
  const callAndRelease = () => tf.dispose(call());
  return {
    time: async (calls) => {
      await select();
      return timeCalls(callAndRelease, calls);
    },
    outcome: async () => {
      await select();
      const results = call();
      const [mean, gradientC, gradientR] = results.map((tensor) => tensor.dataSync<'float32'>().slice());
      tf.dispose(results);
      return { loss: mean[0], ...(gradients && { gradients: { chosen: gradientC, rejected: gradientR } }) };
    },
    extraBytes: async () => {
      await select();
      return extraPeak(callAndRelease);
    },
    dispose: async () => {
      await select();
      tf.dispose([...policies, referenceC, targetC, referenceR, targetR, omega]);
    },
  };
}
