/** The checks of the self-test for results that stay on the device. */

import type { DeviceBatch } from '../loss/batch.js';
import type { DeviceEvaluation } from '../loss/device-result.js';
import { disposeGradients } from '../loss/gradients.js';
import { PreferenceLoss } from '../loss/loss.js';
import type { Gradients } from '../loss/result.js';
import { NoiseSchedule } from '../schedule/schedule.js';
import { Graph } from '../tensor/graph.js';
import { noise } from '../tensor/noise.js';
import { Stream } from '../tensor/stream.js';
import { Tensor } from '../tensor/tensor.js';
import { type Made, makeBatch } from './batches.js';
import { close, identical, throws } from './compare.js';
import type { Check } from './comparisons.js';

const BETA = 20;
const group = 'results on the device';

function dispose(made: Made, ...all: Gradients[]): void {
  for (const tensor of made.owned) tensor.dispose();
  for (const gradients of all) disposeGradients(gradients);
}

function sameBits(size: number, device: string): void {
  const schedule = NoiseSchedule.preset('cogvideox-2b');
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: BETA, schedule, nonFinite: 'propagate' });
  const [timesteps, rowWeights] = [
    [3, 500, 741],
    [0.5, 0, 2],
  ];
  const there = (values: number[]) => Tensor.from(Float64Array.from(values)).to(device);
  const [steps, weights] = [there(timesteps), there(rowWeights)];
  const stream = new Stream(device);
  const made = makeBatch({ rows: 3, size, dtype: 'bfloat16' }, 911, device);
  const batch = { ...made.batch, transition: undefined };
  const expected = loss.evaluate({ ...batch, timesteps, rowWeights });
  let result: DeviceEvaluation | undefined;
  for (const given of [
    { timesteps, rowWeights },
    { timesteps: steps, rowWeights },
    { timesteps: steps, rowWeights: weights },
  ]) {
    result = loss.evaluate({ ...batch, ...given }, { results: 'device', stream, into: result });
    const { rows, metrics, loss: value, coefficients } = result.toHost();
    const statistics = { rows, metrics, loss: value, coefficients };
    identical(`${size} elements`, { ...statistics, gradients: result.gradients }, expected);
    const gradients = loss.gradients({ ...batch, timesteps: steps }, result.coefficients, { stream });
    identical('gradients', { ...statistics, gradients }, expected);
    disposeGradients(gradients);
  }
  dispose(made, expected.gradients, result!.gradients);
  for (const owner of [result!, stream, steps, weights]) owner.dispose();
}

/** A graph against calls, with new data at each launch; and a call that has no room, which cannot be captured. */
async function inGraph(size: number, device: string): Promise<void> {
  const schedule = NoiseSchedule.preset('cogvideox-2b');
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: BETA, schedule, nonFinite: 'propagate' });
  const timesteps = [3, 500, 741];
  const steps = Tensor.from(Float64Array.from(timesteps)).to(device);
  const stream = new Stream(device);
  const made = makeBatch({ rows: 3, size, dtype: 'float32' }, 913, device);
  const batch = { ...made.batch, transition: undefined, timesteps: steps };
  const record = (into?: DeviceEvaluation) =>
    Graph.capture(stream, () => {
      loss.evaluate(batch, { results: 'device', stream, into });
    });
  const before = loss.evaluate(batch, { results: 'device' }); // uploads the table of the schedule; on another stream, whose room is its own
  await throws('without room', () => record(), 'ERR_SDPO_DEVICE', { name: 'CudaError', contextLost: false });
  const result = loss.reserve(batch, { stream });
  const graph = record(result);
  for (const seed of [1, 2]) {
    noise(seed, 0, batch.chosen.policy);
    noise(seed, 2 ** 20, batch.rejected.target as Tensor);
    graph.launch();
    const expected = loss.evaluate({ ...batch, timesteps });
    identical(`launch ${seed}`, { ...result.toHost(), gradients: result.gradients }, expected);
    disposeGradients(expected.gradients);
  }
  dispose(made, result.gradients, before.gradients);
  for (const owner of [before, graph, result, stream, steps]) owner.dispose();
}

/** A batch of three rows whose second row is made bad by `change`: it is counted, and its gradient is `gradient`. */
function counted(
  device: string,
  gradient: number,
  change: (batch: DeviceBatch<Tensor, Tensor>) => { batch: Partial<DeviceBatch<Tensor, Tensor>>; made: Tensor },
): void {
  const schedule = NoiseSchedule.preset('sd15');
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: BETA, schedule, nonFinite: 'skip' });
  const made = makeBatch({ rows: 3, size: 1003, dtype: 'float32' }, 912, device);
  const batch = { ...made.batch, transition: undefined, timesteps: [1, 2, 3] };
  const changed = change(batch);
  const result = loss.evaluate({ ...batch, ...changed.batch }, { results: 'device' });
  close('nonFiniteRows', result.metrics.nonFiniteRows.toFloat64(), [1], 0);
  close('gradient', [result.gradients.chosen.toFloat64()[1003]!], [gradient], 0);
  changed.made.dispose();
  dispose(made, result.gradients);
  result.dispose();
}

export const deviceResultChecks: readonly Check[] = [
  {
    group,
    name: 'the bits of a call with results on the host, for numbers per row here and there',
    cudaOnly: true,
    run(device) {
      for (const size of [1031, 100_003]) sameBits(size, device);
    },
  },
  {
    group,
    name: 'a graph has the bits of calls, with new data at each launch',
    cudaOnly: true,
    async run(device) {
      for (const size of [1031, 16_384]) await inGraph(size, device);
    },
  },
  {
    group,
    name: 'what cannot throw is counted: a NaN, a timestep outside of the schedule',
    cudaOnly: true,
    run(device) {
      counted(device, 0, ({ chosen }) => {
        const values = (chosen.target as Tensor).toFloat32();
        values[1003 + 500] = Number.NaN;
        const target = Tensor.from(values, { shape: [3, 1003] }).to(device);
        return { batch: { chosen: { ...chosen, target } }, made: target };
      });
      counted(device, 0, () => {
        const timesteps = Tensor.from([1, 1000, 2]).to(device);
        return { batch: { timesteps }, made: timesteps };
      });
    },
  },
  {
    group,
    name: 'element weights that sum to 0 make a row NaN',
    cudaOnly: true,
    run(device) {
      counted(device, Number.NaN, () => {
        const weights = Float32Array.from({ length: 3 * 1003 }, (_, i) => (Math.floor(i / 1003) === 1 ? 0 : 1));
        const elementWeights = Tensor.from(weights, { shape: [3, 1003] }).to(device);
        return { batch: { elementWeights }, made: elementWeights };
      });
    },
  },
];
