/** What is in the page cache is read at once, and nothing else is. */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';

import { readCached } from '../../src/backend/file-cached.ts';
import { loadNative } from '../../src/backend/native.ts';
import { imageFolder } from '../image/scratch.ts';

const BYTES = Buffer.from(Array.from({ length: 200_000 }, (_, index) => index % 251));

/** Reads from a descriptor of a file that holds BYTES. */
async function withFile(use: (fd: number) => void): Promise<void> {
  const path = join(imageFolder(), 'file');
  writeFileSync(path, BYTES);
  const fd = openSync(path, 'r');
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}

describe('reads from the page cache', () => {
  beforeEach((context) => {
    if (loadNative() === null) context.skip('koffi is not installed');
  });

  it('brings the bytes of the range', async () => {
    await withFile((fd) => {
      const into = new Uint8Array(70_000);
      expect(readCached(fd, into, 5)).toBe(into.length);
      expect(BYTES.subarray(5, 5 + into.length).equals(into)).toBe(true);
    });
  });

  it('ends where the file ends, and touches nothing behind', async () => {
    await withFile((fd) => {
      const into = new Uint8Array(1000).fill(0xee);
      expect(readCached(fd, into, BYTES.length - 10)).toBe(10);
      expect(BYTES.subarray(-10).equals(into.subarray(0, 10))).toBe(true);
      expect(into.subarray(10).every((byte) => byte === 0xee)).toBe(true);
      expect(readCached(fd, into, BYTES.length)).toBe(0);
    });
  });

  it('answers 0 for a descriptor that cannot be read', async () => {
    const path = join(imageFolder(), 'written');
    const fd = openSync(path, 'w');
    expect(readCached(fd, new Uint8Array(16), 0)).toBe(0);
    closeSync(fd);
  });
});

it('answers 0 without koffi', async () => {
  process.env['SLUICE_NO_KOFFI'] = '1';
  try {
    await withFile((fd) => expect(readCached(fd, new Uint8Array(16), 0)).toBe(0));
  } finally {
    delete process.env['SLUICE_NO_KOFFI'];
  }
});
