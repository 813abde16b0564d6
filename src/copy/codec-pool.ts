/** Threads that compress and decompress clusters (codec-worker.ts). */
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

import type { Compression } from '../image/qcow2/codec.ts';
import type { CodecResult, CodecStream, CodecTask, StreamCodec } from './codec-worker.ts';

/** What came of a task. */
export interface Codings {
  /** Streams one behind the other, or plain clusters. */
  readonly bytes: Uint8Array;
  /** Of each stream; 0: the cluster did not become smaller. Decompressing: 0: it is damaged. */
  readonly lengths: readonly number[];
  /** The bytes are not needed any more. */
  release(): void;
}

interface Waiting {
  readonly resolve: (result: CodecResult) => void;
  readonly reject: (error: unknown) => void;
}

/** Threads, at most one for each processor, started when there is work for them. */
export class CodecPool implements AsyncDisposable {
  readonly #most: number;
  readonly #workers: CodecThread[] = [];
  /** Buffers that nobody uses, by their size: fresh ones cost a page fault for each page. */
  readonly #free = new Map<number, ArrayBuffer[]>();

  constructor(most = Infinity) {
    this.#most = Math.min(most, availableParallelism());
  }

  /** Room for what is to be compressed or decompressed. */
  take(length: number): Uint8Array<ArrayBuffer> {
    const size = Math.max(LEAST_BYTES, 2 ** Math.ceil(Math.log2(length)));
    return new Uint8Array(this.#free.get(size)?.pop() ?? new ArrayBuffer(size), 0, length);
  }

  /** Compresses clusters in bytes that were taken, which are handed over. */
  compress(
    compression: Compression,
    clusterBytes: number,
    bytes: Uint8Array<ArrayBuffer>,
  ): Promise<Codings> {
    return this.#run({ compression, clusterBytes, bytes, out: this.take(bytes.length) });
  }

  /** Decompresses streams in bytes that were taken, which are handed over. */
  decompress(
    compression: StreamCodec,
    clusterBytes: number,
    bytes: Uint8Array<ArrayBuffer>,
    streams: readonly CodecStream[],
  ): Promise<Codings> {
    const out = this.take(streams.length * clusterBytes);
    return this.#run({ compression, clusterBytes, bytes, streams, out });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.end()));
  }

  async #run(task: Omit<CodecTask, 'id'>): Promise<Codings> {
    const { bytes, input, lengths } = await this.#thread().run(task);
    this.#give(input);
    return { bytes, lengths, release: () => this.#give(bytes) };
  }

  #give({ buffer }: Uint8Array): void {
    const size = buffer.byteLength;
    const free = this.#free.get(size);
    if (free === undefined) this.#free.set(size, [buffer as ArrayBuffer]);
    else free.push(buffer as ArrayBuffer);
  }

  /** The thread with the least to do. */
  #thread(): CodecThread {
    const idle = this.#workers.find(({ load }) => load === 0);
    if (idle !== undefined) return idle;
    if (this.#workers.length < this.#most) {
      const worker = new CodecThread();
      this.#workers.push(worker);
      return worker;
    }
    const [first, ...others] = this.#workers as [CodecThread, ...CodecThread[]];
    return others.reduce((best, other) => (other.load < best.load ? other : best), first);
  }
}

const LEAST_BYTES = 65536;

class CodecThread {
  readonly #worker = new Worker(new URL('./codec-worker.js', import.meta.url));
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended = once(this.#worker, 'exit');
  #next = 0;
  #isEnding = false;

  constructor() {
    this.#worker.unref();
    this.#worker.on('message', (result: CodecResult) => {
      this.#waiting.get(result.id)?.resolve(result);
      this.#done(result.id);
    });
    this.#worker.on('error', (error) => {
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    });
  }

  get load(): number {
    return this.#waiting.size;
  }

  run(task: Omit<CodecTask, 'id'>): Promise<CodecResult> {
    const id = this.#next++;
    this.#worker.ref();
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      const buffers = [task.bytes.buffer, task.out.buffer] as ArrayBuffer[];
      this.#worker.postMessage({ ...task, id }, buffers);
    });
  }

  /** It ends by itself: to be ended in the middle of native code would end the process. */
  async end(): Promise<void> {
    this.#isEnding = true;
    this.#worker.ref();
    this.#worker.postMessage('end', []);
    await this.#ended;
  }

  #done(id: number): void {
    this.#waiting.delete(id);
    if (this.#waiting.size === 0 && !this.#isEnding) this.#worker.unref();
  }
}
