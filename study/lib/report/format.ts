/** Numbers, intervals and tables as text: for the page, for Markdown and for the console. */

import type { Difference, Interval } from '../statistics.js';

/** What is smaller is what rounding leaves of a difference of equal numbers. */
const ROUNDING = 1e-12;

/** Three decimals, or four where three would show none, or the magnitude. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return 'n/a';
  if (Math.abs(value) < ROUNDING) return '0.000';
  const decimals = [3, 4].find((count) => Number(value.toFixed(count)) !== 0);
  return decimals === undefined ? value.toExponential(0) : value.toFixed(decimals);
}

/** A difference, with its sign even where four decimals show nothing else. */
export function formatSigned(value: number): string {
  if (!Number.isFinite(value) || Math.abs(value) < ROUNDING) return formatNumber(value);
  const decimals = Number(value.toFixed(3)) === 0 ? 4 : 3;
  return `${value > 0 ? '+' : ''}${value.toFixed(decimals)}`;
}

/** "0.612 [0.590, 0.634]"; without bounds where there is one replicate. */
export function formatInterval({ mean, low, high }: Interval): string {
  return Number.isNaN(low) ? formatNumber(mean) : `${formatNumber(mean)} [${formatNumber(low)}, ${formatNumber(high)}]`;
}

export function formatDifference({ mean, low, high, pairs }: Difference): string {
  if (pairs === 0) return '–';
  return Number.isNaN(low) ? formatSigned(mean) : `${formatSigned(mean)} [${formatSigned(low)}, ${formatSigned(high)}]`;
}

/** A table whose first columns are text and whose others are numbers. */
export interface Table {
  readonly caption: string;
  readonly header: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Number of leading columns that are text; the others are aligned to the right. */
  readonly textColumns: number;
}

export function textTable({ caption, header, rows, textColumns }: Table): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const lines = all.map((row) =>
    row
      .map((cell, i) => (i < textColumns ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd(),
  );
  return `${caption}\n${lines.join('\n')}`;
}

export function markdownTable({ caption, header, rows, textColumns }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  const rule = header.map((_, i) => (i < textColumns ? '---' : '---:'));
  return [`**${caption}**`, '', line(header), line(rule), ...rows.map(line)].join('\n');
}

/** A name without line breaks: Vega writes titles into expressions, where a string ends with its line. */
export function oneLine(name: string): string {
  return name.replace(/[\n\r\u2028\u2029]+/g, ' ');
}
