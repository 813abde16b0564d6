// A guest's disk that is a qcow2 image: the mapping moves with the engine, there and back.

import { describe, expect, it } from 'vitest';
import { createImage } from '../../src/image/qcow2/create.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { openDisk } from '../../src/node.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import { readFile, writeFile } from 'node:fs/promises';
import { scratchFile, scratchFolder } from '../backend/scratch.ts';
import { readGuest } from '../model/qcow2.ts';

const MIB = 1 << 20;
const SECTOR = 512;
const folder = scratchFolder();

async function newImage(): Promise<string> {
  const file = new MemoryFile();
  await createImage(file, { sizeBytes: 64 * MIB, version: 3, clusterBits: 16 });
  const path = scratchFile(folder);
  await writeFile(path, file.bytes);
  return path;
}

describe.each(['unshared', 'shared', 'copied'] as const)('a guest in %s memory', (kind) => {
  it('writes to new clusters of a qcow2 image, and the image is whole after it', async () => {
    const path = await newImage();
    const disk = await openDisk(path, {
      format: 'qcow2',
      writable: true,
      bufferBytes: 65_536,
      metadataCacheBytes: 65_536,
      lock: 'none',
    });
    await disk.write(5 * MIB, new Uint8Array(SECTOR).fill(5));
    const pages = 256;
    const shared = kind === 'shared';
    const wasm = new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
    const guest = new ArrayBuffer(MIB);
    const ram = { guestAddress: 0n, address: 0, sizeBytes: MIB };
    const place = kind === 'copied' ? { guest } : { memory: wasm, base: MIB, ram: [ram] };
    const blk = createVirtioBlk(disk, place);
    const memory = kind === 'copied' ? new GuestMemory(guest) : new GuestMemory(wasm, [ram]);
    const queue = createDriverQueue(false, { memory, size: 32 });
    blk.queues.attach(0, queue.config());
    blk.queues.running = true;
    const driver = new BlkDriver({ queue });
    const finish = async (): Promise<void> => {
      if (driver.publish()) blk.queues.notify(0);
      while (queue.inFlight > 0) {
        await new Promise(setImmediate);
        driver.poll();
      }
    };
    const writes = [0, 3, 7].map((at) => driver.write(at * 128, new Uint8Array(4096).fill(at + 1)));
    await finish();
    driver.flush();
    await finish();
    expect(writes.length).toBe(3);
    await blk.close();
    expect((await disk.read(5 * MIB, 1))[0]).toBe(5);
    await disk.close();

    const image = new Uint8Array(await readFile(path));
    expect(checkBytes(image, parseHeader(image, path)).findings).toEqual([]);
    for (const at of [0, 3, 7]) {
      expect(readGuest(image, undefined, at * 65_536, 4096)).toEqual(
        new Uint8Array(4096).fill(at + 1),
      );
    }
    expect(readGuest(image, undefined, 5 * MIB, 1)[0]).toBe(5);
  });
});
