/** Memory of results on the host: used again once nothing holds it and never before, bounded, given back, and no part of any thread's or process's end. */

import t from 'tap';
import { jsonOf, library, runProgram } from '../helpers/child.js';

const mebibyte = 2 ** 20;

/** Results of 1 MiB per gradient; `result(k)` has gradients of its own for every k, and `same` tells whether they are still those. */
const prelude = `
  import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
  import { setImmediate, setTimeout } from 'node:timers/promises';
  import { PreferenceLoss, Tensor, split } from ${library};
  import { binding } from ${JSON.stringify(new URL('../../lib/native/binding.ts', import.meta.url).href)};
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, threads: 1 });
  const size = 2 ** 18;
  const filled = (value) => new Float32Array(size).fill(value);
  const zeros = filled(0), ones = filled(1);
  const batch = (k) => ({ chosen: { policy: filled(1 + (k % 97)), reference: ones, target: zeros }, rejected: { policy: ones, reference: ones, target: zeros }, rows: 1, timesteps: [1], betaScale: [1e-3] });
  const batches = Array.from({ length: 8 }, (_, k) => batch(k));
  const result = (k) => loss.evaluate(batches[k % 8]);
  const same = (array, k) => array.every((x) => x === array[0]) && array[0] === result(k).gradients.chosen[0] && array[0] !== result(k + 1).gradients.chosen[0];
  const collect = async () => { for (let i = 0; i < 3; i++) { gc(); await setTimeout(5); } };
  const churn = async () => { for (let i = 0; i < 40; i++) { result(i); if (i % 10 === 9) await collect(); } };
  const held = () => binding.keptResults();
  const print = (value) => console.log(JSON.stringify(value));
`.replace('rows: 1, ', '');
const run = <T>(program: string, env: Record<string, string> = {}) =>
  jsonOf<T>(prelude + program, { env, node: ['--expose-gc'] });

t.test('what is garbage is used again', async (t) => {
  const { first, later, turned } = run<Record<string, number>>(`
    result(0);
    const first = held();
    for (let i = 0; i < 150; i++) { result(i); gc(); }
    const later = held();
    for (let i = 0; i < 150; i++) { result(i); if (i % 10 === 0) await collect(); }
    print({ first, later, turned: held() });`);
  t.equal(first, 2 * mebibyte, 'a result is in the memory that is kept');
  // V8 frees beside the program, so that some calls find nothing yet; all 150 results would be 300 MiB.
  t.ok(later <= 64 * mebibyte, 'a loop without turns', { later });
  t.ok(turned <= 96 * mebibyte, 'a loop that lets the event loop turn', { turned });
});

/** Ways to hold memory of a result with no array of the result itself; each is an expression over `gradient`. */
const holders: Record<string, string> = {
  'the array': 'gradient',
  'a part of it': 'gradient.subarray(size / 2)',
  'its buffer': 'new Proxy({ buffer: gradient.buffer }, {})',
  'a view of its bytes': 'new DataView(gradient.buffer)',
  'a tensor around it': 'Tensor.from(gradient)',
  'a view of that tensor': `split(Tensor.from(gradient, { shape: [2, size / 2] }), 'halves').rejected`,
  'a closure': '(() => gradient)',
  'a copy by structuredClone': 'structuredClone(gradient)',
  'a buffer that it was transferred to':
    'new Float32Array(structuredClone(gradient.buffer, { transfer: [gradient.buffer] }))',
  'a buffer that it was moved to': `('transfer' in gradient.buffer ? new Float32Array(gradient.buffer.transfer()) : gradient)`,
  'a message in flight':
    '(() => { const { port1, port2 } = new MessageChannel(); port2.unref(); port1.unref(); port1.postMessage(gradient.buffer, [gradient.buffer]); return { port2 }; })()',
};
const elements = `
  const elements = (holder) => {
    if (typeof holder === 'function') return holder();
    if (holder.port2) return new Float32Array(receiveMessageOnPort(holder.port2).message);
    if (holder instanceof Tensor) return holder.data;
    if (holder instanceof Float32Array) return holder;
    return new Float32Array(holder.buffer);
  };`;
t.test('what is held by anything is never written again', async (t) => {
  const found = run<Record<string, boolean>>(`${elements}
    const holders = {
      ${Object.entries(holders)
        .map(
          ([name, expression], k) =>
            `${JSON.stringify(name)}: ((gradient) => ${expression})(result(${k}).gradients.chosen),`,
        )
        .join('\n')}
    };
    await churn();
    for (let i = 0; i < 300; i++) { result(i); if (i % 7 === 0) gc(); }
    print(Object.fromEntries(Object.entries(holders).map(([name, holder], k) => [name, same(elements(holder), k)])));`);
  t.same(found, Object.fromEntries(Object.keys(holders).map((name) => [name, true])));
});

