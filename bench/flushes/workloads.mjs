// Who writes and flushes in a row of bench:flush, and what a row is to show.

/**
 * A load for client.py, which says what it means.
 * @typedef {{
 *   actors: number, rounds: number, idleRounds: number, writes: [number, number],
 *   connections: number, lockstep: boolean, regionBlocks: number,
 * }} Load
 */

/**
 * What is promised of a row: at most so many times the syncs, and the time, of qemu-nbd; or exactly
 * so many syncs.
 * @typedef {{ syncs?: number, syncRatio?: number, wallRatio?: number }} Target
 */

/**
 * @typedef {{ name: string, load: Load, target: Target, delayMicros: number }} Workload
 */

const REGION_BLOCKS = 128;
/** The most actors of a row. */
const MOST_ACTORS = 64;

/** Bytes of an image on which every row finds room. */
export const IMAGE_BYTES = MOST_ACTORS * REGION_BLOCKS * 4096;

/** @type {Omit<Load, 'actors' | 'rounds'>} */
const MIXED = {
  idleRounds: 0,
  writes: [1, 5],
  connections: 1,
  lockstep: false,
  regionBlocks: REGION_BLOCKS,
};

/** @type {Target} */
const NEVER_MORE = { syncRatio: 1 };
/** A disk whose sync takes a while: an SSD without power-loss protection. */
const SLOW_SYNC_MICROS = 2000;

/**
 * The rows. `scale` makes them smaller: a test runs them all.
 * @param {number} scale
 * @returns {Workload[]}
 */
export function workloads(scale = 1) {
  const rounds = (/** @type {number} */ count) => Math.max(1, Math.round(count * scale));
  const mixed = (/** @type {number} */ actors, /** @type {number} */ count, more = {}) => ({
    ...MIXED,
    actors,
    rounds: rounds(count),
    ...more,
  });
  const flushes = rounds(200);
  return [
    {
      name: `1 write, then ${flushes} flushes`,
      load: mixed(1, 1, { rounds: 1, idleRounds: flushes - 1, writes: [1, 1] }),
      target: { syncs: 1 },
      delayMicros: 0,
    },
    ...[
      [4, 100],
      [16, 50],
      [64, 20],
    ].map(([actors = 0, count = 0]) => ({
      name: `${actors} writers x ${rounds(count)} flushes`,
      load: mixed(actors, count),
      target: NEVER_MORE,
      delayMicros: 0,
    })),
    {
      name: `16 writers x ${rounds(50)}, 4 connections`,
      load: mixed(16, 50, { connections: 4 }),
      target: NEVER_MORE,
      delayMicros: 0,
    },
    {
      name: `16 in lockstep x ${rounds(50)}, 1 write each`,
      load: mixed(16, 50, { writes: [1, 1], lockstep: true }),
      target: NEVER_MORE,
      delayMicros: 0,
    },
    {
      name: `16 writers x ${rounds(50)}, a sync takes 2 ms`,
      load: mixed(16, 50),
      target: { syncRatio: 0.2, wallRatio: 0.3 },
      delayMicros: SLOW_SYNC_MICROS,
    },
  ];
}
