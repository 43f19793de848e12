/** All participants of a run, and why some of them are missing. */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { floorOfFour, traffic } from '../ceilings.js';
import type { Arena } from '../data.js';
import type { Provider } from '../provider.js';
import { jaxWasm } from './jax.js';
import { ours } from './ours.js';
import { buildProbe, ceiling } from './probe.js';
import { PythonProcess, pythonPeer } from './python.js';
import { tfjs } from './tfjs.js';
import { typescript } from './typescript.js';

export interface Participation {
  providers: Provider[];
  /** Of the peers, by name. */
  versions: Record<string, string>;
  /** Peers that are not installed here, and the reason. */
  missing: [name: string, reason: string][];
  close(): Promise<void>;
}

/** Starts everything that can take part, with `threads` threads where a provider has several, and with one; only `wanted` surely, where given. */
export async function collect(threads: number, arena: Arena, wanted?: string): Promise<Participation> {
  const needsPython = wanted === undefined || wanted === 'PyTorch' || wanted === 'NumPy';
  const python = needsPython ? await PythonProcess.start(threads) : 'not wanted';
  const probe = buildProbe();
  const counts = threads === 1 ? [1] : [1, threads];
  const providers: Provider[] = counts.flatMap((count) => [
    ceiling(traffic, count, probe, arena),
    ceiling(floorOfFour, count, probe, arena),
    ours('new', count),
    ours('into', count),
  ]);
  providers.push(ours('async into', threads), typescript, await jaxWasm(threads), tfjs('wasm'), tfjs('cpu'));
  const versions: Record<string, string> = { 'Node.js': process.versions.node };
  const require = createRequire(import.meta.url);
  for (const name of ['@tensorflow/tfjs', '@jax-js/jax']) versions[name] = versionOf(require.resolve(name), name);
  const missing: [string, string][] = [];
  if (typeof python === 'string') {
    missing.push(['PyTorch', python], ['NumPy', python]);
  } else {
    for (const peer of ['PyTorch', 'NumPy'] as const) {
      const version = python.versions[peer];
      if (version === null) {
        missing.push([peer, 'not installed for this Python']);
        continue;
      }
      versions[peer] = version;
      // NumPy's element-wise operations have one thread.
      for (const count of peer === 'NumPy' ? [1] : counts) providers.push(pythonPeer(python.python, peer, count));
    }
  }
  const close = async () => {
    if (typeof python !== 'string') await python.python.close();
  };
  return { providers, versions, missing, close };
}

/** The version in the package.json above a file of a package, which its `exports` may hide. */
function versionOf(file: string, name: string): string {
  const folder = file.slice(0, file.lastIndexOf(name) + name.length);
  return (JSON.parse(readFileSync(`${folder}/package.json`, 'utf8')) as { version: string }).version;
}
