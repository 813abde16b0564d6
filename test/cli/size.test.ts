/** Sizes on the command line are those of qemu-img. */
import { statSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { parseSize } from '../../src/cli/verbs/size.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';

const TEXTS = ['512', '512b', '64k', '64K', '1.5k', '1.0', '1.0005k', '1.5G', '0x200', '0X200'];
const NO_SIZES = ['', '0.5', '0.5b', '1.25', '1e3', '-1', '1kk', '1 k', '0x', '1,5k'];

describeWithPeers(['qemu-img'], 'a size', () => {
  const folder = imageFolder();
  const path = join(folder, 'disk');

  /** What qemu-img makes of it; undefined: it refuses. */
  function ofQemu(text: string): number | undefined {
    const { status } = spawnSync('qemu-img', ['create', '-q', path, '--', text]);
    return status === 0 ? statSync(path).size : undefined;
  }

  it.for(TEXTS)('%j is what it is to qemu-img', (text) => {
    const bytes = parseSize(text);
    expect(bytes).toBeGreaterThan(0);
    // Disks are whole sectors to qemu-img.
    expect(ofQemu(text)).toBe(Math.ceil(bytes! / 512) * 512);
  });

  it.for(NO_SIZES)('%j is none, and none to qemu-img', (text) => {
    expect(parseSize(text)).toBeUndefined();
    expect(ofQemu(text)).toBeUndefined();
  });
});
