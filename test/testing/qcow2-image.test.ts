// The images that explorations of qcow2 begin with, and the reader that looks at what is left.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { codeOf, wordsOf } from '../../src/testing/qcow2/guest-sectors.ts';
import { guestCodes } from '../../src/testing/qcow2/guest-view.ts';
import { buildImage, type ImageShape } from '../../src/testing/qcow2/image-builder.ts';
import { describeWithPeers } from '../support/peers.ts';

const folder = mkdtempSync(join(tmpdir(), 'sluice-shapes-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SHAPES: readonly ImageShape[] = [
  { name: 'empty', clusters: '.'.repeat(64) },
  { name: 'all kinds', clusters: '.dzp'.repeat(16), freeClusters: 7 },
  { name: 'version 2', clusters: 'd..d'.repeat(4), format: { version: 2 } },
  { name: 'backing', clusters: '.dzp'.repeat(4), backingClusters: 10 },
  { name: 'compressed', clusters: 'ccdc.ccz', format: { clusterBits: 12 } },
  {
    name: 'snapshot',
    clusters: 'dd.cczp.',
    snapshot: true,
    backingClusters: 8,
    format: { clusterBits: 12 },
  },
  { name: 'extended', clusters: 'd.zp', format: { clusterBits: 14, extendedL2: true } },
  {
    name: 'extended on backing',
    clusters: 'd.zp',
    backingClusters: 3,
    snapshot: true,
    format: { clusterBits: 14, extendedL2: true },
  },
  { name: 'data file', clusters: 'd.zp'.repeat(4), dataFile: 'plain' },
  { name: 'raw data file', clusters: 'd.zp'.repeat(4), dataFile: 'raw' },
  ...[0, 1, 2, 3, 5, 6].map((refcountOrder) => ({
    name: `refcounts of 2^${refcountOrder} bits`,
    clusters: '.dzp'.repeat(4),
    freeClusters: 3,
    format: { refcountOrder },
  })),
];

describe('the image of an exploration', () => {
  it.each(SHAPES)('is sound, and its guest sees what it says: $name', async (shape) => {
    const { image, data, backing, codes } = await buildImage(shape);
    const header = parseHeader(image, shape.name);
    const { corruptions, leaks, checkErrors } = checkBytes(image, header);
    expect({ corruptions, leaks, checkErrors }).toEqual({
      corruptions: 0,
      leaks: 0,
      checkErrors: 0,
    });
    const found = new Int32Array(codes.length);
    guestCodes({ image, data, backing }, header, found);
    expect(found).toEqual(codes);
  });
});

describeWithPeers(['qemu-img'], 'the image of an exploration according to QEMU', () => {
  it.each(SHAPES)('is the same: $name', async (shape) => {
    const { image, data, backing, codes } = await buildImage(shape);
    const qemu = (...args: string[]): void => {
      execFileSync('qemu-img', args, { cwd: folder });
    };
    writeFileSync(join(folder, 'image'), image);
    writeFileSync(join(folder, 'data'), data ?? '');
    writeFileSync(join(folder, 'back'), backing ?? '');
    qemu('check', '-q', '-f', 'qcow2', 'image');
    qemu('convert', '-f', 'qcow2', '-O', 'raw', 'image', 'raw');
    const words = wordsOf(Uint8Array.from(readFileSync(join(folder, 'raw'))));
    const found = codes.map((_, sector) => codeOf(words, sector * 128, sector));
    expect(found).toEqual(codes);
  });
});
