/** Runs the checks of the self-test on a device and prints what came of them. */

import { CHECKS } from './checks.js';
import type { Check } from './comparisons.js';

export interface CheckResult {
  group: string;
  name: string;
  passed: boolean;
  milliseconds: number;
  /** What was wrong. */
  message?: string;
}

/** Runs checks one after the other; one that fails does not stop the others. */
export async function runChecks(device: string, checks: readonly Check[] = CHECKS): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const { group, name, cudaOnly, run } of checks) {
    if (cudaOnly && device === 'cpu') continue;
    const start = performance.now();
    let message: string | undefined;
    try {
      await run(device);
    } catch (error) {
      message = error instanceof Error ? error.message : String(error);
    }
    const milliseconds = Math.round(performance.now() - start);
    results.push({
      group,
      name,
      passed: message === undefined,
      milliseconds,
      ...(message === undefined ? {} : { message }),
    });
  }
  return results;
}

/** The results as a table, and their sum in the last line. */
export function describeChecks(device: string, results: readonly CheckResult[]): string {
  const groups = Math.max(...results.map(({ group }) => group.length));
  const names = Math.max(...results.map(({ name }) => name.length));
  const lines = results.map(({ group, name, passed, milliseconds, message }) => {
    const line = `${passed ? 'pass' : 'FAIL'}  ${group.padEnd(groups)}  ${name.padEnd(names)}  ${`${milliseconds} ms`.padStart(8)}`;
    return message === undefined ? line : `${line}\n      ${message}`;
  });
  const failed = results.filter(({ passed }) => !passed).length;
  return [...lines, '', `${device}: ${results.length - failed} passed, ${failed} failed`].join('\n');
}
