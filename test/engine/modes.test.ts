// The cache modes, by name: which commands one little script costs (durability sections 1 and 2).

import { describe, expect, it } from 'vitest';
import {
  CACHE_MODES,
  type CacheMode,
  type CacheModeName,
  DEFAULT_CACHE_MODE,
} from '../../src/cache-mode.ts';
import { BUILDS } from '../support/engine.ts';
import { FUA, Rig } from './rig.ts';

/** write, write FUA, flush, flush, write, flush; each waits for the one before. */
const STABLE = [
  ['WRITE 0+4096 STABLE'],
  ['WRITE 8192+4096 STABLE'],
  ['SYNC'], // F7
  [],
  ['WRITE 16384+4096 STABLE'],
  [],
];
const VOLATILE = [
  ['WRITE 0+4096'],
  ['WRITE 8192+4096 STABLE'],
  ['SYNC'],
  [],
  ['WRITE 16384+4096'],
  ['SYNC'],
];
const IGNORED = [['WRITE 0+4096'], ['WRITE 8192+4096'], [], [], ['WRITE 16384+4096'], []];

const EXPECTED: Record<CacheModeName, readonly (readonly string[])[]> = {
  writethrough: STABLE,
  directsync: STABLE,
  writeback: VOLATILE,
  none: VOLATILE,
  unspecified: VOLATILE,
  unsafe: IGNORED,
};

function rigFor(build: (typeof BUILDS)[number], name: CacheModeName): Rig {
  const mode: CacheMode = name === 'unspecified' ? DEFAULT_CACHE_MODE : name;
  const { wce, noFlush } = CACHE_MODES[mode];
  return new Rig(build, { wce, noFlush });
}

/** The names, in the order of the table. */
const NAMES = Object.keys(EXPECTED) as CacheModeName[];

describe.each(BUILDS)('cache modes ($name build; durability 1, 2)', (build) => {
  it.each(NAMES)('%s: the command log of write, write FUA, flush, flush, write, flush', (name) => {
    const rig = rigFor(build, name);
    const log = [
      () => rig.write(0, 4096),
      () => rig.write(8192, 4096, FUA),
      () => rig.flush(),
      () => rig.flush(),
      () => rig.write(16384, 4096),
      () => rig.flush(),
    ].map((step) => {
      step();
      return rig.run();
    });
    expect(log).toEqual(EXPECTED[name]);
    expect(rig.completions.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it.each(NAMES)('%s: two redundant flushes emit no command', (name) => {
    const rig = rigFor(build, name).clean();
    const flushes = [rig.flush(), rig.flush()];
    expect(rig.run()).toEqual([]);
    expect(flushes.map((tag) => rig.status(tag))).toEqual(['OK', 'OK']);
  });

  it.each(NAMES)(
    '%s: the first flush after open syncs once, unless flushes are ignored',
    (name) => {
      const rig = rigFor(build, name);
      rig.flush();
      rig.flush();
      expect(rig.run()).toEqual(name === 'unsafe' ? [] : ['SYNC']);
      rig.flush();
      expect(rig.run()).toEqual([]);
    },
  );

  it.each(NAMES)('%s: several stable writes at once are plain writes and one sync', (name) => {
    const rig = rigFor(build, name).clean();
    for (const offset of [0, 8192, 16384]) rig.write(offset, 4096, FUA);
    const plain = ['WRITE 0+4096', 'WRITE 8192+4096', 'WRITE 16384+4096'];
    expect(rig.run()).toEqual(name === 'unsafe' ? plain : [...plain, 'SYNC']);
  });

  it.each(NAMES)('%s: 200 flushes after one write cost at most one sync', (name) => {
    const rig = rigFor(build, name).clean();
    rig.write(0, 4096);
    rig.run();
    for (let i = 0; i < 200; i++) {
      rig.flush();
      if (i % 3 === 0) rig.run();
    }
    rig.run();
    const { syncs, flushes } = rig.engine.counters();
    const volatile = CACHE_MODES[name === 'unspecified' ? DEFAULT_CACHE_MODE : name].wce;
    const expected = name === 'unsafe' ? 0 : volatile ? 2 : 1;
    expect([syncs, flushes]).toEqual([expected, 201]);
  });
});
