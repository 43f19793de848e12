/** Reads the reference cases of `test/golden` and `test/golden2` (their READMEs say how they were computed). */

import { readdirSync, readFileSync } from 'node:fs';
import type { RowBatch } from '../../lib/index.js';
import type { OracleBranch, OracleOptions, PerBranch, Statistic } from '../oracle/oracle.js';
import type { OracleSchedule, PredictionType, SchedulerConfig } from '../oracle/schedule.js';

interface GoldenBranch extends OracleBranch {
  policy: number[];
  reference: number[];
  target: number[];
  x0: number[];
  noise: number[];
}

export interface GoldenCase {
  name: string;
  schedule: OracleSchedule;
  /** Elements of one row. */
  size: number;
  /** Shape of one row. */
  shape: number[];
  options: OracleOptions;
  batch: { timesteps: number[]; chosen: GoldenBranch; rejected: GoldenBranch };
  /** Numbers per row; none in the first set. */
  numbers: Pick<RowBatch, 'betaScale' | 'margins' | 'keep'>;
  /** How the elements of every row may be cut into consecutive pieces; the row in one in the first set. */
  parts: number[];
  expected: { loss: number; rows: Record<Statistic, number[]>; gradients: PerBranch<number[]> };
}

function casesOf(name: string): GoldenCase[] {
  const folder = new URL(`../${name}/`, import.meta.url);
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .sort()
    .map((file) => parse(JSON.parse(readFileSync(new URL(file, folder), 'utf8'), reviveNumber)));
}

export const goldenCases = casesOf('golden');
/** With the options of the readings, and numbers per row. */
export const goldenReadings = casesOf('golden2');

/** JSON has no NaN and no infinities: the files write them as strings. */
function reviveNumber(_key: string, value: unknown): unknown {
  return value === 'NaN' || value === 'Infinity' || value === '-Infinity' ? Number(value) : value;
}

interface GoldenFile {
  name: string;
  schedule: SchedulerConfig;
  predictionType: PredictionType;
  inferenceSteps: number;
  shape: number[];
  timesteps: number[];
  options: OracleOptions & { eta?: number };
  chosen: GoldenBranch;
  rejected: GoldenBranch;
  batch?: GoldenCase['numbers'];
  parts?: number[];
  expected: GoldenCase['expected'];
}

function parse(file: GoldenFile): GoldenCase {
  const { eta, ...options } = file.options;
  return {
    name: file.name,
    schedule: {
      config: file.schedule,
      predictionType: file.predictionType,
      inferenceSteps: file.inferenceSteps,
      eta: eta ?? 1,
    },
    shape: file.shape,
    size: file.shape.reduce((product, extent) => product * extent, 1),
    options,
    batch: { timesteps: file.timesteps, chosen: file.chosen, rejected: file.rejected },
    numbers: file.batch ?? {},
    parts: file.parts ?? [file.shape.reduce((product, extent) => product * extent, 1)],
    expected: file.expected,
  };
}
