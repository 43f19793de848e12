/** Finds a key that an object of a JSON text has twice: JSON.parse takes the last one and says nothing. */

/**
 * The first key that repeats one of its own object, at any depth; undefined where there is none.
 *
 * @param text that JSON.parse has accepted
 */
export function duplicateKey(text: string): string | undefined {
  // The keys of each object that is open; undefined for an array.
  const open: (Set<string> | undefined)[] = [];
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '"') {
      const begin = at;
      for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++;
      // Whether it is a key is known at the colon; long values are not worth a copy.
      if (open.at(-1) !== undefined && isKey(text, at + 1)) {
        // Two spellings of a key, one with escapes, are the same.
        const key: string = JSON.parse(text.slice(begin, at + 1));
        const keys = open.at(-1)!;
        if (keys.has(key)) return key;
        keys.add(key);
      }
    } else if (character === '{') open.push(new Set());
    else if (character === '[') open.push(undefined);
    else if (character === '}' || character === ']') open.pop();
  }
  return undefined;
}

function isKey(text: string, after: number): boolean {
  let at = after;
  while (text[at] === ' ' || text[at] === '\n' || text[at] === '\r' || text[at] === '\t') at++;
  return text[at] === ':';
}
