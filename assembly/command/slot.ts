// The command slot: which requests ride in which command at the host.
//
// C1  An id is free, or names exactly one command at the host; a result for anything else is a
//     bug of the host.

import { COMMAND_SLOTS } from '../../src/abi/limits.ts';
import { Engine, NONE } from '../engine.ts';
import { COMMAND_SLOT_SIZE, COMMAND_STATE, COMMANDS } from '../memory.ts';
import { VERIFY, verify } from '../verify.ts';

/** The id of the sync; data commands have ids below it. */
export const SYNC_ID: u32 = COMMAND_SLOTS;

@unmanaged
export class CommandSlot {
  /** First request of the chain that rides in it, or NONE while the id is free. */
  head: u32;
  /** Next free id. */
  next: u32;
  /** 1: a write that is stable when the host answers (O_DSYNC). */
  stable: u32;

  static at(engine: usize, id: u32): CommandSlot {
    if (VERIFY) verify(id < <u32>COMMAND_SLOTS);
    return changetype<CommandSlot>(engine + COMMANDS + <usize>id * COMMAND_SLOT_SIZE);
  }
}

if (offsetof<CommandSlot>() > COMMAND_SLOT_SIZE) ERROR('CommandSlot');

@unmanaged
class CommandPool {
  freeHead: u32;
  /** Data commands at the host. */
  inFlight: u32;

  static of(engine: usize): CommandPool {
    return changetype<CommandPool>(engine + COMMAND_STATE);
  }
}

export function initCommands(engine: usize): void {
  const pool = CommandPool.of(engine);
  for (let id: u32 = 0; id < <u32>COMMAND_SLOTS; id++) {
    const command = CommandSlot.at(engine, id);
    command.head = NONE;
    command.next = id + 1 < <u32>COMMAND_SLOTS ? id + 1 : NONE;
  }
  pool.freeHead = 0;
  pool.inFlight = 0;
}

/** Data commands that may still be handed to the host. */
export function commandRoom(engine: usize): u32 {
  const inFlight = CommandPool.of(engine).inFlight;
  const depth = changetype<Engine>(engine).depth;
  return inFlight < depth ? depth - inFlight : 0;
}

/** Takes a free id for the chain that starts at `head`. The caller has seen room. */
export function openCommand(engine: usize, head: u32): u32 {
  const pool = CommandPool.of(engine);
  const id = pool.freeHead;
  const command = CommandSlot.at(engine, id);
  if (VERIFY) verify(command.head == NONE);
  pool.freeHead = command.next;
  pool.inFlight += 1;
  command.head = head;
  command.stable = 0;
  return id;
}

/** Frees an id; returns the chain that rode in it. */
export function closeCommand(engine: usize, id: u32): u32 {
  const pool = CommandPool.of(engine);
  const command = CommandSlot.at(engine, id);
  const head = command.head;
  if (VERIFY) verify(head != NONE); // C1
  command.head = NONE;
  command.next = pool.freeHead;
  pool.freeHead = id;
  pool.inFlight -= 1;
  return head;
}
