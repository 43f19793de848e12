/** `sdpo report <run…>`: one page about what a study or trainings have left. */

import type { Command } from 'commander';
import { EXIT, EXIT_CODE_HELP, finish } from './exit.js';

interface ReportOptions {
  readonly out: string;
}

export function addReport(program: Command): void {
  program
    .command('report')
    .description('write one HTML page about the results of a study, or about training runs')
    .argument('<run...>', 'one study: its folder or file of results; or folders of training runs')
    .option('--out <file>', 'the page', 'report.html')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((paths: string[], options: ReportOptions) =>
      finish(async () => {
        const [{ writeReport }, { asConfigError }] = await Promise.all([
          import('../study.js'),
          import('./config-error.js'),
        ]);
        try {
          await writeReport(paths, options);
        } catch (error) {
          throw asConfigError(error);
        }
        console.log(options.out);
        return EXIT.ok;
      }, {}),
    );
}
