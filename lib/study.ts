/** `sdpo/study`: declares, runs and reports studies of many runs. */

export {
  type Answer,
  acrossSources,
  answerQuestions,
  type BestOfBudget,
  bestOfBudget,
  type Differences,
  type SettingAcross,
} from './study/answers.js';
export { planCells, readStudy } from './study/plan.js';
export type { StudyProgress, StudySummary } from './study/progress.js';
export { type Findings, findingsOf } from './study/report/findings.js';
export { formatStudyTable } from './study/report/tables.js';
export { studyMarkdown, updateStudyMarkdown, writeReport } from './study/report/write.js';
export { compactResults, readResults, writeResults } from './study/results-file.js';
export type { FailedRun } from './study/run-file.js';
export { collectResults, runStudy, type StudyOptions } from './study/runner.js';
export type { Difference, Interval, Verdict } from './study/statistics.js';
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
} from './study/types.js';
