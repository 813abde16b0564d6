/** A qcow2 image on a file system that gets full, and has room again. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';

import { Folder, succeed } from '../cli/sluice.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import { obstacle, systemPath } from './image.ts';
import { checkImage, createImage, ServedImage, SOUND } from './qcow2-server.ts';

const MIB = 2 ** 20;
const SIZE_BYTES = 256 * MIB;
/** What the discard must give back, at the least. */
const FREED_BYTES = 6 * MIB;

/** Fills the disk until there is no room, makes some by a discard, and goes on. */
const FILL = `
import json, time
said = {}
def attempt(call, *arguments):
    try: call(*arguments)
    except nbd.Error as error: return error.errno
    return 'ok'
def write(letter, mib): return attempt(h.pwrite, letter * (1 << 20), mib << 20)
# What a discard gives back is there when its clusters are released, and the journal committed.
def write_soon(letter, mib):
    for tries in range(200):
        answer = write(letter, mib)
        if answer != 'ENOSPC': break
        time.sleep(0.05)
    return answer
def seen(mib): return ''.join(map(chr, sorted(set(h.pread(1 << 20, mib << 20)))))
written = 0
while write(b'w', written) == 'ok' and written < 250: written += 1
said['written'] = written
said['refused'] = [write(b'x', written + 1), attempt(h.zero, 4096, 255 << 20),
                   attempt(h.pwrite, b'y' * 512, 254 << 20)]
said['read'] = sorted({seen(mib) for mib in range(written)})
said['in_place'] = write(b'i', 1)
said['full_flush'] = attempt(h.flush)
said['trim'] = attempt(h.trim, 8 << 20, 8 << 20)
said['flush'] = attempt(h.flush)
said['again'] = [write_soon(b'r', written + 2 + mib) for mib in range(4)]
said['last'] = attempt(h.flush)
said['after'] = [seen(written + 2 + mib) for mib in range(4)]
print(json.dumps(said))
`;

interface Said {
  readonly written: number;
  readonly refused: readonly string[];
}

/** Mounts a new file system of 64 MiB; false where that cannot be done. */
function mount(folder: Folder): boolean {
  if (process.getuid?.() !== 0) return false;
  const env = { ...process.env, ...systemPath() };
  const [image, path] = [folder.file('small.ext4'), folder.file('small')];
  try {
    mkdirSync(path);
    const run = (program: string, args: string[]): void => {
      execFileSync(program, args, { env, stdio: 'ignore' });
    };
    run('truncate', ['-s', '64M', image]);
    run('mkfs.ext4', ['-q', '-F', '-m', '0', image]);
    run('mount', ['-o', 'loop', image, path]);
    return true;
  } catch {
    return false;
  }
}

describeWithPeers(['nbdsh', 'qemu-img', 'mkfs.ext4'], 'a qcow2 image without room', () => {
  let folder: Folder;
  let isMounted = false;
  beforeAll(async () => {
    folder = await Folder.make();
    isMounted = mount(folder);
  });
  afterAll(async () => {
    if (isMounted) await succeed('umount', [folder.file('small')], { env: systemPath() });
    await folder[Symbol.asyncDispose]();
  });
  beforeEach((context) => {
    if (!isMounted) context.skip('needs root, mount and a free loop device');
  });

  it.for([
    ['writeback', 'cluster_size=64k'],
    ['none', 'cluster_size=4k'],
    ['writethrough', 'cluster_size=64k,extended_l2=on'],
  ] as const)(
    'F06, F07: says ENOSPC, reads and writes in place on, and grows again after a discard: %s, %s',
    async ([cache, options], context) => {
      const place = await Folder.make(folder.file('small'));
      await using _place = place;
      const reason = obstacle(cache, place);
      if (reason !== undefined) context.skip(reason);
      const image = await createImage(place, 'disk', options, SIZE_BYTES);
      await using disk = await ServedImage.serve(folder, image, { cache });
      const said = (await disk.client(FILL)) as Said;
      expect(said).toMatchObject({
        read: ['w'],
        in_place: 'ok',
        full_flush: 'ok',
        trim: 'ok',
        flush: 'ok',
        again: ['ok', 'ok', 'ok', 'ok'],
        last: 'ok',
        after: ['r', 'r', 'r', 'r'],
      });
      expect(said.refused[0]).toBe('ENOSPC');
      expect(said.written).toBeGreaterThan(FREED_BYTES / MIB);
      expect(await disk.end()).toEqual({ code: 0, errors: [] });
      expect(await checkImage(image)).toEqual(SOUND);
      const guest = readGuest(await readFile(image), undefined, 0, (said.written + 6) * MIB);
      const letters = (mib: number): string =>
        String.fromCharCode(...new Set(guest.subarray(mib * MIB, (mib + 1) * MIB)));
      expect([letters(0), letters(1), letters(7)]).toEqual(['w', 'i', 'w']);
      expect(letters(said.written + 5)).toBe('r');
    },
  );
});
