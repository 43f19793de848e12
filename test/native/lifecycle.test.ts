/** Beginning and end: worker threads, loading twice, exits at every stage of life, and memory over many calls. */

import { execFileSync } from 'node:child_process';
import { copyFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { jsonOf, library, runProgram } from '../helpers/child.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const batches = JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href);

/** What every program has: a loss, a batch large enough that its call is still in flight when the next line runs, and its digest. */
const prelude = `
  const { PreferenceLoss } = await import(${library});
  const { digests, largeBatch } = await import(${batches});
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20, threads: 4 });
  const long = largeBatch(8, 2 ** 17, 'float32');
  const call = () => JSON.stringify(digests(loss.evaluate(largeBatch(3, 65537, 'float32'))));
`;

/** The text of a worker: an ES module as its parent's, but node gives it no loader of TypeScript. */
const inWorker = (body: string) => `
  import { parentPort } from 'node:worker_threads';
  import { register } from 'tsx/esm/api';
  register();
  ${prelude}
  ${body}`;
const callInWorker = inWorker('parentPort.postMessage(call());');

const workers = `
  import { once } from 'node:events';
  import { Worker } from 'node:worker_threads';
  const start = (text) => new Worker(text, { eval: true });
  const ask = async (text) => {
    const worker = start(text);
    const [answer] = await once(worker, 'message');
    const code = worker.exitCode ?? (await once(worker, 'exit'))[0];
    if (code !== 0) throw new Error('the worker ended with ' + code);
    return answer;
  };
`;

t.test('several workers at once, and the main thread beside them', async (t) => {
  const program = `${prelude}${workers}
    const asked = [1, 2, 3, 4].map(() => ask(${JSON.stringify(callInWorker)}));
    const own = call();
    const answers = await Promise.all(asked);
    console.log(JSON.stringify(answers.map((answer) => answer === own)));`;
  t.same(jsonOf(program), [true, true, true, true]);
});

t.test('loaded in a worker alone, which ends; then in another, then in the main thread', async (t) => {
  // When the only environment that loaded the addon is gone its helper threads still sleep in its code.
  const program = `${workers}
    const first = await ask(${JSON.stringify(callInWorker)});
    const second = await ask(${JSON.stringify(callInWorker)});
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { PreferenceLoss } = await import(${library});
    const { digests, largeBatch } = await import(${batches});
    const loss = new PreferenceLoss({ objective: 'sdpo', beta: 20, threads: 4 });
    const own = JSON.stringify(digests(loss.evaluate(largeBatch(3, 65537, 'float32'))));
    console.log(JSON.stringify({ second: second === first, own: own === first }));`;
  t.same(jsonOf(program), { second: true, own: true });
});

t.test('a worker that is terminated while a call is in flight', async (t) => {
  const busy = inWorker(`
    const pending = Array.from({ length: 8 }, () => loss.evaluateAsync(long));
    parentPort.postMessage('started');
    await Promise.all(pending);`);
  const program = `${prelude}${workers}
    const before = call();
    for (let i = 0; i < 2; i++) {
      const worker = start(${JSON.stringify(busy)});
      await once(worker, 'message');
      await worker.terminate();
    }
    console.log(JSON.stringify({ same: call() === before }));`;
  t.same(jsonOf(program), { same: true });
});

t.test('the addon loaded twice, from one file and from a copy', async (t) => {
  const require = createRequire(import.meta.url);
  const file = require('node-gyp-build').resolve(fileURLToPath(new URL('../..', import.meta.url)));
  const copy = join(t.testdir({}), 'sdpo.node');
  copyFileSync(file, copy);
  const program = `
    import { createRequire } from 'node:module';
    const require = createRequire(${JSON.stringify(file)});
    const load = (path) => { delete require.cache[path]; return require(path); };
    const addons = [${[file, file, copy].map((path) => `load(${JSON.stringify(path)})`)}];
    const draw = (addon) => {
      const out = new Float64Array(100000);
      addon.noise(1, 2, 3, out, 0, false, 4);
      return out.join();
    };
    const drawn = addons.map(draw);
    console.log(JSON.stringify({ separate: new Set(addons).size, equal: new Set(drawn).size === 1 }));`;
  t.same(jsonOf(program), { separate: 3, equal: true });
});

/** Programs that end at some stage of life; each must end with code 0 and without a word. */
const ends: Record<string, string> = {
  'after loading, by process.exit': `import ${library}; process.exit();`,
  'after a call': `${prelude} call();`,
  'after a call, by process.exit': `${prelude} call(); process.exit();`,
  'with a call in flight, left to end': `${prelude} loss.evaluateAsync(long);`,
  'with a call in flight, by process.exit': `${prelude} loss.evaluateAsync(long); process.exit();`,
  'with many calls in flight, by process.exit': `${prelude} for (let i = 0; i < 20; i++) loss.evaluateAsync(long); setImmediate(() => process.exit());`,
  'with an aborted call in flight': `${prelude}
    const controller = new AbortController();
    loss.evaluateAsync(long, { signal: controller.signal }).catch(() => {});
    controller.abort();
    process.exit();`,
  'while a promise settles': `${prelude} loss.evaluateAsync(long).then(() => process.exit());`,
  'in an exit handler that makes a call': `${prelude} process.on('exit', () => call()); loss.evaluateAsync(long); process.exit();`,
};
for (const [when, program] of Object.entries(ends)) {
  t.test(`the process ends ${when}`, async (t) => {
    t.same(runProgram(program), { status: 0, signal: null, stdout: '', stderr: '' });
  });
}

t.test('an error that nobody catches ends the process as any error does', async (t) => {
  const program = `${prelude} long.chosen.policy[5] = NaN; loss.evaluateAsync(long);`;
  const { status, signal, stderr } = runProgram(program);
  t.same({ status, signal }, { status: 1, signal: null });
  t.match(stderr, /SdpoError.*: Expected only finite values in row 0 of chosen\.policy/);
});

t.test('ten thousand calls leave the memory as it was', async (t) => {
  const program = `${prelude}
    const small = largeBatch(4, 1024, 'bfloat16');
    const { rss } = process.memoryUsage;
    const settle = () => { gc(); gc(); return rss(); };
    const run = async (calls) => {
      for (let i = 0; i < calls; i++) {
        if (i % 5 === 0) await loss.evaluateAsync(small);
        else loss.evaluate(small);
        if (i % 500 === 0) gc();
      }
    };
    await run(2000);
    const before = settle();
    await run(10000);
    const after = settle();
    console.log(JSON.stringify({ before, after }));`;
  const { before, after } = jsonOf<{ before: number; after: number }>(program, { node: ['--expose-gc'] });
  // The gradients alone of these calls are 160 MB: a tenth of that would be a leak.
  const bound = (10000 * 2 * 4 * 1024 * 2) / 10;
  t.ok(after - before < bound, 'resident memory', { before, after, bound });
});

t.test(
  'an addon without memory for a call says so, and the process lives',

  async (t) => {
    const preload = join(t.testdir(), 'no-memory.so');
    execFileSync('cc', ['-shared', '-fPIC', '-w', '-o', preload, join(root, 'test/build/native/no-memory.c'), '-ldl']);
    const program = `${prelude}
    const { noise } = await import(${library});
    const batch = largeBatch(2, 2 ** 17, 'float32');
    const calls = {
      noise: () => noise(1, 0, new Float32Array(2 ** 16)),
      evaluate: () => loss.evaluate(batch),
      evaluateAsync: () => loss.evaluateAsync(batch),
    };
    const said = {};
    for (const [name, call] of Object.entries(calls)) {
      const mask = process.umask(0o123);
      try {
        await call();
        said[name] = 'nothing';
      } catch (error) {
        said[name] = String(error.code ?? error.message);
      }
      process.umask(mask);
      await call();
    }
    console.log(JSON.stringify(said));`;
    const said = jsonOf<Record<string, string>>(program, { env: { LD_PRELOAD: preload } });
    t.same(Object.keys(said), ['noise', 'evaluate', 'evaluateAsync']);
    // The arguments of a call with more than six are node-addon-api's own, which knows no codes.
    for (const [name, error] of Object.entries(said)) t.match(error, /^(ERR_SDPO_OUT_OF_MEMORY|std::bad_alloc)$/, name);
  },
);
