/** Learning rates that rise and fall: linear warm-up, then constant, linear or cosine decay. */

import { checkInteger, checkNumber, checkOneOf, checkOptions, failValue } from '../native/validate.js';

export const DECAYS = ['constant', 'linear', 'cosine'] as const;

export interface LearningRateOptions {
  /** The rate after the warm-up. */
  peak: number;
  /** Updates in which the rate rises linearly: peak · (step + 1) / warmupSteps. Default 0. */
  warmupSteps?: number | undefined;
  /** How the rate falls from the end of the warm-up to `steps`. Default 'constant'. */
  decay?: (typeof DECAYS)[number] | undefined;
  /** Updates in all; needed where the rate decays. */
  steps?: number | undefined;
  /** The rate after `steps` updates, which the last of them nearly has. Default 0. With a decay only. */
  final?: number | undefined;
}

/** The learning rate as a function of the updates made before, for the trainer's `learningRate`. */
export function learningRateSchedule(options: LearningRateOptions): (step: number) => number {
  options = checkOptions('options', options, ['peak', 'warmupSteps', 'decay', 'steps', 'final']);
  const peak = checkNumber('options.peak', options.peak, 0);
  const warmupSteps = checkInteger('options.warmupSteps', options.warmupSteps ?? 0, 0);
  const decay = checkOneOf('options.decay', options.decay ?? 'constant', DECAYS);
  const final = checkNumber('options.final', options.final ?? 0, 0);
  if (decay === 'constant' && options.final !== undefined) {
    failValue('options.final', "absent with decay 'constant'", options.final, 'ERR_SDPO_INVALID_OPTION');
  }
  const steps = decay === 'constant' ? Infinity : checkInteger('options.steps', options.steps, warmupSteps + 1);
  return (step) => {
    if (step < warmupSteps) return (peak * (step + 1)) / warmupSteps;
    const share = Math.min(1, (step - warmupSteps) / (steps - warmupSteps));
    switch (decay) {
      case 'constant':
        return peak;
      case 'linear':
        return peak + (final - peak) * share;
      case 'cosine':
        return final + (peak - final) * 0.5 * (1 + Math.cos(Math.PI * share));
    }
  };
}
