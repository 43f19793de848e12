#!/usr/bin/env node
/** The command line: `sdpo doctor` and `sdpo selftest`. Everything that needs the addon is loaded by the commands, so that they can say why it is missing. */

import { Command } from 'commander';

/** What a command ends with: 0 well, 1 something failed, 2 it was asked for something that does not exist. */
type ExitCode = 0 | 1 | 2;

const program = new Command('sdpo').description('Preference losses for diffusion models: diagnosis and self-test');

program
  .command('doctor')
  .description('print what was found: versions, binary, processor, CUDA and devices')
  .option('--json', 'print JSON')
  .action((options: { json?: boolean }) => finish(() => doctor(options), options));

program
  .command('selftest')
  .description('check this installation against a float64 reference; exit code 1 where a check fails')
  .option('--device <name>', 'cpu, cuda:0, …', 'cpu')
  .option('--json', 'print JSON')
  .action((options: { device: string; json?: boolean }) => finish(() => selftest(options), options));

async function doctor({ json }: { json?: boolean }): Promise<ExitCode> {
  const { describeDiagnosis, diagnose } = await import('./doctor.js');
  const found = diagnose();
  console.log(json ? JSON.stringify(found, null, 2) : describeDiagnosis(found));
  return 0;
}

async function selftest({ device, json }: { device: string; json?: boolean }): Promise<ExitCode> {
  const { checkDevice } = await import('./device.js');
  try {
    checkDevice('--device', device);
  } catch (error) {
    report(error, json);
    return 2;
  }
  const { describeChecks, runChecks } = await import('./selftest/run.js');
  const checks = await runChecks(device);
  console.log(json ? JSON.stringify({ device, checks }, null, 2) : describeChecks(device, checks));
  return checks.every((check) => check.passed) ? 0 : 1;
}

/** Sets the exit code; the process ends by itself, so that everything that was written arrives. */
async function finish(command: () => Promise<ExitCode>, { json }: { json?: boolean }): Promise<void> {
  try {
    process.exitCode = await command();
  } catch (error) {
    report(error, json);
    process.exitCode = 1;
  }
}

function report(error: unknown, json = false): void {
  const { code, message } = error as { code?: string; message: string };
  if (json) console.log(JSON.stringify({ error: { code, message } }, null, 2));
  else console.error(message);
}

await program.parseAsync();
