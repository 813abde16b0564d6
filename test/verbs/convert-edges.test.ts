/** Sources and targets of convert that are put together in ways that are seldom tried. */
import {
  chownSync,
  copyFileSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { qemuNbd } from '../nbd/peer-servers.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KEY } from './made.ts';
import { create, expectSameDisk, write } from './twins.ts';

/** Threads are started from what is built. */
const BUILT = new URL('../../dist/node.js', import.meta.url).href;
const CORRUPT = 'ERR_SLUICE_CORRUPT';

describeWithPeers(['qemu-img', 'qemu-io'], 'convert', () => {
  const folder = imageFolder();
  const at = (name: string): string => join(folder, name);
  const target = at('target');
  beforeAll(() => {
    create(folder, 'base.qcow2', '10M');
    write(at('base.qcow2'), 'write -P 1 3M 1M');
    create(folder, 'top.qcow2', '-b', 'base.qcow2', '-F', 'qcow2', '10M');
    write(at('top.qcow2'), 'write -P 2 5M 1M');
    writeFileSync(at('key'), KEY);
  });

  it('takes an encrypted overlay of a plain image', async () => {
    const encryption = { key: Buffer.from(KEY), iterTimeMs: 1 };
    await image.create(at('secret.qcow2'), {
      format: 'qcow2',
      image: { backing: { name: 'base.qcow2', format: 'qcow2' }, encryption },
      backing: { folders: [folder] },
    });
    const run = await sluice(['convert', '--key-file', at('key'), at('secret.qcow2'), target]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expectSameDisk(at('base.qcow2'), target);
    // The key is not passed over where nothing is encrypted.
    const plain = await sluice([
      'convert',
      '--key-file',
      at('key'),
      '-n',
      at('base.qcow2'),
      target,
    ]);
    expect(plain.code).toBe(0);
    const into = ['convert', '--key-file', at('key'), '-n', '-O', 'qcow2', at('secret.qcow2')];
    create(folder, 'into.qcow2', '10M');
    expect(await sluice([...into, at('into.qcow2')])).toMatchObject({ code: 0, stderr: '' });
    expectSameDisk(at('base.qcow2'), at('into.qcow2'));
  });

  it('is told when a raw image is cut while it is read', async () => {
    const path = at('shrinks.raw');
    writeFileSync(path, Buffer.alloc(32 * 2 ** 20, 1));
    const onProgress = (): void => truncateSync(path, 2 ** 20);
    const work = image.convert(path, target, { format: 'raw', parallel: 1, onProgress });
    await expectRefusal(work, CORRUPT, /lies past the end of the file; it was cut off/);
  });

  it('is told of what was cut off, and salvages the rest', async () => {
    copyFileSync(at('base.qcow2'), at('cut.qcow2'));
    truncateSync(at('cut.qcow2'), statSync(at('cut.qcow2')).size - 512 * 1024);
    writeFileSync(target, 'old');
    const work = image.convert(at('cut.qcow2'), target);
    await expectRefusal(work, CORRUPT, /lies past the end of the file; it was cut off/);
    expect(readFileSync(target, 'utf8')).toBe('old');
    const run = await sluice(['convert', '--salvage', at('cut.qcow2'), target]);
    expect(run.code).toBe(0);
    expect(run.stderr).toMatch(/512 bytes at offset \d+ of the disk are zeroes now/);
    expect(
      readFileSync(target)
        .subarray(3 * 2 ** 20, 3.5 * 2 ** 20)
        .every((b) => b === 1),
    ).toBe(true);
  });

  it.for(['json:{}', 'rbd:disk', 'file:disk', 'nbd:unix:/socket'])(
    'takes %s for no file',
    async (name) => {
      for (const paths of [
        [at('base.qcow2'), name],
        [name, target],
      ]) {
        const run = await sluice(['convert', ...paths], { cwd: folder });
        expect(run.code).toBe(1);
        expect(run.stderr).toMatch(/begins with a protocol/);
      }
    },
  );

  it('refuses a backing file that is not there, and formats that nobody knows', async () => {
    const made = { backing: { name: 'nowhere', format: 'qcow2' } } as const;
    const options = { targetFormat: 'qcow2', image: made } as const;
    await expectRefusal(
      image.convert(at('base.qcow2'), target, options),
      'ERR_SLUICE_OPEN',
      /cannot find the backing file/,
    );
    const odd = { format: 'vhd' } as unknown as image.ConvertOptions;
    await expectRefusal(
      image.convert(at('base.qcow2'), target, odd),
      'ERR_SLUICE_INVALID_ARGUMENT',
      /'vpc' or 'vmdk'/,
    );
  });

  it('leaves a file that it replaces to its owner', async (context) => {
    if (process.getuid?.() !== 0) return context.skip('needs root, which gives files away');
    writeFileSync(target, 'old');
    chownSync(target, 1234, 1234);
    await image.convert(at('base.qcow2'), target);
    expect(statSync(target)).toMatchObject({ uid: 1234, gid: 1234 });
  });
});

describeWithPeers(['qemu-img', 'qemu-io', 'qemu-nbd'], 'convert -n', () => {
  const folder = imageFolder();

  it('copies a chain into an export', async () => {
    create(folder, 'base.qcow2', '10M');
    write(join(folder, 'base.qcow2'), 'write -P 1 3M 1M');
    const top = create(folder, 'top.qcow2', '-b', 'base.qcow2', '-F', 'qcow2', '10M');
    const exported = join(folder, 'export');
    writeFileSync(exported, Buffer.alloc(10 * 2 ** 20, 0xff));
    await using server = await qemuNbd('-f', 'raw', exported);
    const run = await sluice(['convert', '-n', top, server.uri]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expectSameDisk(top, exported);
  });

  it('fails each time, and nothing else, where streams of an image are damaged', async () => {
    create(folder, 'zstd.qcow2', '-o', 'compression_type=zstd', '4M');
    for (let part = 0; part < 8; part++) {
      write(join(folder, 'zstd.qcow2'), `write -c -P 7 ${part * 512}k 64k`);
      write(join(folder, 'zstd.qcow2'), `write -P 8 ${part * 512 + 64}k 192k`);
    }
    writeFileSync(join(folder, 'damaged.qcow2'), damaged(readFileSync(join(folder, 'zstd.qcow2'))));
    const { image: built } = (await import(BUILT)) as { image: typeof image };
    for (const parallel of [1, 3]) {
      for (let run = 0; run < 40; run++) {
        const copy = built.convert(join(folder, 'damaged.qcow2'), join(folder, 'out'), {
          format: 'qcow2',
          parallel,
        });
        await expectRefusal(copy, CORRUPT, /damaged/);
      }
    }
  });
});

/** Without the magic number of the first zstd stream. */
function damaged(bytes: Buffer): Buffer {
  const start = bytes.indexOf(Buffer.of(0x28, 0xb5, 0x2f, 0xfd));
  return bytes.fill(0x58, start, start + 4);
}
