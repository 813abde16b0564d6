/** Real clients, a real file system, every cache mode. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Folder, serve, type Serving, sluice, succeed } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { checkExt4, ext4, MODES, nbdsh, obstacle } from './image.ts';

const MIB = 2 ** 20;
const SYSTEM_BYTES = 32 * MIB;
/** The part of the disk behind the file system is for patterns. */
const SIZE_BYTES = 64 * MIB;

const PROTOCOL = `
base = 40 << 20
h.pwrite(b'a' * 65536, base)
assert h.pread(65536, base) == b'a' * 65536
h.pwrite(b'b' * 1000, base + 333, nbd.CMD_FLAG_FUA)
assert h.pread(1400, base + 133) == b'a' * 200 + b'b' * 1000 + b'a' * 200
h.flush()
h.zero(20000, base + 10000)
assert h.pread(20200, base + 9900) == b'a' * 100 + bytes(20000) + b'a' * 100
h.zero(4096, base + 40960, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
h.trim(65536, base + 65536, nbd.CMD_FLAG_FUA)
h.flush()
for flags in (0, nbd.CMD_FLAG_REQ_ONE):
    found = []
    h.block_status(1 << 20, base, lambda context, at, extents, error: found.extend(extents), flags)
    lengths, kinds = found[0::2], found[1::2]
    assert kinds[0] == 0, 'the start of the range was written'
    assert lengths[0] >= 9900
    assert flags == 0 or len(lengths) == 1
pieces = []
h.pread_structured(65536, base, lambda data, at, status, error: pieces.append((at, bytes(data))))
assert sum(len(data) for at, data in pieces if data) >= 65536 - 20000 - 4096
for bad in (lambda: h.pread(2, h.get_size() - 1), lambda: h.pwrite(b'xx', h.get_size() - 1)):
    try:
        bad()
    except nbd.Error as error:
        assert error.errno in ('EINVAL', 'ENOSPC'), error.errno
    else:
        raise SystemExit('a request past the end was served')
h.set_strict_mode(0)
for bad in (lambda: h.pread(2, h.get_size() - 1), lambda: h.pwrite(b'xx', h.get_size() - 1)):
    try:
        bad()
    except nbd.Error as error:
        assert error.errno in ('EINVAL', 'ENOSPC'), error.errno
    else:
        raise SystemExit('the server served a request past the end')
assert h.pread(4, base) == b'aaaa'
print('done')
`;

const PATTERNS = [
  'write -P 0x11 48M 1M',
  'write -P 0x22 49M 512',
  'write -P 0x33 50176001 777',
  'aio_write -P 0x44 52M 256k',
  'aio_write -P 0x55 53M 256k',
  'aio_flush',
  'flush',
  'write -f -P 0x66 54M 64k',
  'write -z 55M 64k',
  'write -z -u 48M 64k',
  'discard 56M 1M',
  'read -P 0x11 50397184 512k',
  'read -P 0x22 49M 512',
  'read -P 0x33 50176001 777',
  'read -P 0x44 52M 256k',
  'read -P 0x55 53M 256k',
  'read -P 0x66 54M 64k',
  'read -P 0 55M 64k',
  'read -P 0 48M 64k',
];

const PEERS = ['mkfs.ext4', 'nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-io', 'nbdsh', 'fio'] as const;

