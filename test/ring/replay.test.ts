// Request streams of real guests (test/corpus/guest-traces), replayed with their batches and their
// numbers of descriptors: everything goes well, every read has what was written before, and the
// disk is what a shadow of it says. The commands that are left after merging are reported.

import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import { COMMAND_SYNC } from '../../src/abi/command.ts';
import {
  type GuestRequest,
  type GuestTraceBatch,
  type GuestTraceRequest,
  parseGuestTrace,
  replayGuestRequest,
} from '../../src/testing/guest/index.ts';
import { BUILDS, type Build } from '../support/engine.ts';
import { GuestRig } from './rig.ts';

const TRACES = new URL('../corpus/guest-traces/', import.meta.url);
const SECTOR = 512;
const RAM_BYTES = 48 * 1024 * 1024;

/** A way to send a stream. */
interface Way {
  readonly name: string;
  readonly packed: boolean;
  readonly indirect: boolean;
}

const WAYS: readonly Way[] = [
  { name: 'split, direct', packed: false, indirect: false },
  { name: 'split, indirect', packed: false, indirect: true },
  { name: 'packed, direct', packed: true, indirect: false },
  { name: 'packed, indirect', packed: true, indirect: true },
];

const report: string[] = [];
afterAll(() => {
  process.stdout.write(`${report.join('\n')}\n`);
});

function readTrace(name: string): GuestTraceBatch[] {
  return parseGuestTrace(gunzipSync(readFileSync(new URL(name, TRACES))).toString());
}

/**
 * The same stream on a disk without what it never touches: what was adjacent still is, and nothing
 * else. Returns the sectors that are left.
 */
function compact(batches: readonly GuestTraceBatch[]): [GuestTraceBatch[], sectors: number] {
  const touched = batches
    .flatMap(({ requests }) => requests)
    .filter(({ bytes }) => bytes > 0)
    .map(({ sector, bytes }) => ({ start: sector, end: sector + Math.ceil(bytes / SECTOR) }))
    .sort((a, b) => a.start - b.start);
  const moves: { readonly from: number; readonly by: number }[] = [{ from: 0, by: 0 }];
  let end = 0;
  let by = 0;
  for (const range of touched) {
    if (range.start > end) {
      by += range.start - end - 1;
      moves.push({ from: range.start, by });
    }
    end = Math.max(end, range.end);
  }
  const moveOf = (sector: number): number => {
    let low = 0;
    for (let high = moves.length; low + 1 < high;) {
      const middle = (low + high) >>> 1;
      if (moves[middle]!.from <= sector) low = middle;
      else high = middle;
    }
    return moves[low]!.by;
  };
  const moved = batches.map(({ at, requests }) => ({
    at,
    requests: requests.map((request) =>
      request.bytes === 0
        ? request
        : { ...request, sector: request.sector - moveOf(request.sector) },
    ),
  }));
  return [moved, end - by];
}

/** A request that was sent, and what a read has to find. */
interface Sent {
  readonly request: GuestRequest;
  readonly expected: Uint8Array | undefined;
}

class Replay {
  readonly #rig: GuestRig;
  readonly #driver;
  readonly #shadow: Uint8Array;
  #sent: Sent[] = [];
  #count = 0;

  constructor(build: Build, way: Way, sectors: number) {
    const engine = { capacity: sectors * SECTOR };
    this.#rig = new GuestRig(build, { ramBytes: RAM_BYTES, engine });
    const features = { indirect: way.indirect, eventIdx: true };
    const driver = { guards: false };
    this.#driver = this.#rig.addQueue(0, { packed: way.packed, size: 256, features, driver });
    this.#shadow = this.#rig.disk.slice();
  }

  /** Sends a batch at once, or in parts when the ring has no room. */
  send(requests: readonly GuestTraceRequest[]): void {
    for (const request of requests) {
      if (this.#driver.queue.free < request.descriptors) this.#finish();
      const made = replayGuestRequest(this.#driver, request);
      this.#sent.push({ request: made, expected: this.#apply(request, made) });
    }
    this.#finish();
  }

  /** The disk is the shadow; how many requests became how many commands. */
  end(): string {
    expect(Buffer.compare(this.#rig.disk, this.#shadow), 'the disks').toBe(0);
    expect(this.#rig.takeBroken()).toBe(0n);
    const syncs = this.#rig.commands.filter(({ op }) => op === COMMAND_SYNC).length;
    const others = this.#rig.commands.length - syncs;
    return `${this.#count} requests, ${others} data commands, ${syncs} syncs`;
  }

  #apply({ type, sector, bytes }: GuestTraceRequest, made: GuestRequest): Uint8Array | undefined {
    const at = sector * SECTOR;
    this.#count++;
    if (type === blk.VIRTIO_BLK_T_IN) return this.#shadow.slice(at, at + bytes);
    if (type !== blk.VIRTIO_BLK_T_OUT) return undefined;
    const { u8 } = this.#driver.queue.memory;
    let offset = at;
    let header: number = blk.BLK_HEADER_SIZE;
    for (const { address, length, writable } of made.chain) {
      if (writable || typeof address !== 'number') break;
      const skip = Math.min(header, length);
      header -= skip;
      const data = u8.subarray(address + skip, address + length);
      this.#mark(data, offset);
      this.#shadow.set(data, offset);
      offset += data.length;
    }
    expect(offset).toBe(at + bytes);
    return undefined;
  }

  /** Data that says where it goes and which request wrote it. */
  #mark(data: Uint8Array, offset: number): void {
    for (let at = 0; at < data.length; at += SECTOR) {
      const mark = Math.imul(offset + at + this.#count, 0x9e37_79b1) >>> 24;
      data.fill(mark, at, at + SECTOR);
    }
  }

  #finish(): void {
    if (this.#sent.length === 0) return;
    if (this.#driver.publish()) this.#rig.notify();
    this.#rig.settle();
    expect(this.#rig.takeInterrupts()).toBe(1n);
    expect(this.#driver.poll().length).toBe(this.#sent.length);
    for (const { request, expected } of this.#sent) {
      if (request.status !== 0) throw new Error(`request ${this.#count}: ${request.status}`);
      if (expected !== undefined && Buffer.compare(request.data(), expected) !== 0) {
        throw new Error(`a read before request ${this.#count} has something else`);
      }
      this.#driver.release(request);
    }
    this.#sent = [];
  }
}

describe.each(BUILDS)('streams of real guests ($name build)', (build) => {
  for (const name of readdirSync(TRACES).filter((file) => file.endsWith('.trace.gz'))) {
    const [batches, sectors] = compact(readTrace(name));

    it.each(WAYS)(`${name}, $name`, (way) => {
      const replay = new Replay(build, way, sectors);
      for (const { requests } of batches) replay.send(requests);
      const result = replay.end();
      report.push(`replay: ${build.name}, ${name}, ${way.name}: ${result}`);
    });
  }
});
