// A cache that is too small, a list of dropped references that is full, and more requests than
// either has room for: everything comes to its end, and the image is sound.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';

import { openDisk } from '../../src/node.ts';
import { Random } from '../../src/testing/random.ts';
import { systemPath } from '../e2e/image.ts';
import { describeWithPeers } from '../support/peers.ts';

const REQUESTS = 3000;
const DEPTH = 512;
const BYTES = 4096;

const folder = mkdtempSync(join(tmpdir(), 'sluice-pressure-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function qemu(program: string, args: string[]): string {
  const env = { ...process.env, ...systemPath() };
  return execFileSync(program, args, { cwd: folder, env, encoding: 'utf8' });
}

/** Compressed and plain clusters of 512 bytes, all shared with a snapshot. */
function sharedImage(name: string): string {
  qemu('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', name, '32M']);
  const writes = ['write -q -c -P 3 0 16M', 'write -q -P 4 16M 12M'].flatMap((text) => [
    '-c',
    text,
  ]);
  qemu('qemu-io', ['-f', 'qcow2', ...writes, name]);
  qemu('qemu-img', ['snapshot', '-c', 's', name]);
  return join(folder, name);
}

describeWithPeers(['qemu-img', 'qemu-io'], 'an image under pressure', () => {
  it.each([1, 2, 3])('comes to its end (seed %i)', async (seed) => {
    const path = sharedImage(`${seed}.qcow2`);
    const options = { metadataCacheBytes: 0, flushIntervalMs: 20 };
    const disk = await openDisk(path, { format: 'qcow2', writable: true, ...options });
    const random = new Random(seed);
    const ask = (): Promise<unknown> => {
      const offset = random.below(disk.size / BYTES) * BYTES;
      const kind = random.below(20);
      if (kind < 8) return disk.write(offset, new Uint8Array(BYTES).fill(kind));
      if (kind < 11) return disk.writeZeroes(offset, BYTES, { mayUnmap: true });
      if (kind < 13) return disk.discard(offset, BYTES);
      return kind < 14 ? disk.flush() : disk.read(offset, BYTES);
    };
    for (let done = 0; done < REQUESTS; done += DEPTH) {
      await Promise.all(Array.from({ length: DEPTH }, ask));
    }
    await disk.close();
    expect(qemu('qemu-img', ['check', path])).toContain('No errors were found');
  });
});
