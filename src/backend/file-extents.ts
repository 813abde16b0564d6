/**
 * Which parts of a file are data and which are holes, by SEEK_DATA and SEEK_HOLE.
 *
 * The first look of a command goes to the pool, because it may have to read the file's block map
 * from the disk. The map is then in memory for the neighbourhood, so the following looks are made
 * in place (1 us instead of 40, which is what makes fragmented files cheap), until one of them is
 * slow. lseek moves the descriptor's own position, which no read or write here uses.
 */
import { ERRNO_EIO } from '../abi/command.ts';
import { EXTENT_HOLE, EXTENT_ZERO } from '../abi/request.ts';
import { type Extent, ExtentBuilder } from './extent-table.ts';
import { EINTR, EINVAL, ENXIO } from './errno.ts';
import type { Native } from './native.ts';

const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/** A look that took longer has been to the disk: the next one goes to the pool again. */
const SLOW_SEEK_MS = 0.2;
/** Longest stretch of looks in place before other work gets its turn. */
const STRETCH = 64;
const INTERRUPTIONS = 100;

/** What a scan found: at least one extent when the errno is 0. */
export interface Scan {
  readonly errno: number;
  readonly extents: readonly Extent[];
}

/** Scans one file. Without native calls, or where the file system does not say, all is data. */
export class ExtentScanner {
  readonly #file: { readonly sizeBytes: number };
  readonly #fd: number;
  #native: Native | null;

  /** @param file has `sizeBytes` at least, and is looked at anew by each scan */
  constructor(fd: number, file: { readonly sizeBytes: number }, native: Native | null) {
    this.#fd = fd;
    this.#file = file;
    this.#native = native;
  }

  /** The extents from `offset` on, to `offset + length` or until the table is full. */
  async scan(offset: number, length: number): Promise<Scan> {
    const native = this.#native;
    if (native === null) return { errno: 0, extents: [{ length, flags: 0 }] };
    const seeker = new Seeker(native, this.#fd);
    const builder = new ExtentBuilder(offset, offset + length);
    let whence = SEEK_DATA;
    while (!builder.isFull) {
      const found = await seeker.seek(builder.position, whence);
      if (found.errno === ENXIO && this.#isCut(native)) return { errno: ERRNO_EIO, extents: [] };
      if (found.errno === EINVAL) return this.#unsupported(length);
      if (found.errno !== 0 && found.errno !== ENXIO) return { errno: found.errno, extents: [] };
      const stop = found.errno === ENXIO ? offset + length : found.position;
      builder.add(stop, whence === SEEK_DATA ? EXTENT_HOLE | EXTENT_ZERO : 0);
      whence = whence === SEEK_DATA ? SEEK_HOLE : SEEK_DATA;
    }
    const { extents } = builder;
    return { errno: 0, extents: extents.length > 0 ? extents : [{ length, flags: 0 }] };
  }

  /** ENXIO means "no data from here on", and also "past the end": of a file that was cut. */
  #isCut(native: Native): boolean {
    return native.lseek(this.#fd, 0, SEEK_END) < this.#file.sizeBytes;
  }

  #unsupported(length: number): Scan {
    this.#native = null;
    return { errno: 0, extents: [{ length, flags: 0 }] };
  }
}

interface Found {
  readonly errno: number;
  readonly position: number;
}

/** lseek, in place as long as that is quick. */
class Seeker {
  readonly #native: Native;
  readonly #fd: number;
  #inPlace = 0;

  constructor(native: Native, fd: number) {
    this.#native = native;
    this.#fd = fd;
  }

  async seek(offset: number, whence: number): Promise<Found> {
    let found: Found = { errno: EINTR, position: 0 };
    for (let tries = 0; found.errno === EINTR && tries < INTERRUPTIONS; tries++) {
      found =
        this.#inPlace > 0 ? this.#seekHere(offset, whence) : await this.#pooled(offset, whence);
    }
    return found;
  }

  #seekHere(offset: number, whence: number): Found {
    const started = performance.now();
    const position = this.#native.lseek(this.#fd, offset, whence);
    const errno = position < 0 ? this.#native.errno() : 0;
    const isSlow = performance.now() - started > SLOW_SEEK_MS;
    this.#inPlace = isSlow ? 0 : this.#inPlace - 1;
    return { errno, position };
  }

  #pooled(offset: number, whence: number): Promise<Found> {
    this.#inPlace = STRETCH;
    return new Promise((resolve) => {
      this.#native.lseekPooled(this.#fd, offset, whence, (errno, position) => {
        resolve({ errno, position });
      });
    });
  }
}
