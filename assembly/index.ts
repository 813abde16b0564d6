// The exports, in the order of a request's life.

import { CAPACITY_BITS, COMMAND_SLOTS, FILES, SECTOR_SIZE } from '../src/abi/limits.ts';
import {
  CONFIG_DEADLINE,
  CONFIG_WCE,
  ENGINE_STATE,
  REGION_SIZE,
  REQUEST_HEAD,
  STATE_WAIT_NEVER,
} from '../src/abi/region.ts';
import { initFlights } from './command/flight.ts';
import { initCommands } from './command/slot.ts';
import { Engine } from './engine.ts';
import { run } from './pump.ts';
import { initResets } from './request/reset.ts';
import { initSlots } from './request/slot.ts';
import { initBarrier } from './schedule/barrier.ts';
import { initDeadline } from './schedule/deadline.ts';
import { initElevator } from './schedule/elevator.ts';
import { initFlush } from './schedule/flush.ts';
import { initHazards } from './schedule/hazard.ts';
import { initStability } from './schedule/stability.ts';

/** Bytes of memory that an engine needs at a base on a 64-byte boundary. */
export function regionSize(): u32 {
  return REGION_SIZE;
}

/**
 * Makes an engine of the region at `base` from the configuration at its start. Rings and counters
 * start at zero. Returns 1, or 0 when the configuration breaks a limit of src/abi/limits.ts.
 */
export function init(base: usize): u32 {
  const engine = changetype<Engine>(base);
  if ((base & 63) != 0 || !isWithinLimits(engine)) return 0;
  memory.fill(base + REQUEST_HEAD, 0, ENGINE_STATE - REQUEST_HEAD);
  engine.wce = u32(engine.has(CONFIG_WCE));
  engine.wait = <u32>STATE_WAIT_NEVER;
  initSlots(base);
  initResets(base);
  initBarrier(base);
  initHazards(base);
  initElevator(base);
  initDeadline(base);
  initFlush(base);
  initStability(base);
  initFlights(base);
  initCommands(base);
  return 1;
}

/** True when a configuration keeps the limits. */
function isWithinLimits(engine: Engine): bool {
  if (engine.capacity >= (<u64>1) << (<u64>CAPACITY_BITS)) return false;
  if (popcnt(engine.blockSize) != 1 || engine.blockSize > 1 << 20) return false;
  if (engine.depth == 0 || engine.depth > <u32>COMMAND_SLOTS) return false;
  if (engine.files == 0 || engine.files > <u32>FILES) return false;
  if (engine.files > 1) {
    if (popcnt(engine.chunkBytes) != 1) return false;
    if (engine.chunkBytes < max(engine.blockSize, <u32>SECTOR_SIZE)) return false;
  }
  if (!engine.has(CONFIG_DEADLINE)) return true;
  return engine.batch != 0 && engine.writesStarved != 0;
}

/**
 * Runs the engine at `base` over everything in its request and result rings. `now` is the time in
 * microseconds since any moment. Returns the number of commands in the command ring; completions
 * are in the completion ring, and STATE_WAIT says when to call again if nothing happens.
 */
export function pump(base: usize, now: f64): u32 {
  return run(base, now);
}
