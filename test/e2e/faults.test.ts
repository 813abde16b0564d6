/**
 * Host faults: thirty rows, and where each is tested. On every row the same must hold: no success
 * for what failed, a failed sync is never forgotten, what was acknowledged is there, other requests
 * are served. A row that cannot happen to a raw disk is skipped with its reason.
 */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { describeWithPeers } from '../support/peers.ts';
import { changed, CLEAN_END, Faulty, ORIGINAL } from './faults.ts';

const QCOW2 = 'test/testing/qcow2-engine and test/e2e/qcow2-* have it; raw has';
const NOT_FOR_RAW: Readonly<Record<string, string>> = {
  'F02: read EIO on an L2 table': `${QCOW2} no tables`,
  'F04: write EIO on an L2 table after data was written': `${QCOW2} no tables`,
  'F05: write EIO on a refcount block': `${QCOW2} no refcounts`,
  'F07: ENOSPC on metadata allocation': `${QCOW2} no metadata`,
  'F21: SIGKILL during create, resize, snapshot delete': `${QCOW2} no such commands`,
  'F25: a power cut that tears the entries of a sector': `${QCOW2} no entries`,
  'F26: a power cut with lazy refcounts': `${QCOW2} no refcounts`,
};

/**
 * Row, fault, and the files whose titles name the row; where the titles do not, the title follows
 * the file.
 */
const ROWS: readonly (readonly [row: string, fault: string, ...tests: string[]])[] = [
  ['F01', 'read EIO', 'e2e/faults-io', 'backend/file-strace'],
  ['F03', 'write EIO', 'e2e/faults-io', 'backend/file-strace'],
  ['F06', 'ENOSPC for data', 'e2e/faults-space', 'e2e/faults-io', 'backend/file-strace'],
  ['F08', 'EDQUOT, EFBIG', 'e2e/faults-space', 'e2e/faults-io', 'e2e/faults'],
  ['F09', 'short read', 'e2e/faults', 'backend/file-strace'],
  [
    'F10',
    'nothing to read inside the file',
    'e2e/faults-space',
    'backend/file-strace',
    'backend/file: answers EIO, not zeroes, where the file was cut',
  ],
  ['F11', 'short write', 'e2e/faults-space', 'e2e/faults-io', 'backend/file-strace'],
  ['F12', 'EINTR', 'e2e/faults-io', 'backend/file-strace'],
  ['F13', 'EAGAIN', 'e2e/faults-io', 'backend/file-strace'],
  ['F14', 'fdatasync EIO', 'e2e/faults-sync', 'backend/file-strace'],
  [
    'F15',
    'flush after a failed one',
    'e2e/faults-sync',
    'e2e/syscalls: that fails fails the flush and all later ones, and the exit code',
    'disk: a failed sync fails this flush, and every later one without a sync',
  ],
  ['F16', 'fdatasync ENOSPC, EDQUOT', 'e2e/faults-sync', 'backend/file-strace'],
  ['F17', 'O_DSYNC write EIO', 'e2e/faults-io', 'e2e/faults-sync', 'backend/file-strace'],
  ['F18', 'fdatasync takes long', 'e2e/faults-sync'],
  ['F19', 'close EIO', 'e2e/faults-io', 'backend/file-strace'],
  ['F20', 'SIGKILL', 'e2e/faults-kill', 'e2e/kill: loses nothing that was acknowledged'],
  [
    'F22',
    'SIGTERM',
    'e2e/faults-sync',
    'e2e/syscalls: that hangs is waited for by SIGTERM, and not by a second one',
    'cli/serve: by %s exits with 0 and leaves no socket and no pid file',
  ],
  ['F23', 'power cut', 'e2e/faults-power'],
  ['F24', 'power cut with a torn write', 'e2e/faults-power'],
  ['F27', 'a disk that lies', 'e2e/faults'],
  [
    'F28',
    'another process changes the file',
    'e2e/faults-space',
    'backend/lock: keeps a second writer out, in the same process too',
    'backend/file: ignores that the file grew',
    'e2e/clients: keep QEMU away from an image that sluice writes to',
  ],
  [
    'F29',
    'no O_DIRECT, or blocks of 4096 bytes',
    'e2e/faults-space',
    'backend/file-open: in direct mode on tmpfs, which has only a page cache',
    'backend/block-device: keeps its blocks of 4096 bytes together',
    'cli/serve: O_DIRECT where there is none',
  ],
  [
    'F30',
    'no punch hole',
    'e2e/faults-space',
    'e2e/faults-io',
    'backend/file-strace',
    'backend/file-zero: are written, or punched where that may be',
  ],
];

