/** Sentences that say what the numbers show and what they do not, made by rules from intervals, so that none can claim more than they do. */

import {
  type Answer,
  answerQuestions,
  type BestOfBudget,
  baselineFamily,
  bestOfBudget,
  type Differences,
} from '../answers.js';
import { CellTable, MOMENTS, type Moment } from '../cells.js';
import { planCells } from '../plan.js';
import { CONFIDENCE, type Difference } from '../statistics.js';
import type { StudyConfig, StudyResults } from '../types.js';
import { formatDifference } from './format.js';
import { MOMENT_TITLES, settingText } from './tables.js';

export interface Findings {
  /** Differences that an interval decides, for or against. */
  readonly shows: readonly string[];
  readonly doesNotShow: readonly string[];
}

export function findingsOf(results: StudyResults): Findings {
  const answers = answerQuestions(results);
  const budget = bestOfBudget(results);
  const { config } = results;
  return {
    shows: [...answers.flatMap((answer) => decidedSentence(config, answer)), ...budgetSentences(config, budget)],
    doesNotShow: [
      ...answers.flatMap((answer) => undecidedSentences(config, answer)),
      ...missingSentences(results, answers),
      ...divergenceSentences(results),
      chanceSentence(answers),
      scopeSentence(results),
    ],
  };
}

const isDecided = ({ verdict }: Difference) => verdict === 'better' || verdict === 'worse';

/** "A is better than B on N1 (β 3 to 300): good differs by … after the last step; undecided at the best step (…)." */
function decidedSentence(config: StudyConfig, { question, overall, bySource }: Answer): string[] {
  if (!MOMENTS.some((moment) => isDecided(overall[moment]))) return [];
  const [arm, baseline] = [question.arm, question.baseline].map((name) => config.arms[name]!.title);
  const { final, peak } = overall;
  const where = `on ${question.sources.join(', ')} (${betaText(question.betas)})`;
  const parts = MOMENTS.map((moment) => momentText(overall, moment));
  const head =
    isDecided(final) && final.verdict === peak.verdict
      ? `${arm} is ${final.verdict} than ${baseline} ${where}`
      : isDecided(final) && isDecided(peak)
        ? `${arm} against ${baseline} ${where} depends on when training stops`
        : `${arm} is ${isDecided(final) ? final.verdict : peak.verdict} than ${baseline} ${where} ${MOMENT_TITLES[isDecided(final) ? 'final' : 'peak']} only`;
  const sources = bySource.length > 1 ? ` By source after the last step: ${sourceText(bySource)}.` : '';
  return [`${head}: ${config.decidingMetric} ${parts.join('; ')}.${caution(overall)}${sources}`];
}

function momentText(differences: Differences, moment: Moment): string {
  const difference = differences[moment];
  const verdict = isDecided(difference) ? '' : ` (${difference.verdict})`;
  return `${formatDifference(difference)} ${MOMENT_TITLES[moment]}${verdict}`;
}

function sourceText(bySource: Answer['bySource']): string {
  return bySource.map(({ source, final }) => `${source} ${final.verdict} (${formatDifference(final)})`).join(', ');
}

/** Says so where only the narrower of the two intervals excludes 0. */
function caution(differences: Differences): string {
  const doubtful = MOMENTS.filter((moment) => isDecided(differences[moment]) && !differences[moment].confirmed);
  if (doubtful.length === 0) return '';
  const { count } = differences[doubtful[0]!];
  const when = doubtful.map((moment) => MOMENT_TITLES[moment]).join(' and ');
  return ` With ${count} seeds this is weak: Student's interval ${when} includes 0.`;
}

function betaText(betas: readonly number[]): string {
  const sorted = [...betas].sort((a, b) => a - b);
  return sorted.length === 1
    ? `β ${sorted[0]}`
    : `β ${sorted.slice(0, -1).join(', ')} and ${sorted[sorted.length - 1]}`;
}

