/** Pairs for the linear policy of the tests: two clouds of points, the same for the same options. */

const SIZE = 4;

/** Uniform numbers in [-1, 1): the generator of Park and Miller. */
function generator(seed) {
  let state = seed + 1;
  return () => {
    state = (48271 * state) % 2147483647;
    return (2 * state) / 2147483647 - 1;
  };
}

export function makePairs({ count = 64, seed = 1, spread = 0.3 } = {}) {
  const random = generator(seed);
  const cloud = (center) =>
    Float32Array.from({ length: SIZE }, (_, i) => center * (i % 2 === 0 ? 1 : -1) + spread * random());
  return Array.from({ length: count }, (_, i) => ({ id: `pair ${i}`, chosen: cloud(0.5), rejected: cloud(-0.5) }));
}

export default function linearData(options) {
  const pairs = makePairs(options);
  return {
    kind: 'indexed',
    length: pairs.length,
    shape: [SIZE],
    fingerprint: `two clouds ${JSON.stringify(options)}`,
    get: (index) => pairs[index],
  };
}

/** The same pairs once, in their order. */
export function stream(options) {
  const pairs = makePairs(options);
  return {
    kind: 'stream',
    shape: [SIZE],
    fingerprint: `two clouds ${JSON.stringify(options)}`,
    async *read(position) {
      yield* pairs.slice(position);
    },
  };
}

/** What is no source of pairs. */
export const list = () => makePairs();
