/** `sdpo calibrate <config>`: the arguments of the command. */

import { type Command, InvalidArgumentError } from 'commander';
import { EXIT_CODE_HELP, finish } from './exit.js';
import { collect, positiveInteger } from './train.js';

export interface CalibrateOptions {
  readonly set: readonly string[];
  readonly keep?: number;
  readonly batches?: number;
  readonly json?: boolean;
}

export function addCalibrate(program: Command): void {
  program
    .command('calibrate')
    .description("propose κ, τ and β for a config from a few batches of the reference's errors")
    .argument('<config>', 'JSON file, as for train')
    .option('--set <path=value>', 'change the config: loss.objective=sdpo (repeatable)', collect, [])
    .option('--keep <share>', 'share of the rows that the mask should keep', share)
    .option('--batches <n>', 'batches of the size of an update', positiveInteger)
    .option('--json', 'print one JSON object')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((file: string, options: CalibrateOptions) =>
      finish(async () => (await import('./calibrate-run.js')).calibrateConfig(file, options), options),
    );
}

function share(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value > 0 && value < 1)) throw new InvalidArgumentError('Expected a number in (0, 1).');
  return value;
}
