/** Compares two result files: a provider is slower only where the intervals of both medians lie apart and the difference is worth a word. */

import { traffic } from './ceilings.js';
import type { Measurement, Results } from './results.js';
import { measurementId } from './results.js';
import { type Interval, medianInterval, pairedRatios, present } from './statistics.js';
import { digits, duration, medianNanoseconds, partner } from './tables.js';

/** Differences below it are left to the noise that intervals cannot see, such as another layout of memory in each process. */
const negligible = 0.05;

export interface Comparison {
  lines: string[];
  slower: number;
}

interface Sample {
  values: number[];
  /** Measured in times of the traffic probe. */
  relative: boolean;
}

/** Only this package is judged: a peer that became slower says nothing about a change here. */
export function compare(before: Results, after: Results): Comparison {
  const lines: string[] = [];
  const slower: string[] = [];
  const faster: string[] = [];
  let same = 0;
  const old = new Map(before.measurements.map((own) => [measurementId(own), own]));
  for (const own of after.measurements) {
    const id = measurementId(own);
    const previous = old.get(id);
    if (own.kind !== 'ours' || previous === undefined) continue;
    const [a, b] = samples([previous, before.measurements], [own, after.measurements]);
    const [from, to] = [medianInterval(a.values), medianInterval(b.values)];
    const change = to.median / from.median - 1;
    const text = `${id}: ${describe(previous, from, a)} -> ${describe(own, to, b)}, ${change >= 0 ? '+' : ''}${(100 * change).toFixed(1)} %`;
    if (to.low > from.high && change > negligible) slower.push(text);
    else if (to.high < from.low && change < -negligible) faster.push(text);
    else same++;
  }
  const compared = slower.length + faster.length + same;
  if (compared === 0) throw new Error('the two files have no measurement in common');
  const section = (title: string, items: string[]) => {
    if (items.length > 0) lines.push(`${title}:`, ...items.map((item) => `  ${item}`));
  };
  section('slower', slower);
  section('faster', faster);
  lines.push(
    `${compared} compared: ${slower.length} slower, ${faster.length} faster, ${same} the same within the noise`,
  );
  return { lines, slower: slower.length };
}

/**
 * Times in units of the traffic probe of the same round where both files have one: the speed of the machine, which differs from run to run,
 * cancels. Nanoseconds otherwise.
 */
function samples(...runs: [Measurement, readonly Measurement[]][]): Sample[] {
  const ratios = runs.map(([own, all]) => {
    const probe = partner(own, all, traffic);
    return probe ? pairedRatios(own.rounds, probe.rounds) : [];
  });
  const relative = ratios.every(({ length }) => length >= 3);
  return runs.map(([own], i) => ({ values: relative ? ratios[i] : present(own.rounds), relative }));
}

function describe(own: Measurement, { low, median, high }: Interval, { relative }: Sample): string {
  const time = duration(medianNanoseconds(own));
  if (!relative) return `${time} [${duration(low)}, ${duration(high)}]`;
  return `${time}, ${digits(median)} [${digits(low)}, ${digits(high)}] times the probe`;
}
