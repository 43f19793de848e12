/**
 * Times the providers of a case in turns. tinybench and mitata run one task to its end before they begin the next, so on a machine whose speed
 * drifts every ratio would measure the drift, and neither can time a call inside another process; hence a loop of our own. Statistics are
 * those of simple-statistics.
 */

import { Arena, type Batch, judge, makeBatch, type Verdict } from './data.js';
import type { Prepared, Provider } from './provider.js';
import type { Measurement, Skip } from './results.js';

export interface Effort {
  /** Rounds in which a fast provider takes part. */
  rounds: number;
  /** The fewest rounds of a slow peer, and of the package and its ceilings. */
  fewest: number;
  fewestOurs: number;
  /** Milliseconds a provider may spend in a case, beyond its fewest rounds. */
  budget: number;
  /** A provider whose call takes longer than this many milliseconds is left out. */
  longestCall: number;
}

export const fullEffort: Effort = { rounds: 21, fewest: 3, fewestOurs: 7, budget: 150, longestCall: 700 };
export const quickEffort: Effort = { rounds: 9, fewest: 3, fewestOurs: 5, budget: 60, longestCall: 1000 };

/** Shorter samples are lost in the resolution of the clock and in interrupts. */
const shortestSample = 2;

interface Runner {
  provider: Provider;
  prepared: Prepared;
  calls: number;
  /** In how many of the rounds it takes part. */
  turns: number;
  rounds: (number | null)[];
  error?: Verdict;
}

/** A call on fewer elements may be mostly overhead, which does not grow with the tensors. */
const worthScaling = 2 ** 14;

/** How long a call took elsewhere, so that a case that would take too long is not begun. */
export class Pace {
  readonly #nanosecondsPerElement = new Map<string, number>();

  see(provider: Provider, batch: Batch, nanoseconds: number): void {
    if (elements(batch) < worthScaling) return;
    const before = this.#nanosecondsPerElement.get(keyOf(provider)) ?? Infinity;
    this.#nanosecondsPerElement.set(keyOf(provider), Math.min(before, nanoseconds / elements(batch)));
  }

  /** Milliseconds; undefined where the provider was not seen yet. */
  expected(provider: Provider, batch: Batch): number | undefined {
    const pace = this.#nanosecondsPerElement.get(keyOf(provider));
    return pace === undefined ? undefined : (pace * elements(batch)) / 1e6;
  }
}

function keyOf({ name, threads }: Provider): string {
  return `${name} ${threads}`;
}

function elements({ case: c }: Batch): number {
  return c.rows * c.size;
}

export async function measureCase(
  batch: Batch,
  providers: readonly Provider[],
  effort: Effort,
  pace: Pace,
): Promise<{ measurements: Measurement[]; skipped: Skip[] }> {
  const { participants: _, ...c } = batch.case;
  const skipped: Skip[] = [];
  const skip = ({ name, threads }: Provider, reason: string) =>
    skipped.push({ case: c, provider: name, threads, reason });
  const runners: Runner[] = [];
  for (const provider of providers) {
    const refused = provider.refuses(batch);
    if (refused !== undefined) {
      skip(provider, refused);
      continue;
    }
    try {
      const slow = provider.kind === 'peer' ? tooSlow(await expectedTime(provider, batch, pace), effort) : undefined;
      if (slow !== undefined) {
        skip(provider, slow);
        continue;
      }
      const runner = await begin(provider, batch, effort);
      pace.see(provider, batch, runner.time);
      runners.push(runner);
    } catch (error) {
      // A peer may fail at a size (out of memory); this package and its ceilings may not.
      if (provider.kind !== 'peer') throw error;
      skip(provider, error instanceof Error ? error.message.split('\n')[0] : String(error));
    }
  }
  await takeTurns(runners, effort.rounds, elements(batch) >= 2 ** 18);
  const measurements = runners.map(({ provider, calls, rounds, error }) => ({
    case: c,
    provider: provider.name,
    kind: provider.kind,
    threads: provider.threads,
    calls,
    rounds,
    ...(error !== undefined && { error }),
  }));
  for (const { prepared } of runners) await prepared.dispose();
  return { measurements, skipped };
}

