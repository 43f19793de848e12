/**
 * `sdpo/tools`: what sdpo-study, or another package with commands of its own, shares with this one, so that its commands read arguments, complain,
 * stop and end alike.
 */

export type { Command } from 'commander';
export { jsonProblem, SOUND_JSON } from '../files/json-problem.js';
export { insteadOfFile, isMissing } from '../files/open.js';
export { readTextFile } from '../files/text.js';
export { printable } from '../native/printable.js';
export {
  checkInteger,
  checkOptions,
  describe,
  failType,
  failValue,
} from '../native/validate.js';
export { type FileTask, namingFiles } from '../trainer/file-error.js';
export { type FolderLock, type FolderLockOptions, lockFolder } from '../trainer/folder-lock.js';
export { bestStep, VALIDATION_CRITERIA } from '../trainer/validation-options.js';
export { collect, positiveInteger } from './arguments.js';
export { asConfigError, configError } from './config-error.js';
export { duration } from './duration.js';
export { EXIT, EXIT_CODE_HELP, type ExitCode, finish } from './exit.js';
export { type Interruption, onInterrupt } from './interrupt.js';
export { runProgram } from './program.js';
