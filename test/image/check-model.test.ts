/** The plain reader, by which others are judged, against qemu-img convert. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KINDS, make, remove } from './check-images.ts';

const READABLE = KINDS.filter(({ encrypted, name }) => !encrypted && name !== 'zstd');

describeWithPeers(['qemu-img', 'qemu-io'], 'the plain reader', () => {
  it.each(READABLE)('reads what qemu-img converts: $name', (kind) => {
    const image = make(kind);
    const { folder, bytes, backing, data } = image;
    try {
      const args = ['convert', '-f', 'qcow2', '-O', 'raw', 'IMAGE', 'RAW'];
      execFileSync('qemu-img', args, { cwd: folder });
      const raw = readFileSync(join(folder, 'RAW'));
      const whole = readGuest(bytes, backing, 0, raw.length, data);
      expect(Buffer.compare(whole, raw)).toBe(0);
      const part = readGuest(
        bytes,
        backing,
        1000,
        Math.max(0, Math.min(5000, raw.length - 1000)),
        data,
      );
      expect(Buffer.compare(part, raw.subarray(1000, 6000))).toBe(0);
    } finally {
      remove(image);
    }
  });
});
