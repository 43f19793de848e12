/** Evaluation off the event loop: the same result, a loop that goes on, abortion, errors with the caller's stack, memory kept alive. */

import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import type { EvaluateArguments } from '../../binding.js';
import { AbortError, type Evaluation, NonFiniteError, PreferenceLoss, SdpoTypeError } from '../../lib/index.js';
import { binding } from '../../lib/native/binding.js';
import { type DTypes, digests, largeBatch } from '../helpers/batches.js';
import { jsonOf, library } from '../helpers/child.js';
import { dtypes } from '../helpers/dtypes.js';
import { failureOf } from '../helpers/failures.js';

const options = { objective: 'sdpo', beta: 20, klWeight: 0.5 } as const;
const loss = new PreferenceLoss(options);
/** Work for some hundredths of a second on one thread, in many rows or in one. */
const long = (rows = 64) => largeBatch(rows, 2 ** 22 / rows, 'float32');
const alone = new PreferenceLoss({ ...options, threads: 1 });

t.test('the same result as the synchronous call, with every option of a call', async (t) => {
  const mixed: DTypes = (branch, tensor) =>
    tensor === 'policy' ? 'bfloat16' : branch === 'chosen' ? 'float64' : 'float16';
  for (const dtype of [...dtypes, mixed]) {
    const batch = largeBatch(3, 4099, dtype);
    for (const call of [{}, { gradients: false }, { gradientScale: 8, denominator: 5, maskThreshold: [0, 1, 0.5] }]) {
      t.same(
        digests(await loss.evaluateAsync(batch, call)),
        digests(loss.evaluate(batch, call)),
        `${dtype} ${JSON.stringify(call)}`,
      );
    }
  }
});

t.test('into is written again and returned', async (t) => {
  const batch = largeBatch(2, 4099, 'float16');
  const result = await loss.evaluateAsync(largeBatch(2, 4099, 'float16'));
  result.rows.loss.fill(NaN);
  const { gradients } = result;
  const again = await loss.evaluateAsync({ ...batch, chosen: batch.rejected }, { into: result });
  t.equal(again, result);
  t.equal(again.gradients.chosen, gradients.chosen);
  t.same(digests(again), digests(loss.evaluate({ ...batch, chosen: batch.rejected })));
});

t.test('the event loop goes on meanwhile', async (t) => {
  let turns = 0;
  let done = false;
  const batch = long();
  const pending = alone.evaluateAsync(batch).finally(() => {
    done = true;
  });
  // A call that blocked the loop would be settled by the first turn.
  while (!done) {
    await new Promise(setImmediate);
    turns++;
  }
  await pending;
  t.ok(turns > 1, 'the loop turned several times', { turns });
});

t.test('a signal that is aborted already', async (t) => {
  const reason = new Error('not today');
  const error = await failureOf(() =>
    loss.evaluateAsync(largeBatch(1, 5, 'float32'), { signal: AbortSignal.abort(reason) }),
  );
  t.type(error, AbortError);
  t.match(error, { name: 'AbortError', code: 'ERR_SDPO_ABORTED', cause: reason });
  t.notMatch(error?.stack, /PreferenceLoss\.evaluateAsync/, 'the stack is that of the caller');
  t.match(error?.stack, /async\.test/);
});

for (const [name, make] of [
  ['rows', () => long()],
  ['one row', () => long(1)],
] as const) {
  t.test(`aborted while it runs: ${name}`, async (t) => {
    const batch = make();
    const expected = digests(alone.evaluate(batch));
    for (const each of [alone, new PreferenceLoss({ ...options, threads: 7 })]) {
      const reason = { why: 'any value' };
      let error: Error | undefined;
      // On a busy machine a call may be over before this thread has its next turn; then it is tried again.
      for (let attempt = 0; attempt < 100 && error === undefined; attempt++) {
        const controller = new AbortController();
        const pending = each.evaluateAsync(batch, { signal: controller.signal });
        setImmediate(() => controller.abort(reason));
        error = await failureOf(() => pending);
      }
      t.match(error, { name: 'AbortError', code: 'ERR_SDPO_ABORTED', cause: reason });
      t.same(digests(await each.evaluateAsync(batch)), expected, 'the next call is not disturbed');
    }
  });
}

