/**
 * A new qcow2 image: data goes where the image ends, and zeroes take no clusters, but where every
 * cluster is to have its place.
 */
import { SECTOR_SIZE } from '../abi/limits.ts';
import { fill, type FillFile } from '../image/fill.ts';
import { isMappedWhole } from '../image/qcow2/create-layout.ts';
import type { NewImage } from '../image/qcow2/create-options.ts';
import { type DataRun, ImageWriter, type PlaceKind } from '../image/qcow2/image-writer.ts';
import type { NewLuksArea } from '../image/qcow2/luks-create.ts';
import type { CopyBuffer } from './buffers.ts';
import type { CodecPool, Codings } from './codec-pool.ts';
import { dataRuns } from './data-runs.ts';
import type { Output } from './output.ts';
import type { Piece, Target } from './target.ts';

const PIECE_BYTES = 4 * 1024 * 1024;

/** Options of an image target. */
export interface ImageTargetOptions {
  readonly image: NewImage;
  /** Clusters are compressed by these threads. */
  readonly codecs?: CodecPool | undefined;
  /** Zeroes take clusters, too. */
  readonly isFull: boolean;
  /** Where data goes that lies in a file of its own. */
  readonly data?: Output | undefined;
  /** The file of the data, where room is set aside for clusters that nothing is written to. */
  readonly room?: FillFile | undefined;
  /** Of an encrypted image. */
  readonly luks?: NewLuksArea | undefined;
}

/** Clusters of one kind that lie beside each other; indices count from the piece. */
interface Run {
  readonly kind: PlaceKind;
  readonly from: number;
  readonly to: number;
}

/** Writes the pieces as they come. */
export class ImageTarget implements Target<Codings | undefined> {
  readonly pieceBytes: number;
  readonly granuleBytes: number;
  readonly wantsZeroes: boolean;
  readonly #output: Output;
  readonly #data: Output;
  readonly #options: ImageTargetOptions;
  readonly #writer: ImageWriter;
  readonly #isMapped: boolean;