t.test('results of the asynchronous call, of the gradient pass and of tensors are in the same memory', async (t) => {
  const grew = run<Record<string, number>>(`
    const bits = () => Tensor.from(new Uint16Array(2 * size).fill(0x3f80), { shape: [2, size], dtype: 'bfloat16' });
    const stacked = split(bits(), 'halves');
    const other = { reference: bits(), target: bits() };
    const reference = split(bits(), 'halves'), target = split(bits(), 'halves');
    const branch = (name) => ({ policy: stacked[name], reference: reference[name], target: target[name] });
    const ways = {
      evaluateAsync: () => loss.evaluateAsync(batches[0]),
      gradients: () => loss.gradients(batches[0], { chosen: { a: [1] }, rejected: { a: [1] } }),
      stacked: () => loss.evaluate({ chosen: branch('chosen'), rejected: branch('rejected') }),
    };
    const grew = {}, kept = [];
    for (const [name, way] of Object.entries(ways)) {
      const before = held();
      kept.push(await way());
      grew[name] = held() - before;
    }
    print(grew);`);
  t.same(grew, { evaluateAsync: 2 * mebibyte, gradients: 2 * mebibyte, stacked: mebibyte });
});

t.test('V8 counts the memory, once, and a buffer is one like any other', async (t) => {
  const { grew, moved, left } = run<Record<string, number>>(`
    result(0);
    await collect();
    const before = process.memoryUsage().external;
    const kept = [result(1), result(2)];
    const grew = process.memoryUsage().external - before;
    const { buffer } = kept[0].gradients.chosen;
    const moved = structuredClone(buffer, { transfer: [buffer] }).byteLength;
    print({ grew, moved, left: buffer.byteLength });`);
  t.ok(
    grew! > 1.9 * mebibyte && grew! < 4.5 * mebibyte,
    'four gradients of 1 MiB, of which two may be in memory of result 0',
    { grew },
  );
  t.same({ moved, left }, { moved: mebibyte, left: 0 });
});

t.test('memory whose length a transfer changed is not used again', async (t) => {
  const found = run<boolean>(`
    const moved = [];
    for (let i = 0; i < 60; i++) {
      const { buffer } = result(i).gradients.chosen;
      if ('transfer' in buffer) moved.push(buffer.transfer(i % 2 === 0 ? 4096 : 8 * size));
      if (moved.length > 4) moved.shift();
      if (i % 5 === 0) await collect();
    }
    print(same(result(1).gradients.chosen, 1));`);
  t.equal(found, true);
});

t.test('idle memory is given back', async (t) => {
  const { before, after, buffers } = run<Record<string, number>>(`
    for (let i = 0; i < 10; i++) result(i);
    const before = held();
    const until = performance.now() + 30000;
    while (held() > 0 && performance.now() < until) await collect();
    await collect();
    print({ before, after: held(), buffers: process.memoryUsage().arrayBuffers });`);
  t.ok(before! > 0, 'there was some');
  t.equal(after, 0);
  // 16 MiB of tensors, and none of the 20 MiB of results.
  t.ok(buffers! < 22 * mebibyte, 'nor does anything else hold it', { buffers });
});

t.test('the memory is bounded, and beyond it a result is an array like any other', async (t) => {
  for (const bound of [0, 5]) {
    const { most, right } = run<{ most: number; right: boolean }>(
      `
      const kept = [];
      let most = 0;
      for (let i = 0; i < 16; i++) { kept.push(result(i)); most = Math.max(most, held()); }
      const right = kept.every(({ gradients }, k) => same(gradients.chosen, k));
      print({ most, right });`,
      { SDPO_RESULT_POOL: String(bound) },
    );
    t.same({ most, right }, { most: bound * mebibyte, right: true }, `${bound} MiB`);
  }
});

