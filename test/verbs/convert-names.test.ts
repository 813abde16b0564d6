/** What has the name of a new image, or gets it while the image is made. */
import {
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { expectRefusal } from '../image/scratch.ts';

const MIB = 1 << 20;

describe('the name of a new image', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-names-'));
  const source = join(folder, 'source');
  const target = join(folder, 'target');
  beforeEach(() => {
    rmSync(target, { force: true });
    writeFileSync(source, Buffer.alloc(5 * MIB, 7));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** Copies, and does something in the middle of it. */
  function copyWhile(deed: () => void): Promise<void> {
    return image.convert(source, target, { format: 'raw', onProgress: deed });
  }

  it('is not taken from a file that has got it meanwhile', async () => {
    await expectRefusal(
      copyWhile(() => writeFileSync(target, 'mine')),
      'ERR_SLUICE_OPEN',
      /another file has got that name meanwhile/,
    );
    expect(readFileSync(target, 'latin1')).toBe('mine');
    expect(readdirSync(folder).toSorted()).toEqual(['source', 'target']);
  });

  it('is not taken from a file that has got it from the one that was there', async () => {
    writeFileSync(target, 'old');
    await expectRefusal(
      copyWhile(() => {
        if (existsSync(join(folder, 'moved'))) return;
        renameSync(target, join(folder, 'moved'));
        writeFileSync(target, 'mine');
      }),
      'ERR_SLUICE_OPEN',
      /another file has got that name meanwhile/,
    );
    expect(readFileSync(target, 'latin1')).toBe('mine');
    expect(readFileSync(join(folder, 'moved'), 'latin1')).toBe('old');
    rmSync(join(folder, 'moved'));
  });

  it('is taken where what was there has gone', async () => {
    writeFileSync(target, 'old');
    await copyWhile(() => rmSync(target, { force: true }));
    expect(readFileSync(target).equals(readFileSync(source))).toBe(true);
  });

  it('is that of what a link to nothing names', async () => {
    symlinkSync('nowhere', target);
    await image.convert(source, target, { format: 'raw' });
    expect(lstatSync(target).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(folder, 'nowhere')).equals(readFileSync(source))).toBe(true);
    expect(readdirSync(folder).toSorted()).toEqual(['nowhere', 'source', 'target']);
    rmSync(join(folder, 'nowhere'));
  });
});
