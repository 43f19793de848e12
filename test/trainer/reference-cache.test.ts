/** The reference cache: replays bit for bit, refuses what does not belong to it, and uses recordings as far as they reach. */

import { fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { PreferenceLoss } from '../../lib/loss/loss.js';
import { NoiseSchedule } from '../../lib/schedule/schedule.js';
import { noise } from '../../lib/tensor/noise.js';
import type { LatentArray } from '../../lib/tensor/operand.js';
import { Tensor } from '../../lib/tensor/tensor.js';
import { type ReferenceCacheOptions, referenceCache } from '../../lib/trainer/reference-cache.js';
import type { ReferencePrediction, TrainingRows } from '../../lib/trainer/types.js';

const SHAPE = [2, 2];
const SIZE = 4;
const schedule = NoiseSchedule.preset('sd15');

/** Rows that follow from step and part, of which there are two a step. */
function rowsOf(step: number, part = 0, more: Partial<TrainingRows> = {}): TrainingRows {
  const rows = 2 + part;
  const seed = 2 * step + part;
  const timesteps = Float64Array.from({ length: rows }, (_, i) => (seed * 37 + i * 101) % 1000);
  const fill = (offset: number, count: number) => noise(seed, offset, new Float32Array(count * SIZE));
  return {
    step,
    part,
    rows,
    ids: Array.from({ length: rows }, (_, i) => `pair ${seed + i}`),
    timesteps,
    inputs: {
      latents: fill(0, 2 * rows),
      shape: SHAPE,
      timesteps: Float64Array.from([...timesteps, ...timesteps]),
      conditions: Array(2 * rows).fill(undefined),
    },
    target: { chosen: fill(1000, rows), rejected: fill(2000, rows) },
    weights: new Float64Array(rows).fill(1),
    ...more,
  };
}

const predictionOf = ({ step, part, rows }: TrainingRows) =>
  noise(2 * step + part, 5000, new Float32Array(2 * rows * SIZE));

/** What the loss finds where the policy predicts 0. */
function found(rows: TrainingRows, prediction: Float32Array) {
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta: 10 });
  const half = rows.rows * SIZE;
  const policy = () => new Float32Array(half);
  return loss.evaluate(
    {
      timesteps: rows.timesteps,
      chosen: { policy: policy(), reference: prediction.subarray(0, half), target: rows.target.chosen },
      rejected: { policy: policy(), reference: prediction.subarray(half), target: rows.target.rejected },
    },
    { gradients: false },
  ).rows;
}

const fingerprint = { data: 'sha256:1', seed: 3, schedule };
const steps = (count: number) => Array.from({ length: count }, (_, step) => [rowsOf(step), rowsOf(step, 1)]).flat();

t.test('predictions: computed once, then read back as they were', async (t) => {
  const kinds: [string, (rows: TrainingRows) => LatentArray][] = [
    ['float32', predictionOf],
    ['float64', (rows) => Float64Array.from(predictionOf(rows), (x) => x / 3)],
    ['tensor', (rows) => Tensor.from(predictionOf(rows), { shape: [2 * rows.rows, ...SHAPE], dtype: 'bfloat16' })],
    ['mixed', (rows) => (rows.step % 2 ? predictionOf(rows) : Float64Array.from(predictionOf(rows)))],
  ];
  for (const [name, predict] of kinds) {
    for (const shardEntries of [1, 3, undefined]) {
      const folder = join(t.testdir(), 'cache');
      let calls = 0;
      const scratch = { last: undefined as LatentArray | undefined };
      const compute = (rows: TrainingRows) => {
        calls++;
        scratch.last = predict(rows);
        return { prediction: scratch.last };
      };
      const options: ReferenceCacheOptions = { folder, kind: 'predictions', compute, fingerprint, shardEntries };
      const first = referenceCache(options);
      for (const rows of steps(4)) {
        const given = await first.predict(rows);
        t.equal((given as { prediction: LatentArray }).prediction, scratch.last, 'what was computed, not a copy');
        // A policy may use its buffer again.
        if (scratch.last instanceof Float32Array) scratch.last.fill(9);
      }
      await first.close?.();
      t.same([first.computed, first.replayed], [8, 0]);

      const second = referenceCache({ ...options, compute: undefined });
      for (const rows of steps(4).reverse()) {
        const { prediction } = (await second.predict(rows)) as { prediction: LatentArray };
        const expected = predict(rows);
        t.equal(prediction.constructor, expected.constructor, name);
        if (prediction instanceof Tensor && expected instanceof Tensor) {
          t.same([prediction.shape, prediction.dtype, prediction.device], [expected.shape, expected.dtype, 'cpu']);
          t.same(prediction.toHost(), expected.toHost());
        } else t.same(prediction, expected);
      }
      await second.close?.();
      t.same([second.computed, second.replayed, calls], [0, 8, 8]);
    }
  }
});

