/** Encrypted images that are amended: their header of LUKS stays where it is. */
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { amend } from '../../src/image/qcow2/amend.ts';
import { addBitmap } from '../../src/image/qcow2/bitmap-edit.ts';
import { setBacking } from '../../src/image/qcow2/set-backing.ts';
import { create } from '../../src/verbs/create.ts';
import { describeWithPeers } from '../support/peers.ts';
import { type Change, change, expectWhole, IMAGE, run } from './edited-image.ts';
import { imageFolder } from './scratch.ts';

const KEY = ['--object', 'secret,id=s,data=abc'];
const OPENED = `driver=qcow2,file.filename=${IMAGE},encrypt.key-secret=s`;
const CHANGES: readonly Change[] = [
  (file, header) => amend(file, header, IMAGE, { refcountBits: 8 }),
  (file, header) => addBitmap(file, header, IMAGE, 'b'),
  (file, header) => setBacking(file, header, IMAGE, { name: 'a.raw', format: 'raw' }),
  (file, header) => setBacking(file, header, IMAGE, undefined),
];

describeWithPeers(['qemu-img', 'qemu-io'], 'an encrypted image', () => {
  const folder = imageFolder();

  it('reads as before when it is changed, and has no errors and no leaks', async () => {
    const encryption = { key: 'abc', iterTimeMs: 10 };
    const made = { image: { encryption, clusterBits: 12 }, sizeBytes: 256 * 1024 } as const;
    await create(join(folder, IMAGE), { format: 'qcow2', ...made });
    run(folder, 'qemu-img', 'create', '-q', 'a.raw', '256k');
    const io = (command: string): number =>
      run(folder, 'qemu-io', ...KEY, '--image-opts', '-c', command, OPENED);
    expect(io('write -P 7 0 64k')).toBe(0);
    for (const work of CHANGES) {
      const { states } = await change(folder, work);
      for (const { epoch, bytes } of states) expectWhole(bytes, `epoch ${epoch}`);
      expect(run(folder, 'qemu-img', 'check', ...KEY, '--image-opts', OPENED)).toBe(0);
      expect(io('read -P 7 0 64k')).toBe(0);
    }
  });
});
