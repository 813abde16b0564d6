/** The file of compressed clusters below an explored engine: a read brings a plain cluster. */
import { inflateRawSync } from 'node:zlib';

import { ERRNO_EIO } from '../../abi/command.ts';
import { type MemoryCommand, MemoryDisk } from '../../backend/memory-command.ts';
import type { Random } from '../random.ts';
import { RuleBroken } from '../rule-broken.ts';
import type { SimulatedDisk } from '../simulated-disk.ts';

const WINDOW_BITS = 15;

/** Reads what the image holds when it answers, in any order. */
export class PlainClusters extends MemoryDisk {
  readonly #image: SimulatedDisk;
  readonly #clusterBytes: number;
  readonly #failing: number | undefined;
  readonly #waiting: MemoryCommand[] = [];
  #answered = 0;

  /** @param failing the number of the read that fails, from 1 */
  constructor(image: SimulatedDisk, clusterBytes: number, failing?: number) {
    super({ sizeBytes: image.sizeBytes, readOnly: true });
    this.#image = image;
    this.#clusterBytes = clusterBytes;
    this.#failing = failing;
  }

  /** Commands without an answer. */
  get inFlight(): readonly MemoryCommand[] {
    return this.#waiting;
  }

  /** Answers any of the commands. */
  step(random: Random): void {
    const [command] = this.#waiting.splice(random.below(this.#waiting.length), 1);
    if (command === undefined) return;
    const { id, offset, length } = command;
    const packed = this.#image.contents().subarray(offset, offset + length);
    this.#answered += 1;
    if (this.#answered === this.#failing) return this.done(id, ERRNO_EIO, 0);
    const plain = this.#inflate(packed);
    if (plain === undefined) {
      throw new RuleBroken('stale', `no compressed cluster lies at ${offset} any more`);
    }
    this.scatter({ ...command, length: this.#clusterBytes }, plain);
    this.done(id, 0, 0);
  }

  protected override accept(command: MemoryCommand): void {
    this.#waiting.push(command);
  }

  #inflate(packed: Uint8Array): Uint8Array | undefined {
    const options = { windowBits: WINDOW_BITS, maxOutputLength: this.#clusterBytes };
    try {
      const plain = inflateRawSync(packed, options);
      return plain.length === this.#clusterBytes ? plain : undefined;
    } catch (error) {
      if (error instanceof Error) return undefined;
      throw error;
    }
  }
}
