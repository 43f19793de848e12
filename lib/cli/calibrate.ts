/** `sdpo calibrate <config>`: the arguments of the command. */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { collect, positiveInteger } from './arguments.js';
import { type CalibrateCommandOptions, PROPOSALS } from './command-options.js';
import { EXIT_CODE_HELP, finish } from './exit.js';

export function addCalibrate(program: Command): void {
  program
    .command('calibrate')
    .description("propose κ, τ and β for a config from the reference's errors on a few batches of its pairs")
    .argument('<config>', 'JSON file, as for train; nothing is written')
    .option('--set <path=value>', 'change the config: data.options.source=A (repeatable)', collect, [])
    .option(
      '--keep <share>',
      "share of the rows that the mask should keep (default: the config's threshold.keep, or 0.8)",
      share,
    )
    .addOption(
      new Option(
        '--propose <what>',
        "what follows from the share: κ for the config's τ, τ for its κ, or neither: both are judged",
      )
        .choices(PROPOSALS)
        .default('kappa'),
    )
    .option('--batches <n>', 'batches of pairsPerStep pairs to measure', positiveInteger, 8)
    .option('--bins <n>', 'timestep bins of the table', positiveInteger, 10)
    .option(
      '--trial <steps>',
      'updates at a tenth of the peak learning rate that β is measured by, undone afterwards; 0: it is assumed',
      count,
      16,
    )
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((file: string, options: CalibrateCommandOptions) =>
      finish(async () => (await import('./calibrate-run.js')).calibrateConfig(file, options), options),
    );
}

function count(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value === 1) throw new InvalidArgumentError('Expected 0, or an integer >= 2.');
  return value;
}

function share(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value > 0 && value < 1)) throw new InvalidArgumentError('Expected a number in (0, 1).');
  return value;
}