t.test('aborted while it waits for its turn', async (t) => {
  const batch = long();
  const controllers = Array.from({ length: 12 }, () => new AbortController());
  const pending = controllers.map(({ signal }) => failureOf(() => alone.evaluateAsync(batch, { signal })));
  for (const controller of controllers) controller.abort();
  const last = (await Promise.all(pending)).at(-1);
  t.match(last, { code: 'ERR_SDPO_ABORTED', cause: { name: 'AbortError' } }, 'the default reason is the cause');
});

t.test('aborted after the end: nothing happens', async (t) => {
  const controller = new AbortController();
  const batch = largeBatch(2, 33, 'float32');
  const result = await loss.evaluateAsync(batch, { signal: controller.signal });
  controller.abort();
  await new Promise(setImmediate);
  t.same(digests(result), digests(loss.evaluate(batch)));
});

t.test('a signal that is never aborted changes nothing, and its listener is removed', async (t) => {
  const counts = { added: 0, removed: 0 };
  const signal = new AbortController().signal;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    counts.added++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    counts.removed++;
    removeEventListener.apply(signal, args);
  };
  const good = largeBatch(2, 33, 'float32');
  t.same(digests(await loss.evaluateAsync(good, { signal })), digests(loss.evaluate(good)));
  t.same(counts, { added: 1, removed: 1 }, 'after a result');
  const bad = largeBatch(2, 33, 'float32');
  (bad.chosen.policy as Float32Array)[0] = NaN;
  t.type(await failureOf(() => loss.evaluateAsync(bad, { signal })), NonFiniteError);
  t.same(counts, { added: 2, removed: 2 }, 'after an error');
});

t.test('a signal with a timeout', async (t) => {
  const signal = AbortSignal.timeout(50);
  const error = await failureOf(async () => {
    for (;;) await alone.evaluateAsync(largeBatch(8, 16385, 'float32'), { signal });
  });
  t.match(error, { code: 'ERR_SDPO_ABORTED', cause: { name: 'TimeoutError' } });
});

t.test('short calls one after the other leave the event loop its turns', async (t) => {
  const signal = AbortSignal.timeout(5);
  const batch = largeBatch(1, 16, 'float32');
  const error = await failureOf(async () => {
    for (;;) await alone.evaluateAsync(batch, { signal });
  });
  t.match(error, { code: 'ERR_SDPO_ABORTED', cause: { name: 'TimeoutError' } });
  const controller = new AbortController();
  const aborted = failureOf(() => alone.evaluateAsync(batch, { signal: controller.signal }));
  controller.abort();
  t.match(await aborted, { code: 'ERR_SDPO_ABORTED' }, 'aborted after it was made and before it settled');
});

t.test(
  'calls that take no longer than handing them over are made where they are, any other on another thread',
  async (t) => {
    let handed = 0;
    const { evaluateAsync } = binding;
    t.teardown(() => {
      binding.evaluateAsync = evaluateAsync;
    });
    binding.evaluateAsync = (...args) => {
      handed++;
      return evaluateAsync(...args);
    };
    for (const [rows, size, expected] of [
      [1, 16384, 0],
      [2, 65536, 0],
      [1, 131073, 1],
    ]) {
      const batch = largeBatch(rows, size, 'float32');
      handed = 0;
      let turned = false;
      const pending = loss.evaluateAsync(batch).then((result) => ({ result, turned }));
      setImmediate(() => {
        turned = true;
      });
      const settled = await pending;
      t.same(digests(settled.result), digests(loss.evaluate(batch)));
      t.equal(handed, expected, `${rows} x ${size}`);
      if (expected === 0) t.equal(settled.turned, false, 'and settles in the next turn');
    }
    // Five of half of what a turn makes, and as many again once those have settled.
    const half = largeBatch(1, 65536, 'float32');
    for (const round of [1, 2]) {
      handed = 0;
      const results = await Promise.all(Array.from({ length: 5 }, () => loss.evaluateAsync(half)));
      t.equal(handed, 3, `at once, round ${round}`);
      for (const result of results) t.same(digests(result), digests(loss.evaluate(half)));
    }
    // A call that fails leaves room for others.
    const bad = largeBatch(1, 131072, 'float32');
    (bad.chosen.policy as Float32Array)[0] = NaN;
    t.type(await failureOf(() => loss.evaluateAsync(bad)), NonFiniteError);
    t.type(await failureOf(() => loss.evaluateAsync(bad)), NonFiniteError);
    t.equal(handed, 3);
  },
);

