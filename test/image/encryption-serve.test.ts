/** `sluice serve` with a key file: the built executable. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { expectSame, pattern } from '../backend/driver.ts';
import { NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NbdClient } from '../cli/nbd-client.ts';
import { type Serving, serve, sluice } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { createDisk, type Encrypted, KEY, LUKS, readByQemu } from './encrypted-disk.ts';
import { imageFolder } from './scratch.ts';

const MIB = 1024 * 1024;
const folder = imageFolder();

function keyFile(name: string, key: string): string {
  const path = join(folder, name);
  writeFileSync(path, key);
  return path;
}

function serveEncrypted({ path }: Encrypted, key: string): Promise<Serving> {
  const socket = `${path}.sock`;
  return serve(['-t', '-f', 'qcow2', '-k', socket, '--key-file', key, path]);
}

describeWithPeers(['qemu-img', 'qemu-io'], 'sluice serve --key-file', () => {
  it('serves an encrypted image; what was flushed outlives a kill', async () => {
    const image = await createDisk(join(folder, 'served.qcow2'), LUKS, 4 * MIB);
    const key = keyFile('key', KEY);
    for (let round = 0; round < 3; round++) {
      const server = await serveEncrypted(image, key);
      const client = await NbdClient.connect(server.uri);
      const read = await client.request(NBD_CMD_READ, 0, 4 * MIB);
      expectSame(read, image.expected);
      for (let index = 0; index < 20; index++) {
        const offset = (index * 197_000 + round * 4096) % (3 * MIB);
        const bytes = pattern(70_000, round * 20 + index);
        await client.request(NBD_CMD_WRITE, offset, bytes.length, bytes);
        image.expected.set(bytes, offset);
      }
      await client.request(NBD_CMD_FLUSH);
      await server.stop('SIGKILL');
      expectSame(await readByQemu(image), image.expected);
    }
    const server = await serveEncrypted(image, key);
    expect(await server.stop()).toMatchObject({ code: 0 });
    expectSame(await readByQemu(image), image.expected);
  });

  it('takes every byte of the file, and says what is wrong with it', async () => {
    const { path } = await createDisk(join(folder, 'refused.qcow2'), LUKS, 4 * MIB);
    const run = (...args: string[]) => sluice(['serve', '-f', 'qcow2', ...args, path]);
    const lineFeed = await run('--key-file', keyFile('lf', `${KEY}\n`));
    expect(lineFeed).toMatchObject({ code: 1, stderr: expect.stringContaining('opens none') });
    expect(lineFeed.stderr).toContain('(ERR_SLUICE_KEY)');
    expect((await run()).stderr).toMatch(
      /no passphrase was given; pass --key-file, or .* \(ERR_SLUICE_KEY\)/,
    );
    const missing = await run('--key-file', join(folder, 'missing'));
    expect(missing.code).toBe(1);
    expect(missing.stderr).toMatch(
      /^sluice: cannot read the key file '.*missing': .*\(ENOENT\)\n$/,
    );
  });
});
