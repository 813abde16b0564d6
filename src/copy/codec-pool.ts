/** Threads that compress and decompress clusters (codec-worker.ts). */
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';

import type { Compression } from '../image/qcow2/codec.ts';
import type { CodecResult, CodecStream, CodecTask } from './codec-worker.ts';

interface Waiting {
  readonly resolve: (result: CodecResult) => void;
  readonly reject: (error: unknown) => void;
}

/** A fixed number of threads, started when there is work for them. */
export class CodecPool implements AsyncDisposable {
  readonly #most: number;
  readonly #workers: CodecThread[] = [];

  constructor(most = availableParallelism()) {
    this.#most = most;
  }

  /** Compresses clusters; those that do not become smaller have length 0. Takes the bytes over. */
  compress(
    compression: Compression,
    clusterBytes: number,
    bytes: Uint8Array,
  ): Promise<CodecResult> {
    return this.#run({ compression, clusterBytes, bytes });
  }

  /** Decompresses streams; damaged ones have length 0. Takes the bytes over. */
  decompress(
    compression: Compression,
    clusterBytes: number,
    bytes: Uint8Array,
    streams: readonly CodecStream[],
  ): Promise<CodecResult> {
    return this.#run({ compression, clusterBytes, bytes, streams });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.end()));
  }

  /** The thread with the least to do. */
  #run(task: Omit<CodecTask, 'id'>): Promise<CodecResult> {
    const idle = this.#workers.find(({ load }) => load === 0);
    if (idle !== undefined) return idle.run(task);
    if (this.#workers.length < this.#most) {
      const worker = new CodecThread();
      this.#workers.push(worker);
      return worker.run(task);
    }
    const [first, ...others] = this.#workers as [CodecThread, ...CodecThread[]];
    return others.reduce((best, other) => (other.load < best.load ? other : best), first).run(task);
  }
}

class CodecThread {
  readonly #worker = new Worker(new URL('./codec-worker.js', import.meta.url));
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;

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
      this.#worker.postMessage({ ...task, id }, [task.bytes.buffer as ArrayBuffer]);
    });
  }

  async end(): Promise<void> {
    this.#worker.ref();
    const ended = once(this.#worker, 'exit');
    await this.#worker.terminate();
    await ended;
  }

  #done(id: number): void {
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) this.#worker.unref();
  }
}
