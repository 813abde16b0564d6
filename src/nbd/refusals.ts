/**
 * Why a request is refused before it reaches the device: a number on the way, an error and a text
 * in the reply. NBD proto, "Error values".
 */
import { commandWords } from './commands.ts';
import { NBD_EINVAL, NBD_ENOSPC, NBD_EPERM } from './protocol.ts';
import type { RequestTable, Session } from './requests.ts';

/** It is not refused. */
export const ALLOWED = 0;
export const REFUSED_COMMAND = 1;
export const REFUSED_FLAGS = 2;
export const REFUSED_READ_ONLY = 3;
/** A WRITE or WRITE_ZEROES past the end. */
export const REFUSED_NO_ROOM = 4;
/** Anything else past the end. */
export const REFUSED_RANGE = 5;
/** A READ or WRITE of more than the largest payload. */
export const REFUSED_LONG = 6;
/** BLOCK_STATUS of nothing. */
export const REFUSED_EMPTY = 7;
/** BLOCK_STATUS without a context. */
export const REFUSED_CONTEXTS = 8;
/** A payload with a command that has none. */
export const REFUSED_PAYLOAD = 9;
/** The payload of a BLOCK_STATUS that does not say what it must. */
export const REFUSED_IDS = 10;

/** The error of a refused request. */
export function errorOfRefusal(reason: number): number {
  if (reason === REFUSED_READ_ONLY) return NBD_EPERM;
  return reason === REFUSED_NO_ROOM ? NBD_ENOSPC : NBD_EINVAL;
}

/** The request reaches past the end, so it is known where it goes wrong. */
export function isPastEnd(reason: number): boolean {
  return reason === REFUSED_NO_ROOM || reason === REFUSED_RANGE;
}

/** Why, for people. */
export function refusalText(reason: number, session: Session, table: RequestTable, slot: number) {
  const command = commandWords(table.type[slot] ?? 0);
  const flags = `0x${(table.flags[slot] ?? 0).toString(16)}`;
  switch (reason) {
    case REFUSED_COMMAND:
      return `command ${table.type[slot]} is not known here`;
    case REFUSED_FLAGS:
      return `${command} does not take all of the flags ${flags}`;
    case REFUSED_READ_ONLY:
      return `${command} on a read-only export`;
    case REFUSED_NO_ROOM:
    case REFUSED_RANGE:
      return `${command} past the end of the export (size ${session.sizeBytes})`;
    case REFUSED_LONG:
      return `${command} of more than the maximum payload (${session.maxPayloadBytes} bytes)`;
    case REFUSED_EMPTY:
      return `${command} of 0 bytes`;
    case REFUSED_CONTEXTS:
      return `${command} without a metadata context, none was selected`;
    case REFUSED_PAYLOAD:
      return `${command} takes no payload here (flags ${flags})`;
    default:
      return `${command}: its payload is a length and the ids of selected contexts, each once`;
  }
}
