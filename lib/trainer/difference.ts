/** The first place where two JSON values differ, for messages that name it. */

export interface Difference {
  readonly path: string;
  readonly before: string;
  readonly now: string;
}

export function differenceOf(before: unknown, now: unknown, path = ''): Difference | undefined {
  if (isRecord(before) && isRecord(now)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
      const found = differenceOf(before[key], now[key], path === '' ? key : `${path}.${key}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  const [a, b] = [JSON.stringify(before), JSON.stringify(now)];
  return a === b ? undefined : { path, before: String(a), now: String(b) };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
