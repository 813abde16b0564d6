/**
 * What may happen next to a stream under way: a kind, and in the bits above it which command at the
 * host, by its place among them.
 */

/** The next request is put into the ring, and the engine called. */
export const SUBMIT = 0;
/** The next request is put into the ring; the engine is called with a later event. */
export const QUEUE = 1;
/** A command succeeds. */
export const ANSWER = 2;
/** A command succeeds; the engine is called with a later event. */
export const ANSWER_QUIETLY = 3;
/** A command fails and has changed nothing; the first half of its sectors; for lack of room. */
export const FAIL = 4;
export const TEAR = 5;
export const FILL = 6;
/** Time passes until the engine wants to be called. */
export const WAIT = 7;
/** Time passes until what waits has expired. */
export const EXPIRE = 8;
/** Bits of the kind. */
export const KIND_BITS = 4;
export const KIND_MASK = 15;

/** True for the failure of a command. */
export function isFault(event: number): boolean {
  const kind = event & KIND_MASK;
  return kind === FAIL || kind === TEAR || kind === FILL;
}
