/** Changes of snapshots that end too early: by a power cut, by a write or a sync that fails. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

import { SluiceError } from '../../src/errors.ts';
import { type ImageFile, MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { make, remove, type Kind } from './check-images.ts';
import { LoggedFile } from './logged-file.ts';
import { type Change, change, PATH, SNAPSHOT_KINDS } from './snapshot-images.ts';
import { areSame, contentsOf, expectMendable, isReadable } from './snapshot-judge.ts';

const SEED = 20_261_122;
const WRITES_MAX = 200;
/** Bytes behind the image, where it lies on a device. */
const DEVICE_ROOM = 300_000;
/** More L2 tables than one, and L1 tables of several sectors. */
const LONG: Kind = {
  name: 'long tables',
  options: 'cluster_size=512,refcount_bits=64',
  size: '3M',
  writes: ['write -P 1 0 5k', 'write -P 2 1M 20k', 'write -P 3 2M 10k', 'write -P 4 3071k 1k'],
};
/** The disk is larger than in its first snapshot, and its L1 table longer. */
const RESIZED: Kind = {
  name: 'resized',
  options: 'cluster_size=512',
  size: '20k',
  writes: ['write -P 1 0 20k'],
};
/** Every change of every image takes minutes: these differ in what is written. */
const CUT = kinds('v2', '512', 'refcounts of 4 bits', 'extended L2', 'zero clusters', 'LUKS');
const DEVICES = kinds('refcounts of 8 bits', 'v2 snapshots');
const FAILING_WRITES = kinds('of 0 bytes', 'v2, 4k', 'zlib, overwritten');
const FAILING_SYNCS = kinds('4k');

function kinds(...names: readonly string[]): Kind[] {
  return names.map((name) => SNAPSHOT_KINDS.find((kind) => kind.name === name) as Kind);
}

interface Ready {
  readonly bytes: Uint8Array;
  readonly backing: Uint8Array | undefined;
  readonly canRead: boolean;
}

/** An image with the snapshots `early` and `late`. */
async function ready(kind: Kind): Promise<Ready> {
  const image = make(kind);
  const run = (program: string, ...args: string[]): void => {
    execFileSync(program, args, { cwd: image.folder, stdio: 'pipe' });
  };
  if (kind.name === 'bitmaps') {
    for (const name of ['first', 'second']) run('qemu-img', 'bitmap', '--remove', PATH, name);
  }
  const snapshot = (name: string): void => {
    // With a key qemu-img would have to be told more.
    if (kind.encrypted !== true) run('qemu-img', 'snapshot', '-c', name, PATH);
  };
  const write = (command: string): void => {
    const isEmpty = kind.size === '0';
    if (kind.encrypted === true || isEmpty) return;
    run('qemu-io', '-f', 'qcow2', '-c', command, PATH);
  };
  snapshot('early');
  if (kind === RESIZED) run('qemu-img', 'resize', '-q', PATH, '300k');
  write('write -P 77 2k 9k');
  snapshot('late');
  write('write -P 78 8k 5k');
  const bytes = new Uint8Array(readFileSync(image.path));
  remove(image);
  const { backing } = image;
  if (kind.encrypted !== true) return { bytes, backing, canRead: isReadable(kind) };
  const file = new MemoryFile(bytes);
  for (const name of ['early', 'late']) await change(file, '-c', name);
  return { bytes: file.bytes, backing, canRead: false };
}

const CHANGES: readonly (readonly [Change, string])[] = [
  ['-c', 'new'],
  ['-a', 'early'],
  ['-a', 'late'],
  ['-d', 'early'],
  ['-d', 'late'],
];

