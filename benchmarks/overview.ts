/** The plot of the README: time and memory of the same loss in PyTorch and in TypeScript, in units of this package's time and of the prediction's size. */

import { readFileSync } from 'node:fs';
import type { Results } from './results.js';
import { medianRatio, partner } from './tables.js';

/** What benchmarks/python/loss_speed.py writes, as far as it is read here. */
interface PythonResults {
  readonly torch: string;
  readonly threads: { readonly [count: string]: readonly PythonCase[] };
}

interface PythonCase {
  /** Of a stacked prediction: the first axis counts chosen and rejected rows. */
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly peers: { readonly [name: string]: { microseconds: { least: number }; extraBytes?: number } };
}

export function readPythonResults(file: string): PythonResults {
  return JSON.parse(readFileSync(file, 'utf8')) as PythonResults;
}

export interface OverviewPoint {
  peer: string;
  /** Latents, rows and dtype. */
  shape: string;
  /** Time in units of this package's in the same run. */
  time?: number;
  /** Extra memory of a call in units of one prediction of both branches. */
  copies?: number;
}

/** Stacked shapes as readers know them. */
const NAMES: Readonly<Record<string, string>> = {
  '2,4,64,64': 'SD1.5, 1 pair',
  '8,4,128,128': 'SDXL, 4 pairs',
  '4,16,13,60,90': 'CogVideoX, 2 pairs',
};

const PEERS = { eager: 'PyTorch, eager', compiled: 'PyTorch, torch.compile', sdpo: 'sdpo in PyTorch' };

/** The points of the plot: loss and gradient on one thread. */
export function overviewPoints({ measurements }: Results, python: PythonResults): OverviewPoint[] {
  const inPython = python.threads[1].flatMap(({ shape, dtype, peers }) => {
    const bytes = shape.reduce((a, b) => a * b) * (dtype === 'float32' ? 4 : 2);
    const name = `${NAMES[String(shape)] ?? shape.join('x')}, ${dtype}`;
    return (Object.keys(PEERS) as (keyof typeof PEERS)[]).map((peer): OverviewPoint => {
      const { microseconds, extraBytes } = peers[peer];
      return {
        peer: PEERS[peer],
        shape: name,
        time: microseconds.least / peers.sdpo.microseconds.least,
        ...(extraBytes === undefined ? {} : { copies: extraBytes / bytes }),
      };
    });
  });
  return [...inPython, ...nodePoints(measurements)];
}

function nodePoints(measurements: Results['measurements']): OverviewPoint[] {
  const shown = ['TypeScript', 'sdpo'];
  return measurements
    .filter(({ case: c, threads }) => {
      return c.group === 'peers' && c.rows === 1 && c.dtype === 'float32' && c.gradients && threads === 1;
    })
    .filter(({ provider, case: { shape } }) => shown.includes(provider) && shape !== 'Wan2.1')
    .sort((a, b) => shown.indexOf(a.provider) - shown.indexOf(b.provider))
    .map((m): OverviewPoint => {
      const own = partner(m, measurements, 'sdpo')!;
      return {
        peer: m.provider === 'sdpo' ? 'sdpo in Node' : 'TypeScript',
        shape: `${m.case.shape}, 1 pair, float32`,
        time: m.provider === 'sdpo' ? 1 : medianRatio(m, own),
        ...(m.extraBytes === undefined ? {} : { copies: m.extraBytes / (2 * m.case.size * 4) }),
      };
    });
}
