/** Damages the files of a target one after another and looks at what comes of each; a file follows from seed and index alone. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRandom } from '../../lib/index.js';
import { below, mutate } from './mutate.js';
import { parquetTarget } from './parquet.js';
import { safetensorsTarget } from './safetensors.js';
import { studyTarget } from './study.js';
import { isRefusal, type Seed, type Target } from './target.js';
import { configTarget, metricsTarget } from './text.js';

/** Makes the targets; `corpus` is a folder of further Parquet files. */
export const TARGETS: Readonly<Record<string, (corpus?: string) => Target | Promise<Target>>> = {
  parquet: parquetTarget,
  safetensors: safetensorsTarget,
  config: configTarget,
  metrics: metricsTarget,
  study: studyTarget,
};

export interface Outcome {
  readonly seed: string;
  /** 'read', the code of a refusal, or what must not be. */
  readonly result: string;
  readonly error?: unknown;
  /** Of the processor: the machine may be busy with other things. */
  readonly milliseconds: number;
}

/** Random numbers that a file may take. */
const STRIDE = 2 ** 20;

export class Fuzzer {
  readonly #target: Target;
  readonly #number: number;
  readonly #folder = mkdtempSync(join(tmpdir(), 'sdpo-fuzz-'));

  constructor(target: Target, number: number) {
    this.#target = target;
    this.#number = number;
  }

  /** The seeds as they are have to be read. */
  async begin(): Promise<void> {
    for (const seed of this.#target.seeds) {
      await this.#target.read(this.#write(seed.bytes), seed, seed.bytes, false);
    }
  }

  damaged(index: number): { seed: Seed; bytes: Buffer; covered: boolean } {
    const random = createRandom(this.#number, index * STRIDE);
    const { seeds } = this.#target;
    const seed = seeds[below(random, seeds.length)];
    const covered = seed.covered !== undefined && random() < 0.5;
    const within = covered ? seed.covered![below(random, seed.covered!.length)] : undefined;
    const alters = seed.alter !== undefined && random() < 0.5;
    return { seed, bytes: alters ? seed.alter!(random) : mutate(seed.bytes, random, within), covered };
  }

  async run(index: number): Promise<Outcome> {
    const { seed, bytes, covered } = this.damaged(index);
    const path = this.#write(bytes);
    const began = process.cpuUsage();
    const outcome = (result: string, error?: unknown) => {
      const { user, system } = process.cpuUsage(began);
      return { seed: seed.name, result, error, milliseconds: (user + system) / 1000 };
    };
    try {
      await this.#target.read(path, seed, bytes, covered);
      return outcome('read');
    } catch (error) {
      if (isRefusal(error, /^ERR_SDPO_(DATA|CONFIG|INVALID_|UNKNOWN_OPTION|UNSUPPORTED_CONFIG)/)) {
        return outcome((error as { code: string }).code, error);
      }
      return outcome('wrong', error);
    }
  }

  end(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #write(bytes: Uint8Array): string {
    const path = join(this.#folder, 'damaged');
    writeFileSync(path, bytes);
    return path;
  }
}