  constructor(output: Output, options: ImageTargetOptions) {
    const { image, room, luks } = options;
    this.#output = output;
    this.#data = options.data ?? output;
    this.#options = options;
    this.#isMapped = isMappedWhole(image);
    // A block device shows what it held before where nothing is written.
    const isWritten = this.#isMapped && room?.keepsBytes === true;
    const isFull = options.isFull || image.preallocation === 'full' || isWritten;
    this.granuleBytes = image.clusterBytes;
    this.pieceBytes = Math.max(PIECE_BYTES, image.clusterBytes);
    // Version 2 cannot say that a cluster is zero where a backing file says something else.
    this.wantsZeroes = isFull || (image.version === 2 && image.backing !== undefined);
    this.#writer = new ImageWriter(
      image,
      (offset, bytes) => output.later(offset, bytes),
      luks?.bytes,
    );
  }

  async prepare(piece: Piece): Promise<Codings | undefined> {
    const { codecs, image } = this.#options;
    if (codecs === undefined || piece.buffer === undefined) return undefined;
    const { clusterBytes, compression } = image;
    const { bytes } = piece.buffer;
    const runs = this.#runs(piece).filter(({ kind }) => kind === 'data');
    const parts = runs.map(({ from, to }) =>
      bytes.subarray(from * clusterBytes, to * clusterBytes),
    );
    if (parts.length === 0) return undefined;
    return codecs.compress(compression, clusterBytes, joined(parts, codecs));
  }

  async put(piece: Piece, prepared: Codings | undefined): Promise<void> {
    const writing: Promise<void>[] = [];
    const streams = prepared && this.#streamsOf(piece, prepared, writing);
    // In the order of the disk: an L2 table is written when the next one begins.
    for (const run of this.#runs(piece)) {
      if (run.kind === 'data' && streams !== undefined) streams.put(run);
      else if (run.kind === 'data') writing.push(...this.#putData(piece, run));
      else if (this.#isMapped) writing.push(...this.#putPlaces(piece, run));
      else if (run.kind === 'zero') this.#putZeroes(piece, run);
    }
    streams?.end();
    try {
      await Promise.all(writing);
    } finally {
      prepared?.release();
    }
  }

  async finish(): Promise<void> {
    const header = this.#writer.finish();
    const { clusterBytes, sizeBytes } = this.#options.image;
    await this.#output.settled();
    if (this.#data !== this.#output) {
      const wholeBytes = Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
      await this.#data.end(this.#isMapped ? wholeBytes : sizeBytes);
    }
    await this.#output.end(this.#writer.endBytes);
    await this.#output.write(0, header);
  }

  #putZeroes(piece: Piece, { from, to }: Run): void {
    const { image } = this.#options;
    if (image.backing === undefined) return;
    this.#writer.addZeroes(piece.start / image.clusterBytes + from, to - from);
  }

  /** Clusters that have their place, and nothing to write there. */
  #putPlaces(piece: Piece, run: Run): Promise<void>[] {
    const { image, room } = this.#options;
    const { clusterBytes, preallocation: how } = image;
    const places = this.#places(piece, run);
    if (room === undefined) return [];
    return places.map(({ offset, count }) =>
      fill(room, { from: offset, to: offset + count * clusterBytes, how }),
    );
  }

  #putData(piece: Piece, run: Run): Promise<void>[] {
    const { image, luks } = this.#options;
    const { clusterBytes } = image;
    const first = piece.start / clusterBytes;
    return this.#places(piece, run).map(({ cluster, count, offset }) => {
      const at = (cluster - first) * clusterBytes;
      const bytes = piece.buffer?.bytes.subarray(at, at + count * clusterBytes) as Uint8Array;
      luks?.cipher.encrypt(bytes, offset / SECTOR_SIZE);
      return this.#data.write(offset, bytes);
    });
  }

  #places({ start }: Piece, { kind, from, to }: Run): DataRun[] {
    const first = start / this.#options.image.clusterBytes;
    return [...this.#writer.addPlaces(first + from, to - from, kind)];
  }

  /** Streams that follow each other in the file are one write. */
  #streamsOf(piece: Piece, { bytes, lengths }: Codings, writing: Promise<void>[]) {
    const first = piece.start / this.#options.image.clusterBytes;
    const joined = new Joined((offset, from, to) => {
      writing.push(this.#output.write(offset, bytes.subarray(from, to)));
    });
    let index = 0;
    const put = ({ from, to }: Run): void => {
      for (let cluster = from; cluster < to; cluster++) {
        const length = lengths[index++] as number;
        if (length > 0) joined.add(this.#writer.addStream(first + cluster, length), length);
        else
          writing.push(...this.#putData(piece, { kind: 'data', from: cluster, to: cluster + 1 }));
      }
    };
    return { put, end: () => joined.end() };
  }

  /** What the clusters of a piece are. */
  #runs(piece: Piece): Run[] {
    const { start, length, buffer, left } = piece;
    const { clusterBytes } = this.#options.image;
    const clusters = Math.ceil(length / clusterBytes);
    const data = buffer === undefined ? undefined : this.#dataOf(buffer, length);
    const runs: Run[] = [];
    const add = (from: number, to: number): void => {
      if (data === undefined) {
        if (from < to) runs.push({ kind: 'zero', from, to });
        return;
      }
      for (const run of dataRuns(data, from, to)) {
        runs.push({ kind: run.isData ? 'data' : 'zero', from: run.from, to: run.to });
      }
    };
    let at = 0;
    for (const range of left) {
      const from = (range.start - start) / clusterBytes;
      const to = Math.ceil((range.start + range.length - start) / clusterBytes);
      add(at, from);
      runs.push({ kind: 'left', from, to });
      at = to;
    }
    add(at, clusters);
    return runs;
  }

  #dataOf(buffer: CopyBuffer, length: number): Uint8Array {
    const { clusterBytes } = this.#options.image;
    const wholeBytes = Math.ceil(length / clusterBytes) * clusterBytes;
    // The last cluster of the disk is a whole one.
    buffer.bytes.fill(0, length, wholeBytes);
    if (this.wantsZeroes) return new Uint8Array(wholeBytes / clusterBytes).fill(1);
    return buffer.findData(wholeBytes, clusterBytes).slice();
  }
}

/** Ranges that follow each other in the file and in memory, made one. */
class Joined {
  readonly #write: (offset: number, from: number, to: number) => void;
  #offset = 0;
  #from = 0;
  #to = 0;

  constructor(write: (offset: number, from: number, to: number) => void) {
    this.#write = write;
  }

  add(offset: number, length: number): void {
    if (offset !== this.#offset + this.#to - this.#from) {
      this.end();
      this.#offset = offset;
    }
    this.#to += length;
  }

  end(): void {
    if (this.#to > this.#from) this.#write(this.#offset, this.#from, this.#to);
    this.#from = this.#to;
  }
}

function joined(parts: readonly Uint8Array[], codecs: CodecPool): Uint8Array<ArrayBuffer> {
  const bytes = codecs.take(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