describeWithPeers(['qemu-img', 'qemu-io'], 'a change of snapshots', () => {
  it.for([...CUT, ...kinds('zlib, overwritten'), RESIZED, LONG])(
    'that a power cut ends is made or not: $name',
    async (kind) => {
      const start = await ready(kind);
      for (const [how, name] of CHANGES) {
        const file = new MemoryFile(start.bytes.slice());
        await expectCutsSound(start, file, how, name, false);
      }
    },
  );

  it.for(DEVICES)('on a device is made or not: $name', async (kind) => {
    const found = await ready(kind);
    const bytes = new Uint8Array(found.bytes.length + DEVICE_ROOM).fill(0xa5);
    bytes.set(found.bytes);
    const start = { ...found, bytes };
    for (const [how, name] of CHANGES) {
      const file = new MemoryFile(bytes.slice());
      await expectCutsSound(start, file, how, name, true);
      expect(file.sizeBytes).toBe(bytes.length);
    }
  });

  it.for(FAILING_WRITES)('leaves nothing when a write fails before it: $name', async (kind) => {
    const start = await ready(kind);
    const before = await contentsOf(start.bytes, start.backing, start.canRead);
    for (const [how, name] of CHANGES) {
      const whole = new MemoryFile(start.bytes.slice());
      await change(whole, how, name);
      const after = await contentsOf(whole.bytes, start.backing, start.canRead);
      let failed = 0;
      let left = 0;
      for (let nth = 1; nth < WRITES_MAX; nth++) {
        const file = new MemoryFile(start.bytes.slice());
        if (await isDone(change(new LoggedFile(file, nth), how, name))) break;
        failed++;
        const told = `${how} ${name}, write ${nth}`;
        await expectMendable(file.bytes, told);
        const found = await contentsOf(file.bytes, start.backing, start.canRead);
        expect(areSame(found, before) || areSame(found, after), told).toBe(true);
        if (sameHeader(file.bytes, start.bytes) && !isClean(file.bytes)) left++;
      }
      expect(failed).toBeGreaterThan(0);
      // When the header could not be written, nobody knows what it says.
      expect(left).toBeLessThanOrEqual(1);
    }
  });

  it.for(FAILING_SYNCS)('does nothing any more when a sync fails: $name', async (kind) => {
    const start = await ready(kind);
    const before = await contentsOf(start.bytes, start.backing, start.canRead);
    for (const [how, name] of CHANGES) {
      const whole = new MemoryFile(start.bytes.slice());
      await change(whole, how, name);
      const after = await contentsOf(whole.bytes, start.backing, start.canRead);
      for (let nth = 1; nth < WRITES_MAX; nth++) {
        const file = new MemoryFile(start.bytes.slice());
        const log = new LoggedFile(file);
        const failing = new FailingSync(log, nth);
        if (await isDone(change(failing, how, name))) break;
        expect(failing.writesAfter).toBe(0);
        for (const { bytes, epoch } of log.statesAfterCuts(start.bytes, new Random(SEED + nth))) {
          if (epoch < nth - 1) continue;
          const told = `${how} ${name}, sync ${nth}, ${epoch}`;
          await expectMendable(bytes, told);
          const found = await contentsOf(bytes, start.backing, start.canRead);
          expect(areSame(found, before) || areSame(found, after), told).toBe(true);
        }
      }
    }
  });
});

async function expectCutsSound(
  start: Ready,
  file: MemoryFile,
  how: Change,
  name: string,
  isBlockDevice: boolean,
): Promise<void> {
  const before = await contentsOf(start.bytes, start.backing, start.canRead);
  const log = new LoggedFile(file);
  await change(log, how, name, isBlockDevice);
  expect(log.unsynced).toBe(0);
  const after = await contentsOf(file.bytes, start.backing, start.canRead);
  const found = checkBytes(file.bytes, parseHeader(file.bytes, PATH));
  expect(found).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  let states = 0;
  for (const { bytes, epoch } of log.statesAfterCuts(start.bytes, new Random(SEED))) {
    const told = `${how} ${name}, epoch ${epoch}`;
    await expectMendable(bytes, told);
    const there = await contentsOf(bytes, start.backing, start.canRead);
    expect(areSame(there, before) || areSame(there, after), told).toBe(true);
    states++;
  }
  expect(states).toBeGreaterThan(log.epochs + 2);
}

/** The header names what it did. */
function sameHeader(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one.subarray(0, 104), other.subarray(0, 104)) === 0;
}

function isClean(bytes: Uint8Array): boolean {
  const { corruptions, leaks } = checkBytes(bytes, parseHeader(bytes, PATH));
  return corruptions + leaks === 0;
}

/** The `nth` sync fails; what comes after it says nothing of what was before. */
class FailingSync implements ImageFile {
  readonly #file: ImageFile;
  #left: number;
  writesAfter = 0;

  constructor(file: ImageFile, nth: number) {
    this.#file = file;
    this.#left = nth;
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#file.read(offset, length);
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    if (this.#left <= 0) this.writesAfter++;
    return this.#file.write(offset, bytes);
  }

  truncate(sizeBytes: number): Promise<void> {
    if (this.#left <= 0) this.writesAfter++;
    return this.#file.truncate(sizeBytes);
  }

  sync(): Promise<void> {
    if (--this.#left !== 0) return this.#file.sync();
    const error = new SluiceError('ERR_SLUICE_IO', 'no luck', { operation: 'flush' });
    return Promise.reject(error);
  }
}

async function isDone(work: Promise<unknown>): Promise<boolean> {
  const [result] = await Promise.allSettled([work]);
  return result.status === 'fulfilled';
}
