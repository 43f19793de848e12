/** The report of a study as one page. */

import { answerQuestions } from '../answers.js';
import { focusOf } from '../focus.js';
import { CONFIDENCE } from '../statistics.js';
import type { StudyResults } from '../types.js';
import { binFigures } from './bin-figures.js';
import { escapeHtml } from './draw.js';
import { slug } from './figures.js';
import { findingsOf } from './findings.js';
import { details, figureHtml, list, page, paragraph, type Section, samplesHtml, tableHtml } from './html.js';
import { answersFigure, groupFigures } from './metric-figures.js';
import { frontierFigure, trajectoryFigure } from './run-figures.js';
import { sampleFigures } from './samples.js';
import { acrossTable, answersTable, budgetTable, cellTable, matrixTables, UNCONFIRMED_NOTE } from './tables.js';

/** Sections of a study. */
async function studySections(results: StudyResults): Promise<Section[]> {
  const focus = focusOf(results);
  const { config } = results;
  const answers = answerQuestions(results);
  const answered = answersTable(results, answers);
  const budget = budgetTable(results);
  const across = acrossTable(results);
  const acrossHtml = across.rows.length > 1 ? tableHtml(across) : '';
  const findings = findingsOf(results);
  const note = [...answered.rows, ...budget.rows, ...across.rows].some((row) =>
    row.some((cell) => /^(better|worse)\*$/.test(cell)),
  );
  const noteHtml = note ? `<p class="note">${escapeHtml(UNCONFIRMED_NOTE)}</p>` : '';
  const answerFigure = await answersFigure(results);
  const frontier = await frontierFigure(results);
  const samples = sampleFigures(results, focus);
  const sources = [...new Set(config.groups.flatMap((group) => group.sources))];
  const cells = sources
    .map((source) => ({ source, table: cellTable(results, source) }))
    .filter(({ table }) => table.rows.length > 0);
  const sections: (Section | undefined)[] = [
    {
      id: 'findings',
      title: 'What this shows and what it does not',
      html: [
        '<h3>It shows</h3>',
        findings.shows.length > 0 ? list(findings.shows) : paragraph('No interval excludes 0: nothing is decided.'),
        '<h3>It does not show</h3>',
        list(findings.doesNotShow),
        `<p class="note">These sentences are made from the intervals by fixed rules.</p>`,
      ].join('\n'),
    },
    answers.length === 0
      ? undefined
      : {
          id: 'questions',
          title: 'Questions and answers',
          html: [answerFigure.panels.length > 0 ? figureHtml(answerFigure) : '', tableHtml(answered), noteHtml].join(
            '\n',
          ),
        },
    {
      id: 'beta',
      title: `The deciding metric: ${config.decidingMetric}`,
      html: (await groupFigures(results)).map(figureHtml).join('\n'),
    },
    frontier === undefined
      ? undefined
      : { id: 'hacking', title: 'Reward against validity', html: figureHtml(frontier) },
    { id: 'training', title: 'Trajectories', html: figureHtml(await trajectoryFigure(results, focus)) },
    { id: 'timesteps', title: 'By timestep', html: (await binFigures(results, focus)).map(figureHtml).join('\n') },
    samples.length === 0
      ? undefined
      : {
          id: 'samples',
          title: samples.some(({ before }) => before) ? 'Samples before and after' : 'Samples after training',
          html: samples.map(samplesHtml).join('\n'),
        },
    budget.rows.length === 0
      ? undefined
      : {
          id: 'budget',
          title: 'The best settings',
          html: [paragraph(BUDGET), tableHtml(budget), acrossHtml, noteHtml].join('\n'),
        },
    {
      id: 'table',
      title: 'The table',
      html: [
        ...matrixTables(results).map(tableHtml),
        ...cells.map(({ source, table }) => details(`All measures on ${source}`, tableHtml(table))),
      ].join('\n'),
    },
    { id: 'method', title: 'How it was measured', html: methodHtml(results) },
  ];
  return sections.filter((section) => section !== undefined && section.html.trim() !== '') as Section[];
}

const BUDGET =
  'At the same β the methods are compared as they are; here each may take the best setting of the same grid. Choosing among settings flatters, so what was chosen on one set of samples is measured on another; the runs themselves are the same.';

export async function studyPage(results: StudyResults): Promise<string> {
  return page(results.title, leadHtml(results), await studySections(results));
}

function leadHtml({ runs, environment }: StudyResults): string {
  const hours = runs.reduce((sum, { seconds }) => sum + seconds, 0) / 3600;
  const facts = Object.entries(environment).map(([name, value]) => `${name} ${value}`);
  const text = `${runs.length} runs, ${hours.toFixed(1)} hours of computation. ${facts.join(', ')}.`;
  return `<p class="meta">${escapeHtml(text)}</p>`;
}

function methodHtml({ metrics, sources, config, runs }: StudyResults): string {
  const definitions = (entries: Readonly<Record<string, string>>) =>
    `<ul>${Object.entries(entries)
      .map(
        ([name, text]) =>
          `<li id="${slug(`m-${name}`)}"><strong>${escapeHtml(name)}</strong>: ${escapeHtml(text)}</li>`,
      )
      .join('')}</ul>`;
  const used = new Set(runs.map(({ cell }) => cell.source));
  const usedSources = Object.fromEntries(Object.entries(sources).filter(([name]) => used.has(name)));
  return [
    '<h3>Measures</h3>',
    definitions(metrics),
    '<h3>Pair sources</h3>',
    definitions(usedSources),
    '<h3>Statistics</h3>',
    paragraph(
      `Runs of the same seed are paired: they share pairs, timesteps and noise. Intervals are ${100 * CONFIDENCE} % percentile bootstrap intervals, which resample whole seeds; a difference over several β or sources gives each of its cells the same weight. With few seeds such intervals are too narrow, so every verdict is checked by Student's interval over the seeds as well. The best step of a run is chosen on one set of samples and measured on another.`,
    ),
    details('The declaration', `<pre>${escapeHtml(JSON.stringify(config, null, 1))}</pre>`),
  ].join('\n');
}
