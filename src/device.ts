/**
 * A disk as the faces see it: requests go in with a token, completions come back to their target.
 * One device has one engine, one memory and one backend; all of it lives on the calling thread.
 */
import { OP_CLEAR_LATCH, OP_RESET_QUEUE } from './abi/request.ts';
import type { DirtyMap } from './dirty-map.ts';
import type { Engine } from './engine.ts';
import type { Arena } from './arena.ts';

/** Who submitted requests; called once for each, never from inside `submit`. */
export interface CompletionTarget {
  /**
   * @param token what was given to `submit`
   * @param status a STATUS_* number of abi/request.ts
   * @param value extents written (OP_BLOCK_STATUS), else 0
   * @param errno what the host reported when status is STATUS_IO_ERROR or STATUS_NO_SPACE, else 0
   */
  completed(token: number, status: number, value: number, errno: number): void;
  /** It is a part of what a gate was shut for. */
  readonly passesGate?: true;
}

/** What a gate lets through: it moves no data, and what is waited for may wait for it. */
export function passesGate(op: number, target: CompletionTarget): boolean {
  return op === OP_RESET_QUEUE || op === OP_CLEAR_LATCH || target.passesGate === true;
}

/** The part of a device that servers and the library need. */
export interface Device {
  /**
   * Everything: the engine's region and the arena. Read it anew each time: the memory may be
   * another one, or have grown, since.
   */
  readonly bytes: Uint8Array;
  /** Transfer buffers for READ, WRITE and BLOCK_STATUS. */
  readonly arena: Arena;
  /** Capacity in bytes; may change, see Disk.resize. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Behind it, for what it knows about failures. */
  readonly engine?: Engine;
  /** Alignment that avoids read-modify-write, in bytes: the smallest preferred I/O size. */
  readonly blockSizeBytes: number;
  /**
   * The dirty bits of a persistent bitmap of its image as they are stored, or of the first backing
   * file that has one of this name; undefined where none has.
   * @throws SluiceError ERR_SLUICE_UNSUPPORTED for one that records what is written to the disk;
   *   ERR_SLUICE_CORRUPT for one that is damaged or out of date
   */
  readonly readBitmap?: ((name: string) => Promise<DirtyMap | undefined>) | undefined;
  /**
   * Queues one request; nothing runs before `kick`. False when the engine holds as many as it can:
   * nothing was queued, try again from `whenSpace`.
   * @param length bytes; 0 or 1 for OP_SET_WCE
   * @param segments 1: `data` is the address of the bytes; more: of a segment table (see abi)
   * @param token any unsigned 32-bit number of the caller's
   * @param queue the engine's queue, which can be reset without the others; default 0, the host's
   */
  submit(
    op: number,
    flags: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    target: CompletionTarget,
    token: number,
    queue?: number,
  ): boolean;
  /** Runs the engine and the host I/O until nothing more can be done now. */
  kick(): void;
  /** Calls back once, after a completion has made room. */
  whenSpace(callback: () => void): void;
}
