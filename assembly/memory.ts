// Map of the private part of the region: X = Y + Y_SIZE, checked below. What the host sees is in
// src/abi/region.ts.

import { COMMAND_SLOTS, FILES, MERGE_SEGMENTS, QUEUES, REQUEST_SLOTS } from '../src/abi/limits.ts';
import {
  COMMAND_RING,
  COMPLETION_RING,
  ENGINE_STATE,
  ENGINE_TABLES,
  REGION_SIZE,
  REQUEST_RING,
  RESULT_RING,
} from '../src/abi/region.ts';
import { COMMAND_SIZE, RESULT_SIZE } from '../src/abi/command.ts';
import { COMPLETION_SIZE, REQUEST_SIZE, SEGMENT_SIZE } from '../src/abi/request.ts';
import { RING_ENTRIES } from '../src/abi/limits.ts';

// The scalar state of each stage, one cache line each.
export const SLOT_POOL: usize = ENGINE_STATE;
export const HAZARD_STATE: usize = SLOT_POOL + 64;
export const ELEVATOR_STATE: usize = HAZARD_STATE + 64;
export const FLUSH_STATE: usize = ELEVATOR_STATE + 64;
export const STABILITY_STATE: usize = FLUSH_STATE + 64;
export const BARRIER_STATE: usize = STABILITY_STATE + 64;
export const RESET_STATE: usize = BARRIER_STATE + 64;
export const DEADLINE_STATE: usize = RESET_STATE + 64;
export const COMMAND_STATE: usize = DEADLINE_STATE + 64;
export const FLIGHT_STATE: usize = COMMAND_STATE + 64;
export const UNWRITTEN_STATE: usize = FLIGHT_STATE + 64;
export const EXTENT: usize = UNWRITTEN_STATE + 64;

// Tables.
export const SLOT_SIZE: usize = 128;
export const SLOTS: usize = ENGINE_TABLES;
export const WRITE_STARTS: usize = SLOTS + <usize>REQUEST_SLOTS * SLOT_SIZE;
export const WRITE_ENDS: usize = WRITE_STARTS + REQUEST_SLOTS * 8;
export const WRITE_OWNERS: usize = WRITE_ENDS + REQUEST_SLOTS * 8;
export const READ_STARTS: usize = WRITE_OWNERS + REQUEST_SLOTS * 4;
export const READ_ENDS: usize = READ_STARTS + REQUEST_SLOTS * 8;
export const READ_OWNERS: usize = READ_ENDS + REQUEST_SLOTS * 8;
export const BLOCKED: usize = READ_OWNERS + REQUEST_SLOTS * 4;
export const KEYS: usize = BLOCKED + REQUEST_SLOTS * 4;
export const SORT_SCRATCH: usize = KEYS + REQUEST_SLOTS * 8;
export const RUN_SIZE: usize = 32;
export const RUNS: usize = SORT_SCRATCH + REQUEST_SLOTS * 8 + 4096;
export const DOMAIN_SIZE: usize = 32;
export const DOMAINS: usize = RUNS + <usize>REQUEST_SLOTS * RUN_SIZE;
export const QUEUE_SIZE: usize = 8;
export const QUEUE_TABLE: usize = DOMAINS + <usize>FILES * DOMAIN_SIZE;
export const FLIGHT_SIZE: usize = 64;
/** As many as commands, and one that waits for its first command. */
export const FLIGHT_SLOTS: u32 = <u32>COMMAND_SLOTS + 1;
export const FLIGHTS: usize = QUEUE_TABLE + <usize>QUEUES * QUEUE_SIZE;
export const COMMAND_SLOT_SIZE: usize = 16;
export const COMMANDS: usize = FLIGHTS + <usize>FLIGHT_SLOTS * FLIGHT_SIZE;
export const SEGMENTS: usize = COMMANDS + <usize>COMMAND_SLOTS * COMMAND_SLOT_SIZE;
/** Room for what a mapping writes before and after the data. */
export const TABLE_ENTRIES: i32 = MERGE_SEGMENTS + 2;
export const TABLES_END: usize = SEGMENTS + COMMAND_SLOTS * TABLE_ENTRIES * SEGMENT_SIZE;

if (EXTENT + 64 > <usize>REQUEST_RING) ERROR('the state of the stages runs into the rings');
if (REQUEST_RING + RING_ENTRIES * REQUEST_SIZE != COMMAND_RING) ERROR('COMMAND_RING');
if (COMMAND_RING + RING_ENTRIES * COMMAND_SIZE != RESULT_RING) ERROR('RESULT_RING');
if (RESULT_RING + RING_ENTRIES * RESULT_SIZE != COMPLETION_RING) ERROR('COMPLETION_RING');
if (COMPLETION_RING + RING_ENTRIES * COMPLETION_SIZE != ENGINE_TABLES) ERROR('ENGINE_TABLES');
if (TABLES_END > <usize>REGION_SIZE) ERROR('REGION_SIZE');
