/** The command line in processes of its own: what doctor prints, what selftest finds, and the exit codes. */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { devices, Tensor } from '../../lib/index.js';
import { makeBatch } from '../../lib/selftest/batches.js';
import { CHECKS } from '../../lib/selftest/checks.js';
import { close, closeGradient, throws, toleranceOf } from '../../lib/selftest/compare.js';
import { describeDiagnosis, diagnose } from '../../lib/selftest/diagnose.js';
import { describeChecks, runChecks } from '../../lib/selftest/run.js';
import { fakeDevice } from '../helpers/fake-device.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const { version } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));

function sdpo(args: string[], env: Record<string, string> = {}) {
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SDPO_)/.test(name)));
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'lib/cli/cli.ts', ...args], {
    cwd: root,
    encoding: 'utf8',
    env: { ...clean, ...env },
  });
  return { status, stdout, stderr };
}

t.test('doctor', async (t) => {
  const text = sdpo(['doctor']);
  t.match(text, { status: 0, stderr: '' });
  for (const part of [
    version,
    process.versions.node,
    'sdpo.node',
    /CUDA is used +(yes|no: \S)/,
    /^cpu +this processor$/m,
  ]) {
    t.match(text.stdout, part);
  }
  const json = sdpo(['doctor', '--json']);
  const found = JSON.parse(json.stdout);
  t.match(found, {
    package: version,
    system: `${process.platform}-${process.arch}`,
    cpu: { threads: Number, instructionSet: /^(baseline|avx2|avx512)$/ },
    cuda: { used: devices().length > 1 },
    devices: [{ name: 'cpu' }],
  });
  if (!found.cuda.used) t.match(found.cuda.reason, /\S/);
});

t.test('doctor of a machine with a device', async (t) => {
  const found = diagnose();
  const device = {
    name: 'cuda:0',
    type: 'cuda',
    model: 'NVIDIA H200',
    computeCapability: '9.0',
    totalMemory: 141 * 2 ** 30,
    multiprocessors: 132,
    driverVersion: '13.0',
    runtimeVersion: '13.0',
  } as const;
  const cuda = {
    built: true,
    used: true,
    runtimeVersion: '13.0',
    driverVersion: '13.0',
    kernelDriver: '580.65.06',
    minimumDriver: '580',
    reason: null,
  };
  const text = describeDiagnosis({ ...found, cuda, devices: [...found.devices, device] });
  t.match(text, /^driver +for CUDA 13\.0 \(driver 580\.65\.06\)$/m);
  t.match(text, /^minimum driver +580$/m);
  t.match(text, /^CUDA is used +yes$/m);
  t.match(text, /^cuda:0 +NVIDIA H200, compute capability 9\.0, 141\.0 GiB, 132 multiprocessors$/m);
});

t.test('doctor without a binary says what is missing and ends with 1', async (t) => {
  const empty = t.testdir({});
  const { status, stderr } = sdpo(['doctor'], { SDPO_PREBUILD: empty });
  t.equal(status, 1);
  t.match(stderr, /Expected a native addon of sdpo/);
  t.match(JSON.parse(sdpo(['doctor', '--json'], { SDPO_PREBUILD: empty }).stdout), {
    error: { code: 'ERR_SDPO_NO_BINARY' },
  });
});

t.test('selftest on the CPU passes', async (t) => {
  const { status, stdout } = sdpo(['selftest', '--json']);
  t.equal(status, 0);
  const { device, checks } = JSON.parse(stdout);
  t.equal(device, 'cpu');
  t.equal(checks.length, CHECKS.filter(({ cudaOnly }) => !cudaOnly).length);
  for (const check of checks) t.ok(check.passed, `${check.group}: ${check.name}`, check);
});

t.test('selftest on a device that is not there ends with 2', async (t) => {
  for (const name of ['cuda:99', 'gpu']) {
    const { status, stdout, stderr } = sdpo(['selftest', '--device', name]);
    t.same({ status, stdout }, { status: 2, stdout: '' });
    t.match(stderr, new RegExp(`--device to be a device of this machine \\(cpu.*\\), received "${name}"`));
    const json = sdpo(['selftest', '--device', name, '--json']);
    t.equal(json.status, 2);
    t.match(JSON.parse(json.stdout), { error: { code: 'ERR_SDPO_DEVICE' } });
  }
});

