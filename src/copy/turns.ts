/** Long work of short calls on this thread. */

/** As long as it takes until others have their turn: timers, signals, other I/O. */
const TURN_MS = 8;

const waiting: (() => void)[] = [];
/** When the event loop was last seen to go round. */
let began = 0;

/**
 * Awaited between calls that block: resolves at once in a turn of the event loop that is young, and
 * in one of the next else. All such work of the thread shares its turns.
 */
export async function awaitTurn(): Promise<void> {
  if (waiting.length === 0 && performance.now() - began < TURN_MS) return;
  await new Promise<void>((resolve) => {
    waiting.push(resolve);
    if (waiting.length === 1) setImmediate(begin);
  });
}

function begin(): void {
  began = performance.now();
  const next = waiting.shift();
  if (waiting.length > 0) setImmediate(begin);
  next?.();
}
