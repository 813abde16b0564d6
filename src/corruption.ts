/** What the engine has found wrong with an image while it was in use. */
import * as abi from './abi/map.ts';
import type { Engine } from './engine.ts';

/** Damage of an image: no write succeeds after it was found. */
export interface Corruption {
  /** What it is, in words. */
  readonly problem: string;
  /** The entry or the offset in the image file that is wrong. */
  readonly value: bigint;
  /** Where it was met: an offset on the disk, or in a table. */
  readonly where: bigint;
}

const PROBLEMS: Readonly<Record<number, string>> = {
  [abi.CORRUPT_L1_ENTRY]: 'an entry of the L1 table does not point to an L2 table',
  [abi.CORRUPT_L2_ENTRY]: 'an entry of an L2 table is not one that the format knows',
  [abi.CORRUPT_DATA_OFFSET]: 'a data cluster does not lie where one can',
  [abi.CORRUPT_OVERLAP]: 'a write was about to hit metadata',
  [abi.CORRUPT_REFCOUNT_TABLE]: 'a refcount block does not lie where one can',
  [abi.CORRUPT_REFCOUNT]: 'a cluster in use is counted as free',
};

/** What was found, or undefined. */
export function corruptionOf(engine: Engine): Corruption | undefined {
  if (engine.mapAt === 0) return undefined;
  const problem = PROBLEMS[engine.loadMap(abi.MAP_CORRUPT)];
  if (problem === undefined) return undefined;
  const value = engine.loadMap64(abi.MAP_CORRUPT_VALUE);
  return { problem, value, where: engine.loadMap64(abi.MAP_CORRUPT_WHERE) };
}

/** The same as a sentence. */
export function corruptionText({ problem, value, where }: Corruption, name = 'the image'): string {
  const numbers = `0x${value.toString(16)}, met at 0x${where.toString(16)}`;
  return `${name} is corrupt: ${problem} (${numbers}); it takes no more writes, check it`;
}
