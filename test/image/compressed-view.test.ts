import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';

import { openFileBackend } from '../../src/backend/file.ts';
import { MemoryBackend, type MemoryBackendOptions } from '../../src/backend/memory.ts';
import type { Compression } from '../../src/image/qcow2/codec.ts';
import { type CompressedView, openCompressedView } from '../../src/image/qcow2/compressed-view.ts';
import { DATA, Driver, expectSame, pattern } from '../backend/driver.ts';
import { scratchFolder } from '../backend/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { convertCompressed, streamOf } from './codec-images.ts';

const EIO = 5;
const EFAULT = 14;
const EINVAL = 22;
const EROFS = 30;
const ENOTSUP = 95;
const CLUSTER = 4096;

interface World {
  readonly inner: MemoryBackend;
  readonly view: CompressedView;
  readonly driver: Driver;
}

/** A view over a file of these bytes. */
async function viewOf(
  file: Uint8Array,
  options: Partial<MemoryBackendOptions> = {},
  clusterBytes = CLUSTER,
  compression: Compression = 'deflate',
): Promise<World> {
  const inner = new MemoryBackend({ readOnly: true, ...options, sizeBytes: file.length });
  inner.volatile.set(file);
  const view = await openCompressedView(inner, { clusterBytes, compression });
  return { inner, view, driver: new Driver(view) };
}

/** The cluster in the driver's memory after a read of this stream; the errno when it fails. */
async function readCluster(
  { driver }: World,
  offset: number,
  length: number,
  clusterBytes = CLUSTER,
): Promise<Uint8Array | number> {
  const before = pattern(clusterBytes, 9);
  driver.bytes.set(before, DATA);
  const { errno } = await driver.tryRead(offset, length);
  const found = driver.bytes.slice(DATA, DATA + clusterBytes);
  if (errno !== 0) expectSame(found, before);
  return errno === 0 ? found : errno;
}

const PLAIN = pattern(CLUSTER);
const STREAM = deflateRawSync(PLAIN);
/** The stream at 1000, in a file of 8 KiB that is full of other bytes. */
const FILE = new Uint8Array(8192).fill(0xee);
FILE.set(STREAM, 1000);

describe('a view of compressed clusters', () => {
  it('answers a stream with its cluster, from any offset and with any tail', async () => {
    const world = await viewOf(FILE);
    for (const length of [STREAM.length, STREAM.length + 1, 2 * CLUSTER]) {
      expect(await readCluster(world, 1000, length)).toEqual(PLAIN);
    }
  });

  it('writes into the segments of a table', async () => {
    const { driver } = await viewOf(FILE);
    const table = driver.table([
      [DATA, 100],
      [DATA + 5000, CLUSTER - 100],
    ]);
    const answer = await driver.run((id) => driver.backend.read(id, 1000, 4000, 2, table));
    expect(answer.errno).toBe(0);
    expectSame(driver.bytes.slice(DATA, DATA + 100), PLAIN.subarray(0, 100));
    expectSame(driver.bytes.slice(DATA + 5000, DATA + 5000 + CLUSTER - 100), PLAIN.subarray(100));
  });

  it('reads zeroes past the end of the file (Q85), but none there alone (Q84)', async () => {
    const atEnd = await viewOf(FILE.subarray(0, 1000 + STREAM.length));
    expect(await readCluster(atEnd, 1000, 2 * CLUSTER)).toEqual(PLAIN);
    expect(await readCluster(atEnd, 1000 + STREAM.length, 512)).toBe(EIO);
    expect(await readCluster(atEnd, 2 ** 50, 512)).toBe(EIO);
    const cut = await viewOf(FILE.subarray(0, 1000 + STREAM.length - 8));
    expect(await readCluster(cut, 1000, 2 * CLUSTER)).toBe(EIO);
  });

  it('refuses lengths that no entry can name, and targets outside the memory', async () => {
    const { driver } = await viewOf(FILE);
    for (const [offset, length] of [
      [0, 0],
      [0, -1],
      [0, 2 * CLUSTER + 1],
      [-1, 512],
    ] as const) {
      expect((await driver.tryRead(offset, length)).errno).toBe(EINVAL);
    }
    const end = driver.bytes.length;
    expect((await driver.tryRead(1000, 512, end - CLUSTER + 1)).errno).toBe(EFAULT);
    const table = driver.table([
      [DATA, 100],
      [DATA + 5000, CLUSTER],
    ]);
    const answer = await driver.run((id) => driver.backend.read(id, 1000, 4000, 2, table));
    expect(answer.errno).toBe(EFAULT);
  });

  it('answers EIO to a damaged stream and leaves the target alone', async () => {
    const world = await viewOf(FILE);
    expect(await readCluster(world, 900, 4000)).toBe(EIO);
    expect(await readCluster(world, 0, 512)).toBe(EIO);
  });

  it('passes on the errno of the file', async () => {
    const world = await viewOf(FILE);
    world.inner.fail('read', { errno: 121 });
    expect(await readCluster(world, 1000, 4000)).toBe(121);
    expect(await readCluster(world, 1000, 4000)).toEqual(PLAIN);
  });

  it('writes nothing, and has nothing to sync', async () => {
    const { inner, driver, view } = await viewOf(FILE);
    expect(await driver.write(0, pattern(512))).toBe(EROFS);
    expect(await driver.zero(0, 512)).toBe(EROFS);
    expect(await driver.discard(0, 512)).toBe(EROFS);
    expect((await driver.run((id) => view.blockStatus(id))).errno).toBe(ENOTSUP);
    expect(await driver.sync()).toBe(0);
    expect(inner.log).toEqual([]);
    await view.close();
    expect(inner.closed).toBe(true);
  });

  it('lets reads wait for a slot and answers all of them, in a memory that grew', async () => {
    const { inner, view, driver } = await viewOf(FILE, { hold: true });
    const count = 3 * view.depth;
    const reads = Array.from({ length: count }, (_, index) =>
      driver.tryRead(1000, 4000, DATA + index * CLUSTER),
    );
    expect(inner.held.length).toBe(view.depth);
    driver.memory.grow(1);
    for (let released = 0; released < count; released++) inner.release(inner.held.at(-1)?.id);
    for (const { errno } of await Promise.all(reads)) expect(errno).toBe(0);
    const bytes = new Uint8Array(driver.memory.buffer);
    for (let index = 0; index < count; index++) {
      const at = DATA + index * CLUSTER;
      expectSame(bytes.slice(at, at + CLUSTER), PLAIN);
    }
  });

  it.each([
    [512, 16],
    [65536, 16],
    [2 ** 21, 4],
  ])('of %i bytes uses %i slots and bounded memory', async (clusterBytes, slots) => {
    const { view } = await viewOf(FILE, {}, clusterBytes);
    expect(view.depth).toBe(slots);
    expect(slots * 2 * clusterBytes).toBeLessThanOrEqual(16 * 2 ** 20);
  });

  it('inflates many large clusters at once', async () => {
    const clusterBytes = 2 ** 21;
    const plain = pattern(clusterBytes);
    const { driver } = await viewOf(deflateRawSync(plain), {}, clusterBytes);
    const stream = driver.backend.sizeBytes;
    const reads = Array.from({ length: 12 }, (_, index) =>
      driver.tryRead(0, stream, DATA + (index % 4) * clusterBytes),
    );
    for (const { errno } of await Promise.all(reads)) expect(errno).toBe(0);
    expectSame(driver.bytes.slice(DATA, DATA + clusterBytes), plain);
  });
});

