/** A disk as the backing file of another: reads and block status, by copy. */
import { ERRNO_ENOTSUP } from '../abi/command.ts';
import {
  EXTENT_ABSENT,
  EXTENT_COMPRESSED,
  EXTENT_HOLE,
  EXTENT_TABLE_ENTRIES,
  EXTENT_ZERO,
} from '../abi/request.ts';
import type { Backend, Done } from '../backend/backend.ts';
import { EngineMemory, noMemory, refuseBeforeAttach } from '../backend/engine-memory.ts';
import { EROFS, errnoOf } from '../backend/errno.ts';
import { type Extent, writeExtents } from '../backend/extent-table.ts';
import type { Disk } from '../disk.ts';

const EIO = 5;
const DEPTH = 256;
const FLAGS = { data: 0, zero: EXTENT_ZERO, hole: EXTENT_ZERO | EXTENT_HOLE } as const;

/** Reads through a disk, which is closed with it. */
export class DiskBackend implements Backend {
  readonly readOnly = true;
  readonly blockSizeBytes = 1;
  readonly depth = DEPTH;
  readonly unmaps = false;
  readonly fua = false;
  readonly #disk: Disk;
  #memory = noMemory();
  #done: Done = refuseBeforeAttach;

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  get sizeBytes(): number {
    return this.#disk.size;
  }

  /** The disk that is read. */
  get disk(): Disk {
    return this.#disk;
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory);
    this.#done = done;
  }

  read(id: number, offset: number, length: number, segments: number, data: number): void {
    const command = { id, offset, length, segments, data };
    const answer = async (): Promise<number> => {
      const bytes = await this.#disk.read(offset, length);
      let at = 0;
      for (const view of this.#memory.views(command, 0)) {
        view.set(bytes.subarray(at, at + view.length));
        at += view.length;
      }
      return 0;
    };
    this.#settle(id, answer());
  }

  blockStatus(id: number, offset: number, length: number, data: number): void {
    const answer = async (): Promise<number> => {
      const extents: Extent[] = [];
      for await (const extent of this.#disk.blockStatus(offset, length)) {
        const { length: bytes, kind, depth, present, compressed } = extent;
        const flags = (compressed ? EXTENT_COMPRESSED : 0) | (present ? 0 : EXTENT_ABSENT);
        extents.push({ length: bytes, flags: FLAGS[kind] | flags, depth });
        if (extents.length === EXTENT_TABLE_ENTRIES) break;
      }
      writeExtents(this.#memory.view, data, extents);
      return extents.length;
    };
    this.#settle(id, answer());
  }

  write(id: number): void {
    this.#done(id, EROFS, 0);
  }

  writeZeroes(id: number): void {
    this.#done(id, EROFS, 0);
  }

  discard(id: number): void {
    this.#done(id, ERRNO_ENOTSUP, 0);
  }

  sync(id: number): void {
    this.#done(id, 0, 0);
  }

  close(): Promise<void> {
    return this.#disk.close();
  }

  #settle(id: number, answer: Promise<number>): void {
    answer.then(
      (value) => this.#done(id, 0, value),
      (error: unknown) => this.#done(id, errnoOf((error as Error).cause) || EIO, 0),
    );
  }
}
