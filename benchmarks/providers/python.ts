/** PyTorch and NumPy through benchmarks/python/peers.py: one process for the whole run, spoken to in lines of JSON, tensors handed over as files. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import {
  type Batch,
  beta,
  branches,
  clipRange,
  gradientScaleOf,
  maskThreshold,
  type Outcome,
  type Stored,
  tensors,
} from '../data.js';
import type { Prepared, Provider } from '../provider.js';

const script = fileURLToPath(new URL('../python/peers.py', import.meta.url));
/** Debian's interpreter, for which its python3-torch and python3-numpy are made; SDPO_BENCH_PYTHON names another. */
const interpreter = process.env.SDPO_BENCH_PYTHON ?? '/usr/bin/python3';

export type PythonPeer = 'PyTorch' | 'NumPy';
type Versions = Record<PythonPeer | 'Python', string | null>;

/** The process, with at most one request under way. */
export class PythonProcess {
  readonly #child: ChildProcess;
  readonly #folder = mkdtempSync(join(tmpdir(), 'sdpo-bench-'));
  readonly #lines: AsyncIterator<string>;
  #nextId = 0;
  #written: Batch | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  }

  /** Starts it with so many threads at most; gives the reason where there is no such interpreter. */
  static async start(threads: number): Promise<{ python: PythonProcess; versions: Versions } | string> {
    const child = spawn(interpreter, [script, String(threads)], { stdio: ['pipe', 'pipe', 'inherit'] });
    try {
      await once(child, 'spawn');
    } catch {
      return `there is no ${interpreter}`;
    }
    const python = new PythonProcess(child);
    return { python, versions: await python.request<Versions>({ operation: 'versions' }) };
  }

  async request<T>(request: object): Promise<T> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const line = await this.#lines.next();
    if (line.done) throw new Error(`${interpreter} has ended`);
    const reply = JSON.parse(line.value) as { value: T; error?: string };
    if (reply.error !== undefined) throw new Error(reply.error);
    return reply.value;
  }

  async prepare(batch: Batch, peer: PythonPeer, threads: number): Promise<Prepared> {
    this.#write(batch);
    const { rows, size, dtype, objective, gradients } = batch.case;
    const folder = this.#folder;
    const id = this.#nextId++;
    const gradientScale = gradientScaleOf(dtype);
    const omega = [...batch.omega];
    const settings = { folder, rows, size, dtype, objective, gradients, omega, beta, clipRange, maskThreshold };
    const ask = <T>(operation: string, more: object = {}) => this.request<T>({ operation, id, threads, ...more });
    await ask('prepare', { provider: peer, case: { ...settings, gradientScale } });
    return {
      time: (calls) => ask<number>('time', { calls }),
      outcome: async (): Promise<Outcome> => {
        const loss = await ask<number>('outcome', { folder });
        if (!gradients) return { loss };
        const [chosen, rejected] = branches.map((branch) => readStored(join(folder, `${branch}.gradient`), dtype));
        return { loss, gradients: { chosen, rejected } };
      },
      extraBytes: async () => (await ask<number | null>('extraBytes')) ?? undefined,
      dispose: () => ask('dispose'),
    };
  }

  /** Tensors of a case, once for all providers of this process. */
  #write(batch: Batch): void {
    if (this.#written === batch) return;
    for (const branch of branches) {
      for (const tensor of tensors)
        writeFileSync(join(this.#folder, `${branch}.${tensor}`), batch.inputs[branch][tensor]);
    }
    this.#written = batch;
  }

  async close(): Promise<void> {
    this.#child.stdin!.end();
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function readStored(file: string, dtype: string): Stored {
  const { buffer, byteOffset, byteLength } = readFileSync(file);
  return dtype === 'float32'
    ? new Float32Array(buffer, byteOffset, byteLength / 4)
    : new Uint16Array(buffer, byteOffset, byteLength / 2);
}

export function pythonPeer(python: PythonProcess, peer: PythonPeer, threads: number): Provider {
  return {
    name: peer,
    kind: 'peer',
    threads,
    refuses: ({ case: c }) =>
      peer === 'NumPy' && c.dtype !== 'float32' ? `has no fast ${c.dtype} arithmetic` : undefined,
    prepare: (batch) => python.prepare(batch, peer, threads),
  };
}
