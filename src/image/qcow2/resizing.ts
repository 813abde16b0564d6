/** Another size for the disk of an image that is open (src/resize.ts). */
import { FILE_BACKING } from '../../abi/map.ts';
import { HEADER_SIZE } from '../../abi/qcow2.ts';
import type { Backend } from '../../backend/backend.ts';
import type { FileBackend } from '../../backend/file.ts';
import type { Mapping, MappingResizing } from '../../mapping.ts';
import { notResizable } from '../../resize-error.ts';
import { BackendFile } from '../image-file.ts';
import { growL1 } from './grow-l1.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { mappingOf, type TableRoom } from './image-mapping.ts';
import type { Qcow2Options } from './open.ts';
import { writeU64 } from './write-field.ts';

/** What is open. */
export interface OpenImage {
  readonly path: string;
  readonly image: FileBackend;
  readonly data: FileBackend | undefined;
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
    const { version, snapshots, bitmaps } = this.#header;
    const { maxSizeBytes } = this.#open;
    if (version === 2 && snapshots > 0) {
      throw notResizable('snapshots of version 2 do not say how large the disk was');
    }
    if (bitmaps !== undefined) {
      throw notResizable('it has bitmaps, which would be too short; remove them first');
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
    this.#header = await growL1(file, this.#header, path, sizeBytes, image.isBlockDevice, most);
    if (data !== undefined) await makeRoomForData(data, this.#header, sizeBytes);
    return this.reload();
  }

  async setSize(sizeBytes: number): Promise<Mapping> {
    const { data } = this.#open;
    await writeU64(this.#file(), HEADER_SIZE, BigInt(sizeBytes));
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

function wholeClusters({ clusterBytes }: Qcow2Header, sizeBytes: number): number {
  return Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
}
