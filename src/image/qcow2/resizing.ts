/** Another size for the disk of an image that is open (src/resize.ts). */
import { FILE_BACKING } from '../../abi/map.ts';
import { HEADER_SIZE } from '../../abi/qcow2.ts';
import type { Backend } from '../../backend/backend.ts';
import type { FileBackend } from '../../backend/file.ts';
import type { Mapping, MappingResizing } from '../../mapping.ts';
import { notResizable } from '../../resize-error.ts';
import { fill } from '../fill.ts';
import { BackendFile, type ImageFile, isFailedSync } from '../image-file.ts';
import type { Opened } from './bitmap-edit.ts';
import { bitmapsToResize, markBehind, placeFitting, switchBitmaps } from './bitmap-resize.ts';
import type { Preallocation } from './create-options.ts';
import type { SectorCipher, SectorDecipher } from './crypt-view.ts';
import { growL1 } from './grow-l1.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { mappingOf, type TableRoom } from './image-mapping.ts';
import type { Qcow2Options } from './open.ts';
import { preallocate } from './preallocate.ts';
import { repairImage } from './repair.ts';
import { writeU64 } from './write-field.ts';

/** What is to be had of a disk that is open for its new size alone. */
export interface ResizeWork {
  /** Room for what is new. */
  readonly preallocation: Preallocation;
  readonly signal?: AbortSignal | undefined;
}

const NONE: ReadonlySet<string> = new Set();

/** What is open. */
export interface OpenImage {
  readonly path: string;
  readonly image: FileBackend;
  readonly data: FileBackend | undefined;
  readonly cipher: SectorDecipher | undefined;
  /** All of its files, as the device has them. */
  readonly files: readonly (Backend | undefined)[];
  readonly options: Qcow2Options;
  readonly room: TableRoom;
  /** The greatest size that there is room for. */
  readonly maxSizeBytes: number;
}

export class Qcow2Resizing implements MappingResizing {
  readonly #open: OpenImage;
  #header: Qcow2Header;
  /** Bitmaps whose mark at the new end goes when the disk ends there (bitmap-resize.ts, Z4). */
  #cut: ReadonlySet<string> = NONE;

  constructor(open: OpenImage, header: Qcow2Header) {
    this.#open = open;
    this.#header = header;
  }