t.test('an unknown command or option is refused', async (t) => {
  for (const args of [['selftset'], ['doctor', '--jsn']]) t.not(sdpo(args).status, 0, args.join(' '));
  t.equal(sdpo(['--help']).status, 0);
});

t.test('selftest on a stand-in for a device: it passes, and a device that fails ends with 1', async (t) => {
  const fake = fakeDevice();
  if ('missing' in fake) {
    t.pass('not run', { skip: fake.missing });
    return;
  }
  const good = sdpo(['selftest', '--device', 'cuda:0', '--json'], fake.env);
  const { checks } = JSON.parse(good.stdout) as { checks: { passed: boolean; group: string; name: string }[] };
  for (const check of checks) t.ok(check.passed, `${check.group}: ${check.name}`, check);
  t.equal(checks.length, CHECKS.length);
  t.equal(good.status, 0);
  const bad = sdpo(['selftest', '--device', 'cuda:0'], { ...fake.env, SDPO_FAKE_LOSE: '10' });
  t.equal(bad.status, 1);
  t.match(bad.stdout, /^pass .*\n(.*\n)*FAIL .*\n +running a kernel on cuda:0.*cudaErrorIllegalAddress/);
  t.match(bad.stdout, /cuda:0: \d+ passed, \d+ failed\n$/);
});

t.test('checks fail where something is wrong', async (t) => {
  const failing = { group: 'g', name: 'n', run: () => close('x', [1], [2], 0.1) };
  const passing = { group: 'g', name: 'm', run: () => {} };
  const results = await runChecks('cpu', [failing, passing, { ...failing, cudaOnly: true }]);
  t.match(results, [{ passed: false, message: 'x[0] is 1, expected 2 within 1.0e-1' }, { passed: true }]);
  t.equal(results.length, 2);
  t.match(describeChecks('cpu', results), /FAIL {2}g {2}n .*\n {6}x\[0\] is 1.*\npass.*\n\ncpu: 1 passed, 1 failed$/);

  t.throws(() => close('x', [1, 2], [1], 1), /2 numbers for 1/);
  t.throws(() => close('x', [Number.NaN], [1], 1), /NaN/);
  t.doesNotThrow(() => close('x', [Number.NaN, Infinity], [Number.NaN, Infinity], 0));
  const tolerance = toleranceOf('float32', 'float16', 30);
  const gradient = Tensor.from([1, 0.5], { dtype: 'float16' });
  t.doesNotThrow(() => closeGradient('g', gradient, Float64Array.of(1.0001, 0.5), tolerance));
  t.throws(() => closeGradient('g', gradient, Float64Array.of(1.01, 0.5), tolerance), /g\[0\]/);
  await t.rejects(
    throws('x', () => {}, 'ERR'),
    /nothing was thrown/,
  );
  await t.rejects(
    throws('x', () => host().data.at(0)!.toFixed(-1), 'ERR'),
    /code is/,
  );
});

const host = () => Tensor.empty([1]);

t.test('the references of the checks reach what they are about', async (t) => {
  const { reference } = await import('../../lib/selftest/reference.js');
  const masks = new Set<number>();
  for (let seed = 1; seed < 40; seed++) {
    const { numbers } = makeBatch({ rows: 5, size: 37, dtype: 'float64' }, seed, 'cpu');
    const options = {
      objective: 'sdpo',
      link: 'sigmoid',
      pairWeight: 'min',
      timestepWeighting: 'constant',
      beta: 20,
    } as const;
    const more = { clipRange: [0.8, 0.95], maskThreshold: 0.7, weightSharpness: 1 } as const;
    const result = reference(numbers, { ...options, ...more, labelSmoothing: 0, sftWeight: 0, klWeight: 0 });
    for (const mask of result.rows.mask) masks.add(mask);
  }
  t.same([...masks].sort(), [0, 1], 'rows that are kept and rows that are removed');
});
