/**
 * Commands of NBD as operations of the device (abi/request.ts).
 */
import {
  EXTENT_SIZE,
  EXTENT_TABLE_ENTRIES,
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_FAST_ZERO,
  REQUEST_FUA,
  REQUEST_MAY_UNMAP,
} from '../abi/request.ts';
import { CACHE_PIECE_BYTES } from './limits.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_CACHE,
  CMD_FLAG_FAST_ZERO,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
} from './protocol.ts';

/** The operation that a valid command asks for; CACHE is a READ whose data nobody wants. */
export function deviceOperation(type: number): number {
  switch (type) {
    case CMD_WRITE:
      return OP_WRITE;
    case CMD_FLUSH:
      return OP_FLUSH;
    case CMD_TRIM:
      return OP_DISCARD;
    case CMD_WRITE_ZEROES:
      return OP_WRITE_ZEROES;
    case CMD_BLOCK_STATUS:
      return OP_BLOCK_STATUS;
    default:
      return OP_READ;
  }
}

/** A command that is executed for its own sake, and not for its answer. */
export function changesDisk(type: number): boolean {
  return type === CMD_WRITE || type === CMD_TRIM || type === CMD_WRITE_ZEROES;
}

/**
 * The flags of the request. FUA says nothing where nothing is written, and is left out there; a
 * client that does not insist on allocation (NO_HOLE) lets the range be unmapped. NBD proto,
 * "Command flags".
 */
export function deviceFlags(type: number, flags: number): number {
  const fua = (flags & CMD_FLAG_FUA) === 0 ? 0 : REQUEST_FUA;
  switch (type) {
    case CMD_WRITE:
    case CMD_TRIM:
      return fua;
    case CMD_WRITE_ZEROES:
      return (
        fua |
        ((flags & CMD_FLAG_NO_HOLE) === 0 ? REQUEST_MAY_UNMAP : 0) |
        ((flags & CMD_FLAG_FAST_ZERO) === 0 ? 0 : REQUEST_FAST_ZERO)
      );
    default:
      return 0;
  }
}

/** The length of the device's request; CACHE goes in pieces, and FLUSH has none. */
export function transferBytes(type: number, lengthBytes: number): number {
  if (type === CMD_FLUSH) return 0;
  return type === CMD_CACHE ? Math.min(lengthBytes, CACHE_PIECE_BYTES) : lengthBytes;
}

/** The buffer that a request needs in the arena, 0: none. */
export function bufferBytesOf(type: number, lengthBytes: number): number {
  switch (type) {
    case CMD_READ:
    case CMD_WRITE:
      return lengthBytes;
    case CMD_CACHE:
      return Math.min(lengthBytes, CACHE_PIECE_BYTES);
    case CMD_BLOCK_STATUS:
      return EXTENT_TABLE_ENTRIES * EXTENT_SIZE;
    default:
      return 0;
  }
}
