/** How a value of a sector stands (sector-image.ts). */

/** Its write is at the disk. */
export const IN_FLIGHT = 0;
/** Completed, and a sync makes it stable. */
export const DIRTY = 1;
/** A failed sync has called it clean. */
export const LOST = 2;
/** In flight when a sync failed: lost when it completes as volatile. */
export const LOSING = 3;
/** In flight when a stable write beside it failed: lost when it completes as stable. */
export const UNTOLD = 4;

/** True while the write of a value with this state is at the disk. */
export function isInFlight(state: number | undefined): boolean {
  return state !== DIRTY && state !== LOST;
}
