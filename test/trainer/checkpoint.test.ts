/** Checkpoints: bitwise round trips, pruning, every way in which one can be damaged, and processes killed while they save. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import t from 'tap';
import { CheckpointStore, readCheckpoint } from '../../lib/trainer/checkpoint.js';
import { sha256 } from '../../lib/trainer/files.js';
import { fromPlain, toPlain } from '../../lib/trainer/json.js';
import type { TrainerState } from '../../lib/trainer/types.js';

/** A state whose every number follows from its step. */
function stateOf(step: number, elements = 64): TrainerState {
  return {
    policy: {
      tensors: {
        'layer.weight': {
          dtype: 'float32',
          shape: [elements],
          data: Float32Array.from({ length: elements }, (_, i) => Math.sin(step + i)),
        },
        moment: { dtype: 'float64', shape: [2], data: Float64Array.of(step, -0) },
        half: { dtype: 'bfloat16', shape: [1], data: Uint16Array.of(step & 0xffff) },
      },
      scalars: { step, rate: 1 / 3 },
    },
    progress: { step, position: 2 * step, seed: 7, skipped: 0, data: 'sha256:x', setup: { beta: 5000 } },
  };
}

const damage = { code: 'ERR_SDPO_CHECKPOINT' };

t.test('round trips tensors bit by bit and scalars with the numbers JSON lacks', async (t) => {
  const folder = join(t.testdir(), 'not', 'there', 'yet');
  const store = new CheckpointStore(folder);
  t.equal(await store.latest(), undefined);
  t.same(await store.list(), []);
  const bits = Uint32Array.of(0x7fc00001, 0xffc00000, 0x80000000, 0x00000001, 0x7f800000, 0x3eaaaaab);
  const data = new Float32Array(bits.buffer);
  const numbers = { nan: NaN, top: Infinity, low: -Infinity, zero: -0, third: 1 / 3, tiny: 5e-324, list: [[-0], null] };
  const threshold = { values: [1, null, -0], nested: { '1': 2, b: 'x', a: true } };
  const state: TrainerState = {
    policy: { tensors: { w: { dtype: 'float32', shape: [2, 3], data } }, scalars: { ...numbers, left: undefined } },
    progress: { step: 3, position: 0, seed: 1, skipped: 0, data: 'd', setup: numbers, threshold },
  };
  t.equal(await store.save(state), join(folder, 'checkpoint-3'));
  for (const read of [await store.load(), await store.load(3), (await store.latest())?.state]) {
    const { w } = read!.policy.tensors;
    t.same(new Uint32Array(w.data.buffer, w.data.byteOffset, 6), bits);
    t.same([w.dtype, w.shape], ['float32', [2, 3]]);
    t.strictSame(read!.policy.scalars, numbers);
    t.ok(Object.is(read!.policy.scalars.zero, -0));
    t.strictSame(read!.progress, state.progress);
  }
  const latest = await store.latest();
  t.match(latest, { step: 3, path: join(folder, 'checkpoint-3'), warnings: [] });
  t.same(readdirSync(folder), ['checkpoint-3']);
});

t.test('any JSON and any number survives', async (t) => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.double(), (value, number) => {
      const text = JSON.stringify(toPlain('x', { value, number }));
      const back = fromPlain(JSON.parse(text)) as { value: unknown; number: number };
      return Object.is(back.number, number) && JSON.stringify(back.value) === JSON.stringify(value);
    }),
  );
  class Own {}
  for (const bad of [1n, () => 1, Symbol('s'), new Float32Array(1), new Date(), new Map(), new Own(), [undefined]]) {
    t.throws(() => toPlain('x', { a: bad }), { code: 'ERR_SDPO_INVALID_ARG_TYPE', message: /x\.a/ });
  }
  t.throws(() => toPlain('x', { $number: 'NaN' }), /without a field \$number/);
  const store = new CheckpointStore(t.testdir());
  const state = stateOf(1);
  const odd = { ...state, policy: { ...state.policy, scalars: { rate: new Float32Array(1) } } };
  await t.rejects(store.save(odd), /state\.policy\.scalars\.rate to be plain JSON/);
  t.same(readdirSync(store.folder), [], 'and nothing was written');
});

