/** `sdpo report <run…>`: the arguments of the command. */

import type { Command } from 'commander';
import { EXIT, EXIT_CODE_HELP, finish } from './exit.js';

interface ReportOptions {
  readonly out: string;
}

export function addReport(program: Command): void {
  program
    .command('report')
    .description('write one HTML page about the results of a study, or about training runs')
    .argument('<run...>', 'folders or result files of a study, or folders of training runs')
    .option('--out <file>', 'the page', 'report.html')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((paths: string[], options: ReportOptions) =>
      finish(async () => {
        const { writeReport } = await import('../study.js');
        await writeReport(paths, options);
        console.log(options.out);
        return EXIT.ok;
      }, {}),
    );
}
