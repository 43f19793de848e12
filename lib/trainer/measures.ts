/** What a training measures between updates, the held-out pairs and the caller's evaluation: when each is due, and that it is made once. */

import { failType } from '../native/validate.js';
import type { ResolvedTrainerOptions } from './options.js';
import type { Stopwatch } from './stopwatch.js';
import type { BestStep, TrainerProgress } from './types.js';
import { Validation } from './validation.js';

const MEASURES = ['validation', 'evaluation'] as const;
type Measure = (typeof MEASURES)[number];

/** What of a measure `TrainerProgress` holds. */
type MeasuresState = Pick<TrainerProgress, 'evaluationDue' | 'validationDue' | 'validation'>;

export class Measures<C> {
  readonly #options: ResolvedTrainerOptions<C>;
  readonly #watch: Stopwatch;
  readonly #validation: Validation<C> | undefined;
  /** Those that belong to the present step and have not been made. */
  #due: Set<Measure>;

  constructor(options: ResolvedTrainerOptions<C>, watch: Stopwatch) {
    this.#options = options;
    this.#watch = watch;
    const { validation } = options;
    this.#validation = validation && new Validation(options, validation);
    this.#due = new Set(MEASURES.filter((name) => this.#when(name)?.atStart));
  }

  get best(): BestStep | undefined {
    return this.#validation?.best;
  }

  /** Whether something is due after this many updates. */
  after(step: number): boolean {
    this.#due = new Set(MEASURES.filter((name) => step % (this.#when(name)?.every ?? Infinity) === 0));
    return this.#due.size > 0;
  }

  /** Makes what is due, and logs it. An aborted signal leaves what has not been made due. */
  async make(step: number): Promise<void> {
    for (const name of MEASURES) {
      if (!this.#due.has(name) || this.#when(name) === undefined || this.#options.signal?.aborted) continue;
      const metrics = await this.#watch.time(name, async () => this.#measure(name, step));
      if (metrics === undefined) continue;
      for (const writer of this.#options.writers) await writer.write({ step, kind: name, metrics });
      this.#due.delete(name);
    }
  }

  state(): MeasuresState {
    const validation = this.#validation?.state();
    return {
      ...(this.#due.has('evaluation') ? { evaluationDue: true } : {}),
      ...(this.#due.has('validation') ? { validationDue: true } : {}),
      ...(validation === undefined ? {} : { validation }),
    };
  }

  load({ evaluationDue, validationDue, validation }: MeasuresState): void {
    this.#due = new Set();
    if (evaluationDue) this.#due.add('evaluation');
    if (validationDue) this.#due.add('validation');
    this.#validation?.load(validation);
  }

  #when(name: Measure): { readonly every: number; readonly atStart?: boolean | undefined } | undefined {
    return name === 'validation' ? this.#options.validation : this.#options.evaluate;
  }

  async #measure(name: Measure, step: number): Promise<Readonly<Record<string, number>> | undefined> {
    if (name === 'validation') return this.#validation!.run(step);
    const { evaluate, policy, signal } = this.#options;
    const metrics = await evaluate!.run({ step, policy, signal });
    checkEvaluation(metrics);
    return metrics;
  }
}

function checkEvaluation(metrics: unknown): void {
  const argument = 'the result of options.evaluate.run()';
  if (typeof metrics !== 'object' || metrics === null) failType(argument, 'an object of numbers', metrics);
  for (const [name, value] of Object.entries(metrics)) {
    if (typeof value !== 'number') failType(`${name} in ${argument}`, 'a number', value);
  }
}