/** One sentence for each source: who is better, worse or undecided against the baseline when each takes its best setting of the same grid. */
function budgetSentences(config: StudyConfig, budget: readonly BestOfBudget[]): string[] {
  const groups = new Map<string, BestOfBudget[]>();
  for (const entry of budget) {
    if (entry.rival === undefined) continue;
    const head = `Each at its best on ${entry.source}, chosen for ${entry.moment} ${config.decidingMetric}`;
    groups.set(head, [...(groups.get(head) ?? []), entry]);
  }
  const baseline = config.arms[baselineFamily(config)]?.title ?? baselineFamily(config);
  return [...groups].flatMap(([head, entries]) => {
    if (!entries.some(({ rival }) => isDecided(rival!.difference))) return [];
    const parts = (['better', 'worse', 'undecided'] as const).flatMap((verdict) => {
      const those = entries.filter(({ rival }) => rival!.difference.verdict === verdict);
      if (those.length === 0) return [];
      const listed = those.map((entry) => `${settingText(config, entry)} (${doubted(entry.rival!.difference)})`);
      return [`${verdict === 'undecided' ? verdict : `${verdict} than ${baseline}`}: ${listed.join('; ')}`];
    });
    return [`${head}: ${parts.join('. ')}.`];
  });
}

function doubted(difference: Difference): string {
  const doubt = isDecided(difference) && !difference.confirmed ? ", but Student's includes 0" : '';
  return `${formatDifference(difference)}${doubt}`;
}

function undecidedSentences(config: StudyConfig, { question, overall, bySource }: Answer): string[] {
  if (MOMENTS.some((moment) => isDecided(overall[moment])) || overall.final.pairs === 0) return [];
  const parts = MOMENTS.map((moment) => `${formatDifference(overall[moment])} ${MOMENT_TITLES[moment]}`);
  const [arm, baseline] = [question.arm, question.baseline].map((name) => config.arms[name]!.title);
  const sources = bySource.length > 1 ? ` By source after the last step: ${sourceText(bySource)}.` : '';
  const why =
    overall.final.count < 2
      ? 'one seed has no interval and decides nothing'
      : 'an interval that includes 0 does not show that they are the same';
  return [
    `Whether ${arm} and ${baseline} differ on ${question.sources.join(', ')} (${betaText(question.betas)}): ${config.decidingMetric} ${parts.join(', ')}; ${why}.${sources}`,
  ];
}

function missingSentences(results: StudyResults, answers: readonly Answer[]): string[] {
  const planned = planCells(results.config).length;
  const missing = planned - results.runs.length;
  const unanswered = answers.filter(({ cells }) => cells.found < cells.asked);
  return [
    ...unanswered.map(({ question, cells }) => {
      return `"${question.question}": ${cells.found} of ${cells.asked} cells were run${cells.found === 0 ? ', so there is no answer' : ''}.`;
    }),
    ...(missing > 0 ? [`${missing} of ${planned} declared runs are missing.`] : []),
  ];
}

function divergenceSentences({ runs, config }: StudyResults): string[] {
  const counts = new Map<string, number>();
  for (const { diverged, cell } of runs) {
    if (diverged === undefined) continue;
    const title = `${config.arms[cell.arm]!.title} at β ${cell.beta} on ${cell.source}`;
    counts.set(title, (counts.get(title) ?? 0) + 1);
  }
  if (counts.size === 0) return [];
  const list = [...counts].map(([title, count]) => `${title} (${count})`).join(', ');
  return [`Some runs stopped before their last step and count with what they had then: ${list}.`];
}

function chanceSentence(answers: readonly Answer[]): string {
  const intervals = answers.filter(({ overall }) => overall.final.pairs > 0).length;
  const expected = (intervals * (1 - CONFIDENCE)).toFixed(1);
  const questions = intervals === 1 ? '1 question is' : `${intervals} questions are`;
  return `${questions} answered after the last step with ${100 * CONFIDENCE} % intervals and no correction for their number: about ${expected} of them would exclude 0 by chance alone.`;
}

function scopeSentence(results: StudyResults): string {
  const { all } = new CellTable(results);
  const replicates = all.map(({ runs }) => runs.size);
  const [low, high] = [Math.min(...replicates), Math.max(...replicates)];
  const seeds = high === 1 ? '1 seed' : `${low === high ? '' : `${low} to `}${high} seeds`;
  return `All runs are of one task with one kind of model, ${seeds} a cell. Nothing here measures another data set, a larger model, or more training than was declared.`;
}
