/** Which of the contents that a power cut may leave it leaves: the choices, and what each means. */

/** A write that a power cut may undo. */
export interface VolatileWrite {
  /** Its number, in the order in which writes began, from 1. */
  readonly write: number;
  /** Place in completion order among all writes, or 0 while it is in flight. */
  readonly completed: number;
  /** Sectors that still depend on it. */
  readonly sectors: readonly number[];
}

/**
 * Which of the contents that a power cut may leave it leaves.
 *
 * - `stable`: nothing that is volatile.
 * - `sample`: each sector decides by itself, as the seed has it.
 * - `prefix`: the first `writes` of `volatileWrites()`, none of the others.
 * - `torn`: the same, and the first `sectors` sectors of the next one.
 * - `subset`: the writes with these numbers; where several meet, the newest.
 */
export type Cut =
  | { readonly kind: 'stable' }
  | { readonly kind: 'sample'; readonly seed: number }
  | { readonly kind: 'prefix'; readonly writes: number }
  | { readonly kind: 'torn'; readonly writes: number; readonly sectors: number }
  | { readonly kind: 'subset'; readonly writes: ReadonlySet<number> };

/** Whether a write, by its rank, leaves its value in a sector. */
export function survival(
  cut: Cut,
  writes: readonly VolatileWrite[],
): (rank: number, sector: number) => boolean {
  if (cut.kind === 'prefix') return (rank) => rank < cut.writes;
  if (cut.kind === 'subset') return (rank) => cut.writes.has(writes[rank]?.write ?? 0);
  if (cut.kind === 'torn') {
    const torn = new Set(writes[cut.writes]?.sectors.slice(0, cut.sectors));
    return (rank, sector) => rank < cut.writes || (rank === cut.writes && torn.has(sector));
  }
  return () => false;
}
