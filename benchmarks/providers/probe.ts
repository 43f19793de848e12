/** The ceilings: benchmarks/native/probe.cc, built when it is first needed, on the same arrays and thread pool design as the package. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { elementBytes } from '../cases.js';
import { floorOfFour, traffic } from '../ceilings.js';
import { type Arena, type Batch, branches, type Stored, tensors } from '../data.js';
import { type Prepared, type Provider, timeCalls } from '../provider.js';

const kinds = { [traffic]: 0, [floorOfFour]: 1 } as const;
export type Ceiling = keyof typeof kinds;

interface Probe {
  run(
    kind: number,
    inputs: Stored[],
    outputs: Stored[],
    rows: number,
    rowElements: number,
    elementBytes: number,
    threads: number,
  ): void;
}

const root = fileURLToPath(new URL('../..', import.meta.url));
const sources = ['benchmarks/native/probe.cc', 'native/cpu/rows.cc', 'native/cpu/threads.cc'];
// Ceilings may use whatever this very machine has.
const flags = ['-std=c++17', '-O3', '-march=native', '-shared', '-fPIC', '-pthread'];

/** Compiles the probe unless these sources were compiled on this machine before. */
export function buildProbe(): Probe {
  const hash = createHash('sha256').update(flags.join());
  for (const file of sources) hash.update(readFileSync(join(root, file)));
  const folder = join(root, 'build/benchmarks');
  const file = join(folder, `probe-${hash.digest('hex').slice(0, 16)}.node`);
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true });
    const includes = ['native', 'node_modules/node-api-headers/include'].flatMap((path) => ['-I', join(root, path)]);
    const inputs = sources.map((source) => join(root, source));
    execFileSync(process.env.CXX ?? 'c++', [...flags, '-Wno-psabi', ...includes, ...inputs, '-o', file], {
      stdio: 'inherit',
    });
  }
  return createRequire(import.meta.url)(file) as Probe;
}

export function ceiling(name: Ceiling, threads: number, probe: Probe, arena: Arena): Provider {
  return {
    name,
    kind: 'ceiling',
    threads,
    refuses: () => undefined,
    prepare: (batch) => prepare(batch, name, threads, probe, arena),
  };
}

function prepare(batch: Batch, name: Ceiling, threads: number, probe: Probe, arena: Arena): Prepared {
  const { rows, size, dtype, gradients } = batch.case;
  const inputs = branches.flatMap((branch) => tensors.map((tensor) => batch.inputs[branch][tensor]));
  const outputs = gradients ? branches.map((branch) => arena.take(`${branch}.copy`, dtype, rows * size)) : [];
  const work = () => probe.run(kinds[name], inputs, outputs, rows, size, elementBytes(dtype), threads);
  return {
    time: (calls) => timeCalls(work, calls),
    outcome: () => {
      for (const output of outputs) output.fill(0);
      work();
      for (const [i, output] of outputs.entries()) {
        const policy = batch.inputs[branches[i]].policy;
        if (Buffer.compare(bytesOf(output), bytesOf(policy)) !== 0)
          throw new Error(`${name}: not all of a tensor moved`);
      }
      return undefined;
    },
    extraBytes: async () => undefined,
    dispose: () => {},
  };
}

function bytesOf({ buffer, byteOffset, byteLength }: Stored): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
