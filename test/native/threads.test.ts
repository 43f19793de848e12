/** The same bits for any number of threads, any alignment, and any number of calls at once. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
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
import { compile, compiler } from '../helpers/compile.js';
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

const askedFor = `
  import { devices, noise, PreferenceLoss } from ${library};
  import { digests, largeBatch } from ${JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href)};`;

t.test('SDPO_NUM_THREADS sets the default and changes no bits', async (t) => {
  const program = `${askedFor}
    const result = new PreferenceLoss(${JSON.stringify(options)}).evaluate(largeBatch(3, 65537, 'float32'));
    console.log(JSON.stringify({ threads: devices()[0].threads, result: digests(result) }));`;
  const expected = digests(lossWith(1).evaluate(largeBatch(3, 65537, 'float32')));
  const cores = devices()[0].threads;
  for (const [text, threads] of [
    ['1', 1],
    ['2', 2],
    ['7', 7],
    ['', cores],
  ] as const) {
    const child = jsonOf<{ threads: number; result: object }>(program, { env: { SDPO_NUM_THREADS: text } });
    t.equal(child.threads, threads, `${text} means ${threads} threads`);
    t.same(child.result, expected, `SDPO_NUM_THREADS=${text}`);
  }
});

t.test('SDPO_NUM_THREADS that is no number is an error that names it, and threads of a call win over it', async (t) => {
  const program = `${askedFor}
    const batch = largeBatch(1, 5, 'float32');
    const tried = async (call) => { try { return typeof (await call()); } catch (error) { return [error.name, error.code, error.message]; } };
    const loss = (threads) => new PreferenceLoss({ ...${JSON.stringify(options)}, threads });
    console.log(JSON.stringify([
      await tried(() => loss().evaluate(batch)),
      await tried(() => loss().evaluateAsync(batch)),
      await tried(() => noise(1, 0, new Float32Array(4))),
      await tried(() => devices()),
      await tried(() => loss(2).evaluate(batch)),
    ]));`;
  for (const text of ['one', '0', '2 ']) {
    const refused = [
      'RangeError',
      'ERR_SDPO_INVALID_ARG_VALUE',
      `Expected the environment variable SDPO_NUM_THREADS to be an integer from 1 to 4096, or not to be set, received "${text}"`,
    ];
    const found = jsonOf<unknown[]>(program, { env: { SDPO_NUM_THREADS: text } });
    t.same(found, [refused, refused, refused, refused, 'object'], text);
  }
});

t.test('the default is the processors that this process may use', async (t) => {
  const program = `import { devices } from ${library}; console.log(devices()[0].threads);`;
  const bound = spawnSync(
    'taskset',
    ['-c', '0', process.execPath, '--import', 'tsx', '--input-type=module', '-e', program],
    { encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '', SDPO_NUM_THREADS: '' } },
  );
  if (bound.error !== undefined) t.pass('not run', { skip: 'there is no taskset' });
  else t.equal(bound.stdout.trim(), '1', bound.stderr);
  t.ok(devices()[0].threads <= availableParallelism(), 'no more than Node counts');
});

t.test('quotas of control groups', { skip: compiler() === undefined && 'there is no C++ compiler' }, async (t) => {
  const unified = '30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n';
  const cpu = '33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n';
  const machine = (groups: string, mounts: string, files: Record<string, string>) => {
    const folder = mkdtempSync(join(t.testdirName, 'machine-'));
    for (const [file, text] of Object.entries({
      'proc/self/cgroup': groups,
      'proc/self/mountinfo': mounts,
      ...files,
    })) {
      mkdirSync(dirname(join(folder, file)), { recursive: true });
      writeFileSync(join(folder, file), text);
    }
    return folder;
  };
  t.testdir({});
  const cases = [
    { what: 'nothing is known', folder: machine('', '', {}), allows: 0 },
    {
      what: 'a container of version 2',
      folder: machine('0::/\n', unified, { 'sys/fs/cgroup/cpu.max': '150000 100000\n' }),
      allows: 2,
    },
    {
      what: 'less than a processor',
      folder: machine('0::/\n', unified, { 'sys/fs/cgroup/cpu.max': '5000 100000\n' }),
      allows: 1,
    },
    {
      what: 'no limit',
      folder: machine('0::/a.slice\n', unified, { 'sys/fs/cgroup/a.slice/cpu.max': 'max 100000\n' }),
      allows: 0,
    },
    {
      what: 'the least of the groups above',
      folder: machine('0::/a.slice/b.scope\n', unified, {
        'sys/fs/cgroup/a.slice/cpu.max': '300000 100000\n',
        'sys/fs/cgroup/a.slice/b.scope/cpu.max': '800000 100000\n',
      }),
      allows: 3,
    },
    {
      what: 'version 1',
      folder: machine('4:cpu,cpuacct:/jobs/7\n1:name=systemd:/x\n', cpu, {
        'sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us': '400000\n',
        'sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us': '100000\n',
        'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '-1\n',
        'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '100000\n',
      }),
      allows: 4,
    },
    {
      what: "a container of version 1, whose root is a group of the host's",
      folder: machine('3:cpu:/docker/1f\n', cpu.replace(' / /sys', ' /docker/1f /sys'), {
        'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us': '50000\n',
        'sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us': '10000\n',
      }),
      allows: 5,
    },
  ];
  const program = compile(t.testdirName, 'processors', ['native/cpu/processors.cc']);
  const out = execFileSync(
    program,
    cases.map(({ folder }) => folder),
    { encoding: 'utf8' },
  ).split('\n');
  for (const [i, { what, allows }] of cases.entries()) t.equal(Number(out[i]), allows, what);
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
