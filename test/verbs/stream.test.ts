/** An image as a stream is the file that convert makes, byte for byte. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';

import type { image, openDisk } from '../../src/node.ts';
import { sluice, SLUICE } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { makeImages } from './images.ts';
import { KEY, SECRET } from './made.ts';

const MIB = 2 ** 20;
/** The built package: its threads are files. */
const BUILT = new URL('../../dist/node.js', import.meta.url).href;
const { image: built, openDisk: openBuilt } = (await import(BUILT)) as {
  image: typeof image;
  openDisk: typeof openDisk;
};

type Options = image.StreamOptions;

const QCOW2 = { targetFormat: 'qcow2' } as const;
const ZSTD = { compression: 'zstd' } as const;
const WAYS: readonly Options[] = [
  {},
  QCOW2,
  { ...QCOW2, compress: true },
  { ...QCOW2, compress: true, image: { ...ZSTD, clusterBits: 12 } },
  { ...QCOW2, image: { clusterBits: 9, refcountOrder: 6 } },
  { ...QCOW2, compress: true, image: { clusterBits: 9, refcountOrder: 0 } },
  { ...QCOW2, image: { clusterBits: 21, extendedL2: true } },
  { ...QCOW2, image: { version: 2 }, sparseBytes: 0 },
  { ...QCOW2, preallocation: 'metadata' },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'an image as a stream', () => {
  const folder = imageFolder();
  const target = join(folder, 'target');
  const backing = { folders: [folder] };
  let paths = new Map<string, string>();
  let random = '';
  beforeAll(() => {
    paths = makeImages(folder);
    random = join(folder, 'random.img');
    execFileSync('sh', ['-c', 'head -c 20M /dev/urandom > "$0"', random]);
  });

  /** Chunks are kept until the end, as a queue would. */
  async function bytesOf(path: string, options: Options): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of built.stream(path, { backing, ...options })) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  it.for(['default', 'small-clusters', 'chain', 'compressed', 'data-file', 'snapshots'])(
    'has the bytes of the file: %s',
    async (name) => {
      for (const way of WAYS) {
        await built.convert(paths.get(name)!, target, { backing, ...way });
        const bytes = await bytesOf(paths.get(name)!, way);
        expect(bytes.equals(readFileSync(target)), JSON.stringify(way)).toBe(true);
      }
    },
  );

  it('copies what an image has itself, over a backing file', async () => {
    const made = { backing: { name: paths.get('longer')!, format: 'qcow2' } } as const;
    writeFileSync(target, await bytesOf(paths.get('chain')!, { ...QCOW2, image: made }));
    qemu(folder, 'qemu-img', ['compare', '-F', 'qcow2', paths.get('chain')!, target]);
    qemu(folder, 'qemu-img', ['check', '-q', target]);
  });

  it('may be encrypted', async () => {
    const encryption = { key: Buffer.from(KEY), iterTimeMs: 1 };
    for (const clusterBits of [9, 16]) {
      const options = { ...QCOW2, image: { encryption, clusterBits } };
      writeFileSync(target, await bytesOf(random, options));
      const node = `driver=qcow2,file.filename=${target},encrypt.key-secret=s`;
      const other = `driver=raw,file.filename=${random}`;
      qemu(folder, 'qemu-img', ['compare', ...SECRET, '--image-opts', node, other]);
    }
  });

  it('is the size of one piece in memory, however slow its reader is', async () => {
    const hash = createHash('sha256');
    let largest = 0;
    const readable = Readable.from(built.stream(random, { parallel: 2 }), { highWaterMark: 1 });
    for await (const chunk of readable as AsyncIterable<Uint8Array>) {
      largest = Math.max(largest, chunk.length);
      await sleep(5);
      hash.update(chunk);
    }
    expect(largest).toBeLessThanOrEqual(4 * MIB);
    expect(hash.digest('hex')).toBe(
      createHash('sha256').update(readFileSync(random)).digest('hex'),
    );
  });

  it('gives the image back when nobody wants more of it', async () => {
    for await (const chunk of built.stream(random, QCOW2)) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    await using disk = await openBuilt(random, { format: 'raw', writable: true });
    expect(disk.size).toBe(20 * MIB);
  });

  it('ends with the reason of its signal', async () => {
    const stop = new AbortController();
    const reason = new Error('enough');
    const work = async (): Promise<void> => {
      for await (const chunk of built.stream(random, { ...QCOW2, signal: stop.signal })) {
        if (chunk.length > 0) stop.abort(reason);
      }
    };
    await expect(work()).rejects.toBe(reason);
  });

  it('is not whole when the disk changed between the passes, and says so', async () => {
    const changing = join(folder, 'changing.img');
    writeFileSync(changing, new Uint8Array(20 * MIB));
    const file = openSync(changing, 'r+');
    let isChanged = false;
    const onProgress = ({ doneBytes, totalBytes }: { doneBytes: number; totalBytes: number }) => {
      if (isChanged || doneBytes < totalBytes / 2) return;
      isChanged = true;
      writeSync(file, 'changed', 19 * MIB);
    };
    const work = bytesOf(changing, { ...QCOW2, lock: 'none', onProgress });
    await expectRefusal(work, 'ERR_SLUICE_IO', /the disk was written to while it was read/);
  });

  it('refuses what a stream cannot be', async () => {
    const code = 'ERR_SLUICE_INVALID_ARGUMENT';
    const dataFile = { name: 'data', raw: false };
    await expectRefusal(bytesOf(random, { ...QCOW2, image: { dataFile } }), code, /one file/);
    await expectRefusal(bytesOf(random, { compress: true }), code, /raw image/);
    await expectRefusal(bytesOf(random, { sparseBytes: 3 }), code, /power of two/);
  });

  it('goes to stdout', async () => {
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [SLUICE, 'convert', ...args, random, '-'], {
        maxBuffer: 64 * MIB,
      });
    await built.convert(random, target, { ...QCOW2, compress: true });
    expect(run('-c', '-O', 'qcow2').stdout.equals(readFileSync(target))).toBe(true);
    for (const flags of [['-n'], ['-p'], ['--bitmaps'], ['-n', '--target-is-zero']]) {
      const { status, stderr } = run(...flags);
      expect([status, String(stderr)]).toEqual([1, expect.stringMatching(/not for a copy to/)]);
    }
    const script = '"$0" "$1" convert "$2" - | head -c 100 | wc -c';
    const cut = spawnSync('sh', ['-c', script, process.execPath, SLUICE, random], {
      encoding: 'utf8',
    });
    expect(cut.stdout.trim()).toBe('100');
    expect(cut.stderr).toBe('sluice: cannot write to stdout: broken pipe (EPIPE)\n');
    expect((await sluice(['convert', '--help'])).stdout).toMatch(/A target of - is stdout/);
  });
});
