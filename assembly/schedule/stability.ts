// The class of a request, and how a stable write becomes stable.
//
// W1  A write-class request is stable when the write cache is off, when it carries FUA, or when it
//     is a durable barrier; with cache=unsafe nothing is. A mapped disk takes FUA for a wish to
//     have its tables handed to the host then, so that the write survives the process.
// W2  The class is fixed when the request is taken; that of a barrier when it starts, and nothing
//     is taken in between.
// W3  Where the host offers it, a stable write that is alone goes to the O_DSYNC descriptor. When
//     others are open beside its run, it is written plainly and shares one sync with them
//     (flush.ts, F8), and so is a run that takes several commands. So two never meet on the
//     descriptor: when the system loses a page it tells one of them only.
// W4  After a failed sync no stable write succeeds, by whatever descriptor (flush.ts, F6).

import { CONFIG_BARRIER_DURABLE, CONFIG_FUA, CONFIG_NO_FLUSH } from '../../src/abi/region.ts';
import { OP_WRITE, REQUEST_BARRIER, REQUEST_FUA } from '../../src/abi/request.ts';
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
  if (state.has(CONFIG_NO_FLUSH)) {
    slot.stable = u8(state.map != 0 && (slot.flags & REQUEST_FUA) != 0); // W1
    if (slot.stable && slot.op == OP_WRITE) Stability.of(engine).open += 1;
    return;
  }
  const asks = state.has(CONFIG_BARRIER_DURABLE) ? REQUEST_FUA | REQUEST_BARRIER : REQUEST_FUA;
  if (state.wce && (slot.flags & asks) == 0) return;
  slot.stable = 1;
  if (slot.op == OP_WRITE) Stability.of(engine).open += 1;
}

/** A classified request has finished. */
export function declassify(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (slot.stable && slot.op == OP_WRITE) Stability.of(engine).open -= 1;
}

/** W3: true when a run of `parts` requests and `bytes` bytes goes to the O_DSYNC descriptor. */
export function goesDirect(engine: usize, first: Slot, parts: u32, bytes: u64): bool {
  const state = changetype<Engine>(engine);
  if (first.op != OP_WRITE || !first.stable || !state.has(CONFIG_FUA)) return false;
  if (state.has(CONFIG_NO_FLUSH)) return false;
  if (state.files > 1 && state.map == 0) {
    const chunkBytes = <u64>state.chunkBytes;
    if ((first.offset % chunkBytes) + bytes > chunkBytes) return false;
  }
  return !state.latched && Stability.of(engine).open <= parts;
}
