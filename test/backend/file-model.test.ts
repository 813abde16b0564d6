/** Random commands, many in flight, on a file and on a plain array. */

import * as fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

import type { Backend } from '../../src/backend/backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { DATA, Driver, expectSame, pattern } from './driver.ts';
import { backendOpener, describeWays, scratchFile, scratchFolder } from './scratch.ts';

/** The disk is cut into stripes; the commands of a batch have one each, so none overlap. */
const STRIPE = 64 * 1024;
const STRIPES = 8;
const SIZE = STRIPE * STRIPES;

const folder = scratchFolder();
const open = backendOpener();

interface Action {
  readonly op: 'read' | 'write' | 'stable' | 'zero' | 'unmap';
  readonly offset: number;
  readonly length: number;
  /** Bytes by which the address is off. */
  readonly shift: number;
  readonly segments: number;
  readonly seed: number;
}

const action = fc.record<Action>({
  op: fc.constantFrom('read', 'write', 'stable', 'zero', 'unmap'),
  offset: fc.oneof(
    fc.nat(STRIPE / 2),
    fc.nat(63).map((block) => block * 512),
  ),
  length: fc.oneof(fc.integer({ min: 1, max: STRIPE / 2 }), fc.constantFrom(512, 4096, 8192)),
  shift: fc.constantFrom(0, 0, 1, 8, 512),
  segments: fc.constantFrom(1, 1, 2, 5),
  seed: fc.nat(255),
});
const batches = fc.array(fc.array(action, { minLength: 1, maxLength: STRIPES }), { maxLength: 12 });

/** Sends the commands of a batch together and checks what they read. */
async function playBatch(driver: Driver, model: Uint8Array, actions: Action[]): Promise<void> {
  await Promise.all(
    actions.map(async (action, stripe) => {
      const { op, length, shift, segments, seed } = action;
      const offset = stripe * STRIPE + Math.min(action.offset, STRIPE - length);
      if (op === 'zero' || op === 'unmap') {
        expect(await driver.zero(offset, length, op === 'unmap')).toBe(0);
        model.fill(0, offset, offset + length);
        return;
      }
      const start = DATA + stripe * 2 * STRIPE + shift;
      const pieces = cut(start, length, segments);
      const table = driver.table(pieces, 4096 + stripe * 64);
      const at = pieces.length === 1 ? start : table;
      const data = op === 'read' ? model.slice(offset, offset + length) : pattern(length, seed);
      if (op !== 'read') scatter(driver.bytes, pieces, data);
      const { errno } = await driver.run((id) => {
        const { backend } = driver;
        if (op === 'read') backend.read(id, offset, length, pieces.length, at);
        else backend.write(id, offset, length, pieces.length, at, op === 'stable');
      });
      expect(errno).toBe(0);
      if (op === 'read') expectSame(gather(driver.bytes, pieces), data);
      else model.set(data, offset);
    }),
  );
}

/** Segments with gaps of 512 bytes between them. */
function cut(start: number, length: number, segments: number): [number, number][] {
  const count = Math.min(segments, length);
  const part = Math.floor(length / count);
  return Array.from({ length: count }, (_, index) => [
    start + index * (part + 512),
    index === count - 1 ? length - part * index : part,
  ]);
}

function scatter(bytes: Uint8Array, pieces: [number, number][], data: Uint8Array): void {
  let done = 0;
  for (const [address, length] of pieces) {
    bytes.set(data.subarray(done, done + length), address);
    done += length;
  }
}

function gather(bytes: Uint8Array, pieces: [number, number][]): Uint8Array {
  return Buffer.concat(
    pieces.map(([address, length]) => bytes.subarray(address, address + length)),
  );
}

/** Plays batches on a disk that `disk` makes anew, and compares what is on it at the end. */
async function compare(
  disk: (before: Uint8Array) => Promise<{ backend: Backend; contents: () => Uint8Array }>,
): Promise<void> {
  const property = fc.asyncProperty(batches, async (actions) => {
    const model = pattern(SIZE, 7);
    const { backend, contents } = await disk(model.slice());
    const driver = new Driver(backend);
    for (const batch of actions) await playBatch(driver, model, batch);
    expectSame(contents(), model);
    await backend.close();
  });
  await fc.assert(property, { numRuns: 40 });
}

describeWays('random commands on a file', folder, ({ direct, koffi }) => {
  it('leave it like an array', async () => {
    await compare(async (before) => {
      const path = scratchFile(folder, before);
      const options = { writable: true, direct, discard: 'unmap' } as const;
      const { backend } = await open(path, options, koffi);
      return { backend, contents: () => readFileSync(path) };
    });
  });
});

it('random commands leave a memory disk like an array', async () => {
  await compare((before) => {
    const backend = new MemoryBackend({ sizeBytes: SIZE });
    backend.volatile.set(before);
    return Promise.resolve({ backend, contents: () => backend.volatile });
  });
});
