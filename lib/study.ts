/** `sdpo/study`: declares, runs and reports studies of many runs. */

export { planCells, readStudy } from './study/plan.js';
export type { StudyProgress, StudySummary } from './study/progress.js';
export type { FailedRun } from './study/run-file.js';
export { collectResults, runStudy, type StudyOptions } from './study/runner.js';
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
