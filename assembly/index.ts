// The exports, in the order of a request's life.

import { CAPACITY_BITS, COMMAND_SLOTS } from '../src/abi/limits.ts';
import { CONFIG_WCE, REQUEST_HEAD, ENGINE_STATE, REGION_SIZE } from '../src/abi/region.ts';
import { initCommands } from './command/slot.ts';
import { Engine } from './engine.ts';
import { run } from './pump.ts';
import { initSlots } from './request/slot.ts';
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
  if ((base & 63) != 0 || engine.capacity >= (<u64>1) << (<u64>CAPACITY_BITS)) return 0;
  if (popcnt(engine.blockSize) != 1 || engine.blockSize > 1 << 20) return 0;
  if (engine.depth == 0 || engine.depth > <u32>COMMAND_SLOTS) return 0;
  memory.fill(base + REQUEST_HEAD, 0, ENGINE_STATE - REQUEST_HEAD);
  engine.wce = u32((engine.flags & CONFIG_WCE) != 0);
  initSlots(base);
  initHazards(base);
  initElevator(base);
  initFlush(base);
  initStability(base);
  initCommands(base);
  return 1;
}

/**
 * Runs the engine at `base` over everything in its request and result rings. Returns the number of
 * commands in the command ring; completions are in the completion ring.
 */
export function pump(base: usize): u32 {
  return run(base);
}
