/** What `sluice vhost-user` says when it cannot begin, and of front-ends. */
import { mkdir } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { Folder, sluice } from '../cli/sluice.ts';

describe('sluice vhost-user', () => {
  let folder: Folder;
  let image: string;
  beforeEach(async () => {
    folder = await Folder.make();
    image = await folder.image('disk.img', 1 << 20);
  });
  afterEach(() => folder[Symbol.asyncDispose]());

  it('advises on a place to listen with its own options', async () => {
    await mkdir(folder.file('folder'));
    for (const place of ['folder', 'none/disk.sock']) {
      const { code, stderr } = await sluice(['vhost-user', '-k', folder.file(place), image]);
      expect(code).toBe(1);
      expect(stderr).toMatch(
        /^sluice: cannot listen on ".*choose another place with -k \(E\w+\)\n$/,
      );
    }
  });

  it('says that it needs koffi, also where no lock is wanted', async () => {
    const args = ['vhost-user', '-k', folder.file('disk.sock'), '--no-lock', image];
    const { code, stderr } = await sluice(args, { env: { SLUICE_NO_KOFFI: '1' } });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^sluice: vhost-user cannot be served: SLUICE_NO_KOFFI is set /);
  });
});
