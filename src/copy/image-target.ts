/** A new qcow2 image: zeroes take no clusters, data goes where the image ends. */
import type { NewImage } from '../image/qcow2/create-options.ts';
import { ImageWriter } from '../image/qcow2/image-writer.ts';
import type { CopyBuffer } from './buffers.ts';
import type { CodecPool, Codings } from './codec-pool.ts';
import { dataRuns } from './data-runs.ts';
import type { FileWrites } from './file-writes.ts';
import type { NewFile } from './new-file.ts';
import type { Piece, Target } from './target.ts';

const PIECE_BYTES = 2 * 1024 * 1024;

/** Options of an image target. */
export interface ImageTargetOptions {
  readonly image: NewImage;
  /** Clusters are compressed by these threads. */
  readonly codecs?: CodecPool | undefined;
  /** Zeroes take clusters, too. */
  readonly isFull: boolean;
  /** Where data goes that lies in a file of its own. */
  readonly dataWrites?: FileWrites | undefined;
}

type ClusterKind = 'data' | 'zero' | 'left';

/** Clusters of one kind that lie beside each other; indices count from the piece. */
interface Run {
  readonly kind: ClusterKind;
  readonly from: number;
  readonly to: number;
}

/** Writes the pieces as they come. */
export class ImageTarget implements Target<Codings | undefined> {
  readonly pieceBytes: number;
  readonly granuleBytes: number;
  readonly wantsZeroes: boolean;
  readonly #writes: FileWrites;
  readonly #options: ImageTargetOptions;
  readonly #writer: ImageWriter;

  constructor(writes: FileWrites, options: ImageTargetOptions) {
    const { image, isFull } = options;
    this.#writes = writes;
    this.#options = options;
    this.granuleBytes = image.clusterBytes;
    this.pieceBytes = Math.max(PIECE_BYTES, image.clusterBytes);
    // Version 2 cannot say that a cluster is zero where a backing file says something else.
    this.wantsZeroes = isFull || (image.version === 2 && image.backing !== undefined);
    this.#writer = new ImageWriter(image, (offset, bytes) => writes.later(offset, bytes));
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
      if (run.kind === 'zero') this.#putZeroes(piece, run);
      else if (run.kind === 'data' && streams !== undefined) streams.put(run);
      else if (run.kind === 'data') writing.push(...this.#putData(piece, run));
    }
    streams?.end();
    try {
      await Promise.all(writing);
    } finally {
      prepared?.release();
    }
  }

  async finish(file: NewFile): Promise<void> {
    const header = this.#writer.finish();
    await this.#writes.settled();
    if (!file.isBlockDevice) await file.handle.truncate(this.#writer.endBytes);
    await this.#writes.write(0, header);
  }

  #putZeroes(piece: Piece, { from, to }: Run): void {
    const { image } = this.#options;
    const cluster = piece.start / image.clusterBytes + from;
    const count = to - from;
    // Every cluster of a raw data file has its place.
    if (image.dataFile?.raw === true) Array.from(this.#writer.addData(cluster, count));
    else if (image.backing !== undefined) this.#writer.addZeroes(cluster, count);
  }

  #putData(piece: Piece, { from, to }: Run): Promise<void>[] {
    const { clusterBytes } = this.#options.image;
    const first = piece.start / clusterBytes;
    const bytes = piece.buffer?.bytes as Uint8Array;
    const writes = this.#options.dataWrites ?? this.#writes;
    return [...this.#writer.addData(first + from, to - from)].map(({ cluster, count, offset }) => {
      const at = (cluster - first) * clusterBytes;
      return writes.write(offset, bytes.subarray(at, at + count * clusterBytes));
    });
  }

  /** Streams that follow each other in the file are one write. */
  #streamsOf(piece: Piece, { bytes, lengths }: Codings, writing: Promise<void>[]) {
    const first = piece.start / this.#options.image.clusterBytes;
    const joined = new Joined((offset, from, to) => {
      writing.push(this.#writes.write(offset, bytes.subarray(from, to)));
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