t.test('a rejection carries the stack of the caller', async (t) => {
  const bad = largeBatch(2, 33, 'float32');
  (bad.rejected.target as Float32Array)[40] = Infinity;
  async function trainOneStep() {
    await delay(0);
    return loss.evaluateAsync(bad);
  }
  const error = (await failureOf(trainOneStep)) as NonFiniteError;
  t.match(error, { row: 1, branch: 'rejected', tensor: 'target', element: 7, code: 'ERR_SDPO_NON_FINITE' });
  t.match(error.stack, /^SdpoError: Expected only finite values/, 'it starts with the error itself');
  t.match(error.stack, /trainOneStep/, 'and leads to the caller');
  t.notMatch(error.stack, /PreferenceLoss\.evaluateAsync/, 'not into the library');
});

t.test('a result under way is refused as into, and calls have their scalars to themselves', async (t) => {
  const seen: EvaluateArguments[] = [];
  const { evaluateAsync } = binding;
  t.teardown(() => {
    binding.evaluateAsync = evaluateAsync;
  });
  binding.evaluateAsync = (...args) => {
    seen.push(args);
    return evaluateAsync(...args);
  };
  const into = alone.evaluate(largeBatch(4, 32771, 'float32'));
  const batch = largeBatch(4, 32771, 'float32');
  const weighted = { ...batch, rowWeights: [3, 0, 1, 1] };
  const first = alone.evaluateAsync(batch, { into });
  const before = seen[0][1]!.slice();
  const refused = { code: 'ERR_SDPO_INVALID_ARG_VALUE', message: /call\.into .*no call is writing/ };
  await t.rejects(alone.evaluateAsync(weighted, { into }), refused, 'two calls cannot write one result');
  t.throws(() => alone.evaluate(weighted, { into }), refused, 'nor can a synchronous one');
  t.same(seen[0][1], before, 'the row inputs of the call under way are as they were');
  t.equal(await first, into);
  t.same(digests(into), digests(alone.evaluate(batch)));

  const controller = new AbortController();
  const aborted = failureOf(() => alone.evaluateAsync(batch, { into, signal: controller.signal }));
  controller.abort();
  t.throws(() => alone.evaluate(weighted, { into }), refused, 'also while it is being aborted');
  await aborted;
  t.same(digests(await alone.evaluateAsync(batch, { into })), digests(alone.evaluate(batch)), 'and free again');
  t.same(seen[2].slice(0, 2), seen[1].slice(0, 2), 'nothing is left of other calls');
  await alone.evaluateAsync(batch, { into });
  t.equal(seen[3][1], seen[2][1], 'calls one after the other share their scalars');
});

t.test('a wrong argument is a rejection, never a throw', async (t) => {
  function misuse() {
    return loss.evaluateAsync(undefined as never);
  }
  let promise: Promise<Evaluation> | undefined;
  t.doesNotThrow(() => {
    promise = misuse();
  });
  const error = await failureOf(() => promise);
  t.type(error, SdpoTypeError);
  t.match(error?.stack, /misuse/);
});

t.test('without a stack there is none, and the message stays', async (t) => {
  const bad = largeBatch(1, 3, 'float32');
  (bad.chosen.policy as Float32Array)[0] = NaN;
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  t.teardown(() => {
    Error.stackTraceLimit = limit;
  });
  const error = await failureOf(() => loss.evaluateAsync(bad));
  t.match(error?.stack, /^SdpoError: Expected only finite values/);
});

