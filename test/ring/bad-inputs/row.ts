/** What a row of hostile input is made of. */

import type { World, WorldOptions } from './world.ts';

/** Writes the input and sees what comes of it. */
export type Play = (world: World) => void;

/** One input, on both rings. */
export interface Row {
  readonly id: string;
  /** What happens, as a true sentence. */
  readonly title: string;
  readonly options?: WorldOptions;
  readonly split: Play;
  /** The same on a packed ring, or why there is no such thing. */
  readonly packed: Play | string;
}

/** A row that is the same on both rings. */
export function both(id: string, title: string, play: Play, options: WorldOptions = {}): Row {
  return { id, title, options, split: play, packed: play };
}

/** A row that each ring has in its own way. */
export function each(
  id: string,
  title: string,
  plays: Pick<Row, 'split' | 'packed'>,
  options: WorldOptions = {},
): Row {
  return { id, title, options, ...plays };
}
