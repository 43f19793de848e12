/** What the command line gives to commands whose run is in a file of its own. */

export interface TrainOptions {
  readonly set: readonly string[];
  readonly out?: string;
  readonly resume?: boolean;
  readonly fromCheckpoint?: string;
  readonly logEvery?: number;
  readonly quiet?: boolean;
  readonly json?: boolean;
  readonly profile?: boolean;
}

/** What is worked out; the other of the two is the config's. */
export const PROPOSALS = ['kappa', 'tau', 'none'] as const;

export interface CalibrateCommandOptions {
  readonly set: readonly string[];
  readonly propose: (typeof PROPOSALS)[number];
  readonly keep?: number;
  readonly batches: number;
  /** Updates of the trial that β is measured by; 0: none. */
  readonly trial: number;
  readonly bins: number;
  readonly json?: boolean;
}
