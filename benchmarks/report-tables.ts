/** The Markdown of a result file: what was measured where, and the tables of each group of cases. */

import { type Case, caseId } from './cases.js';
import type { Measurement, Results } from './results.js';
import {
  bandwidth,
  bytes,
  factor,
  markdownTable,
  medianRatio,
  milliseconds,
  partner,
  percent,
  sharesOf,
  shortName,
  spread,
} from './tables.js';

type PlainCase = Omit<Case, 'participants'>;

/** All tables of a result file. */
export function details(name: string, results: Results): string {
  const sections = [
    header(name, results),
    defaults(results),
    ceilings(results, true),
    ceilings(results, false),
    peers(results),
    providerTables(results, 'objectives', 'The three objectives'),
    providerTables(results, 'calls', 'Cost of a call (1 row of 16 elements)'),
    skipped(results),
  ];
  return sections.filter((text) => text !== '').join('\n\n');
}

function header(name: string, { machine, date, seconds, loadBefore, quick, commit }: Results): string {
  const { processor, cores, instructionSet, memoryBytes, system, versions } = machine;
  const listed = Object.entries(versions).map(([what, version]) => `${what} ${version}`);
  return [
    `### ${name}`,
    `${processor}, ${cores} core${cores === 1 ? '' : 's'} (${instructionSet}), ${Math.round(memoryBytes / 2 ** 30)} GiB, ${system}; ${listed.join(', ')}. ${date.slice(0, 10)}, ${Math.round(seconds / 60)} minutes, load before ${loadBefore.toFixed(2)}${commit === undefined ? '' : `, commit ${commit}`}${quick ? ', quick' : ''}.`,
  ].join('\n\n');
}

/** The call without `into` beside the call with it, and off the event loop. */
function defaults(results: Results): string {
  const cases = casesOfGroup(results, 'default');
  if (cases.length === 0) return '';
  const { measurements } = results;
  const counts = threadCounts(
    measurements.filter(({ case: c, provider }) => c.group === 'default' && provider === 'sdpo'),
  );
  const columns = ['new result', '`into`', 'new / `into`', 'new, of traffic'];
  const all = Math.max(...counts);
  const head = [
    'latents',
    'rows',
    'dtype',
    ...counts.flatMap((n) => columns.map((what) => `${what} (${n})`)),
    `async into (${all})`,
  ];
  const rows = cases.map((c) => {
    const find = (provider: string, threads: number) =>
      measurements.find((m) => m.provider === provider && m.threads === threads && caseId(m.case) === caseId(c))!;
    const cells = counts.flatMap((threads) => {
      const [fresh, into] = [find('sdpo', threads), find('sdpo into', threads)];
      const { traffic } = sharesOf(fresh, measurements);
      return [milliseconds(fresh), milliseconds(into), factor(medianRatio(fresh, into)), percent(traffic)];
    });
    return [c.shape, String(c.rows), c.dtype, ...cells, milliseconds(find('sdpo async into', all))];
  });
  return ['#### The call people write, with `into`, and off the event loop', markdownTable(head, rows)].join('\n\n');
}

function threadCounts(measurements: readonly Measurement[]): number[] {
  return [...new Set(measurements.map(({ threads }) => threads))].sort((a, b) => a - b);
}

/** The package against what the memory allows, for every shape, number of rows and dtype. */
function ceilings({ measurements }: Results, gradients: boolean): string {
  const own = measurements.filter(({ case: c, provider }) => {
    return c.group === 'shapes' && c.gradients === gradients && provider === 'sdpo into';
  });
  if (own.length === 0) return '';
  const counts = threadCounts(own);
  const columns = gradients
    ? ['time', 'spread', 'GB/s', 'of traffic', 'of floor']
    : ['time', 'spread', 'GB/s', 'of traffic'];
  const head = ['latents', 'rows', 'dtype', ...counts.flatMap((n) => columns.map((what) => `${what} (${n})`))];
  const cases = new Map(own.map((m) => [caseId(m.case), m.case]));
  const rows = [...cases.values()].map((c) => {
    const cells = counts.flatMap((threads) => {
      const m = own.find((other) => other.threads === threads && caseId(other.case) === caseId(c))!;
      const shares = sharesOf(m, measurements);
      return [milliseconds(m), spread(m), bandwidth(m), percent(shares.traffic), percent(shares.floor)].slice(
        0,
        columns.length,
      );
    });
    return [c.shape, String(c.rows), c.dtype, ...cells];
  });
  const title = gradients ? 'Loss and gradient against the ceilings' : 'Loss alone against the ceiling';
  return [`#### ${title}`, markdownTable(head, rows), lowest(own, measurements)].join('\n\n');
}

/** The worst case of each number of threads, so that no reader has to look for it. */
function lowest(own: readonly Measurement[], all: readonly Measurement[]): string {
  const parts = threadCounts(own).map((threads) => {
    const of = own
      .filter((m) => m.threads === threads)
      .map((m) => ({ m, share: sharesOf(m, all).traffic ?? Number.NaN }))
      .sort((a, b) => a.share - b.share);
    const { m, share } = of[0];
    const reached = of.filter((one) => one.share >= 0.9).length;
    return `${threads} thread${threads === 1 ? '' : 's'}: ${reached} of ${of.length} cases reach 90 % of the traffic probe, the lowest ${percent(share)} (${m.case.shape}, ${m.case.rows} rows, ${m.case.dtype})`;
  });
  return `${parts.join('; ')}.`;
}

