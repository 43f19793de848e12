/** Numbers of the report: how a measurement relates to its ceilings and to this package, and how each is written. */

import { median } from 'simple-statistics';
import { caseId, compulsoryBytes } from './cases.js';
import { floorOfFour, traffic } from './ceilings.js';
import type { Measurement } from './results.js';
import { pairedRatios, present, summarize } from './statistics.js';

/** A measurement of the same case by another provider. */
export function partner(
  own: Measurement,
  all: readonly Measurement[],
  provider: string,
  threads = own.threads,
): Measurement | undefined {
  const id = caseId(own.case);
  return all.find((other) => other.provider === provider && other.threads === threads && caseId(other.case) === id);
}

export interface Shares {
  traffic?: number;
  floor?: number;
}

/** Time of each ceiling divided by the time of a measurement on as many threads, in the rounds that both took part in. */
export function sharesOf(own: Measurement, all: readonly Measurement[]): Shares {
  const share = (name: string) => {
    const ceiling = partner(own, all, name);
    return ceiling && medianRatio(ceiling, own);
  };
  return { traffic: share(traffic), floor: share(floorOfFour) };
}

/** Median over rounds of the ratio of two times. */
export function medianRatio(over: Measurement, under: Measurement): number | undefined {
  const ratios = pairedRatios(over.rounds, under.rounds);
  // Two slow providers may never have met in a round; their medians have to do then.
  return ratios.length > 0 ? median(ratios) : medianNanoseconds(over) / medianNanoseconds(under);
}

export function medianNanoseconds({ rounds }: Measurement): number {
  return median(present(rounds));
}

/** How a provider is called in tables. */
export function shortName({ provider, threads }: Pick<Measurement, 'provider' | 'threads'>): string {
  return `${provider}, ${threads} thread${threads === 1 ? '' : 's'}`;
}

export function duration(nanoseconds: number): string {
  if (nanoseconds < 1e3) return `${digits(nanoseconds)} ns`;
  if (nanoseconds < 1e6) return `${digits(nanoseconds / 1e3)} µs`;
  if (nanoseconds < 1e9) return `${digits(nanoseconds / 1e6)} ms`;
  return `${digits(nanoseconds / 1e9)} s`;
}

export function milliseconds(own: Measurement): string {
  return duration(medianNanoseconds(own));
}

/** Half the interquartile range, as a share of the median. */
export function spread({ rounds }: Measurement): string {
  return `±${digits(50 * summarize(present(rounds)).spread, 2)} %`;
}

/** Compulsory bytes (each tensor once) per time. */
export function bandwidth(own: Measurement): string {
  return digits(compulsoryBytes(own.case) / medianNanoseconds(own));
}

export function percent(share: number | undefined): string {
  return share === undefined ? '' : `${Math.round(100 * share)} %`;
}

export function factor(ratio: number | undefined): string {
  return ratio === undefined ? '' : `${digits(ratio)}x`;
}

export function bytes(count: number | undefined): string {
  if (count === undefined) return '';
  if (count < 2 ** 20) return `${Math.round(count / 2 ** 10)} KiB`;
  return `${digits(count / 2 ** 20)} MiB`;
}

/** Three significant digits, and no exponent. */
export function digits(value: number, count = 3): string {
  if (value === 0) return '0';
  const decimals = Math.max(0, count - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(decimals, 6));
}

export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  // The first column names the row; numbers line up on the right.
  const rule = head.map((_, i) => (i === 0 ? '---' : '---:'));
  return [line(head), line(rule), ...rows.map(line)].join('\n');
}
