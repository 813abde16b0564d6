// A host that takes no more writes, or no more syncs: the server of a qcow2 image says so and ends.

import { afterAll, beforeAll, expect, it } from 'vitest';

import { Folder } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { checkImage, createImage, ServedImage } from './qcow2-server.ts';

const SIZE_BYTES = 64 * 1024 * 1024;
/** Some new clusters, and flushes between them; what is refused is no matter. */
const WRITER = `
import nbd
for i in range(12):
    for call in (lambda: h.pwrite(b'w' * 65536, i << 18), h.flush):
        try: call()
        except nbd.Error: pass
print(0)
`;

describeWithPeers(['strace', 'nbdsh', 'qemu-img'], 'a host that fails for good', () => {
  let folder: Folder;
  beforeAll(async () => {
    folder = await Folder.make();
  });
  afterAll(() => folder[Symbol.asyncDispose]());

  it.each([
    ['pwrite64:error=EIO:when=6+', []],
    ['pwrite64:error=EIO:when=15+', []],
    ['pwrite64:error=ENOSPC:when=9+', []],
    ['fdatasync:error=EIO:when=4', ['--flush-interval', '1']],
    ['fdatasync:error=EIO:when=7', ['--flush-interval', '1']],
  ])('ends all the same: %s', async (fault, options) => {
    const name = `disk-${fault.replaceAll(/\W/g, '-')}`;
    const image = await createImage(folder, name, 'cluster_size=64k', SIZE_BYTES);
    const service = { traced: true, inject: [fault], options } as const;
    await using disk = await ServedImage.serve(folder, image, service);
    await disk.client(WRITER);
    // Its last client has gone; it settles what it can, and says what it could not.
    const { code, errors } = await disk.end();
    expect(code).toBe(1);
    expect(errors.join()).toMatch(/EIO|ENOSPC|flush|tables/);
    expect(await checkImage(image)).toMatchObject({ corruptions: 0, errors: 0 });
  });
});
