/** Repairs of damaged images, beside those of qemu-img. */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder, writeImage } from '../image/scratch.ts';
import { both, create, expectSound, twinsOf } from './twins.ts';

const folder = imageFolder();
const COPIED = 1n << 63n;
const OFFSET = 0x00ff_ffff_ffff_fe00n;

/** Changes an entry of the first L2 table of an image. */
function changeEntry(path: string, index: number, change: (entry: bigint) => bigint): void {
  const bytes = readFileSync(path);
  const l1 = Number(bytes.readBigUInt64BE(40));
  const at = Number(bytes.readBigUInt64BE(l1) & OFFSET) + index * 8;
  bytes.writeBigUInt64BE(change(bytes.readBigUInt64BE(at)), at);
  writeFileSync(path, bytes);
}

describe('check -r leaks', () => {
  writeImage(folder, 'data.raw', 'a'.repeat(300_000));

  it('leaves COPIED of a compressed cluster, as qemu-img does, and says so', async () => {
    const path = join(folder, 'compressed.qcow2');
    qemu(folder, 'qemu-img', ['convert', '-c', '-O', 'qcow2', 'data.raw', path]);
    changeEntry(path, 0, (entry) => entry ^ COPIED);
    const before = readFileSync(path);
    const twins = twinsOf(path);
    const { codes } = await both(twins, ['check', '-r', 'leaks']);
    expect(codes).toEqual([2, 2]);
    expect(readFileSync(twins.ours).equals(before)).toBe(true);
    await expect(image.check(twins.ours, { repair: 'all' })).resolves.not.toHaveProperty(
      'corruptions',
    );
    expectSound(twins.ours);
  });

  it('frees leaks beside it', async () => {
    const path = join(folder, 'both.qcow2');
    qemu(folder, 'qemu-img', ['convert', '-c', '-O', 'qcow2', 'data.raw', path]);
    changeEntry(path, 0, (entry) => entry ^ COPIED);
    const bytes = readFileSync(path);
    bytes.writeUInt16BE(1, 2 * 65536 + 2 * 5 + 2);
    writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(2 * 65536)]));
    const found = await image.check(path, { repair: 'leaks' });
    expect(found).toMatchObject({ corruptions: 1, 'leaks-fixed': 1 });
    expect(found).not.toHaveProperty('leaks');
  });

  it('puts COPIED of other clusters right, as qemu-img does', async () => {
    const path = join(folder, 'plain.qcow2');
    qemu(folder, 'qemu-img', ['convert', '-O', 'qcow2', 'data.raw', path]);
    changeEntry(path, 0, (entry) => entry ^ COPIED);
    const { codes } = await both(twinsOf(path), ['check', '-r', 'leaks']);
    expect(codes).toEqual([0, 0]);
  });
});

describe('check -r all', () => {
  it('repairs until nothing more is found', async () => {
    const path = create(folder, 'shared.qcow2', '-o', 'preallocation=metadata', '20M');
    const refcountBlock = 2n * 65536n;
    changeEntry(path, 5, () => COPIED | refcountBlock);
    const twins = twinsOf(path);
    const { codes } = await both(twins, ['check', '-r', 'all']);
    expect(codes).toEqual([0, 0]);
    expectSound(twins.ours);
  });

  it('repairs once where something is left that it cannot repair', async () => {
    const path = create(folder, 'lost.qcow2', '-o', 'preallocation=metadata', '20M');
    changeEntry(path, 5, () => COPIED | (2n * 65536n));
    changeEntry(path, 6, (entry) => entry + 512n);
    const { corruptions } = await image.check(path, { repair: 'all' });
    expect(corruptions).toBeGreaterThan(0);
    const { size } = statSync(path);
    await image.check(path, { repair: 'all' });
    expect(statSync(path).size).toBe(size);
  });
});
