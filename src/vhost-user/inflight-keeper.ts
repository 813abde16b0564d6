/** The record that a session has now: a new one, or that of another process. */
import { closeSync } from 'node:fs';

import { VIRTIO_F_RING_PACKED } from '../abi/virtio-ring.ts';
import { SluiceError } from '../errors.ts';
import { hasFeature } from '../virtio/features.ts';
import type { GuestMemory } from './guest-memory.ts';
import { Inflight, inflightBytes, type InflightFile } from './inflight.ts';
import { recordReply, shapeOf } from './inflight-messages.ts';
import type { VhostNative } from './native.ts';

/** What is needed of the disk beside its device. */
export interface ServedDisk {
  /** Of this server alone; not 0n. */
  readonly id: bigint;
  /** A process that is killed takes completed writes with it that were not flushed. */
  readonly losesWrites: boolean;
  flush(): Promise<void>;
  /** Completed writes are lost: no flush may succeed any more. */
  distrust(): void;
}

/** What a record is kept with. */
export interface KeeperParts {
  readonly memory: GuestMemory;
  readonly native: VhostNative;
  readonly disk: ServedDisk;
  /** Is told what was wrong. */
  readonly report: (error: unknown) => void;
}

export class InflightKeeper {
  inflight: Inflight | undefined;
  readonly #parts: KeeperParts;

  constructor(parts: KeeperParts) {
    this.#parts = parts;
  }

  /** A new one, for the front-end to keep. A packed ring has none, which an empty size says. */
  create(asked: DataView, features: bigint): Uint8Array | { payload: Uint8Array; fd: number } {
    if (hasFeature(features, VIRTIO_F_RING_PACKED)) return recordReply(asked, 0);
    const shape = shapeOf(asked);
    const size = inflightBytes(shape);
    const fd = this.#parts.native.createFile('sluice-inflight', size);
    try {
      this.use({ fd, at: 0n, size: BigInt(size), shape });
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    return { payload: recordReply(asked, size), fd };
  }

  /** Takes one over. The rings rest. */
  use({ fd, at, size, shape }: InflightFile): void {
    const { memory, disk, report } = this.#parts;
    this.inflight?.release();
    this.inflight = undefined;
    const inflight = new Inflight(memory.map(fd, at, size), memory.memory, shape);
    const isOthers = inflight.owner !== 0n && inflight.owner !== disk.id;
    if (isOthers && disk.losesWrites && inflight.cache !== 'off') {
      disk.distrust();
      report(cutOff());
    }
    inflight.owner = disk.id;
    this.inflight = inflight;
  }

  /** A good end: what was completed is in the image. */
  async end(): Promise<void> {
    const { inflight } = this;
    this.inflight = undefined;
    try {
      if (inflight === undefined) return;
      await this.#parts.disk.flush();
      inflight.owner = 0n;
    } finally {
      inflight?.release();
    }
  }
}

function cutOff(): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_FLUSH_LATCHED',
    'the last server was killed, and writes that it had completed may not be in the image: ' +
      'flushes fail, so that the guest knows; end the virtual machine (a reboot of the guest is ' +
      'not enough), and start both again',
  );
}
