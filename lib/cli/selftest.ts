/** `sdpo selftest`: checks this installation against a float64 reference. */

import type { Command } from 'commander';
import { EXIT, type ExitCode, finish, printError } from './exit.js';

interface SelftestOptions {
  device: string;
  json?: boolean;
}

export function addSelftest(program: Command): void {
  program
    .command('selftest')
    .description('check this installation against a float64 reference; exit code 1 where a check fails')
    .option('--device <name>', 'cpu, cuda:0, …', 'cpu')
    .option('--json', 'print JSON')
    .action((options: SelftestOptions) => finish(() => selftest(options), options));
}

async function selftest({ device, json = false }: SelftestOptions): Promise<ExitCode> {
  const { checkDevice } = await import('../tensor/device.js');
  try {
    checkDevice('--device', device);
  } catch (error) {
    printError(error, json);
    return EXIT.usage;
  }
  const { describeChecks, runChecks } = await import('../selftest/run.js');
  const checks = await runChecks(device);
  console.log(json ? JSON.stringify({ device, checks }, null, 2) : describeChecks(device, checks));
  return checks.every((check) => check.passed) ? EXIT.ok : EXIT.failed;
}
