/** This package: a new result per call, a result that is written again, and the call off the event loop. */

import { type Batch as LossBatch, PreferenceLoss, type Statistics, Tensor } from 'sdpo';
import {
  type Batch,
  beta,
  branches,
  clipRange,
  gradientScaleOf,
  maskThreshold,
  type Outcome,
  type Stored,
} from '../data.js';
import { extraPeak } from '../memory.js';
import { type Prepared, type Provider, timeAsyncCalls, timeCalls } from '../provider.js';

type Way = 'new' | 'into' | 'async into';

export function ours(way: Way, threads: number): Provider {
  return {
    name: way === 'new' ? 'sdpo' : `sdpo ${way}`,
    kind: 'ours',
    threads,
    turns: way === 'async into',
    refuses: () => undefined,
    prepare: (batch) => prepare(batch, way, threads),
  };
}

function prepare(batch: Batch, way: Way, threads: number): Prepared {
  const { objective, gradients, dtype } = batch.case;
  const weighted = objective === 'diffusion-dpo' ? {} : { clipRange, maskThreshold };
  const loss = new PreferenceLoss({ objective, beta, threads, ...weighted });
  const lossBatch = asLossBatch(batch);
  const call = { gradients, gradientScale: gradientScaleOf(dtype) };
  const into: Statistics | undefined = way === 'new' ? undefined : loss.evaluate(lossBatch, call);
  const options = into === undefined ? call : { ...call, into };
  const work = () => loss.evaluate(lossBatch, options);
  const workAsync = () => loss.evaluateAsync(lossBatch, options);
  const async = way === 'async into';
  return {
    time: (calls) => (async ? timeAsyncCalls(workAsync, calls) : timeCalls(work, calls)),
    outcome: async () => asOutcome(async ? await workAsync() : work(), gradients),
    extraBytes: () => extraPeak(async ? workAsync : work),
    dispose: () => {},
  };
}

function asLossBatch({ case: c, inputs, omega, timesteps }: Batch): LossBatch {
  const latents = (stored: Stored) =>
    stored instanceof Float32Array ? stored : Tensor.from(stored, { shape: [c.rows, c.size], dtype: c.dtype });
  const branch = (name: 'chosen' | 'rejected') => ({
    policy: latents(inputs[name].policy),
    reference: latents(inputs[name].reference),
    target: latents(inputs[name].target),
  });
  return { timesteps, transition: { omega }, chosen: branch('chosen'), rejected: branch('rejected') };
}

function asOutcome(result: Statistics, wanted: boolean): Outcome {
  if (!wanted) return { loss: result.loss };
  const { gradients } = result as Statistics & { gradients: Record<'chosen' | 'rejected', Tensor | Float32Array> };
  const [chosen, rejected] = branches.map((name) => {
    const gradient = gradients[name];
    return (gradient instanceof Tensor ? gradient.data : gradient) as Stored;
  });
  return { loss: result.loss, gradients: { chosen, rejected } };
}
