/**
 * benchmarks/gpu/run.sh: that one call gives everything that a GPU can tell, whatever fails on the way. With stand-ins for the programs of a GPU machine;
 * and the rehearsal for real, where there is a PyTorch 2 (SDPO_PYTHON, that of scripts/python-env, or python3).
 */

import { execFile, spawnSync } from 'node:child_process';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { inFolder, root, versionOf } from '../helpers/cuda-program.js';

const noPython = (await versionOf('python3')) === undefined && 'no python3';
const torchPython = [process.env.SDPO_PYTHON, path.join(root, 'build/venv/bin/python'), 'python3'].find(
  (python) =>
    python !== undefined &&
    spawnSync(python, ['-c', 'import torch; assert int(torch.__version__.split(".")[0]) >= 2']).status === 0,
);

interface Step {
  name: string;
  exitCode: number;
  seconds: number;
  said: string;
}
interface Results {
  mode: string;
  commit: string;
  gpu: string | null;
  driver: number | null;
  steps: Step[];
  check: { failures: number } | null;
  timings: { timings: unknown[] } | null;
  peers: { triton: string | null; results: { peer: string; ratio?: number }[]; skipped: unknown[] } | null;
  profiles: { shape: string; rows: number; metrics: Record<string, number> }[];
}

interface Run {
  code: number;
  output: string;
  results: Results;
  step: (name: string) => Step | undefined;
  text: (name: string) => Promise<string>;
}

/** Runs the script with a folder of its own for results, `programs` before the PATH, and `env`. */
async function runScript(
  folder: string,
  mode: readonly string[],
  programs: Record<string, string>,
  env: Record<string, string>,
): Promise<Run> {
  const bin = path.join(folder, 'bin');
  const out = path.join(folder, 'out');
  await mkdir(bin, { recursive: true });
  for (const [name, text] of Object.entries(programs)) {
    await writeFile(path.join(bin, name), `#!/bin/bash\n${text}\n`);
    await chmod(path.join(bin, name), 0o755);
  }
  const given = { ...process.env, PATH: `${bin}:${process.env.PATH}`, OUT: out, COMMIT: 'abc123', ...env };
  const { code, output } = await promisify(execFile)('benchmarks/gpu/run.sh', [...mode], {
    cwd: root,
    env: given,
  }).then(
    ({ stdout, stderr }) => ({ code: 0, output: stdout + stderr }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      output: error.stdout + error.stderr,
    }),
  );
  const text = (name: string) => readFile(path.join(out, name), 'utf8');
  const results = JSON.parse(await text('results.json')) as Results;
  return { code, output, results, text, step: (name) => results.steps.find((step) => step.name === name) };
}

const head =
  '{\n  "gpu": "NVIDIA H200", "computeCapability": "9.0", "multiProcessors": 132, "driver": 13000, "runtime": 13000,\n  "commit": "abc123"';
const timing =
  '    {"shape": "cogvideox", "dtype": "bfloat16", "rows": 4, "microseconds": 20.5, "quartiles": [20, 21], "shareOfCopy": 0.82}';
const printed = (failures: number) => `${head}, "checks": 9, "failures": ${failures}\n}`;
const timed = `${head},\n  "copyGigabytesPerSecond": 4300.0,\n  "timings": [\n${timing}\n  ]\n}`;

/** A check program that answers as told: its checks with `checks`, its timings with the result above. */
const program = (checks: string) => `case " $* " in
  *" --only-timing "*) cat <<'END'
${timed}
END
  ;;
  *) ${checks}
  ;;
esac`;
const passes = `cat <<'END'
${printed(0)}
END`;
const fails = `echo 'correctness.h:1: x == y: 1 instead of 2'; cat <<'END'
${printed(1)}
END
exit 1`;
const sanitizer = 'echo "========= ERROR SUMMARY: 0 errors"; [ $2 != racecheck ] || exit 99';
// As Nsight Compute prints: what the program says, then a table, a line for each launch and metric.
const profiler = `echo '==PROF== Connected to process 1'; cat <<'END'
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","1","evaluate_kernel","dram__bytes_read.sum","Mbyte","54.0"
"0","1","evaluate_kernel","gpu__time_duration.sum","us","21.5"
"1","1","evaluate_kernel","dram__bytes_read.sum","Mbyte","56.0"
"1","1","evaluate_kernel","gpu__time_duration.sum","us","22.5"
END`;
const machine = (checks: string) => ({ check: program(checks), 'compute-sanitizer': sanitizer, ncu: profiler });
const withoutPackages = { STEPS: 'check sanitizers timings profile', PYTHON: 'python3' };

