/** The extra memory of a provider's first call, measured in a process of its own: in one that has made calls before, freed memory that is still mapped would hide it. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Case } from './cases.js';
import { Arena, makeBatch } from './data.js';
import { collect } from './providers/all.js';
import type { Measurement } from './results.js';

const script = fileURLToPath(import.meta.url);

interface Wanted {
  case: Case;
  provider: string;
  /** Threads of the provider, and of the run. */
  threads: number;
  runThreads: number;
}

/** Peak of the resident size in one call above that before it; undefined where it cannot be told. */
export function footprint(
  own: Pick<Measurement, 'case' | 'provider' | 'threads'>,
  runThreads: number,
): number | undefined {
  const wanted: Wanted = {
    case: { ...own.case, participants: [] },
    provider: own.provider,
    threads: own.threads,
    runThreads,
  };
  const { status, stdout } = spawnSync(
    process.execPath,
    ['--expose-gc', '--import', 'tsx', script, JSON.stringify(wanted)],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] },
  );
  if (status !== 0) return undefined;
  return (JSON.parse(stdout) as { extraBytes?: number }).extraBytes;
}

async function measureHere({ case: c, provider, threads, runThreads }: Wanted): Promise<void> {
  const arena = new Arena();
  const { providers, close } = await collect(runThreads, arena, provider);
  const found = providers.find((one) => one.name === provider && one.threads === threads)!;
  const prepared = await found.prepare(makeBatch(c, arena));
  console.log(JSON.stringify({ extraBytes: await prepared.extraBytes() }));
  await close();
}

if (process.argv[1] === script) await measureHere(JSON.parse(process.argv[2]) as Wanted);
