/** What a power cut can leave of an image in memory, from the record of what was written to it. */
import type { ImageFile, MemoryFile } from '../../src/image/image-file.ts';
import type { Random } from '../engine/random.ts';

const SECTOR_BYTES = 512;
/** Writes of an epoch that are lost alone, or alone are there. */
const SINGLES_MAX = 24;
const MIXED = 6;

interface Write {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** An image after a cut in an epoch: what comes between two syncs. */
export interface CutState {
  readonly epoch: number;
  readonly bytes: Buffer;
}

/** Notes what is written between two syncs; the `failing`th write fails. */
export class LoggedFile implements ImageFile {
  readonly #epochs: Write[][] = [[]];
  readonly #file: MemoryFile;
  readonly #failing: number;
  #writes = 0;

  constructor(file: MemoryFile, failing = -1) {
    this.#file = file;
    this.#failing = failing;
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  /** Epochs so far. */
  get epochs(): number {
    return this.#epochs.length;
  }

  /** Writes since the last sync. */
  get unsynced(): number {
    return this.#epochs.at(-1)?.length ?? 0;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#file.read(offset, length);
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    if (++this.#writes === this.#failing) return Promise.reject(new Error('no luck'));
    this.#epochs.at(-1)?.push({ offset, bytes: bytes.slice() });
    return this.#file.write(offset, bytes);
  }

  truncate(sizeBytes: number): Promise<void> {
    this.#epochs.at(-1)?.push({ offset: sizeBytes, bytes: new Uint8Array(0) });
    return this.#file.truncate(sizeBytes);
  }

  sync(): Promise<void> {
    this.#epochs.push([]);
    return Promise.resolve();
  }

  /**
   * Of each epoch: all before it, and of it nothing, everything, single writes, all but one, and
   * sectors at random.
   */
  *statesAfterCuts(start: Uint8Array, random: Random): Generator<CutState> {
    let stable: Buffer = Buffer.from(start);
    for (const [epoch, writes] of this.#epochs.entries()) {
      yield { epoch, bytes: stable };
      for (const one of random.shuffle(writes).slice(0, SINGLES_MAX)) {
        yield { epoch, bytes: after(stable, [one]) };
        const others = writes.filter((write) => write !== one);
        yield { epoch, bytes: after(stable, others) };
      }
      for (let mixed = 0; mixed < MIXED && writes.length > 0; mixed++) {
        const sectors = writes.flatMap(sectorsOf).filter(() => random.chance(0.5));
        yield { epoch, bytes: after(stable, sectors) };
      }
      stable = after(stable, writes);
    }
    yield { epoch: this.#epochs.length, bytes: stable };
  }
}

/** A sector is written as a whole. */
function sectorsOf({ offset, bytes }: Write): Write[] {
  const ends: number[] = [];
  const firstEnd = SECTOR_BYTES - (offset % SECTOR_BYTES);
  for (let end = firstEnd; end < bytes.length; end += SECTOR_BYTES) ends.push(end);
  return [...ends, bytes.length].map((end, index) => {
    const from = index === 0 ? 0 : (ends[index - 1] ?? 0);
    return { offset: offset + from, bytes: bytes.subarray(from, end) };
  });
}

function after(start: Buffer, writes: readonly Write[]): Buffer {
  const ends = writes.map(({ offset, bytes }) => offset + bytes.length);
  const image = Buffer.alloc(Math.max(start.length, ...ends));
  image.set(start);
  for (const { offset, bytes } of writes) image.set(bytes, offset);
  return image;
}
