/** Seeds for the tasks of a run that need random numbers, so that none of them shares its numbers with another. */

const TASKS = ['training pairs', 'held-out pairs', 'training', 'implicit accuracy', 'calibration'] as const;

/** Seeds of one task. Uniform draws and normal noise from one seed would be made of the same integers, so each has its own. */
export interface Seeds {
  draws: number;
  noise: number;
}

/** The seeds of a task in the run with this seed. */
export function seedsOf(task: (typeof TASKS)[number], seed: number): Seeds {
  const stream = 2 * (seed * TASKS.length + TASKS.indexOf(task));
  return { draws: stream, noise: stream + 1 };
}
