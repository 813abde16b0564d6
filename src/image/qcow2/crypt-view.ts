/**
 * The encrypted data of an image as a backend: plain bytes on this side, the cipher's on the file.
 *
 * E1 The caller's bytes are never changed: what is written is encrypted in scratch memory, and
 *    what was read is decrypted there before it is copied out.
 * E2 A command moves through its slot in chunks of whole sectors, so any length fits. Sectors that
 *    a write covers in part are read first: nobody else may write them meanwhile. A write that
 *    fails may have changed a part of its range, as on any disk.
 * E3 Zeroes on the file are not zeroes here: zeroing writes them. A discard does nothing, and
 *    nothing is known to read as zeroes.
 */
import { ERRNO_ENOTSUP } from '../../abi/command.ts';
import { SECTOR_SIZE } from '../../abi/limits.ts';
import type { Backend, Done } from '../../backend/backend.ts';
import {
  type DataCommand,
  EngineMemory,
  noMemory,
  refuseBeforeAttach,
} from '../../backend/engine-memory.ts';
import { EFAULT, EINVAL, EROFS } from '../../backend/errno.ts';
import { gather, Scratch, scatter } from './codec-scratch.ts';

/** Takes encryption off whole sectors, in place. */
export interface SectorDecipher {
  /** Sectors have their number on the disk, not that in the file. */
  readonly countsOnDisk?: boolean;
  /**
   * `bytes` are whole sectors of 512 bytes, at a multiple of 4 in their buffer; `sector` is the
   * number of the first.
   */
  decrypt(bytes: Uint8Array, sector: number): void;
}

/** Puts encryption on, too. */
export interface SectorCipher extends SectorDecipher {
  /** As decrypt(). */
  encrypt(bytes: Uint8Array, sector: number): void;
}

const SLOTS = 8;
const SLOT_BYTES = 512 * 1024;

/** Where the bytes of a command come from or go to. */
type Kind = 'read' | 'write' | 'zero';

/** One command that moves through its slot. */
interface Job {
  readonly kind: Kind;
  readonly command: DataCommand;
  readonly stable: boolean;
  /** From an offset in the file to that which the cipher counts by. */
  readonly shift: number;
  /** Bytes whose chunks are finished. */
  done: number;
  /** The sectors of this chunk are in the slot, as they were. */
  loaded: boolean;
}

/** The sectors of a chunk, and the part of them that the command names. */
interface Chunk {
  readonly offset: number;
  readonly length: number;
  /** Bytes before that part, and its own. */
  readonly skip: number;
  readonly wanted: number;
}

/** A view over a backend of its own, which it attaches and closes. Offsets are the file's. */
export class CryptView implements Backend {
  readonly blockSizeBytes: number;
  readonly readOnly: boolean;
  readonly depth: number;
  readonly fua: boolean;
  readonly unmaps = false;

  readonly #inner: Backend;
  readonly #decipher: SectorDecipher;
  readonly #cipher: SectorCipher | undefined;
  readonly #scratch = new Scratch(SLOTS, SLOT_BYTES);
  readonly #jobs: (Job | undefined)[] = [];
  #memory = noMemory();
  #done: Done = refuseBeforeAttach;

  /** With nothing but a decipher it is for reading only. */
  constructor(inner: Backend, cipher: SectorDecipher | SectorCipher) {
    this.#inner = inner;
    this.#decipher = cipher;
    this.#cipher = 'encrypt' in cipher ? cipher : undefined;
    this.blockSizeBytes = Math.max(SECTOR_SIZE, inner.blockSizeBytes);
    this.readOnly = inner.readOnly || this.#cipher === undefined;
    this.depth = inner.depth;
    this.fua = inner.fua ?? true;
    inner.attach(this.#scratch.memory, (id, errno) => this.#answered(id, errno));
  }

  get sizeBytes(): number {
    return this.#inner.sizeBytes;
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory);
    this.#done = done;
  }

  read(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    guest = offset,
  ): void {
    const shift = this.#decipher.countsOnDisk === true ? guest - offset : 0;
    this.#begin('read', { id, offset, length, segments, data }, false, shift);
  }

  write(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    stable: boolean,
  ): void {
    this.#begin('write', { id, offset, length, segments, data }, stable);
  }