t.test('errors: those that the loss observed, bit for bit', async (t) => {
  const folder = t.testdir();
  const options: ReferenceCacheOptions = {
    folder,
    kind: 'errors',
    compute: (rows) => ({ prediction: predictionOf(rows) }),
    fingerprint,
    shardEntries: 3,
  };
  const first = referenceCache(options);
  for (const rows of steps(4)) {
    const { prediction } = (await first.predict(rows)) as { prediction: Float32Array };
    await first.observe?.(rows, found(rows, prediction));
  }
  await first.close?.();
  const second = referenceCache({ ...options, compute: undefined });
  for (const rows of steps(4)) {
    const expected = found(rows, predictionOf(rows));
    const { error } = (await second.predict(rows)) as Extract<ReferencePrediction, { error: unknown }>;
    t.same(error, { chosen: expected.referenceErrorChosen, rejected: expected.referenceErrorRejected });
    await second.observe?.(rows, expected);
  }
  await second.close?.();
  t.equal(readdirSync(folder).length, 1 + Math.ceil(8 / 3), 'replaying records nothing');

  const direct = referenceCache({
    ...options,
    folder: join(folder, 'direct'),
    compute: ({ rows }) => ({ error: { chosen: Array(rows).fill(NaN), rejected: Array(rows).fill(0.1) } }),
  });
  await direct.predict(rowsOf(0));
  await direct.close?.();
  const again = referenceCache({ ...options, folder: join(folder, 'direct'), compute: undefined });
  t.same(await again.predict(rowsOf(0)), {
    error: { chosen: Float64Array.of(NaN, NaN), rejected: Float64Array.of(0.1, 0.1) },
  });
});

t.test('an interrupted recording serves as far as it reaches, and is carried on', async (t) => {
  const folder = t.testdir();
  const options: ReferenceCacheOptions = {
    folder,
    kind: 'predictions',
    compute: (rows) => ({ prediction: predictionOf(rows) }),
    fingerprint,
    shardEntries: 3,
  };
  const killed = referenceCache(options);
  for (const rows of steps(4)) await killed.predict(rows);
  // Not closed: the last two of eight are lost. A file was being written.
  const gone = spawnSync('true').pid;
  const left = join(folder, `shard-000002.safetensors.${gone}.0a1b2c`);
  writeFileSync(left, 'half');
  const alive = join(folder, `shard-000002.safetensors.${process.ppid}.0a1b2c`);
  writeFileSync(alive, 'half');
  const second = referenceCache(options);
  for (const rows of steps(5)) await second.predict(rows);
  t.same([second.replayed, second.computed], [6, 4]);
  await second.close?.();
  const third = referenceCache({ ...options, compute: undefined });
  for (const rows of steps(5)) {
    const { prediction } = (await third.predict(rows)) as { prediction: Float32Array };
    t.same(prediction, predictionOf(rows));
  }
  t.notOk(existsSync(left), 'the leftover is gone');
  t.ok(existsSync(alive), 'what a process still writes is not');

  const repeated = referenceCache({ ...options, folder: join(folder, 'repeated') });
  await repeated.predict(rowsOf(0));
  await repeated.predict(rowsOf(0));
  t.same([repeated.computed, repeated.replayed], [1, 1], 'a step that is repeated before its file was full');
});

t.test('several caches share a folder', async (t) => {
  const folder = join(t.testdir(), 'shared');
  const options: ReferenceCacheOptions = {
    folder,
    kind: 'predictions',
    compute: (rows) => ({ prediction: predictionOf(rows) }),
    fingerprint,
    shardEntries: 2,
  };
  const caches = Array.from({ length: 4 }, () => referenceCache(options));
  // All at once: each makes the folder, the manifest and shards of the same numbers.
  for (const rows of steps(3)) {
    const found = await Promise.all(caches.map((cache) => cache.predict(rows)));
    for (const one of found) t.same((one as { prediction: Float32Array }).prediction, predictionOf(rows));
  }
  await Promise.all(caches.map((cache) => cache.close?.()));
  t.equal(
    caches.reduce((sum, { computed, replayed }) => sum + computed + replayed, 0),
    4 * 6,
  );

  // One that lags behind finds what another has recorded since it was opened.
  const [ahead, behind] = [referenceCache(options), referenceCache(options)];
  await behind.predict(rowsOf(0));
  for (const rows of steps(9).slice(6)) await ahead.predict(rows);
  await ahead.close?.();
  for (const rows of steps(9).slice(6)) await behind.predict(rows);
  t.same([ahead.computed, behind.computed, behind.replayed], [12, 0, 13]);
  await behind.close?.();

  // Two that begin at the same moment for different things: one of them is refused, nothing is mixed.
  for (let round = 0; round < 20; round++) {
    const other = join(folder, `other-${round}`);
    const ends = await Promise.allSettled(
      [1, 2].map(async (seed) => {
        const cache = referenceCache({ ...options, folder: other, fingerprint: { seed } });
        for (const rows of steps(2)) await cache.predict(rows);
        await cache.close?.();
      }),
    );
    t.same(ends.map(({ status }) => status).sort(), ['fulfilled', 'rejected'], `round ${round}`);
    const refused = ends.find((end) => end.status === 'rejected')!;
    t.match(refused.reason, { code: 'ERR_SDPO_REFERENCE_CACHE', message: /manifest.json to be recorded with seed/ });
  }
});

