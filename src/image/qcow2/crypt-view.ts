/**
 * The encrypted data of an image as a backend: plain bytes on this side, the cipher's on the file.
 *
 * E1 The caller's bytes are never changed: what is written is encrypted in scratch memory, and
 *    what was read is decrypted there before it is copied out.
 * E2 A command moves through its slot in chunks, so any length fits. A write that fails may have
 *    changed a part of its range, as on any disk.
 * E3 Zeroes on the file are not zeroes here. Zeroing and discarding answer ENOTSUP, and nothing is
 *    known to read as zeroes.
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

/** One command that moves through its slot. */
interface Job {
  readonly command: DataCommand;
  /** Undefined for a read. */
  readonly write: { readonly stable: boolean } | undefined;
  /** Bytes whose chunks are finished. */
  done: number;
}

/**
 * A view over a backend of its own, which it attaches and closes. The sectors of the cipher are
 * those of the file. Offsets and lengths are multiples of 512.
 */
export class CryptView implements Backend {
  readonly blockSizeBytes: number;
  readonly readOnly: boolean;
  readonly depth: number;
  readonly fua: boolean;
  readonly unmaps = false;
  readonly extend?: (id: number, sizeBytes: number) => void;
  readonly resize?: (sizeBytes: number) => Promise<void>;

  readonly #inner: Backend;
  readonly #cipher: SectorCipher;
  readonly #scratch = new Scratch(SLOTS, SLOT_BYTES);
  readonly #jobs: (Job | undefined)[] = [];
  #memory = noMemory();
  #done: Done = refuseBeforeAttach;

  constructor(inner: Backend, cipher: SectorCipher) {
    this.#inner = inner;
    this.#cipher = cipher;
    this.blockSizeBytes = Math.max(SECTOR_SIZE, inner.blockSizeBytes);
    this.readOnly = inner.readOnly;
    this.depth = inner.depth;
    this.fua = inner.fua ?? true;
    if (inner.extend !== undefined) {
      this.extend = (id, sizeBytes) => inner.extend?.(SLOTS + id, sizeBytes);
    }
    if (inner.resize !== undefined) this.resize = inner.resize.bind(inner);
    inner.attach(this.#scratch.memory, (id, errno) => this.#answered(id, errno));
  }

  get sizeBytes(): number {
    return this.#inner.sizeBytes;
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory);
    this.#done = done;
  }

  read(id: number, offset: number, length: number, segments: number, data: number): void {
    this.#begin({ command: { id, offset, length, segments, data }, write: undefined, done: 0 });
  }

  write(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    stable: boolean,
  ): void {
    const command = { id, offset, length, segments, data };
    if (this.readOnly) this.#done(id, EROFS, 0);
    else this.#begin({ command, write: { stable }, done: 0 });
  }

  writeZeroes(id: number): void {
    this.#done(id, ERRNO_ENOTSUP, 0);
  }

  discard(id: number): void {
    this.#done(id, ERRNO_ENOTSUP, 0);
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

  #begin(job: Job): void {
    const refusal = this.#refusalOf(job.command);
    if (refusal !== 0 || job.command.length === 0) this.#done(job.command.id, refusal, 0);
    else this.#scratch.take((slot) => this.#startChunk(slot, job));
  }

  #refusalOf(command: DataCommand): number {
    const { offset, length } = command;
    if (offset % SECTOR_SIZE !== 0 || length % SECTOR_SIZE !== 0) return EINVAL;
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) return EINVAL;
    return this.#memory.holds(command) ? 0 : EFAULT;
  }

  #startChunk(slot: number, job: Job): void {
    this.#jobs[slot] = job;
    const { command, write, done } = job;
    const length = chunkBytes(job);
    const offset = command.offset + done;
    const address = this.#scratch.addressOf(slot);
    if (write === undefined) {
      this.#inner.read(slot, offset, length, 1, address);
      return;
    }
    const bytes = this.#scratch.bytesOf(slot, length);
    gather(this.#memory.views(command, done), bytes);
    this.#cipher.encrypt(bytes, offset / SECTOR_SIZE);
    this.#inner.write(slot, offset, length, 1, address, write.stable);
  }

  /** Ids of the inner backend: slots, and from SLOTS on what is passed through. */
  #answered(id: number, errno: number): void {
    if (id >= SLOTS) return this.#done(id - SLOTS, errno, 0);
    const job = this.#jobs[id];
    if (job === undefined) return;
    if (errno === 0) this.#endChunk(id, job);
    else this.#finish(id, job, errno);
  }

  #endChunk(slot: number, job: Job): void {
    const { command, write } = job;
    if (!this.#memory.holds(command)) return this.#finish(slot, job, EFAULT);
    const length = chunkBytes(job);
    if (write === undefined) {
      const bytes = this.#scratch.bytesOf(slot, length);
      this.#cipher.decrypt(bytes, (command.offset + job.done) / SECTOR_SIZE);
      scatter(bytes, this.#memory.views(command, job.done));
    }
    job.done += length;
    if (job.done === command.length) this.#finish(slot, job, 0);
    else this.#startChunk(slot, job);
  }

  #finish(slot: number, job: Job, errno: number): void {
    this.#jobs[slot] = undefined;
    this.#done(job.command.id, errno, 0);
    this.#scratch.give(slot);
  }
}

function chunkBytes({ command, done }: Job): number {
  return Math.min(SLOT_BYTES, command.length - done);
}