/** What follows `it(` or `it.for(...)(`, as it stands in the source. */
const TITLE = /\bit(?:\.(?:each|for)\([\s\S]*?\))?\(\s*(['"`])(.*?)\1,/g;
/** A row of `it.for`, whose first word is the title. */
const TABLED_TITLE = /\[\s*'(F\d\d.*?)',/g;

async function titlesOf(file: string): Promise<string[]> {
  const text = await readFile(new URL(`../${file}.test.ts`, import.meta.url), 'utf8');
  const titles = Array.from(text.matchAll(TITLE), ([, , title = '']) => title);
  return file === 'e2e/faults'
    ? titles
    : [...titles, ...Array.from(text.matchAll(TABLED_TITLE), ([, title = '']) => title)];
}

describe('a fault that a raw disk does not have', () => {
  it.for(Object.entries(NOT_FOR_RAW))('%s', ([, reason], context) => context.skip(reason));
});

describe('the thirty rows', () => {
  it('are all here, once', () => {
    const skipped = Object.keys(NOT_FOR_RAW).map((title) => title.slice(0, 3));
    const rows = [...ROWS.map(([row]) => row), ...skipped].sort();
    const all = Array.from({ length: 30 }, (_, row) => `F${String(row + 1).padStart(2, '0')}`);
    expect(rows).toEqual(all);
  });

  it.for(ROWS)('%s (%s) has the tests that it names', async ([row, , ...tests]) => {
    for (const test of tests) {
      const [file = '', title] = test.split(/: (.*)/);
      const titles = await titlesOf(file);
      const wanted = title === undefined ? new RegExp(`^.*\\b${row}\\b`) : title;
      expect({ test, titles }).toEqual({
        test,
        titles: expect.arrayContaining([
          typeof wanted === 'string' ? wanted : expect.stringMatching(wanted),
        ]) as string[],
      });
    }
  });
});

describe('an error of the library', () => {
  it.for([
    ['ENOSPC', 28],
    ['EDQUOT', 122],
    ['EFBIG', 27],
  ] as const)('F08: is of one code, and keeps %s in its cause', async ([code, errno]) => {
    const backend = new MemoryBackend({ sizeBytes: 1_048_576 });
    await using disk = new Disk(backend);
    backend.fail('write', { errno });
    await expect(disk.write(4096, new Uint8Array(4096))).rejects.toMatchObject({
      code: 'ERR_SLUICE_NO_SPACE',
      operation: 'write',
      offset: 4096,
      length: 4096,
      cause: { code, errno: -errno },
    });
    await disk.write(4096, new Uint8Array(4096));
  });
});

describeWithPeers(['strace', 'nbdsh'], 'a served disk', () => {
  it('F09: reads on where the page cache, and so the first call, ends', async (context) => {
    await using disk = await Faulty.serve(context, { cache: 'writeback' });
    const said = await disk.client(`
image = os.open('${disk.image}', os.O_RDWR)
os.fdatasync(image)
os.posix_fadvise(image, 0, 0, os.POSIX_FADV_DONTNEED)
os.posix_fadvise(image, 0, 0, os.POSIX_FADV_RANDOM)
os.pread(image, 65536, 0)
say(read=seen(0, 262144), write=write(b'w', 0), flush=flush())`);
    expect(said).toEqual({ read: ORIGINAL, write: 'ok', flush: 'ok' });
    const [first, ...rest] = disk.calls('preadv2', 'pread64', 'preadv');
    if (first?.result === 262_144 || first?.result === -1) {
      context.skip('the page cache cannot be emptied in part here');
    }
    expect(first?.result).toBeGreaterThan(0);
    expect(first?.result).toBeLessThan(262_144);
    const moved = rest.reduce((total, { result }) => total + result, first?.result ?? 0);
    expect(moved).toBe(262_144);
    expect(await disk.end()).toEqual(CLEAN_END);
  });

  it('F27: believes a disk that lies, as the README says', async (context) => {
    // strace says that the second write was done, and does not do it.
    const inject = ['pwrite64:retval=4096:when=2'];
    await using disk = await Faulty.serve(context, { cache: 'writeback', inject });
    const said = await disk.client(`
say(first=write(b'a', 0), lost=write(b'b', 0), flush=flush(), read=seen(0), other=seen(4096))`);
    expect(said).toEqual({ first: 'ok', lost: 'ok', flush: 'ok', read: 'a', other: ORIGINAL });
    expect(await disk.end()).toEqual(CLEAN_END);
    expect(await disk.blocks()).toEqual(changed({ 0: 'a' }));
    const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
    expect(readme.replace(/\s+/g, ' ')).toContain(
      'A drive or a hypervisor that lies about its cache lies to sluice too.',
    );
  });
});
