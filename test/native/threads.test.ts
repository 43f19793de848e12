/** The same bits for any number of threads, any alignment, and any number of calls at once. */

import t from 'tap';
import { devices, type LatentArray, PreferenceLoss, split, Tensor } from '../../lib/index.js';
import {
  type BranchName,
  branches,
  digestOf,
  digests,
  type FullBatch,
  largeBatch,
  latents,
  storedOf,
  tensors,
} from '../helpers/batches.js';
import { jsonOf, library } from '../helpers/child.js';
import { type DType, dtypes, type TypedArray } from '../helpers/dtypes.js';

const options = { objective: 'sdpo', beta: 20, klWeight: 0.5, klScope: 'masked' } as const;
const lossWith = (threads: number) => new PreferenceLoss({ ...options, threads });

/** Around lanes (16), tiles (4096), spans (16384), the sizes from which threads are used (131072 elements) and from which spans grow (2^20). */
const shapes: readonly (readonly [rows: number, size: number])[] = [
  [1, 1],
  [3, 17],
  [1, 4095],
  [2, 4096],
  [9, 4097],
  [1, 16383],
  [3, 16384],
  [2, 16385],
  [1, 65535],
  [5, 65536],
  [2, 65537],
  [31, 1057],
  [124, 1057],
  [125, 1057],
  [1, 2 ** 20 + 1],
];

t.test('any number of threads gives the same bits', async (t) => {
  for (const dtype of dtypes) {
    for (const [rows, size] of shapes) {
      const batch = largeBatch(rows, size, dtype);
      const [one, two, seven] = [1, 2, 7].map((threads) => digests(lossWith(threads).evaluate(batch)));
      t.same({ two, seven }, { two: one, seven: one }, `${dtype} [${rows}, ${size}]`);
    }
  }
});

t.test('mixed dtypes, element weights and the cross moment too', async (t) => {
  const [rows, size] = [3, 65537];
  const batch = {
    ...largeBatch(rows, size, (branch, tensor) =>
      tensor === 'policy' ? 'bfloat16' : branch === 'chosen' ? 'float32' : 'float16',
    ),
    elementWeights: Float32Array.from({ length: size }, (_, i) => (i % 5) / 4),
  };
  const runs = [1, 2, 7].map((threads) => {
    const loss = lossWith(threads);
    return { ...digests(loss.evaluate(batch)), cross: digestOf(loss.moments(batch, { cross: true }).cross!) };
  });
  t.same(runs[1], runs[0], '2 threads');
  t.same(runs[2], runs[0], '7 threads');
});

t.test('repeated calls give the same bits', async (t) => {
  const loss = lossWith(7);
  const batch = largeBatch(2, 65537, 'float32');
  const first = digests(loss.evaluate(batch));
  for (let i = 0; i < 20; i++) t.same(digests(loss.evaluate(batch)), first);
});

t.test('SDPO_NUM_THREADS sets the default and changes no bits', async (t) => {
  const program = `
    import { devices, PreferenceLoss } from ${library};
    import { digests, largeBatch } from ${JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href)};
    const result = new PreferenceLoss(${JSON.stringify(options)}).evaluate(largeBatch(3, 65537, 'float32'));
    console.log(JSON.stringify({ threads: devices()[0].threads, result: digests(result) }));`;
  const expected = digests(lossWith(1).evaluate(largeBatch(3, 65537, 'float32')));
  const cores = devices()[0].threads;
  for (const [text, threads] of [
    ['1', 1],
    ['2', 2],
    ['7', 7],
    ['0', cores],
    ['many', cores],
    ['4097', cores],
  ] as const) {
    const child = jsonOf<{ threads: number; result: object }>(program, { env: { SDPO_NUM_THREADS: text } });
    t.equal(child.threads, threads, `${text} means ${threads} threads`);
    t.same(child.result, expected, `SDPO_NUM_THREADS=${text}`);
  }
});

t.test('any alignment of the arrays gives the same bits', async (t) => {
  const [rows, size] = [2, 4099];
  const loss = lossWith(2);
  for (const dtype of dtypes) {
    const expected = digests(loss.evaluate(largeBatch(rows, size, dtype)));
    for (let offset = 0; offset <= 16; offset++) {
      let shift = offset;
      // Every tensor lies at another offset.
      const place = (stored: TypedArray) => shifted(stored, shift++ % 17);
      t.same(digests(loss.evaluate(largeBatch(rows, size, dtype, place))), expected, `${dtype} from element ${offset}`);
    }
  }
});

function shifted(stored: TypedArray, elements: number): TypedArray {
  const Stored = stored.constructor as new (length: number) => TypedArray;
  const view = new Stored(stored.length + 17).subarray(elements, elements + stored.length);
  view.set(stored);
  return view;
}

t.test(
  'a batch that does not fit in the caches, whose gradients are written past them, has the bits of its rows',
  async (t) => {
    const [rows, size] = [5, 2 ** 19 + 3];
    for (const dtype of dtypes) {
      const batch = largeBatch(rows, size, dtype);
      const loss = lossWith(2);
      const { gradients } = loss.evaluate(batch, { denominator: 1 });
      for (const row of [0, 1, rows - 1]) {
        const of = (value: LatentArray) => storedOf(value).subarray(row * size, (row + 1) * size);
        const side = (branch: BranchName) =>
          Object.fromEntries(
            tensors.map((name) => [name, latents(of(batch[branch][name]), dtype, 1)]),
          ) as FullBatch['chosen'];
        const alone = loss.evaluate(
          {
            timesteps: [row],
            chosen: side('chosen'),
            rejected: side('rejected'),
            transition: { omega: [(batch.transition as { omega: Float64Array }).omega[row]] },
          },
          { denominator: 1 },
        );
        for (const branch of branches) {
          t.equal(
            digestOf(of(gradients[branch])),
            digestOf(storedOf(alone.gradients[branch])),
            `${dtype} row ${row} ${branch}`,
          );
        }
      }
    }
  },
);

t.test('calls at once, on and off the event loop, do not disturb each other', async (t) => {
  const loss = lossWith(7);
  const batches = dtypes.flatMap((dtype: DType) => [
    largeBatch(1, 65537, dtype),
    largeBatch(130, 1057, dtype),
    largeBatch(3, 17, dtype),
  ]);
  const expected = batches.map((batch) => digests(loss.evaluate(batch)));
  const pending = [...batches, ...batches, ...batches].map((batch) => loss.evaluateAsync(batch));
  for (const [i, batch] of batches.entries())
    t.same(digests(loss.evaluate(batch)), expected[i], `sync call ${i} meanwhile`);
  for (const [i, result] of (await Promise.all(pending)).entries()) {
    t.same(digests(result), expected[i % batches.length], `async call ${i}`);
  }
});

t.test('rows of a view give the same bits as rows that lie together', async (t) => {
  const loss = lossWith(7);
  const batch = largeBatch(5, 16385, 'bfloat16');
  const spread = Tensor.empty([10, 16385], { dtype: 'bfloat16' });
  const policy = batch.chosen.policy as Tensor;
  for (let row = 0; row < 5; row++) {
    (spread.data as Uint16Array).set(policy.data.subarray(row * 16385, (row + 1) * 16385), 2 * row * 16385);
  }
  const view = { ...batch, chosen: { ...batch.chosen, policy: split(spread, 'interleaved').chosen } };
  t.same(digests(loss.evaluate(view)), digests(loss.evaluate(batch)));
});
