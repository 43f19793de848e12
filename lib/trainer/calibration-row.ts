/** What calibration measures of a pair at one timestep. */

/** What was measured of one row: a pair at a timestep. */
export interface CalibrationRow {
  readonly timestep: number;
  /** ω of its transition; Infinity where there is no density ratio. */
  readonly omega: number;
  /** Mean squared error of the reference on each branch. */
  readonly errorChosen: number;
  readonly errorRejected: number;
}
