/** Numbers, intervals and tables as text: for the page, for Markdown and for the console. */

import type { Difference, Interval } from '../statistics.js';

/** Three decimals, or as many significant digits where that would show none. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return 'n/a';
  const fixed = value.toFixed(3);
  if (value !== 0 && Number(fixed) === 0) return value.toExponential(1);
  return fixed === '-0.000' ? '0.000' : fixed;
}

export function formatSigned(value: number): string {
  return value > 0 ? `+${formatNumber(value)}` : formatNumber(value);
}

/** "0.612 [0.590, 0.634]"; without bounds where there is one replicate. */
export function formatInterval({ mean, low, high }: Interval): string {
  return Number.isNaN(low) ? formatNumber(mean) : `${formatNumber(mean)} [${formatNumber(low)}, ${formatNumber(high)}]`;
}

export function formatDifference({ mean, low, high, pairs }: Difference): string {
  if (pairs === 0) return 'no data';
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
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  const lines = all.map((row) =>
    row
      .map((cell, i) => (i < textColumns ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
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
