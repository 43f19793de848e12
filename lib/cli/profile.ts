/** Where the time of a training went, as a table: the parts that are the policy's, those of the trainer, and those beside the updates. */

/** What the policy's own model and optimizer take. */
const POLICY_PARTS: readonly string[] = ['policy', 'optimizer', 'average'];
/** Parts that are no part of an update. */
const OUTSIDE: readonly string[] = ['evaluation', 'validation', 'checkpoint'];

export interface ProfileSummary {
  /** Milliseconds of an update by part, largest first. */
  readonly perStep: Readonly<Record<string, number>>;
  /** Share of an update that is neither the policy's nor its reference's. */
  readonly overheadShare: number;
  /** Milliseconds in all beside the updates. */
  readonly outside: Readonly<Record<string, number>>;
}

/**
 * @param profile milliseconds by part, as the trainer gives them
 * @param steps updates they are the sum of
 * @param modelReference whether the reference is a model, as costly as the policy itself, rather than something that was kept
 */
export function summarizeProfile(
  profile: Readonly<Record<string, number>>,
  steps: number,
  modelReference: boolean,
): ProfileSummary {
  const parts = Object.entries(profile).sort(([, a], [, b]) => b - a);
  const within = parts.filter(([name]) => !OUTSIDE.includes(name));
  const ofModels = (name: string) => POLICY_PARTS.includes(name) || (modelReference && name === 'reference');
  const sum = (list: readonly [string, number][]) => list.reduce((total, [, value]) => total + value, 0);
  const overhead = within.filter(([name]) => !ofModels(name));
  return {
    perStep: Object.fromEntries(within.map(([name, value]) => [name, value / Math.max(1, steps)])),
    overheadShare: sum(within) === 0 ? 0 : sum(overhead) / sum(within),
    outside: Object.fromEntries(parts.filter(([name]) => OUTSIDE.includes(name))),
  };
}

export function describeProfile({ perStep, overheadShare, outside }: ProfileSummary): string {
  const whole = Object.values(perStep).reduce((total, value) => total + value, 0);
  const row = (name: string, value: string, share: string) =>
    `${name.padEnd(12)}${value.padStart(12)}${share.padStart(10)}`;
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const lines = Object.entries(perStep).map(([name, value]) =>
    row(name, `${value.toFixed(3)} ms`, percent(whole === 0 ? 0 : value / whole)),
  );
  return [
    'Time of an update:',
    ...lines,
    row('in all', `${whole.toFixed(3)} ms`, ''),
    `Everything that is not the policy: ${percent(overheadShare)} of an update.`,
    ...Object.entries(outside).map(([name, value]) => `Beside the updates, ${name}: ${(value / 1000).toFixed(2)} s.`),
  ].join('\n');
}