t.test('inputs and outputs live as long as the call, whatever the collector does', async (t) => {
  const program = `
    import { PreferenceLoss } from ${library};
    import { digests, largeBatch } from ${JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href)};
    const loss = new PreferenceLoss(${JSON.stringify(options)});
    const expected = JSON.stringify(digests(loss.evaluate(largeBatch(7, 20011, 'bfloat16'))));
    const pending = [];
    for (let i = 0; i < 12; i++) {
      // Nothing but the call itself knows these tensors.
      pending.push(loss.evaluateAsync(largeBatch(7, 20011, 'bfloat16')));
      gc();
      new Float32Array(1 << 20).fill(NaN);
    }
    const watch = setInterval(gc, 1);
    const results = await Promise.all(pending);
    clearInterval(watch);
    console.log(JSON.stringify({ equal: results.filter((result) => JSON.stringify(digests(result)) === expected).length }));`;
  t.same(jsonOf(program, { node: ['--expose-gc'] }), { equal: 12 });
});

t.test('buffers that are transferred and collected while a call works on them', async (t) => {
  const expected = digests(alone.evaluate(long()));
  const ways = {
    structuredClone: '(buffer) => void structuredClone(buffer, { transfer: [buffer] })',
    postMessage: '(buffer) => new MessageChannel().port1.postMessage(buffer, [buffer])',
    ...('transfer' in ArrayBuffer.prototype && { transfer: '(buffer) => void buffer.transfer()' }),
  };
  for (const [name, take] of Object.entries(ways)) {
    const { result, detached, again } = jsonOf<{ result: object; detached: boolean; again: string }>(
      `import { PreferenceLoss } from ${library};
       import { digests, largeBatch } from ${JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href)};
       const take = ${take};
       const loss = new PreferenceLoss({ ...${JSON.stringify(options)}, threads: 1 });
       const batch = largeBatch(64, 2 ** 16, 'float32');
       const pending = loss.evaluateAsync(batch);
       for (const branch of [batch.chosen, batch.rejected]) for (const { buffer } of Object.values(branch)) take(buffer);
       const detached = batch.chosen.policy.length === 0;
       gc();
       const into = await pending;
       const result = digests(into);
       const second = loss.evaluateAsync(largeBatch(64, 2 ** 16, 'float32'), { into });
       take(into.gradients.chosen.buffer);
       gc();
       const again = await second.then(() => 'a result', ({ code }) => code);
       console.log(JSON.stringify({ result, detached, again }));
       process.exit();`,
      { node: ['--expose-gc'] },
    );
    t.ok(detached, `${name}: taken`);
    t.same(result, expected, 'the result is that of the batch');
    t.equal(again, 'ERR_SDPO_INVALID_LENGTH', 'a result that is taken while it is written is an error');
  }
});

t.test('where memory cannot be shared, what a call reads is copied', async (t) => {
  const batch = largeBatch(64, 2 ** 12, 'float32');
  const given: unknown[] = [];
  const { evaluateAsync, sharesMemory } = binding;
  t.teardown(() => Object.assign(binding, { evaluateAsync, sharesMemory }));
  const shared = largeBatch(64, 2 ** 12, 'float32', (stored) => {
    const copy = new Float32Array(new SharedArrayBuffer(stored.byteLength));
    copy.set(stored);
    return copy;
  });
  for (const shares of [true, false]) {
    for (const of of [batch, shared]) {
      const evaluate = (...args: EvaluateArguments) => {
        given.splice(0, given.length, ...args);
        return evaluateAsync(...args);
      };
      Object.assign(binding, { evaluateAsync: evaluate, sharesMemory: shares });
      const result = await loss.evaluateAsync(of);
      t.equal(given.includes(of.chosen.policy), shares || of === shared);
      t.ok(given.includes(result.gradients.chosen), 'what it writes is never copied');
      t.same(digests(result), digests(loss.evaluate(batch)));
    }
  }
});
