/** The reader of machine code on listings written by hand: what counts as a loop over packs, its widest path, and local memory. */

import t from 'tap';
import { localAccesses, packLoops, readSass } from '../helpers/cuda-sass.js';

/** A listing as cuobjdump prints it, of instructions 16 bytes apart; a second line of each has the rest of its encoding. */
function listing(kernels: Record<string, readonly string[]>): string {
  const lines = ['', '\tcode for sm_90'];
  for (const [name, instructions] of Object.entries(kernels)) {
    lines.push(`\t\tFunction : ${name}`, '\t.headerflags\t@"EF_CUDA_SM90"');
    instructions.forEach((text, i) => {
      const address = (16 * i).toString(16).padStart(4, '0');
      lines.push(`        /*${address}*/                   ${text} ;          /* 0x0000000a0c0c7981 */`);
      lines.push('                                                          /* 0x000fe20000000800 */');
    });
  }
  return lines.join('\n');
}

const wide = 'LDG.E.NA.128 R4, desc[UR4][R2.64]';
const narrow = 'LDG.E.U8 R4, desc[UR4][R2.64]';
const store = 'STG.E.NA.128 desc[UR4][R2.64], R4';

t.test('kernels by name, their instructions by address', (t) => {
  const kernels = readSass(listing({ one: ['NOP', 'EXIT'], two: [wide] }));
  t.same([...kernels.keys()], ['one', 'two']);
  t.same(kernels.get('one'), [
    { address: 0, text: 'NOP' },
    { address: 16, text: 'EXIT' },
  ]);
  t.end();
});

t.test('local memory, with a predicate or without', (t) => {
  const kernel = ['LDL.64 R2, [R1]', '@!P0 STL [R1+0x4], R3', 'LDS R2, [R3]', wide].map((text, i) => ({
    address: i,
    text,
  }));
  t.same(localAccesses(kernel), ['LDL.64 R2, [R1]', '@!P0 STL [R1+0x4], R3']);
  t.end();
});

t.test('a loop over packs', (t) => {
  const loops = (...code: string[]) => packLoops(readSass(listing({ kernel: code })).get('kernel')!);
  t.same(
    loops(
      'MOV R1, c[0x0][0x28]',
      '@P0 BRA 0x60', // 0x10, the head: to the elements one by one
      wide,
      wide,
      store,
      'BRA 0x90', // over them
      narrow, // 0x60, the head of the inner loop
      'FADD R4, R4, R5',
      '@!P1 BRA 0x60',
      '@!P2 BRA 0x10', // 0x90
      'EXIT',
    ),
    [{ loads: 2, stores: 1, instructions: 6 }],
    'the path without narrow accesses',
  );
  t.same(
    loops('NOP', wide, '@P3 BRA 0x10', 'FADD R4, R4, R5', '@P4 BRA 0x0', 'EXIT'),
    [{ loads: 1, stores: 0, instructions: 2 }],
    'the loop around a loop is none',
  );
  t.same(
    loops('@P1 BRA 0x30', wide, 'BRA 0x40', narrow, '@P2 BRA 0x0'),
    [{ loads: 1, stores: 0, instructions: 4 }],
    'of two ways the wide one',
  );
  t.same(loops(narrow, '@P0 BRA 0x0', 'EXIT'), [], 'a loop without wide accesses');
  t.same(loops(wide, 'EXIT'), [], 'no loop');
  t.same(loops(wide, narrow, store, '@P0 BRA 0x0'), [], 'no way around the narrow access');
  t.end();
});
