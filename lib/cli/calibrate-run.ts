/** Calibrates the loss of a config on its own model and pairs. */

import { USED_BY } from '../loss/options.js';
import { type CalibrateOptions, calibrate, formatCalibration } from '../trainer/calibrate.js';
import { learningRateSchedule } from '../trainer/learning-rate.js';
import type { CalibrateCommandOptions } from './command-options.js';
import { loadConfig, type TrainConfig } from './config.js';
import { configError } from './config-error.js';
import { EXIT, type ExitCode } from './exit.js';
import { onInterrupt } from './interrupt.js';
import { makeParts, scheduleOptions } from './train-setup.js';

/** Share of the rows to keep where neither the command line nor the config names one. */
const DEFAULT_KEEP = 0.8;

export async function calibrateConfig(file: string, options: CalibrateCommandOptions): Promise<ExitCode> {
  const loaded = loadConfig(file, options);
  const { config } = loaded;
  const given = givenOf(config, options.propose);
  const { loss, schedule, data, policy } = await makeParts(loaded);
  const trial = options.trial === 0 ? {} : { trial: { ...trialOf(config), loss, steps: options.trial } };
  const interruption = onInterrupt(
    () => console.error('Stopping after this batch; once more, and it stops at once.'),
    () => {},
  );
  try {
    const { pairsPerStep, noise, timesteps } = config.training;
    const { logRatioReduction, timestepWeighting } = loss.options;
    const result = await calibrate({
      ...{ policy, data, schedule, noise, timesteps, logRatioReduction, timestepWeighting, seed: config.seed },
      ...{ batches: options.batches, batchSize: pairsPerStep, bins: options.bins },
      keep: options.keep ?? config.threshold?.keep ?? DEFAULT_KEEP,
      ...{ ...given, ...trial, signal: interruption.signal },
    });
    console.log(options.json ? JSON.stringify(result) : formatCalibration(result));
    const { objective } = config.loss;
    if (!options.json && !USED_BY.maskThreshold.includes(objective)) {
      console.log(
        `\nweightSharpness and maskThreshold are for ${USED_BY.maskThreshold.join(' and ')}; the config has ${objective}.`,
      );
    }
    return EXIT.ok;
  } finally {
    interruption.dispose();
    policy.dispose?.();
  }
}

/** A tenth of the peak rate, scaled to what the first tenth of the training adds up to. */
function trialOf({ training }: TrainConfig) {
  const { steps, learningRate, accumulate, maxGradientNorm } = training;
  const rate = learningRateSchedule(scheduleOptions(training));
  const first = Math.max(1, Math.round(steps / 10));
  const horizon = Array.from({ length: first }, (_, step) => rate(step)).reduce((sum, value) => sum + value, 0);
  return {
    ...{ learningRate: learningRate.peak / 10, accumulate, maxGradientNorm: maxGradientNorm ?? Infinity },
    ...(horizon > 0 ? { horizon } : {}), // the one step of a warm-up may have none
  };
}

/** κ and τ of the config, but for the one that is to be proposed. */
function givenOf(
  { loss }: TrainConfig,
  propose: CalibrateCommandOptions['propose'],
): Pick<CalibrateOptions, 'kappa' | 'tau'> {
  if (loss.weightRatio === 'policy/reference') {
    // λ is 0 before the first update: errors of the reference say nothing about it.
    throw configError('Expected loss.weightRatio to be policy/data or reference/data, received "policy/reference"');
  }
  const { maskThreshold: tau, weightSharpness: kappa } = loss;
  if (propose !== 'tau' && tau !== undefined && !(tau > 0 && tau < 1)) {
    throw configError(`Expected loss.maskThreshold to be in (0, 1) (or --propose tau), received ${tau}`);
  }
  return propose === 'kappa' ? { tau } : propose === 'tau' ? { kappa: kappa ?? 1 } : { tau, kappa };
}
