/** The model of the kernels' traffic: its own checks, and that the committed predictions, the budget of the machine code and docs/cuda.md agree with it. */

import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { hostCompiler, inFolder, root, runProgram, versionOf } from '../helpers/cuda-program.js';
import type { PackLoop } from '../helpers/cuda-sass.js';

interface Prediction {
  device: string;
  shape: string;
  dtype: string;
  rows: number;
  design: string;
  measured?: { microseconds: number; gpu: string };
  measuredOverPredicted?: number;
  repeated: { microseconds: number };
}
interface Predictions {
  instructionsPerPack: Record<string, { moments: number; gradient: number; keep: number; keptGradient: number }>;
  predictions: Prediction[];
}

const compiler = await versionOf(hostCompiler);
const noCompiler = compiler === undefined && `no C++ compiler: ${hostCompiler} cannot be run`;
const noPython = (await versionOf('python3')) === undefined && 'no python3';
const readJson = async <T>(name: string) => JSON.parse(await readFile(path.join(root, name), 'utf8')) as T;
const committed = await readJson<Predictions>('benchmarks/results/gpu-predicted.json');
const join = (...parameters: string[]) =>
  promisify(execFile)('python3', ['benchmarks/gpu/predicted.py', ...parameters], { cwd: root });

t.test('bytes, limits of the cache, a case by hand, a published measurement', { skip: noCompiler }, async (t) => {
  const { code, output } = await runProgram(['test/build/cuda-host/traffic.cc']);
  t.equal(code, 0, output);
  t.match(output, /^[1-9]\d* checks, 0 failures$/m);
});

t.test('the committed predictions are what the program prints', { skip: noCompiler }, async (t) => {
  const chosen = [
    ['--device', 'H200', '--shape', 'sdxl'],
    ['--device', 'A100', '--shape', 'cogvideox', '--rows', '4', '--dtype', 'bfloat16'],
  ];
  const runs = chosen.map((parameters) => ['--json', ...parameters]);
  const { code, output } = await runProgram(['benchmarks/gpu/traffic.cc'], runs);
  t.equal(code, 0, output);
  const printed = output.split(/^(?=\{)/m).map((text) => JSON.parse(text) as Predictions);
  t.equal(printed.length, runs.length);
  const key = ({ device, shape, dtype, rows, design }: Prediction) => [device, shape, dtype, rows, design].join();
  const cases = printed.flatMap(({ predictions }) => predictions);
  t.equal(cases.length, 2 * 3 * 2 + 1);
  for (const found of cases) {
    t.same(
      committed.predictions.find((prediction) => key(prediction) === key(found)),
      found,
      `${key(found)}; else: traffic --json > benchmarks/results/gpu-predicted.json`,
    );
  }
  t.same(printed[0]!.instructionsPerPack, committed.instructionsPerPack);
});

t.test('the instructions it counts are those of the machine code', async (t) => {
  const sass = (await readJson<Record<string, Record<string, PackLoop[]>>>('test/build/cuda-host/sass.json')).sm_90!;
  for (const [dtype, element] of Object.entries({ bfloat16: 'BFloat16', float32: 'float' })) {
    const assumed = committed.instructionsPerPack[dtype]!;
    const of = (variant: string, loads: number, stores: number) =>
      sass[`Uniform<${element}> ${variant}`]!.filter((loop) => loop.loads === loads && loop.stores === stores).at(-1)!
        .instructions; // the longest: zeros are written in a loop of their own
    const near = (count: number, budget: number, name: string) =>
      t.ok(count <= budget && count >= 0.85 * budget, `${dtype}, ${name}: ${count} of ${budget}`);
    near(assumed.moments, of('plain', 6, 0), 'moments');
    near(assumed.gradient, of('plain', 4, 2), 'gradient');
    near(assumed.keep, of('cluster', 6, 0), 'moments that are kept');
    near(assumed.keptGradient, 2 * of('cluster', 0, 1), 'gradient of what was kept');
  }
});

t.test('docs/cuda.md has the table of the predictions', { skip: noPython }, async (t) => {
  await t.resolves(join('--check', 'docs/cuda.md'), 'else: python3 benchmarks/gpu/predicted.py --write docs/cuda.md');
});

t.test('a measurement comes to stand beside its prediction', { skip: noPython }, async (t) => {
  const timing = (rows: number, microseconds: number) =>
    `    {"shape": "cogvideox", "dtype": "bfloat16", "rows": ${rows}, "design": "tiles", "chosen": true, "microseconds": ${microseconds}, ` +
    `"quartiles": [1, 2], "shareOfCopy": 0.876}`;
  const head = (gpu: string) =>
    `{\n  "gpu": "${gpu}", "commit": "abc",\n  "copyGigabytesPerSecond": 4300.0,\n  "timings": [\n`;
  await inFolder(async (folder) => {
    const files = {
      whole: `${head('NVIDIA H200')}${timing(1, 12.34)},\n${timing(4, 56.78)}\n  ]\n}\n`,
      cut: `${head('NVIDIA B200')}${timing(1, 9.87)},\n    {"shape": "cogvid`, // by the end of the time
      other: `${head('NVIDIA GeForce GTX 1080')}${timing(1, 1)}\n  ]\n}\n`,
    };
    const names: string[] = [];
    for (const [name, text] of Object.entries(files)) {
      names.push(path.join(folder, `${name}.json`));
      await writeFile(names.at(-1)!, text);
    }
    const out = path.join(folder, 'joined.json');
    const { stdout, stderr } = await join('--measured', ...names, '--json', out);
    t.match(stdout, /^\| H200 \| CogVideoX \| 1 \|.*\| 12\.3 \(88 %\) \|$/m);
    t.match(stdout, /^\| H200 \| CogVideoX \| 4 \|.*\| 56\.8 \(88 %\) \|$/m);
    t.match(stdout, /^\| B200 \| CogVideoX \| 1 \|.*\| 9\.9 \(88 %\) \|$/m, 'what was printed before the time was up');
    t.match(stdout, /^\| H200 \| CogVideoX \| 16 \|.*\| {2}\|$/m, 'what was not measured stays empty');
    t.match(stderr, /no prediction for NVIDIA GeForce GTX 1080/);
    const joined = JSON.parse(await readFile(out, 'utf8')) as Predictions;
    t.equal(joined.predictions.length, committed.predictions.length);
    const measured = joined.predictions.filter((prediction) => prediction.measured !== undefined);
    t.same(
      measured.map(({ device, rows, measured }) => [device, rows, measured!.microseconds]),
      [
        ['H200', 1, 12.34],
        ['H200', 4, 56.78],
        ['B200', 1, 9.87],
      ],
    );
    t.equal(measured[0]!.measuredOverPredicted, 12.34 / measured[0]!.repeated.microseconds);
  });
});
