/**
 * `sdpo-study`: declares, runs and reports studies of many runs.
 *
 * @module sdpo-study
 */

export {
  type Answer,
  acrossSources,
  answerQuestions,
  type BestOfBudget,
  bestOfBudget,
  type Differences,
  type SettingAcross,
} from './answers.js';
export { planCells, readStudy } from './plan.js';
export type { StudyProgress, StudySummary } from './progress.js';
export { type Findings, findingsOf } from './report/findings.js';
export { formatStudyTable } from './report/tables.js';
export { studyMarkdown, updateStudyMarkdown, writeReport } from './report/write.js';
export { compactResults, readResults, writeResults } from './results-file.js';
export type { FailedRun } from './run-file.js';
export { collectResults, runStudy, type StudyOptions } from './runner.js';
export type { Difference, Interval, Verdict } from './statistics.js';
export type {
  Arm,
  ArmLoss,
  Experiment,
  ExperimentContext,
  Measures,
  StudyCell,
  StudyConfig,
  StudyGroup,
  StudyQuestion,
  StudyResults,
  StudyRun,
} from './types.js';
