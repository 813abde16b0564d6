import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import {
  BlkDriver,
  createDriverQueue,
  GuestMemory,
  parseGuestTrace,
  replayGuestRequest,
} from '../../../src/testing/guest/index.ts';
import { createPlainDevice } from './plain-device.ts';

const CORPUS = new URL('../../corpus/guest-traces/', import.meta.url);

function readTrace(name: string): string {
  return gunzipSync(readFileSync(new URL(name, CORPUS))).toString();
}

describe('parseGuestTrace', () => {
  it('puts lines in a row with one batch together', () => {
    const text = '# a stream\n2 0 8 4096 3\n2 4 0 0 2\n\n10.5 1 16 1024 4\n2 0 0 512 3';
    expect(parseGuestTrace(text)).toEqual([
      {
        at: 2,
        requests: [
          { type: 0, sector: 8, bytes: 4096, descriptors: 3 },
          { type: 4, sector: 0, bytes: 0, descriptors: 2 },
        ],
      },
      { at: 10.5, requests: [{ type: 1, sector: 16, bytes: 1024, descriptors: 4 }] },
      { at: 2, requests: [{ type: 0, sector: 0, bytes: 512, descriptors: 3 }] },
    ]);
  });

  it.each(['1 2 3 4', '1 2 3 4 5 6', 'x 0 0 0 2', '1 0 -8 512 3', '1 0 0.5 512 3', '1 0 1e99 0 2'])(
    'refuses %j and names the line',
    (line) => {
      expect(() => parseGuestTrace(`1 0 0 512 3\n${line}`)).toThrow(/^line 2 is not/);
    },
  );

  it.each([
    ['qemu-ext4-sqlite-fio', 5445],
    ['qemu-nomerges', 8427],
    ['uml-mkfs-fio', 7308],
    ['v86-mkfs', 744],
  ])('reads %s: %i requests', (name, count) => {
    const batches = parseGuestTrace(readTrace(`${name}.trace.gz`));
    expect(batches.reduce((sum, { requests }) => sum + requests.length, 0)).toBe(count);
  });
});

describe('replayGuestRequest', () => {
  it.each(readdirSync(CORPUS))('makes %s with the recorded shapes', (name) => {
    const memory = new GuestMemory(new ArrayBuffer(1 << 24));
    const queue = createDriverQueue(true, { memory, size: 256, features: { indirect: true } });
    const disk = new BlkDriver({ queue, guards: false });
    const device = createPlainDevice(memory, queue.config());
    for (const { requests } of parseGuestTrace(readTrace(name)).slice(0, 400)) {
      for (const request of requests) {
        const made = replayGuestRequest(disk, request);
        disk.publish();
        const chain = device.take()!;
        const bytes = chain.descriptors.reduce((sum, { length }) => sum + length, 0);
        expect([chain.descriptors.length, bytes]).toEqual([
          request.descriptors,
          request.bytes + 17,
        ]);
        expect(memory.getU32(chain.descriptors[0]!.address)).toBe(request.type);
        expect(memory.getU64(chain.descriptors[0]!.address + 8n)).toBe(BigInt(request.sector));
        device.use([chain], 1);
        disk.poll();
        disk.release(made);
      }
    }
  });
});