t.test('everything that was measured, in one file', { skip: noPython }, async (t) => {
  await inFolder(async (folder) => {
    const run = await runScript(
      folder,
      [],
      { ...machine(passes), 'compute-sanitizer': 'true' },
      { ...withoutPackages, CHECK: path.join(folder, 'bin/check') },
    );
    t.equal(run.code, 0, run.output);
    const { mode, commit, gpu, driver, check, timings, profiles } = run.results;
    t.same({ mode, commit, gpu, driver }, { mode: 'gpu', commit: 'abc123', gpu: 'NVIDIA H200', driver: 13000 });
    t.equal(check!.failures, 0);
    t.equal(timings!.timings.length, 1);
    t.match(run.output, /cogvideox +4 rows measured +20\.5 us \( 82\.0 % of a copy\)/);
    t.match(await run.text('status.txt'), /^check: exit code 0, "failures": 0$/m);
    const long = profiles.find(({ shape, rows }) => shape === 'cogvideox' && rows === 4)!;
    t.same(
      long.metrics,
      { 'dram__bytes_read.sum': 55e6, 'gpu__time_duration.sum': 22e3 },
      'medians, in bytes and nanoseconds',
    );
    t.ok(
      spawnSync('tar', ['-tzf', path.join(folder, 'out/logs.tar.gz')], { encoding: 'utf8' }).stdout.includes(
        'timings.json',
      ),
    );
  });
});

t.test('a step that fails does not keep the next ones from running', { skip: noPython }, async (t) => {
  await inFolder(async (folder) => {
    const run = await runScript(folder, [], machine(fails), {
      ...withoutPackages,
      CHECK: path.join(folder, 'bin/check'),
    });
    t.equal(run.code, 1);
    t.equal(run.results.check!.failures, 1, 'behind what the program said before');
    t.equal(run.step('check')!.exitCode, 1);
    t.equal(run.step('racecheck')!.exitCode, 99);
    t.equal(run.step('synccheck')!.exitCode, 0);
    t.equal(run.results.timings!.timings.length, 1);
    t.equal(run.results.profiles.length, 4);
    t.match(run.output, /racecheck: exit code 99/);
  });
});

t.test('what a sanitizer found makes the call fail', { skip: noPython }, async (t) => {
  await inFolder(async (folder) => {
    const run = await runScript(folder, [], machine(passes), {
      ...withoutPackages,
      CHECK: path.join(folder, 'bin/check'),
    });
    t.equal(run.code, 1);
    t.equal(run.step('check')!.exitCode, 0);
  });
});

t.test(
  'a step that hangs is ended, and what does not fit into the budget is said',
  { skip: noPython, timeout: 120_000 },
  async (t) => {
    await inFolder(async (folder) => {
      const env = { ...withoutPackages, STEPS: 'check timings', CHECK: path.join(folder, 'bin/check'), BUDGET: '30' };
      const run = await runScript(folder, [], machine('sleep 1000'), env);
      t.equal(run.step('check')!.said, 'did not end in time, no result');
      t.ok(run.step('check')!.seconds < 30);
      t.equal(run.results.timings!.timings.length, 1);
      t.equal(run.code, 1, 'checks that did not end are not passed');
      const short = await runScript(folder, [], machine(passes), { ...env, BUDGET: '3' });
      t.same(short.results.steps.map(({ name, said }) => [name, said.split(',')[0]]).slice(1), [
        ['check', 'left out: no time'],
        ['calls', 'left out: no program of the C interface'],
        ['timings', 'left out: no time'],
      ]);
    });
  },
);

t.test(
  'the rehearsal: PyTorch eager, compiled and Triton, the Python package and the self-test on the CPU',
  { skip: torchPython === undefined && 'no PyTorch 2 (scripts/python-env, or set SDPO_PYTHON)', timeout: 900_000 },
  async (t) => {
    await inFolder(async (folder) => {
      const run = await runScript(folder, ['dry'], {}, { PYTHON: torchPython! });
      t.equal(run.code, 0, run.output);
      t.equal(run.results.mode, 'dry');
      const peers = run.results.peers!;
      const names = new Set(peers.results.map(({ peer }) => peer));
      const expected = ['compiled', 'eager', 'graphs', 'package', ...(peers.triton === null ? [] : ['triton'])];
      t.same([...names].sort(), expected, 'each was validated and timed');
      t.equal(peers.results.length, 4 * expected.length);
      t.same(peers.skipped, peers.triton === null ? [{ peer: 'triton', reason: 'Triton is not installed' }] : []);
      t.equal(run.step('python')!.exitCode, 0, await run.text('python.txt'));
      t.equal(run.step('selftest')?.exitCode, 0);
      t.match(run.step('timings')!.said, /^left out/);
    });
  },
);
