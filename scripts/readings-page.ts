/** What the deciding stage of the second study says, its tables and its plot. */

import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';
import { BASELINE, TASK_NAMES, type Task } from '../examples/digits/readings.js';
import { type Cell, CellTable, choosingValues, pairedDifferences, valuesOf } from '../study/lib/cells.js';
import { answerQuestions, type Difference, type Interval, type StudyResults } from '../study/lib/index.js';
import { formatDifference, formatInterval, markdownTable } from '../study/lib/report/format.js';
import { acrossTable, settingText, UNCONFIRMED_NOTE } from '../study/lib/report/tables.js';
import { meanInterval, pairedDifference } from '../study/lib/statistics.js';

export type Deciding = Readonly<Record<Task, StudyResults>>;

export const TASK_TITLES: Readonly<Record<Task, string>> = { digits: 'first task', odd: 'second task' };

/** A candidate against the tuned baseline on one source. */
export interface Duel {
  readonly task: Task;
  readonly source: string;
  readonly candidate: string;
  readonly difference: Difference;
}

/** The baseline's best setting on a source, by the choosing samples, measured on the others. */
export interface Tuned {
  readonly task: Task;
  readonly source: string;
  readonly setting: string;
  readonly value: Interval;
}

export interface Candidate {
  readonly name: string;
  readonly title: string;
  readonly better: number;
  readonly worse: number;
  readonly of: number;
  /** Over all sources of a task, each with the same weight. */
  readonly overall: Readonly<Record<Task, Difference>>;
}

export interface Decision {
  readonly tuned: readonly Tuned[];
  readonly duels: readonly Duel[];
  readonly candidates: readonly Candidate[];
  /** Those that are better than the tuned baseline on every source of both tasks. */
  readonly winners: readonly string[];
}

/** Every candidate against Diffusion-DPO with a KL anchor that is tuned anew on every source, on good after the last step. */
export function decide(deciding: Deciding): Decision {
  const tuned: Tuned[] = [];
  const duels: (Duel & { readonly pairs: Map<string, number> })[] = [];
  for (const task of TASK_NAMES) {
    const { config } = deciding[task];
    const metric = config.decidingMetric;
    const { all } = new CellTable(deciding[task]);
    for (const source of new Set(all.map((cell) => cell.source))) {
      const cells = all.filter((cell) => cell.source === source);
      const isBaseline = ({ arm }: Cell) => config.arms[arm]!.family === BASELINE;
      const score = (cell: Cell) => meanInterval(choosingValues(cell, metric, 'final')).mean;
      const best = cells.filter(isBaseline).reduce((a, b) => (score(b) > score(a) ? b : a));
      const value = meanInterval(valuesOf(best, metric, 'final'));
      tuned.push({ task, source, setting: settingText(config, best), value });
      for (const cell of cells) {
        if (isBaseline(cell)) continue;
        const pairs = pairedDifferences(cell, best, metric, 'final');
        duels.push({ task, source, candidate: cell.arm, difference: pairedDifference([pairs]), pairs });
      }
    }
  }
  const names = Object.entries(deciding.digits.config.arms).filter(([, { family }]) => family !== BASELINE);
  const candidates = names.map(([name, { title }]): Candidate => {
    const own = duels.filter(({ candidate }) => candidate === name);
    const count = (verdict: string) => own.filter(({ difference }) => difference.verdict === verdict).length;
    const over = (task: Task) => pairedDifference(own.filter((duel) => duel.task === task).map(({ pairs }) => pairs));
    const beta = deciding.digits.config.groups.find(({ arms }) => arms.includes(name))!.betas[0];
    return {
      ...{ name, title: `${title}, β = ${beta}`, better: count('better'), worse: count('worse'), of: own.length },
      overall: { digits: over('digits'), odd: over('odd') },
    };
  });
  const winners = candidates.filter(({ better, of }) => better === of).map(({ name }) => name);
  return { tuned, duels, candidates, winners };
}

const verdictText = ({ verdict, confirmed }: Difference) =>
  verdict === 'undecided' ? '' : ` ${verdict}${confirmed ? '' : '*'}`;

const differenceText = (difference: Difference) => `${formatDifference(difference)}${verdictText(difference)}`;