describeWithPeers(PEERS, 'real clients', () => {
  describe.each(MODES)('with --cache %s', (mode) => {
    let folder: Folder;
    let image: string;
    let original: string;
    let server: Serving | undefined;
    let uri: string;
    beforeAll(async () => {
      folder = await Folder.make();
      if (obstacle(mode, folder) !== undefined) return;
      image = await ext4(folder, 'disk.img', SYSTEM_BYTES, SIZE_BYTES);
      original = folder.file('original.img');
      await succeed('cp', ['--sparse=always', image, original]);
      const socket = folder.file('a.sock');
      server = await serve(['-t', '--cache', mode, '-k', socket, '-D', 'A disk', image]);
      uri = server.uri;
    });
    afterAll(async () => {
      await server?.[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    });
    beforeEach((context) => {
      const reason = obstacle(mode, folder);
      if (reason !== undefined) context.skip(reason);
    });

    it('nbdinfo finds all that the server can', async () => {
      const info = JSON.parse(await succeed('nbdinfo', ['--json', uri])) as {
        exports: Record<string, unknown>[];
      };
      expect(info.exports).toEqual([
        expect.objectContaining({
          'export-size': SIZE_BYTES,
          contexts: ['base:allocation'],
          is_read_only: false,
          can_flush: true,
          can_fua: true,
          can_multi_conn: true,
          can_trim: true,
          can_zero: true,
          can_fast_zero: true,
          can_df: true,
          can_cache: true,
          block_size_minimum: 1,
          block_size_preferred: 4096,
        }),
      ]);
      expect(await succeed('nbdinfo', ['--list', uri])).toContain('description: A disk');
    });

    it('nbdcopy reads what is in the image', async () => {
      const copy = folder.file('copy.img');
      await succeed('nbdcopy', [uri, copy]);
      expect((await readFile(copy)).equals(await readFile(original))).toBe(true);
      await checkExt4(copy);
    });

    it('qemu-img compares it with the image', async () => {
      await succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', original, uri]);
      await succeed('qemu-img', ['map', '-f', 'raw', '--output', 'json', uri]);
    });

    it('qemu-io reads back its patterns', async () => {
      for (const cache of ['writeback', 'writethrough']) {
        const commands = PATTERNS.flatMap((pattern) => ['-c', pattern]);
        const output = await succeed('qemu-io', ['-t', cache, '-f', 'raw', ...commands, uri]);
        expect(output).not.toMatch(/failed|Pattern verification/);
      }
    });

    it('libnbd gets FUA, zeroes, trims, block status and refusals right', async () => {
      expect(await nbdsh(uri, PROTOCOL)).toBe('done\n');
    });

    it('fio verifies what it wrote, with flushes in between', async () => {
      const job = ['--name=job', '--ioengine=nbd', `--uri=${uri}`, '--rw=randrw', '--iodepth=16'];
      const place = ['--offset=32m', '--size=8m', '--bsrange=512-64k', '--fsync=16'];
      const verify = ['--verify=crc32c', '--verify_fatal=1', '--do_verify=1'];
      // fio leaves a state file where it runs.
      const cwd = folder.path;
      const args = [...job, ...place, ...verify, '--output-format=json'];
      const output = await succeed('fio', args, { cwd });
      const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as {
        jobs: { error: number; sync: { total_ios: number } }[];
      };
      expect(jobs.map(({ error }) => error)).toEqual([0]);
      expect(jobs[0]!.sync.total_ios).toBeGreaterThan(10);
    });

    it('nbdcopy writes another file system, which is there after the end', async () => {
      const other = await ext4(folder, 'other.img', SYSTEM_BYTES, SIZE_BYTES);
      await succeed('nbdcopy', ['--flush', other, uri]);
      await succeed('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', other, uri]);
      expect(await server!.stop()).toMatchObject({ code: 0, stdout: '' });
      expect((await readFile(image)).equals(await readFile(other))).toBe(true);
      await checkExt4(image);
    });
  });
});

describeWithPeers(['nbdinfo', 'nbdcopy', 'qemu-io'], 'a read-only export', () => {
  it('is known to be read-only, and refuses writes', async () => {
    await using folder = await Folder.make();
    const image = await folder.image('disk.img', MIB);
    await using server = await serve(['-t', '-r', '-k', folder.file('a.sock'), image]);
    await succeed('nbdinfo', ['--is', 'read-only', server.uri]);
    await succeed('nbdcopy', [server.uri, folder.file('copy.img')]);
    const write = ['-f', 'raw', '-c', 'write 0 512', server.uri];
    await expect(succeed('qemu-io', write)).rejects.toThrow(/read-only|permission denied/i);
  });

  it('of a file that nobody may write can be served', async () => {
    await using folder = await Folder.make();
    const image = await folder.image('disk.img', MIB);
    await succeed('chmod', ['a-w', image]);
    await using server = await serve(['-t', '-r', '-k', folder.file('a.sock'), image]);
    await succeed('nbdinfo', [server.uri]);
  });
});

describeWithPeers(['qemu-io', 'qemu-nbd'], 'image locks', () => {
  it('keep QEMU away from an image that sluice writes to', async () => {
    await using folder = await Folder.make();
    const image = await folder.image('disk.img', MIB);
    await using _server = await serve(['-t', '-k', folder.file('a.sock'), image]);
    const write = ['-f', 'raw', '-c', 'write 0 512', image];
    await expect(succeed('qemu-io', write)).rejects.toThrow(/lock/);
  });

  it('keep sluice away from an image that QEMU writes to', async () => {
    await using folder = await Folder.make();
    const image = await folder.image('disk.img', MIB);
    const socket = folder.file('qemu.sock');
    const pidFile = folder.file('qemu.pid');
    const options = ['-t', '-f', 'raw', '-k', socket, '--fork', '--pid-file', pidFile];
    await succeed('qemu-nbd', [...options, image]);
    try {
      const refused = await sluice(['serve', '-k', folder.file('a.sock'), image]);
      expect(refused).toMatchObject({ code: 1, stdout: '' });
      expect(refused.stderr).toMatch(/^sluice: cannot lock .*\(ERR_SLUICE_LOCKED\)\n$/);
    } finally {
      process.kill(Number(await readFile(pidFile, 'utf8')));
    }
  });
});