/** Milliseconds of a call, from a call on few elements where nothing else is known and the case is large. */
async function expectedTime(provider: Provider, batch: Batch, pace: Pace): Promise<number | undefined> {
  if (pace.expected(provider, batch) === undefined && elements(batch) > 16 * worthScaling) {
    const small = makeBatch({ ...batch.case, rows: 1, size: 4 * worthScaling }, new Arena());
    const prepared = await provider.prepare(small);
    await prepared.time(1); // compiles
    pace.see(provider, small, await prepared.time(1));
    await prepared.dispose();
  }
  return pace.expected(provider, batch);
}

function tooSlow(milliseconds: number | undefined, { longestCall }: Effort): string | undefined {
  if (milliseconds === undefined || milliseconds <= longestCall) return undefined;
  return `a call would take about ${(milliseconds / 1000).toFixed(1)} s`;
}

/** Prepares, validates, and finds how many calls make a sample. */
async function begin(provider: Provider, batch: Batch, effort: Effort): Promise<Runner & { time: number }> {
  const prepared = await provider.prepare(batch);
  const error = await validate(provider, prepared, batch);
  let calls = 1;
  let time = await prepared.time(1);
  // The first calls may be a thousand times slower than the rest: compilation, pages, threads that start.
  for (let i = 0; i < 4 && time < 10 * shortestSample * 1e6; i++) time = Math.min(time, await prepared.time(1));
  while (time * calls < shortestSample * 1e6) {
    calls = Math.ceil(Math.min(10 * calls, (1.2 * shortestSample * 1e6) / time));
    time = await prepared.time(calls);
  }
  const fewest = provider.kind === 'peer' ? effort.fewest : effort.fewestOurs;
  const affordable = Math.floor((effort.budget * 1e6) / (time * calls));
  const turns = Math.min(effort.rounds, Math.max(fewest, affordable));
  return { provider, prepared, calls, turns, rounds: [], error, time };
}

/**
 * A peer that sums a row in float32 has an error that grows with the row's length, in the worst case linearly; and its exp and log may be off by
 * several units in the last place. A wrong formula is off by far more.
 */
const peerSlack = 8;

async function validate(provider: Provider, prepared: Prepared, batch: Batch): Promise<Verdict | undefined> {
  const outcome = await prepared.outcome();
  if (outcome === undefined) return undefined;
  const growth = provider.kind === 'peer' ? Math.max(peerSlack, batch.case.size / batch.content.period) : 1;
  const verdict = judge(batch, outcome, growth);
  const rounded = { loss: Number(verdict.loss.toPrecision(2)), gradient: Number(verdict.gradient.toPrecision(2)) };
  if (verdict.loss <= 1 && verdict.gradient <= 1) return rounded;
  throw new Error(
    `${provider.name} is wrong: loss ${verdict.loss.toPrecision(3)}, gradient ${verdict.gradient.toPrecision(3)} times what is allowed`,
  );
}

/** Every round begins with another provider, and those with fewer turns are spread evenly over the rounds. */
async function takeTurns(runners: readonly Runner[], rounds: number, large: boolean): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < runners.length; i++) {
      const runner = runners[(round + i) % runners.length];
      const takesPart = Math.floor(((round + 1) * runner.turns) / rounds) > Math.floor((round * runner.turns) / rounds);
      if (!takesPart) {
        runner.rounds.push(null);
        continue;
      }
      // Or one provider would pay for the garbage of another; small garbage is left to the end of the round, but not to calls that let the event
      // loop turn: a collection that another has begun goes on there, up to 80 µs in each turn.
      if (i === 0 || large || runner.provider.turns) globalThis.gc?.();
      runner.rounds.push(Number((await runner.prepared.time(runner.calls)).toPrecision(5)));
    }
  }
}