t.test('processes share a folder', async (t) => {
  const folder = join(t.testdir(), 'shared');
  const program = `
    import { referenceCache } from ${JSON.stringify(new URL('../../dist/trainer/index.js', import.meta.url).href)};
    process.on('message', async ({ at, folder }) => {
      while (Date.now() < at);
      const compute = async ({ rows }) => ({ prediction: new Float32Array(8 * rows).fill(1) });
      const cache = referenceCache({ folder, kind: 'predictions', compute, fingerprint: { run: 1 }, shardEntries: 2 });
      try {
        for (let step = 0; step < 4; step++) {
          await cache.predict({ step, part: 0, rows: 1, ids: ['a'], timesteps: Float64Array.of(5), inputs: { shape: [4] } });
        }
        await cache.close();
        process.send('ok');
      } catch (error) {
        process.send(error.message);
      }
    });
    process.send('ready');`;
  const script = join(t.testdirName, 'child.mjs');
  writeFileSync(script, program);
  const children = [0, 1, 2].map(() => fork(script, { execArgv: [] }));
  t.teardown(() => {
    for (const child of children) child.kill();
  });
  await Promise.all(children.map((child) => once(child, 'message')));
  for (let round = 0; round < 60; round++) {
    const at = Date.now() + 3;
    const answers = await Promise.all(
      children.map(async (child) => {
        child.send({ at, folder: `${folder}-${round}` });
        return (await once(child, 'message'))[0];
      }),
    );
    t.same(answers, ['ok', 'ok', 'ok'], `round ${round}`);
  }
});

t.test('a file system without links', async (t) => {
  const { ShardFolder } = (await t.mockImport('../../lib/trainer/reference-shards.js', {
    'node:fs/promises': {
      ...(await import('node:fs/promises')),
      link: () => Promise.reject(Object.assign(new Error('not supported'), { code: 'ENOTSUP' })),
    },
  })) as typeof import('../../lib/trainer/reference-shards.js');
  const folder = join(t.testdir(), 'cache');
  const waiting = (step: number) => ({
    ...{ step, part: 0, ids: ['a'], timesteps: Float64Array.of(5), place: 'array' },
    tensors: { errorChosen: { dtype: 'float64', shape: [1], data: Float64Array.of(step) } as const },
  });
  const [one, two] = [new ShardFolder(folder, 'errors', {}), new ShardFolder(folder, 'errors', {})];
  await one.open();
  await two.open();
  await one.write([waiting(0)]);
  await two.write([waiting(1)]);
  // A name that was claimed by a process that was then killed.
  writeFileSync(join(folder, 'shard-000002.safetensors'), '');
  await two.write([waiting(2)]);
  const found = (await one.scan()).map(({ step }) => step);
  t.same(found, [1, 2]);
  t.same(readdirSync(folder).sort(), [
    'manifest.json',
    ...[0, 1, 2, 3].map((number) => `shard-00000${number}.safetensors`),
  ]);
});

t.test('what stands in place of a file or a folder', async (t) => {
  const folder = t.testdir({ file: '', fifo: {}, shard: {} });
  const options = { kind: 'errors', fingerprint: {} } as const;
  const rows = rowsOf(0);
  const refused = (name: string, message: RegExp, code = 'ERR_SDPO_REFERENCE_CACHE') =>
    t.rejects(async () => referenceCache({ ...options, folder: join(folder, name) }).predict(rows), { code, message });
  await refused('file', /^Expected to open the reference cache \(.*file\), received EEXIST.*move it/, 'ERR_SDPO_FILE');
  spawnSync('mkfifo', [join(folder, 'fifo', 'manifest.json')]);
  await refused('fifo', /manifest.json to be a file, received a FIFO/);
  writeFileSync(join(folder, 'shard', 'manifest.json'), JSON.stringify({ format: 1, ...options }));
  symlinkSync('/dev/zero', join(folder, 'shard', 'shard-000000.safetensors'));
  await refused('shard', /shard-000000.safetensors to be a file, received a device/);
});