  /** Zeroes are written, so they are never fast and nothing is unmapped. */
  writeZeroes(id: number, offset: number, length: number, _mayUnmap: boolean, fast: boolean): void {
    if (fast) this.#done(id, ERRNO_ENOTSUP, 0);
    else this.#begin('zero', { id, offset, length, segments: 0, data: 0 }, false);
  }

  discard(id: number): void {
    this.#done(id, 0, 0);
  }

  blockStatus(id: number): void {
    this.#done(id, ERRNO_ENOTSUP, 0);
  }

  sync(id: number): void {
    this.#inner.sync(SLOTS + id);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #begin(kind: Kind, command: DataCommand, stable: boolean, shift = 0): void {
    const refusal = this.#refusalOf(kind, command);
    if (refusal !== 0 || command.length === 0) return this.#done(command.id, refusal, 0);
    const job = { kind, command, stable, shift, done: 0, loaded: false };
    this.#scratch.take((slot) => this.#startChunk(slot, job));
  }

  #refusalOf(kind: Kind, command: DataCommand): number {
    const { offset, length } = command;
    if (kind !== 'read' && this.readOnly) return EROFS;
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) return EINVAL;
    return this.#holds(kind, command) ? 0 : EFAULT;
  }

  #holds(kind: Kind, command: DataCommand): boolean {
    return kind === 'zero' || this.#memory.holds(command);
  }

  #startChunk(slot: number, job: Job): void {
    this.#jobs[slot] = job;
    const chunk = chunkOf(job);
    const address = this.#scratch.addressOf(slot);
    if (isToRead(job, chunk)) this.#inner.read(slot, chunk.offset, chunk.length, 1, address);
    else this.#writeChunk(slot, job, chunk);
  }

  #writeChunk(slot: number, job: Job, { offset, length, skip, wanted }: Chunk): void {
    const bytes = this.#scratch.bytesOf(slot, length);
    const target = bytes.subarray(skip, skip + wanted);
    if (job.kind === 'zero') target.fill(0);
    else gather(this.#memory.views(job.command, job.done), target);
    this.#cipher?.encrypt(bytes, offset / SECTOR_SIZE);
    this.#inner.write(slot, offset, length, 1, this.#scratch.addressOf(slot), job.stable);
  }

  /** Ids of the inner backend: slots, and from SLOTS on what is passed through. */
  #answered(id: number, errno: number): void {
    if (id >= SLOTS) return this.#done(id - SLOTS, errno, 0);
    const job = this.#jobs[id];
    if (job === undefined) return;
    if (errno !== 0) this.#finish(id, job, errno);
    else if (!this.#holds(job.kind, job.command)) this.#finish(id, job, EFAULT);
    else this.#endStep(id, job);
  }

  /** A chunk was read, or written. */
  #endStep(slot: number, job: Job): void {
    const chunk = chunkOf(job);
    job.loaded = isToRead(job, chunk);
    if (job.loaded) {
      const bytes = this.#scratch.bytesOf(slot, chunk.length);
      this.#decipher.decrypt(bytes, (chunk.offset + job.shift) / SECTOR_SIZE);
    }
    if (job.loaded && job.kind !== 'read') this.#startChunk(slot, job);
    else this.#endChunk(slot, job, chunk);
  }

  #endChunk(slot: number, job: Job, { length, skip, wanted }: Chunk): void {
    const { kind, command } = job;
    if (kind === 'read') {
      const bytes = this.#scratch.bytesOf(slot, length).subarray(skip, skip + wanted);
      scatter(bytes, this.#memory.views(command, job.done));
    }
    job.loaded = false;
    job.done += wanted;
    if (job.done === command.length) this.#finish(slot, job, 0);
    else this.#startChunk(slot, job);
  }

  #finish(slot: number, job: Job, errno: number): void {
    this.#jobs[slot] = undefined;
    this.#done(job.command.id, errno, 0);
    this.#scratch.give(slot);
  }
}

/** True before the sectors of the chunk are in the slot, if they are to be there at all (E2). */
function isToRead({ kind, loaded }: Job, { length, wanted }: Chunk): boolean {
  return !loaded && (kind === 'read' || wanted < length);
}

function chunkOf({ command, done }: Job): Chunk {
  const start = command.offset + done;
  const skip = start % SECTOR_SIZE;
  const wanted = Math.min(SLOT_BYTES - skip, command.length - done);
  const length = Math.ceil((skip + wanted) / SECTOR_SIZE) * SECTOR_SIZE;
  return { offset: start - skip, length, skip, wanted };
}
