/**
 * Buffers for copies: pieces of one memory, aligned for O_DIRECT, in which the engine's module
 * finds what is not zero.
 */
import { type EngineExports, inlinedModuleFor } from '../engine-modules.ts';

const PAGE_BYTES = 65536;

/** A buffer that is in use. */
export interface CopyBuffer {
  readonly bytes: Uint8Array;
  /** For each granule of the first `length` bytes: 1 when something in it is not zero. */
  findData(length: number, granuleBytes: number): Uint8Array;
  /** Gives it back. */
  release(): void;
}

/** A fixed number of buffers. */
export class CopyBuffers {
  readonly #memory: WebAssembly.Memory;
  readonly #engine: EngineExports;
  readonly #bufferBytes: number;
  readonly #scratch: number;
  readonly #free: number[] = [];
  readonly #waiting: (() => void)[] = [];

  /** Of `bufferBytes` each, a multiple of 64 KiB. */
  constructor(count: number, bufferBytes: number) {
    this.#bufferBytes = bufferBytes;
    // A byte for each granule of 512 bytes, behind the buffers.
    this.#scratch = count * bufferBytes;
    const pages = Math.ceil((this.#scratch + bufferBytes / 512) / PAGE_BYTES);
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const imports = { env: { memory: this.#memory } };
    const { exports } = new WebAssembly.Instance(inlinedModuleFor(this.#memory), imports);
    this.#engine = exports as EngineExports;
    for (let index = 0; index < count; index++) this.#free.push(index * bufferBytes);
  }

  /** A buffer, when one is free. What is in it is left from others. */
  async take(): Promise<CopyBuffer> {
    while (this.#free.length === 0) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    const address = this.#free.pop() as number;
    return {
      bytes: new Uint8Array(this.#memory.buffer, address, this.#bufferBytes),
      findData: (length, granuleBytes) => this.#findData(address, length, granuleBytes),
      release: () => {
        this.#free.push(address);
        this.#waiting.shift()?.();
      },
    };
  }

  /** The last granule may be cut. */
  #findData(address: number, length: number, granuleBytes: number): Uint8Array {
    const whole = Math.floor(length / granuleBytes);
    const rest = length % granuleBytes;
    this.#engine.findData(address, granuleBytes, whole, this.#scratch);
    if (rest > 0) {
      this.#engine.findData(address + length - rest, rest, 1, this.#scratch + whole);
    }
    return new Uint8Array(this.#memory.buffer, this.#scratch, whole + (rest > 0 ? 1 : 0));
  }
}