/** The generated part of the page. */
export function readingsMarkdown(screening: StudyResults, deciding: Deciding): string {
  const { tuned, duels, candidates, winners } = decide(deciding);
  const sentence =
    winners.length > 0
      ? `Better than tuned Diffusion-DPO + KL on every source of both tasks: ${winners.join(', ')}.`
      : 'No candidate is better than tuned Diffusion-DPO + KL on every source of both tasks.';
  const summary = markdownTable({
    caption: 'The candidates against Diffusion-DPO + KL, tuned anew on every source',
    header: [
      'candidate',
      'setting',
      'better on',
      'worse on',
      ...TASK_NAMES.map((task) => `${TASK_TITLES[task]}, all sources`),
    ],
    rows: candidates.map(({ name, title, better, worse, of, overall }) => [
      ...[name, title, `${better} of ${of}`, `${worse} of ${of}`],
      ...TASK_NAMES.map((task) => differenceText(overall[task])),
    ]),
    textColumns: 2,
  });
  const bySource = markdownTable({
    caption: 'Source by source: paired differences of good after the last step, with 95 % intervals',
    header: ['source', 'baseline at its best', 'good', ...candidates.map(({ name }) => name)],
    rows: tuned.map(({ task, source, setting, value }) => [
      ...[`${source}, ${TASK_TITLES[task]}`, setting, formatInterval(value)],
      ...candidates.map(({ name }) => {
        const duel = duels.find((each) => each.task === task && each.source === source && each.candidate === name);
        return duel === undefined ? '' : differenceText(duel.difference);
      }),
    ]),
    textColumns: 2,
  });
  const note = UNCONFIRMED_NOTE.replace('*', '\\*');
  const across = TASK_NAMES.map((task) => {
    const table = acrossTable(deciding[task]);
    return markdownTable({
      ...table,
      caption: `${TASK_TITLES[task]}, beside the question, each setting fixed. ${table.caption}`,
    });
  });
  const ranking = acrossTable(screening);
  return [
    ...[sentence, summary, bySource, note, ...across, questionsTable(screening)],
    markdownTable({ ...ranking, caption: `What the rule saw. ${ranking.caption}` }),
  ].join('\n\n');
}

/** The declared questions of the screening, with each source by itself. */
function questionsTable(screening: StudyResults): string {
  const answers = answerQuestions(screening);
  const sources = answers[0]!.question.sources;
  return markdownTable({
    caption: 'The screening: paired differences of good over both sources, with 95 % intervals',
    header: ['question', 'after the last step', ...sources, 'at the best step'],
    rows: answers.map(({ question, overall, bySource }) => [
      question.question,
      differenceText(overall.final),
      ...bySource.map(({ final }) => differenceText(final)),
      differenceText(overall.peak),
    ]),
    textColumns: 1,
  });
}

const COLOURS = ['#0072b2', '#56b4e9', '#009e73', '#d55e00', '#cc79a7'];

/** The answer as one picture: the differences of all candidates on all sources. */
export async function readingsPlot(deciding: Deciding): Promise<string> {
  const { duels, candidates } = decide(deciding);
  const names = candidates.map(({ name }) => name);
  const titles = Object.fromEntries(candidates.map(({ name, title }) => [name, `${name}: ${title}`]));
  const row = {
    y: { field: 'source', type: 'nominal', title: null, sort: null, axis: { labelLimit: 0 } },
    yOffset: { field: 'candidate', type: 'nominal', scale: { domain: names } },
    color: {
      field: 'candidate',
      type: 'nominal',
      scale: { domain: names, range: COLOURS },
      legend: {
        orient: 'bottom',
        title: null,
        columns: 1,
        labelLimit: 0,
        labelExpr: `${JSON.stringify(titles)}[datum.label]`,
      },
    },
  };
  const x = (field: string, last: boolean) => ({
    field,
    type: 'quantitative',
    title: last ? 'difference of good after the last step, with 95 % interval' : null,
  });
  const panel = (task: Task, last: boolean) => ({
    title: { text: TASK_TITLES[task], anchor: 'start', fontSize: 12 },
    data: {
      values: duels
        .filter((duel) => duel.task === task)
        .map(({ source, candidate, difference: { mean, low, high } }) => ({ source, candidate, mean, low, high })),
    },
    width: 560,
    height: { step: 9 },
    layer: [
      { mark: { type: 'rule', color: '#777' }, encoding: { x: { datum: 0 } } },
      { mark: { type: 'rule', strokeWidth: 1.6 }, encoding: { ...row, x: x('low', last), x2: { field: 'high' } } },
      { mark: { type: 'point', filled: true, size: 30, opacity: 1 }, encoding: { ...row, x: x('mean', last) } },
    ],
  });
  const spec = {
    title: { text: 'Candidates minus Diffusion-DPO + KL, tuned on each source', anchor: 'start', offset: 12 },
    vconcat: TASK_NAMES.map((task, i) => panel(task, i === TASK_NAMES.length - 1)),
    resolve: { scale: { x: 'shared' } },
    background: 'white',
    padding: 8,
    config: { font: 'sans-serif', view: { stroke: null } },
  };
  const view = new View(parse(compile(spec as unknown as TopLevelSpec).spec), { renderer: 'none' });
  const svg = await view.toSVG();
  view.finalize();
  // What is not seen, and digits below a hundredth of a pixel, would only make the committed file longer.
  const alt = candidates.map(
    ({ name, better, worse, of }) => `${name} better on ${better} and worse on ${worse} of ${of}`,
  );
  const plain = svg.replaceAll(/ (role|aria-[a-z]+)="[^"]*"/g, '').replaceAll(/(\.\d{2})\d+/g, '$1');
  return `${plain.replace('<svg ', `<svg role="img" aria-label="Against tuned Diffusion-DPO + KL: ${alt.join('; ')}" `)}\n`;
}
