/** What rows of the table of damaged images ask for beyond commands that end well or badly. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { beforeAll, expect, it } from 'vitest';

import { makeBases, qemu } from '../image/bad-inputs/bases.ts';
import { PokedImage } from '../image/bad-inputs/poked-image.ts';
import { BAD_INPUTS, type BadInput } from '../image/bad-inputs/rows.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { BEHIND, DIRTY, FIRST_CLUSTER } from './places.ts';
import { makeRow, open, rowOf, runStep, soon } from './stage.ts';

const EIGHT_MIB = 8 * 1024 * 1024;

/** A row with more that is changed. */
function also(id: string, poke: (image: PokedImage) => void): BadInput {
  const damaged = rowOf(id);
  const both = (image: PokedImage): void => {
    damaged.poke(image);
    poke(image);
  };
  return { ...damaged, poke: both };
}

describeWithPeers(['qemu-img', 'qemu-io'], 'a damaged qcow2 image', () => {
  const folder = imageFolder();
  beforeAll(() => makeBases(folder));

  /** Runs commands on the image, which is closed then; answers its bytes. */
  async function write(path: string, ...commands: string[]): Promise<Buffer> {
    await using disk = await open(path, { writable: true });
    for (const command of commands) await runStep(disk, command, 'done');
    await soon(disk.close());
    return readFileSync(path);
  }

  it('Q39, Q79: a dirty image is repaired before a cluster of it is handed out', async () => {
    const dirty = also('Q79', (image) => image.put8(DIRTY[0], 1));
    const { path } = makeRow(folder, dirty);
    const after = await write(path, 'write 8M 64k');
    expect(after[DIRTY[0]]).toBe(0);
    qemu(folder, 'qemu-img', ['check', '-q', '-f', 'qcow2', path]);
    await using disk = await open(path);
    await runStep(disk, 'read 0 64k', 0x11);
    await runStep(disk, 'read 64k 64k', 0x22);
    await runStep(disk, 'read 8M 64k', 0xcd);
  });

  it('Q82: a write lowers the refcount of a compressed cluster once', async () => {
    const { path, before } = makeRow(folder, rowOf('Q82'));
    const block = new PokedImage(before).refcountBlock;
    const shared = block + 2 * 5;
    const after = await write(path, 'write 0 64k');
    expect(after.readUInt16BE(shared)).toBe(before.readUInt16BE(shared) - 1);
    qemu(folder, 'qemu-img', ['check', '-q', '-f', 'qcow2', path]);
    await using disk = await open(path);
    await runStep(disk, 'read 0 64k', 0xcd);
    await runStep(disk, 'read 64k 64k', 0x33);
  });

  it('Q69: what was written before the damage was found is kept', async () => {
    const { path } = makeRow(folder, rowOf('Q69'));
    const disk = await open(path, { writable: true });
    await runStep(disk, 'write 8M 64k', 'done');
    await runStep(disk, 'read 0 4k', 'EIO');
    await runStep(disk, 'write 8M 64k', 'EIO');
    await soon(disk.close());
    await using again = await open(path);
    await runStep(again, 'read 8M 64k', 0xcd);
  });

  it.each([
    ['Q118', 'read 64k 64k'],
    ['Q119', 'read 48M 64k'],
  ])('%s: a writer does not make the image look whole', async (id, command) => {
    const { path } = makeRow(folder, rowOf(id));
    try {
      await using _ = await open(path, { writable: true });
    } catch (error) {
      expect(error).toHaveProperty('code', 'ERR_SLUICE_CORRUPT');
    }
    await using disk = await open(path);
    await runStep(disk, command, 'EIO');
  });

  it('Q119: nor where subclusters may end a file early', async () => {
    const cut = { ...rowOf('Q119'), base: 'extl2' } as const;
    const { path, before } = makeRow(folder, cut);
    await (await open(path, { writable: true })).close();
    expect(readFileSync(path).equals(before)).toBe(true);
    const data = makeRow(folder, { ...cut, poke: rowOf('Q118').poke });
    await (await open(path, { writable: true })).close();
    expect(readFileSync(path).length).toBe(BEHIND[0]);
    expect(readFileSync(path).subarray(0, data.before.length).equals(data.before)).toBe(true);
  });

  it('Q55: nobody is called whom the image names', async () => {
    let calls = 0;
    const server = createServer((socket) => {
      calls += 1;
      socket.destroy();
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const named = also('Q55', (image) => image.nameBacking(`nbd://127.0.0.1:${port}/x`));
    const { path } = makeRow(folder, named);
    await expectRefusal(open(path), 'ERR_SLUICE_FILE_REFUSED', /begins with a protocol/);
    server.close();
    await once(server, 'close');
    expect(calls).toBe(0);
  });

  it.each(['Q53', 'Q54', 'Q55', 'Q57', 'Q62', 'Q109', 'Q110'].map((id) => rowOf(id)))(
    'names no file that is opened unasked: $id, $title',
    async (input) => {
      const { path, before } = makeRow(folder, input);
      const opening = open(path, { backing: 'deny' });
      await expectRefusal(
        opening,
        'ERR_SLUICE_FILE_REFUSED',
        /cannot open the (backing|data) file/,
      );
      expect(readFileSync(path).equals(before)).toBe(true);
    },
  );

  it.each(BAD_INPUTS)('answers many requests at once: $id, $title', async (input) => {
    const { path } = makeRow(folder, input);
    const opening = open(path, { writable: true, metadataCacheBytes: 0 });
    const disk = await opening.catch(() => undefined);
    if (disk === undefined) return;
    await using _ = disk;
    const bytes = new Uint8Array(100_000).fill(0xcd);
    const asked: Promise<unknown>[] = [];
    for (let at = 0; at + bytes.length <= Math.min(disk.size, EIGHT_MIB); at += 50_000) {
      asked.push(disk.read(at, bytes.length), disk.write(at, bytes), disk.flush());
      asked.push(disk.writeZeroes(at, 70_000, { mayUnmap: true }), disk.discard(at, 70_000));
      asked.push(disk.blockStatus(at, bytes.length).next());
    }
    for (const result of await soon(Promise.allSettled(asked))) {
      if (result.status === 'rejected') expect(result.reason).toHaveProperty('code');
    }
    await soon(disk.close());
    // The tables of all bases but one lie before their data, which none of these wrote there.
    const tables = readFileSync(path).subarray(0, FIRST_CLUSTER[0]);
    if (input.base !== 'small') expect(tables.indexOf(bytes.subarray(0, 16))).toBe(-1);
  });

  it('leaves the process fit for a good one', async () => {
    const { path } = makeRow(folder, { ...rowOf('Q01'), poke: () => undefined });
    await write(path, 'write 0 4k', 'write 8M 64k');
    qemu(folder, 'qemu-img', ['check', '-q', '-f', 'qcow2', path]);
  });
});
