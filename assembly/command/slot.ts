// The command slot: which flight a command at the host belongs to.
//
// C1  An id is free, or names exactly one command at the host; a result for anything else is a
//     bug of the host.

import { COMMAND_SLOTS } from '../../src/abi/limits.ts';
import { Engine, NONE } from '../engine.ts';
import { COMMAND_SLOT_SIZE, COMMAND_STATE, COMMANDS } from '../memory.ts';
import { VERIFY, verify } from '../verify.ts';

@unmanaged
export class CommandSlot {
  /** Its flight, or NONE while the id is free. */
  flight: u32;
  /** Next free id. */
  next: u32;
  /** The host file that it goes to. */
  file: u32;
  /** 1: it writes what a mapping has given a place. */
  job: u32;

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
    command.flight = NONE;
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

/** Takes a free id for a command of `flight` to `file`. The caller has seen room. */
export function openCommand(engine: usize, flight: u32, file: u32): u32 {
  const pool = CommandPool.of(engine);
  const id = pool.freeHead;
  const command = CommandSlot.at(engine, id);
  if (VERIFY) verify(command.flight == NONE);
  pool.freeHead = command.next;
  pool.inFlight += 1;
  command.flight = flight;
  command.file = file;
  command.job = 0;
  return id;
}

/** Frees an id; returns the flight that it belonged to. */
export function closeCommand(engine: usize, id: u32): u32 {
  const pool = CommandPool.of(engine);
  const command = CommandSlot.at(engine, id);
  const flight = command.flight;
  if (VERIFY) verify(flight != NONE); // C1
  command.flight = NONE;
  command.next = pool.freeHead;
  pool.freeHead = id;
  pool.inFlight -= 1;
  return flight;
}
