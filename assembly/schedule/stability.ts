// The class of a request, and how a stable write becomes stable.
//
// W1  A write-class request is stable when the write cache is off or it carries FUA; with
//     cache=unsafe nothing is.
// W2  The class is fixed when the request is taken.
// W3  A stable write that is alone goes to the O_DSYNC descriptor. When others are open beside its
//     run, it is written plainly and shares one sync with them (flush.ts, F8). After a failed sync
//     no sync is trusted, so it goes to the O_DSYNC descriptor again.

import { CONFIG_NO_FLUSH } from '../../src/abi/region.ts';
import { OP_WRITE, REQUEST_FUA } from '../../src/abi/request.ts';
import { Engine } from '../engine.ts';
import { STABILITY_STATE } from '../memory.ts';
import { Slot } from '../request/slot.ts';

@unmanaged
class Stability {
  /** Stable writes (OP_WRITE) taken and not finished. */
  open: u32;

  static of(engine: usize): Stability {
    return changetype<Stability>(engine + STABILITY_STATE);
  }
}

export function initStability(engine: usize): void {
  Stability.of(engine).open = 0;
}

/** Gives a write-class request its class (W1, W2). */
export function classify(engine: usize, index: u32): void {
  const state = changetype<Engine>(engine);
  const slot = Slot.at(engine, index);
  if ((state.flags & CONFIG_NO_FLUSH) != 0) return;
  if (state.wce && (slot.flags & REQUEST_FUA) == 0) return;
  slot.stable = 1;
  if (slot.op == OP_WRITE) Stability.of(engine).open += 1;
}

/** A classified request has finished. */
export function declassify(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (slot.stable && slot.op == OP_WRITE) Stability.of(engine).open -= 1;
}

/** W3: true when a run of `parts` stable writes should share a sync with others. */
export function sharesSync(engine: usize, parts: u32): bool {
  return !changetype<Engine>(engine).latched && Stability.of(engine).open > parts;
}
