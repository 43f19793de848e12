/** A study: many runs of one experiment over a declared grid, and what each of them leaves for the report. */

import type { PreferenceLossOptions } from 'sdpo';

/** Options of an arm's loss that a JSON file can hold; β and the schedule come from the cell and the experiment. */
export type ArmLoss = Omit<PreferenceLossOptions, 'schedule' | 'beta'>;

/** A method under comparison. */
export interface Arm {
  /** How tables and plots call it. */
  readonly title: string;
  /** Arms of one family are settings of one method, among which the comparison at equal budget chooses. Default: the arm's own name. */
  readonly family?: string;
  readonly loss: ArmLoss;
  /** Further settings, whose names and values the experiment defines (a control of the mask, a factor of the learning rate). */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
}

/** A block of the grid: every source with every β, arm and seed. */
export interface StudyGroup {
  readonly name: string;
  readonly sources: readonly string[];
  readonly betas: readonly number[];
  /** Names of arms. */
  readonly arms: readonly string[];
  readonly seeds: readonly number[];
  /**
   * Settings for all its runs, on top of those of the arm. `base` names what a run starts from, and runs of several bases are replicates of each
   * other; every other setting is a condition of its own, which is never averaged with another.
   */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
}

/** What is compared with what, declared before the study runs. */
export interface StudyQuestion {
  /** A sentence that the report answers with an interval. */
  readonly question: string;
  /** Arms whose paired difference `arm - baseline` decides. */
  readonly arm: string;
  readonly baseline: string;
  readonly sources: readonly string[];
  readonly betas: readonly number[];
  /** The condition that the runs must have: settings of their group beside `base`. Default: none. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
}

/** The declaration of a study, as its JSON file holds it. */
export interface StudyConfig {
  readonly title: string;
  /** Module whose default export is an {@link Experiment}, relative to the file. */
  readonly experiment: string;
  /** Options of the experiment. */
  readonly options: Readonly<Record<string, string | number | boolean>>;
  readonly arms: Readonly<Record<string, Arm>>;
  readonly groups: readonly StudyGroup[];
  readonly questions: readonly StudyQuestion[];
  /** The metric that decides, one of those the experiment reports. */
  readonly decidingMetric: string;
}

/** One run: the same arm, source, β, seed and settings are the same cell whichever groups ask for it, and it runs once. */
export interface StudyCell {
  /** File name of its result: readable, unique, made of the fields below. */
  readonly id: string;
  readonly arm: string;
  readonly source: string;
  readonly beta: number;
  readonly seed: number;
  readonly loss: ArmLoss;
  readonly settings: Readonly<Record<string, string | number | boolean>>;
}

export type Measures = Readonly<Record<string, number>>;

/** What a run leaves. Numbers only; an image is a list of gray values. */
export interface StudyRun {
  readonly cell: StudyCell;
  /** In order of steps, from step 0 (the base) on, measured on the sample set that choices are made on. */
  readonly trajectory: readonly { readonly step: number; readonly metrics: Measures }[];
  /** After the last step, on the sample set that is reported. */
  readonly final: Measures;
  /** At the step where the deciding metric was best on the choosing set, on the reported set. */
  readonly peak: { readonly step: number; readonly metrics: Measures };
  /** Means of the training's row statistics over the run by timestep bin, one entry per bin from small to large timesteps; null where no row fell. */
  readonly bins: Readonly<Record<string, readonly (number | null)[]>>;
  /** A few samples after the last step, [count, side · side] gray values 0…255. */
  readonly samples: readonly (readonly number[])[];
  /** The same samples, from the same noise, before the first step. */
  readonly before?: readonly (readonly number[])[] | undefined;
  /** Updates made; fewer than planned where the run diverged, and why. */
  readonly steps: number;
  readonly diverged?: string | undefined;
  readonly seconds: number;
}

/** What a worker process runs. */
export interface Experiment {
  /** The metrics a run reports, with their titles; higher is better for the deciding one. */
  readonly metrics: Readonly<Record<string, string>>;
  /** Sources by name, each with a sentence. */
  readonly sources: Readonly<Record<string, string>>;
  /** Done once, before any run, in one process: what the runs share and find on disk (bases, samples of models). Must do nothing where it is done already. */
  prepare(context: ExperimentContext): Promise<void>;
  run(cell: StudyCell, context: ExperimentContext): Promise<StudyRun>;
}

export interface ExperimentContext {
  readonly options: Readonly<Record<string, string | number | boolean>>;
  /** The metric by which `peak` is chosen. */
  readonly decidingMetric: string;
  /** Folder for what the runs share; another one where the options are others. */
  readonly shared: string;
  readonly signal: AbortSignal;
  /** Says how far a run is: updates made, and of how many. */
  progress(done: number, total: number): void;
}

/** All runs of a study in one file, as it is committed and as the report reads it. */
export interface StudyResults {
  readonly title: string;
  readonly config: StudyConfig;
  readonly metrics: Readonly<Record<string, string>>;
  readonly sources: Readonly<Record<string, string>>;
  /** Machine, versions and dates, for the reader. */
  readonly environment: Readonly<Record<string, string | number>>;
  readonly runs: readonly StudyRun[];
}
