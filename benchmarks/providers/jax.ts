/** jax-js on its Wasm backend: the loss written with its NumPy functions, differentiated by it, and compiled. */

import type { numpy } from '@jax-js/jax';
import { type Batch, beta, clipRange, maskThreshold, type Stored } from '../data.js';
import { extraPeak } from '../memory.js';
import { type Prepared, type Provider, timeAsyncCalls } from '../provider.js';

// Node 20 has no navigator, whose name jax-js reads while it compiles a kernel.
(globalThis as { navigator?: unknown }).navigator ??= { userAgent: `Node.js/${process.versions.node}` };

type JaxArray = numpy.Array;

export async function jaxWasm(threads: number): Promise<Provider> {
  const jax = await import('@jax-js/jax');
  await jax.init('wasm');
  jax.defaultDevice('wasm');
  return {
    name: 'jax-js wasm',
    kind: 'peer',
    threads,
    turns: true,
    refuses: ({ case: c }) => (c.dtype === 'float32' ? undefined : `not measured in ${c.dtype}`),
    prepare: (batch) => prepare(jax, batch),
  };
}

function prepare(jax: typeof import('@jax-js/jax'), batch: Batch): Prepared {
  const { numpy: np, lax, nn } = jax;
  const { rows, size, objective, gradients } = batch.case;
  const { chosen, rejected } = batch.inputs;
  const latents = (stored: Stored) => np.array(stored as Float32Array<ArrayBuffer>, { shape: [rows, size] });
  const policies = [latents(chosen.policy), latents(rejected.policy)];
  const constants = [chosen.reference, chosen.target, rejected.reference, rejected.target].map(latents);
  constants.push(np.array(Float32Array.from(batch.omega), { shape: [rows] }));

  const clip = (weight: JaxArray) => np.clip(weight, 1 - clipRange, 1 + clipRange);
  // Arrays of jax-js are consumed by use; `.ref` keeps one for another.
  const meanSquare = (a: JaxArray, b: JaxArray) => np.mean(np.square(a.sub(b)), 1);
  const loss = (
    policyC: JaxArray,
    policyR: JaxArray,
    referenceC: JaxArray,
    targetC: JaxArray,
    referenceR: JaxArray,
    targetR: JaxArray,
    omega: JaxArray,
  ) => {
    const errorC = meanSquare(policyC, targetC.ref);
    const errorR = meanSquare(policyR, targetR.ref);
    const psiC = errorC.ref.sub(meanSquare(referenceC, targetC)).mul(-beta / 2);
    const psiR = errorR.ref.sub(meanSquare(referenceR, targetR)).mul(-beta / 2);
    const logC = lax.stopGradient(errorC.mul(omega.ref).mul(-1));
    const logR = lax.stopGradient(errorR.mul(omega).mul(-1));
    if (objective === 'diffusion-dpo') {
      logC.dispose();
      logR.dispose();
      return np.mean(nn.softplus(psiR.sub(psiC)));
    }
    const keep = np.where(np.minimum(logC.ref, logR.ref).greaterEqual(Math.log(maskThreshold)), 1, 0);
    if (objective === 'dpo-cm') {
      const pair = clip(np.exp(logC.add(logR).mul(0.5)));
      return np.mean(keep.mul(pair).mul(nn.softplus(psiR.sub(psiC))));
    }
    const logit = clip(np.exp(logC))
      .mul(psiC)
      .sub(clip(np.exp(logR)).mul(psiR));
    return np.mean(keep.mul(nn.softplus(logit.mul(-1))));
  };
  const valueAndGradients = jax.jit(jax.valueAndGrad(loss, { argnums: [0, 1] }));
  const value = jax.jit(loss);

  type Inputs = Parameters<typeof loss>;
  const inputs = () => [...policies, ...constants].map((array) => array.ref) as Inputs;
  const call = async (): Promise<JaxArray[]> => {
    if (!gradients) return [await jax.blockUntilReady(value(...inputs()))];
    const [mean, [gradientC, gradientR]] = valueAndGradients(...inputs());
    return jax.blockUntilReady([mean, gradientC, gradientR]);
  };
  const callAndRelease = async () => {
    for (const array of await call()) array.dispose();
  };
  return {
    time: (calls) => timeAsyncCalls(callAndRelease, calls),
    outcome: async () => {
      const [mean, gradientC, gradientR] = (await call()).map((array) => array.dataSync() as Float32Array);
      return { loss: mean[0], ...(gradients && { gradients: { chosen: gradientC, rejected: gradientR } }) };
    },
    extraBytes: () => extraPeak(callAndRelease),
    dispose: () => {
      for (const array of [...policies, ...constants]) array.dispose();
      valueAndGradients.dispose();
      value.dispose();
    },
  };
}
