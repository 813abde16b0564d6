/**
 * Hostile input on both rings, by number: what a driver may write, and what the device makes of it.
 * Each row is played with the guest's RAM at the bottom, in the middle and at the top of the
 * addresses; after each the same device serves another queue, and after a reset this one.
 */

import { describe, expect, it } from 'vitest';
import { BUILDS } from '../support/engine.ts';
import type { Row } from './bad-inputs/row.ts';
import { ATTACH_ROWS } from './bad-inputs/rows-attach.ts';
import { BLK_ROWS } from './bad-inputs/rows-blk.ts';
import { CHAIN_ROWS } from './bad-inputs/rows-chain.ts';
import { INDIRECT_ROWS } from './bad-inputs/rows-indirect.ts';
import { LANDING_ROWS } from './bad-inputs/rows-landing.ts';
import { RING_ROWS } from './bad-inputs/rows-ring.ts';
import { TIME_ROWS } from './bad-inputs/rows-time.ts';
import { type Where, World, type WorldOptions } from './bad-inputs/world.ts';

const ROWS: readonly Row[] = [
  ...RING_ROWS,
  ...CHAIN_ROWS,
  ...LANDING_ROWS,
  ...INDIRECT_ROWS,
  ...BLK_ROWS,
  ...ATTACH_ROWS,
  ...TIME_ROWS,
];

/** Where each row is played: on the release build everywhere, and with more negotiated. */
const STAGES: Readonly<Record<string, readonly (readonly [Where, WorldOptions])[]>> = {
  debug: [
    ['middle', {}],
    ['middle', { eventIdx: true, inOrder: true }],
  ],
  release: [
    ['bottom', {}],
    ['middle', {}],
    ['top', {}],
    ['middle', { eventIdx: true, inOrder: true }],
  ],
};

for (const build of BUILDS) {
  for (const packed of [false, true]) {
    describe(`${packed ? 'a packed' : 'a split'} ring, ${build.name} build`, () => {
      for (const { id, title, options, split, packed: other } of ROWS) {
        const play = packed ? other : split;
        if (typeof play === 'string') continue;
        it(`${id}: ${title}`, () => {
          for (const [where, features] of STAGES[build.name] ?? [['middle', {}]]) {
            const world = new World(build, packed, where, { ...options, ...features });
            play(world);
            world.end();
          }
        });
      }
    });
  }
}

it('every row is played, V01 to V88', () => {
  const all = Array.from({ length: 88 }, (_, index) => `V${String(index + 1).padStart(2, '0')}`);
  const played = new Set(ROWS.map(({ id }) => id));
  expect([...played].sort()).toEqual(all);
});

it('a row that has no packed form says why', () => {
  const without = ROWS.filter(({ packed }) => typeof packed === 'string');
  expect(new Set(without.map(({ id }) => id))).toEqual(new Set(['V02', 'V11', 'V14', 'V35']));
});