/** Half text and half noise, so that clusters of both kinds come out. */
function disk(size: number): Uint8Array {
  const bytes = pattern(size);
  let state = 7;
  for (let at = 0; at < size; at++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    if (at % 8 < 3) bytes[at] = state >>> 24;
  }
  return bytes;
}

describeWithPeers(['qemu-img'], 'compressed clusters of QEMU', () => {
  const folder = scratchFolder();
  const kinds = (['zlib', 'zstd'] as const).flatMap((type) =>
    [512, 4096, 65536, 2 ** 21].map((clusterBytes) => [type, clusterBytes] as const),
  );

  it.each(kinds)('%s, %i bytes: every one reads as what was converted', async (type, cluster) => {
    const size = Math.max(2 ** 18, 3 * cluster);
    const plain = disk(size);
    const raw = join(folder, `${type}-${cluster}.raw`);
    const path = join(folder, `${type}-${cluster}.qcow2`);
    writeFileSync(raw, plain);
    const options = [`cluster_size=${cluster}`, `compression_type=${type}`];
    await convertCompressed(raw, path, options);
    const image = readFileSync(path);
    const compression = type === 'zlib' ? 'deflate' : 'zstd';
    const inner = await openFileBackend(path);
    const view = await openCompressedView(inner, { clusterBytes: cluster, compression });
    const driver = new Driver(view);
    let streams = 0;
    for (let guest = 0; guest < size; guest += cluster) {
      const stream = streamOf(image, guest);
      if (stream === undefined) continue;
      streams++;
      expect((await driver.tryRead(stream.offset, stream.length)).errno).toBe(0);
      expectSame(driver.bytes.slice(DATA, DATA + cluster), plain.subarray(guest, guest + cluster));
    }
    expect(streams).toBeGreaterThan(0);
    await view.close();
  });

  it.each(['zlib', 'zstd'] as const)('%s: garbage is EIO (Q83, Q88)', async (type) => {
    const raw = join(folder, `garbage-${type}.raw`);
    const path = join(folder, `garbage-${type}.qcow2`);
    writeFileSync(raw, disk(65536));
    await convertCompressed(raw, path, [`compression_type=${type}`]);
    const image = readFileSync(path);
    const stream = streamOf(image, 0);
    if (stream === undefined) throw new Error('QEMU did not compress the cluster');
    image.fill(0xff, stream.offset, stream.offset + 64);
    const compression = type === 'zlib' ? 'deflate' : 'zstd';
    const world = await viewOf(image, {}, 65536, compression);
    expect(await readCluster(world, stream.offset, stream.length, 65536)).toBe(EIO);
  });

  it('a stream of 64 MiB is cut (Q86), a short one is EIO (Q87)', async () => {
    const bomb = deflateRawSync(Buffer.alloc(2 ** 26), { windowBits: 12, memLevel: 9 });
    const world = await viewOf(bomb, {}, 65536);
    expect(await readCluster(world, 0, bomb.length, 65536)).toEqual(new Uint8Array(65536));
    const short = await viewOf(deflateRawSync(Buffer.alloc(100, 0x41)), {}, 65536);
    expect(await readCluster(short, 0, 512, 65536)).toBe(EIO);
  });
});