t.test('what differs is named', async (t) => {
  const folder = t.testdir();
  const options: ReferenceCacheOptions = {
    folder,
    kind: 'predictions',
    compute: (rows) => ({ prediction: predictionOf(rows) }),
    fingerprint,
  };
  const cache = referenceCache(options);
  for (const rows of steps(2)) await cache.predict(rows);
  await cache.close?.();
  await t.rejects(async () => cache.predict(rowsOf(0)), { code: 'ERR_SDPO_DISPOSED' });

  const refused = (change: object, rows: TrainingRows, message: RegExp, name: string) =>
    t.rejects(
      async () => referenceCache({ ...options, ...change }).predict(rows),
      { code: 'ERR_SDPO_REFERENCE_CACHE', message },
      name,
    );
  const rows = rowsOf(1);
  const other = NoiseSchedule.preset('sd15', { inferenceSteps: 20 });
  await refused(
    { fingerprint: { ...fingerprint, seed: 4 } },
    rows,
    /manifest.json to be recorded with seed 4, received 3/,
    'seed',
  );
  await refused(
    { fingerprint: { ...fingerprint, data: 'x' } },
    rows,
    /recorded with data "x", received "sha256:1"/,
    'data',
  );
  await refused({ fingerprint: { ...fingerprint, schedule: other } }, rows, /recorded with schedule .*20/, 'schedule');
  await refused(
    { fingerprint: { ...fingerprint, batch: 1 } },
    rows,
    /recorded with batch 1, received none/,
    'a new name',
  );
  await refused({ fingerprint: { data: 'sha256:1', seed: 3 } }, rows, /with schedule none/, 'a name that is gone');
  await refused({ kind: 'errors' }, rows, /of kind 'errors', received "predictions"/, 'kind');
  await refused(
    {},
    { ...rows, ids: ['pair 2', 'z'] },
    /row 1 in step 1, part 0 of .*shard.* the pair z, received pair 3/,
    'ids',
  );
  await refused({}, { ...rows, ids: ['pair 2'] }, /to be of 1 rows, received 2/, 'rows');
  await refused(
    {},
    { ...rows, timesteps: Float64Array.of(rows.timesteps[0], 5) },
    /row 1 in .* timestep 5, received/,
    'timestep',
  );
  await refused({}, { ...rows, inputs: { ...rows.inputs, shape: [3] } }, /3 elements a row, received 4/, 'shape');
  await refused(
    { compute: undefined },
    rowsOf(7),
    /to hold step 7, part 0, received 4 recorded/,
    'nothing to compute with',
  );
  const odd = { folder: join(folder, 'odd') };
  await refused(
    { ...odd, compute: () => ({ prediction: new Float32Array(3) }) },
    rows,
    /16 elements, received 3/,
    'length',
  );
  await refused(
    { ...odd, compute: () => ({ error: { chosen: [1, 1], rejected: [1, 1] } }) },
    rows,
    /give predictions/,
    'errors',
  );

  const shard = join(folder, 'shard-000000.safetensors');
  const manifest = join(folder, 'manifest.json');
  const whole = readFileSync(shard);
  truncateSync(shard, whole.length - 1);
  await refused({}, rows, /shard-000000.safetensors/, 'a shard that was cut');
  writeFileSync(shard, whole);
  truncateSync(manifest, 5);
  await refused({}, rows, /manifest.json to be complete JSON/, 'a manifest that was cut');
  writeFileSync(manifest, '{"format":2}');
  await refused({}, rows, /of format 1, received 2/, 'a later format');
  rmSync(manifest);
  await refused({}, rows, /manifest.json to be there, received only the files shard-000000/, 'no manifest');
});

t.test('wrong options', async (t) => {
  const options = { folder: t.testdir(), kind: 'errors', fingerprint: {} } as const;
  t.throws(() => referenceCache({ ...options, folder: 1 as never }), /options.folder/);
  t.throws(() => referenceCache({ ...options, kind: 'both' as never }), /options.kind/);
  t.throws(() => referenceCache({ ...options, compute: 1 as never }), /options.compute/);
  t.throws(() => referenceCache({ ...options, fingerprint: 'x' as never }), /options.fingerprint/);
  t.throws(() => referenceCache({ ...options, fingerprint: { a: () => 1 } }), /options.fingerprint.a/);
  t.throws(() => referenceCache({ ...options, shardEntries: 0 }), /options.shardEntries/);
  t.throws(() => referenceCache({ ...options, shards: 1 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  await referenceCache(options).close?.();
  t.same(readdirSync(options.folder), [], 'a cache that was never asked leaves nothing');
});
