/** Names of the ceilings. */

/** What a call moves, without its arithmetic: three reads per branch, then two reads and a write, row by row. */
export const traffic = 'traffic probe';
/** Each tensor once: three reads and a write per branch. */
export const floorOfFour = '4-tensor floor';