t.test('small results are kept as well, but not as many as somebody holds', async (t) => {
  const { first, most, right, again } = run<Record<string, unknown>>(`
    const small = (k) => {
      const filled = (value) => new Float32Array(4096).fill(value);
      return { chosen: { policy: filled(1 + k), reference: filled(1), target: filled(0) }, rejected: { policy: filled(1), reference: filled(1), target: filled(0) }, timesteps: [1], betaScale: [1e-3] };
    };
    const value = (k) => loss.evaluate(small(k % 50)).gradients.chosen;
    const expected = Array.from({ length: 50 }, (_, k) => value(k)[0]);
    await collect();
    const before = held();
    value(0);
    const first = before > 0 && held() - before;
    const kept = Array.from({ length: 3000 }, (_, k) => value(k));
    const most = held();
    for (let i = 0; i < 200; i++) value(i);
    const right = kept.every((array, k) => array.every((x) => x === expected[k % 50]));
    kept.length = 0;
    await collect();
    for (let i = 0; i < 2000; i++) { value(i); if (i % 100 === 0) await collect(); }
    print({ first, most, right, again: held() });`);
  t.equal(first, 0, 'in memory of a result before');
  t.equal(most, 1024 * 16384);
  t.equal(right, true, 'and none of them is written again');
  t.ok((again as number) <= (most as number), 'nor do more come', { again });
});

t.test('workers end while their results are alive', async (t) => {
  // Their programs are ES modules with imports of TypeScript, for which the loader is registered first.
  const worker = (end: string) => `
    import { parentPort } from 'node:worker_threads';
    import { register } from 'tsx/esm/api';
    register();
    ${prelude.replaceAll(/import (\{.*?\}) from (.*?);/g, 'const $1 = await import($2);')}
    globalThis.kept = [result(0), result(1)];
    const { buffer } = kept[0].gradients.chosen;
    parentPort.postMessage(buffer, [buffer]);
    ${end}`;
  const ends = ['', 'setInterval(() => {}, 1000);', 'await setTimeout(50); process.exit();', 'for (;;) result(2);'];
  const found = run<{ right: boolean[]; left: number }>(`
    const right = [];
    for (const text of ${JSON.stringify(ends.map(worker))}) {
      const worker = new Worker(text, { eval: true });
      const chosen = new Float32Array(await new Promise((resolve, reject) => { worker.once('message', resolve); worker.once('error', reject); }));
      await setTimeout(20);
      await worker.terminate();
      await churn();
      right.push(same(chosen, 0));
    }
    while (binding.sweepResults());
    print({ right, left: held() });`);
  t.same(
    found.right,
    ends.map(() => true),
  );
  t.equal(found.left, 0, 'and what was kept in them went with them');
});

t.test('the process ends with results alive, in the middle of turns, and in an exit handler', async (t) => {
  const ends = {
    left: 'globalThis.kept = [result(0), result(1)];',
    exit: 'globalThis.kept = [result(0), result(1)]; process.exit();',
    garbage: 'for (let i = 0; i < 20; i++) result(i); gc(); process.exit();',
    handler: `process.on('exit', () => { globalThis.kept = result(0); gc(); });`,
    pending: 'globalThis.kept = loss.evaluateAsync(batches[0]); process.exit();',
  };
  for (const [name, end] of Object.entries(ends)) {
    t.same(
      runProgram(prelude + end, { node: ['--expose-gc'] }),
      { status: 0, signal: null, stdout: '', stderr: '' },
      name,
    );
  }
});

t.test('a thousand large results and more leave the memory as it was', async (t) => {
  const { before, after } = run<Record<string, number>>(`
    const calls = async (n) => {
      for (let i = 0; i < n; i++) { result(i); if (i % 250 === 249) await setImmediate(); }
      await collect();
      return process.memoryUsage.rss() - held();
    };
    const before = await calls(1000);
    print({ before, after: await calls(3000) });`);
  // They would be 6 GiB; and a kilobyte that each left behind would be 6 MiB.
  t.ok(after - before < 48 * mebibyte, 'resident memory', { before, after });
});

t.test(
  'where Buffer gives no memory, as from 4 GiB on in Node 20, arrays do; where nothing does the error says so',
  async (t) => {
    const module = JSON.stringify(new URL('../../lib/tensor/result-memory.ts', import.meta.url).href);
    const { fits, code } = run<{ fits: boolean; code: string }>(`
    const { allocateResult } = await import(${module});
    const expected = result(1).gradients.chosen[0];
    Buffer.allocUnsafeSlow = () => { throw new RangeError('The value of "size" is out of range'); };
    const fits = loss.evaluate({ ...batch(1), rows: 1 }).gradients.chosen.every((x) => x === expected);
    let code;
    try { allocateResult('float32', 2 ** 44); } catch (error) { ({ code } = error); }
    print({ fits, code });`);
    t.ok(fits);
    t.equal(code, 'ERR_SDPO_OUT_OF_MEMORY');
  },
);