  get shownBytes(): number {
    const { files, data } = this.#open;
    const { dataFile, sizeBytes } = this.#header;
    const backingBytes = files[FILE_BACKING]?.sizeBytes ?? 0;
    const rawBytes = dataFile?.raw === true ? (data?.sizeBytes ?? 0) : 0;
    return Math.max(backingBytes, rawBytes, wholeClusters(this.#header, sizeBytes));
  }

  check(sizeBytes: number): void {
    const { version, snapshots } = this.#header;
    const { maxSizeBytes, cipher, options } = this.#open;
    if (version === 2 && snapshots > 0) {
      throw notResizable('snapshots of version 2 do not say how large the disk was');
    }
    const mode = options.resize?.preallocation;
    if (version === 2 && cipher !== undefined && (mode === 'metadata' || mode === 'falloc')) {
      const advice = 'use full, or amend it to version 3';
      throw notResizable(
        `encrypted and of version 2, what is new with ${mode} is noise; ${advice}`,
      );
    }
    if (sizeBytes > maxSizeBytes) {
      const advice = `open it with maxSizeBytes: ${sizeBytes}`;
      throw notResizable(`it was opened with room for ${maxSizeBytes} bytes; ${advice}`);
    }
  }

  async makeRoom(sizeBytes: number): Promise<Mapping> {
    const { path, image, data, room } = this.#open;
    const file = this.#file();
    const most = room.refcountTableEntries;
    // The engine may have moved the refcount table.
    this.#header = await readHeader(file, path);
    const { sizeBytes: found, bitmaps } = this.#header;
    this.#cut = NONE;
    if (bitmaps?.consistent === true) {
      const opened = await this.#bitmaps(file, sizeBytes);
      if (sizeBytes < found) this.#cut = await markBehind(opened, sizeBytes);
      this.#header = await readHeader(file, path);
    }
    this.#header = await growL1(file, this.#header, path, sizeBytes, image.isBlockDevice, most);
    if (data !== undefined) await this.#makeRoomInData(data, found, sizeBytes);
    return this.reload();
  }

  async setSize(sizeBytes: number): Promise<Mapping> {
    const { data, path } = this.#open;
    const file = this.#file();
    this.#header = await readHeader(file, path);
    try {
      await this.#tellSize(file, sizeBytes);
    } catch (error) {
      if (!isFailedSync(error)) await Promise.allSettled([giveBack(file, path)]);
      throw error;
    }
    const dataBytes = wholeClusters(this.#header, sizeBytes);
    if (data !== undefined && !data.isBlockDevice && data.sizeBytes > dataBytes) {
      await data.resize(dataBytes);
    }
    return this.reload();
  }

  async reload(): Promise<Mapping> {
    const { path, files, options, room } = this.#open;
    const file = this.#file();
    this.#header = await readHeader(file, path);
    return mappingOf(file, this.#header, path, files, options, undefined, room);
  }

  /** All that the size needs is stable before it is told. */
  async #tellSize(file: BackendFile, sizeBytes: number): Promise<void> {
    const isKept = this.#header.bitmaps?.consistent === true;
    const opened = isKept ? await this.#bitmaps(file, sizeBytes) : undefined;
    const placed = opened && (await placeFitting(opened, sizeBytes, this.#cut));
    if (sizeBytes > this.#header.sizeBytes) await this.#preallocate(file, sizeBytes);
    if (opened === undefined || placed === undefined) {
      await writeU64(file, HEADER_SIZE, BigInt(sizeBytes));
    } else {
      await switchBitmaps(opened, placed, sizeBytes);
    }
  }

  #bitmaps(file: BackendFile, sizeBytes: number): Promise<Opened> {
    const { path, image, room } = this.#open;
    return bitmapsToResize(file, this.#header, path, sizeBytes, {
      isBlockDevice: image.isBlockDevice,
      refcountTableEntriesMax: room.refcountTableEntries,
    });
  }

  /** Clusters for what is new, as it was asked for (preallocate.ts). */
  async #preallocate(file: BackendFile, sizeBytes: number): Promise<void> {
    const { path, image, data, cipher, options, room } = this.#open;
    const { preallocation = 'off', signal } = options.resize ?? {};
    if (preallocation === 'off') return;
    const target = data === undefined ? image : data;
    // A block device keeps what it held.
    const isStale = target.isBlockDevice && preallocation === 'metadata';
    const how = isStale ? 'falloc' : preallocation;
    const isWritten = preallocation === 'full';
    const written = isWritten ? encrypting(cipher) : undefined;
    const into = data === undefined ? file : new BackendFile(data.twin(), path);
    await preallocate(file, await readHeader(file, path), {
      sizeBytes,
      isWritten,
      isBlockDevice: image.isBlockDevice,
      refcountTableEntriesMax: room.refcountTableEntries,
      fill: async (from, to) => {
        await fill(into, { from, to, how, cipher: written }, { signal });
        await into.sync();
      },
    });
  }

  /** A data file that is preallocated shows nothing of what it held behind the disk. */
  async #makeRoomInData(data: FileBackend, found: number, sizeBytes: number): Promise<void> {
    const { preallocation = 'off' } = this.#open.options.resize ?? {};
    const foundBytes = wholeClusters(this.#header, found);
    const isStale = preallocation !== 'off' && sizeBytes > found && data.sizeBytes > foundBytes;
    if (isStale && !data.isBlockDevice) await data.resize(foundBytes);
    await makeRoomForData(data, this.#header, sizeBytes);
  }

  /** A twin: the engine's own stays attached to it, whatever fails. */
  #file(): BackendFile {
    const { image, path } = this.#open;
    return new BackendFile(image.twin(), path);
  }
}

/** A data file has whole clusters: they are filled to their ends, also the last one. */
export async function makeRoomForData(
  data: FileBackend,
  header: Qcow2Header,
  sizeBytes: number,
): Promise<void> {
  const wanted = wholeClusters(header, sizeBytes);
  if (data.sizeBytes < wanted) await data.resize(wanted);
}

/** The old encryption, which cannot encrypt, is not opened for writing (encryption.ts, K2). */
function encrypting(cipher: SectorDecipher | undefined): SectorCipher | undefined {
  if (cipher === undefined || 'encrypt' in cipher) return cipher as SectorCipher | undefined;
  throw new Error('the cipher of an image that is open for writing encrypts');
}

/** What was taken for a size that is not told. */
async function giveBack(file: ImageFile, path: string): Promise<void> {
  await repairImage(file, await readHeader(file, path), 'leaks');
}

function wholeClusters({ clusterBytes }: Qcow2Header, sizeBytes: number): number {
  return Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
}