/** How much longer each peer takes than a call that makes a new result and one that writes an old one again, both on as many threads. */
function peers(results: Results): string {
  const cases = casesOfGroup(results, 'peers');
  if (cases.length === 0) return '';
  const tables = cases.map((c) => providerTable(results, c));
  const summary = speedups(results, cases);
  return ['#### Peers', summary, ...tables].join('\n\n');
}

function casesOfGroup({ measurements }: Results, group: Case['group']): PlainCase[] {
  const found = new Map(measurements.filter((m) => m.case.group === group).map((m) => [caseId(m.case), m.case]));
  return [...found.values()];
}

/** Per peer, the range over all cases of its time relative to the package. */
function speedups({ measurements }: Results, cases: readonly PlainCase[]): string {
  const ids = new Set(cases.filter((c) => c.gradients && c.dtype === 'float32').map(caseId));
  const of = measurements.filter((m) => ids.has(caseId(m.case)) && m.kind === 'peer');
  const names = [...new Set(of.map(shortName))];
  const range = (list: readonly Measurement[], provider: string) => {
    const ratios = list.map((m) => ratioTo(m, measurements, provider)).filter((ratio) => ratio !== undefined);
    if (ratios.length === 0) return '';
    return `${factor(Math.min(...ratios))} … ${factor(Math.max(...ratios))}`;
  };
  const rows = names.map((name) => {
    const list = of.filter((m) => shortName(m) === name);
    return [name, String(list.length), range(list, 'sdpo into'), range(list, 'sdpo')];
  });
  const head = ['time of a peer, float32 with gradient', 'cases', 'in times of `into`', 'in times of a new result'];
  return markdownTable(head, rows);
}

/** The package's time on as many threads is the unit: a peer that has one thread only is compared with one thread. */
function ratioTo(m: Measurement, all: readonly Measurement[], provider: string): number | undefined {
  const own = partner(m, all, provider);
  return own && medianRatio(m, own);
}

function providerTables(results: Results, group: Case['group'], title: string): string {
  const cases = casesOfGroup(results, group);
  if (cases.length === 0) return '';
  return [`#### ${title}`, ...cases.map((c) => providerTable(results, c))].join('\n\n');
}

function providerTable({ measurements }: Results, c: PlainCase): string {
  const all = measurements.filter((m) => caseId(m.case) === caseId(c));
  const footprints = all.some((m) => m.extraBytes !== undefined);
  const head = ['provider', 'median', 'spread', 'GB/s', 'of traffic', 'of floor', 'time / sdpo into'];
  if (footprints) head.push('extra memory');
  const rows = all.map((m) => {
    const shares = m.kind === 'ceiling' ? {} : sharesOf(m, measurements);
    return [
      shortName(m),
      milliseconds(m),
      spread(m),
      bandwidth(m),
      percent(shares.traffic),
      percent(shares.floor),
      factor(ratioTo(m, measurements, 'sdpo into')),
      ...(footprints ? [bytes(m.extraBytes)] : []),
    ];
  });
  const { shape, rows: count, size, dtype, objective, gradients } = c;
  const latents = shape === 'D' ? `D = ${size}` : shape;
  const title = `${latents}, ${count} row${count === 1 ? '' : 's'}, ${dtype}, ${objective}, ${gradients ? 'loss and gradient' : 'loss alone'}`;
  return `${title}:\n\n${markdownTable(head, rows)}`;
}

function skipped({ skipped: list }: Results): string {
  const reasons = new Map<string, number>();
  for (const skip of list) {
    const text = `${shortName(skip)}: ${skip.reason}`;
    reasons.set(text, (reasons.get(text) ?? 0) + 1);
  }
  if (reasons.size === 0) return '';
  const items = [...reasons].map(([text, count]) => `- ${text}${count > 1 ? ` (${count} cases)` : ''}`);
  return ['#### Not measured', items.join('\n')].join('\n\n');
}

/** A few lines for the front page. */
export function summary(name: string, results: Results): string {
  const { measurements, machine } = results;
  const cases = casesOfGroup(results, 'peers').filter((c) => c.rows === 1 && c.gradients && c.dtype === 'float32');
  if (cases.length === 0) return 'The newest results have no peers.';
  const of = measurements.filter((m) => cases.some((c) => caseId(c) === caseId(m.case)));
  // What people write first comes first.
  const plain = of.filter((m) => m.provider === 'sdpo');
  const names = [...new Set([...plain, ...of].filter((m) => m.kind !== 'ceiling').map(shortName))];
  const rows = names.map((provider) => [
    provider,
    ...cases.map((c) => {
      const m = of.find((other) => shortName(other) === provider && caseId(other.case) === caseId(c));
      return m === undefined ? '' : milliseconds(m);
    }),
  ]);
  return [
    `Loss and gradient of one row pair in float32 on ${machine.processor} (${machine.cores} cores):`,
    markdownTable(['', ...cases.map((c) => c.shape)], rows),
    `From ${name}, below.`,
  ].join('\n\n');
}