t.test('keeps the newest, replaces one of the same step', async (t) => {
  const store = new CheckpointStore(t.testdir(), { keep: 2 });
  // At once: they wait for each other.
  await Promise.all([10, 9, 100, 20].map((step) => store.save(stateOf(step))));
  t.same(
    (await store.list()).map(({ step }) => step),
    [20, 100],
    'in the order of numbers',
  );
  await t.rejects(store.load(10), { ...damage, message: /a checkpoint of step 10, received the steps 20, 100/ });
  const changed = { ...stateOf(20), progress: { ...stateOf(20).progress, seed: 8 } };
  await store.save(changed);
  t.equal((await store.load(20)).progress.seed, 8);
  t.same(readdirSync(store.folder).sort(), ['checkpoint-100', 'checkpoint-20']);
  await store.save(stateOf(5));
  t.same(
    (await store.list()).map(({ step }) => step),
    [5, 100],
    'what was just saved stays',
  );
  const all = new CheckpointStore(join(store.folder, 'all'), { keep: Infinity });
  for (let step = 0; step < 6; step++) await all.save(stateOf(step));
  t.equal((await all.list()).length, 6);
  t.throws(() => new CheckpointStore('x', { keep: 0 }), /options.keep/);
  t.throws(() => new CheckpointStore('x', { kept: 1 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(() => new CheckpointStore(1 as never), /folder/);
  await t.rejects(store.load(-1), /step/);
  await t.rejects(new CheckpointStore(join(store.folder, 'none')).load(), { ...damage, message: /\(none\)/ });
  await t.rejects(store.save({ ...stateOf(1), progress: { ...stateOf(1).progress, step: 0.5 } }), /progress.step/);
});

t.test('makes room before it writes, but never of the one that the run goes on from', async (t) => {
  const folder = t.testdir();
  const steps = async () => (await new CheckpointStore(folder).list()).map(({ step }) => step);
  const many = new CheckpointStore(folder, { keep: 9 });
  for (const step of [1, 2, 3, 4, 5]) await many.save(stateOf(step));
  const few = new CheckpointStore(folder, { keep: 2 });
  await few.prune();
  t.same(await steps(), [4, 5]);
  await many.save(stateOf(6));
  await many.save(stateOf(7));
  // Only 4 can be read.
  for (const step of [5, 6, 7]) writeFileSync(join(folder, `checkpoint-${step}`, 'progress.json'), '{');
  t.match(await few.latest(), { step: 4, warnings: { length: 3 } });
  await few.prune();
  t.same(await steps(), [4, 7], 'whatever else goes');
  await few.save(stateOf(8));
  t.same(await steps(), [7, 8], 'until there is one of its own');
  await new CheckpointStore(join(folder, 'none')).prune();
  t.notOk(existsSync(join(folder, 'none')), 'where there is nothing, nothing is made');

  writeFileSync(join(folder, 'file'), '');
  const cases: [CheckpointStore, RegExp][] = [
    [
      new CheckpointStore(join(folder, 'file')),
      /^Expected to write the checkpoint of step 3 \(.*file.checkpoint-3\), received EEXIST: .*move it away$/,
    ],
    [new CheckpointStore(join(folder, 'file', 'below')), /^Expected to write .* received ENOTDIR: /],
  ];
  for (const [store, message] of cases) await t.rejects(store.save(stateOf(3)), { code: 'ERR_SDPO_FILE', message });
});

t.test('a single one is read by its path', async (t) => {
  const folder = t.testdir();
  const run = join(folder, 'run');
  const store = new CheckpointStore(join(run, 'checkpoints'));
  const path = await store.save(stateOf(7));
  t.same((await readCheckpoint(path)).progress, stateOf(7).progress);
  t.same((await readCheckpoint(`${path}/`)).progress.step, 7);
  const cases: [string, RegExp][] = [
    [run, /run to be the folder of a checkpoint, checkpoint-<step>, received run; it holds checkpoints.checkpoint-7$/],
    [store.folder, /received checkpoints; it holds checkpoints.checkpoint-7$/],
    [folder, /to be the folder of a checkpoint, checkpoint-<step>, received [^;]*$/],
    [join(store.folder, 'checkpoint-8'), /checkpoint-8.progress\.json to be a file, received no such file/],
  ];
  for (const [wrong, message] of cases) await t.rejects(readCheckpoint(wrong), { ...damage, message });
  renameSync(path, join(store.folder, 'checkpoint-8'));
  await t.rejects(readCheckpoint(join(store.folder, 'checkpoint-8')), {
    ...damage,
    message: /of step 8, received step 7/,
  });
});

t.test('a damaged one is named, and the one before it is taken with a warning', async (t) => {
  const folder = t.testdir();
  const store = new CheckpointStore(folder);
  await store.save(stateOf(1));
  await store.save(stateOf(2));
  const newest = join(folder, 'checkpoint-2');
  const tensors = join(newest, 'policy.safetensors');
  const progress = join(newest, 'progress.json');
  const whole = { [tensors]: readFileSync(tensors), [progress]: readFileSync(progress) };
  const text = whole[progress].toString();
  /** Changed, with the checksum to match. */
  const signed = (change: object) => {
    const { sha256: _, ...content } = { ...JSON.parse(text), ...change };
    return JSON.stringify({ sha256: sha256(JSON.stringify(content)), ...content });
  };
  const flipped = Buffer.from(whole[tensors]);
  flipped[flipped.length - 1] ^= 1;
  const cases: [string, () => void, RegExp][] = [
    ['tensors cut', () => truncateSync(tensors, whole[tensors].length - 1), /policy.safetensors to be \d+ bytes long/],
    ['tensors empty', () => truncateSync(tensors, 0), /policy.safetensors .* received 0 bytes/],
    ['a bit of the tensors', () => writeFileSync(tensors, flipped), /policy.safetensors .* another SHA-256/],
    ['no tensors', () => renameSync(tensors, `${tensors}.gone`), /policy.safetensors .* ENOENT/],
    ['progress cut', () => truncateSync(progress, text.length - 9), /progress.json to be complete JSON/],
    ['progress empty', () => truncateSync(progress, 0), /progress.json to be complete JSON/],
    ['progress null', () => writeFileSync(progress, 'null'), /progress.json to be a JSON object/],
    ['a number changed', () => writeFileSync(progress, text.replace('"position": 4', '"position": 5')), /SHA-256/],
    ['no progress', () => renameSync(progress, `${progress}.gone`), /progress.json .* ENOENT/],
    [
      'a FIFO',
      () => spawnSync('sh', ['-c', 'rm "$0" && mkfifo "$0"', progress]),
      /progress.json to be a file, received a FIFO/,
    ],
    [
      'a device',
      () => spawnSync('ln', ['-sf', '/dev/zero', tensors]),
      /policy.safetensors to be a file, received a device/,
    ],
    [
      'no object',
      () => writeFileSync(progress, signed({ progress: null })),
      /JSON object with progress, received null/,
    ],
    ['no tensors named', () => writeFileSync(progress, signed({ tensors: 3 })), /JSON object with tensors, received 3/],
    [
      'none of safetensors',
      () => {
        writeFileSync(tensors, 'hello');
        writeFileSync(progress, signed({ tensors: { bytes: 5, sha256: sha256('hello') } }));
      },
      /policy.safetensors to be a file of tensors, received .*at least 8 bytes/,
    ],
    [
      'a later format',
      () => writeFileSync(progress, text.replace('"format": 1', '"format": 2')),
      /of format 1, .* format 2/,
    ],
  ];
  for (const [name, harm, message] of cases) {
    harm();
    const latest = await store.latest();
    t.equal(latest?.step, 1, name);
    t.strictSame(latest?.state, stateOf(1), name);
    t.equal(latest?.warnings.length, 1);
    t.match(latest?.warnings[0], message, name);
    t.match(latest?.warnings[0], newest);
    await t.rejects(store.load(), { ...damage, message }, 'load falls back to nothing');
    for (const [path, bytes] of Object.entries(whole)) {
      rmSync(path, { force: true });
      writeFileSync(path, bytes);
    }
  }
  renameSync(newest, join(folder, 'checkpoint-9'));
  await t.rejects(store.load(9), /checkpoint-9 to be of step 9, received step 2/);
  renameSync(join(folder, 'checkpoint-9'), newest);
  truncateSync(tensors, 5);
  truncateSync(join(folder, 'checkpoint-1', 'policy.safetensors'), 5);
  await t.rejects(store.latest(), { ...damage, message: /only damaged ones: .*checkpoint-2.*; .*checkpoint-1/ });
  const instead = new CheckpointStore(tensors);
  await t.rejects(instead.latest(), { ...damage, message: /policy.safetensors to be a folder, received .*: ENOTDIR/ });
});

t.test('what an unfinished save leaves is ignored, then removed', async (t) => {
  const folder = t.testdir();
  const store = new CheckpointStore(folder);
  await store.save(stateOf(1));
  const leave = (name: string) => {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'policy.safetensors'), 'half');
  };
  leave('.checkpoint-2.0123456789ab.tmp');
  leave('unrelated');
  // Killed between the two renames of a replacement: the old one stands aside, the new one is not in place.
  cpSync(join(folder, 'checkpoint-1'), join(folder, 'checkpoint-2'), { recursive: true });
  renameSync(join(folder, 'checkpoint-1'), join(folder, 'checkpoint-1.replaced'));
  renameSync(join(folder, 'checkpoint-2'), join(folder, '.checkpoint-1.aaaaaaaaaaaa.tmp'));
  const latest = await store.latest();
  t.equal(latest?.path, join(folder, 'checkpoint-1.replaced'));
  t.strictSame(latest?.state, stateOf(1));
  await store.save(stateOf(3));
  t.same(readdirSync(folder).sort(), ['checkpoint-1', 'checkpoint-3', 'unrelated']);
  // Killed after both renames.
  cpSync(join(folder, 'checkpoint-3'), join(folder, 'checkpoint-3.replaced'), { recursive: true });
  t.equal((await store.latest())?.path, join(folder, 'checkpoint-3'));
  await store.save(stateOf(4));
  t.notOk(existsSync(join(folder, 'checkpoint-3.replaced')));
});

t.test('processes killed while they save leave a checkpoint that is whole', async (t) => {
  const folder = join(t.testdir(), 'run');
  const elements = 100_000;
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const program = `
    import { CheckpointStore, readCheckpoint } from ${url('../../lib/trainer/checkpoint.ts')};
    const stateOf = ${stateOf.toString()};
    const store = new CheckpointStore(${JSON.stringify(folder)}, { keep: 2 });
    let step = (await store.latest())?.step ?? 0;
    console.log('ready');
    for (;;) {
      await store.save(stateOf(++step, ${elements}));
      // Again, so that replacements are under way as well.
      await store.save(stateOf(step, ${elements}));
    }`;
  const { NODE_OPTIONS: _, ...env } = process.env;
  let before = 0;
  let kills = 0;
  for (const delay of [0, 3, 11, 24, 50, 90, 140]) {
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
      cwd: fileURLToPath(new URL('../..', import.meta.url)),
      env,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, delay));
    child.kill('SIGKILL');
    const [, signal] = await once(child, 'exit');
    if (signal === 'SIGKILL') kills++;
    const latest = await new CheckpointStore(folder).latest();
    if (latest === undefined) {
      t.equal(before, 0, 'nothing was lost');
      continue;
    }
    t.same(latest.warnings, [], `killed after ${delay} ms`);
    t.strictSame(latest.state, stateOf(latest.step, elements));
    t.ok(latest.step >= before, 'no step is lost');
    before = latest.step;
  }
  t.equal(kills, 7, 'every process was killed and none ended by itself');
  t.ok(before > 0);
  await new CheckpointStore(folder, { keep: 2 }).save(stateOf(before + 1));
  t.same(readdirSync(folder).length, 2, 'the next save removes what they left');
});
