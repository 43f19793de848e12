/** The places where two JSON values differ, for messages that name them. */

export interface Difference {
  readonly path: string;
  /** As JSON; 'undefined' where there is nothing. */
  readonly before: string;
  readonly now: string;
}

export function differencesOf(before: unknown, now: unknown, path = ''): Difference[] {
  if (isRecord(before) && isRecord(now)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(now)]);
    return [...keys].flatMap((key) => differencesOf(before[key], now[key], path === '' ? key : `${path}.${key}`));
  }
  const [a, b] = [JSON.stringify(before), JSON.stringify(now)];
  return a === b ? [] : [{ path, before: String(a), now: String(b) }];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
