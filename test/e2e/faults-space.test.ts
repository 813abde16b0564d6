/**
 * Real file systems and limits that run out, files that others cut, grow or replace, and places
 * without O_DIRECT (the rows of test/e2e/faults.test.ts).
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { rename, statfs, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { Folder, run, serve, SLUICE, sluice, succeed } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { ONE_THREAD, underStrace } from '../support/strace.ts';
import { nbdsh, obstacle, systemPath } from './image.ts';
import { blocksOf, CLEAN_END, Faulty, MIB, originalImage, PLAIN_MODES } from './faults.ts';

/** A file system of a few MiB on a loop device; making one takes root. */
class SmallFileSystem {
  readonly path: string;
  readonly #image: string;

  private constructor(path: string, image: string) {
    this.path = path;
    this.#image = image;
  }

  /** Undefined where it cannot be made. */
  static make(
    folder: Folder,
    name: string,
    options: readonly string[],
  ): SmallFileSystem | undefined {
    if (process.getuid?.() !== 0) return undefined;
    const path = folder.file(name);
    const image = folder.file(`${name}.ext4`);
    const env = { ...process.env, ...systemPath() };
    const stdio = 'ignore';
    try {
      mkdirSync(path);
      execFileSync('truncate', ['-s', '16M', image], { env, stdio });
      execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', ...options, image], { env, stdio });
      execFileSync('mount', ['-o', 'loop', image, path], { env, stdio });
      return new SmallFileSystem(path, image);
    } catch {
      return undefined;
    }
  }

  /** Unmounts it; fails when it is not clean then. */
  async unmount(): Promise<void> {
    const env = systemPath();
    await succeed('umount', [this.path], { env });
    await succeed('e2fsck', ['-fn', this.#image], { env });
  }
}

const NO_MOUNT = 'needs root, mount and a free loop device';

describeWithPeers(['strace', 'nbdsh', 'mkfs.ext4'], 'a full file system', () => {
  let folder: Folder;
  let system: SmallFileSystem | undefined;
  beforeAll(async () => {
    folder = await Folder.make();
    system = SmallFileSystem.make(folder, 'small', []);
  });
  afterAll(async () => {
    await system?.unmount();
    await folder[Symbol.asyncDispose]();
  });
  beforeEach((context) => {
    if (system === undefined) context.skip(NO_MOUNT);
  });

  it.for(PLAIN_MODES)(
    'F06: is ENOSPC to who needs space, and nobody else, until there is some (%s)',
    async (cache, context) => {
      const place = await Folder.make(system!.path);
      await using _place = place;
      const reason = obstacle(cache, place);
      if (reason !== undefined) context.skip(reason);
      const image = await place.image('disk.img', 64 * MIB);
      const filler = place.file('filler');
      await fill(place.path, filler, 2 * MIB);
      await using disk = await Faulty.serve(context, { cache, image });
      const said = await disk.client(`
at, answers = 0, []
while not answers or answers[-1] == 'ok':
    answers.append(write(b'w', at << 20, 1 << 20))
    at += 1
failed = (at - 1) << 20
say(written=len(answers) - 1, refused=answers[-1], again=write(b'w', failed + (1 << 20), 1 << 20))
say(read=seen(0, 1 << 20), hole=seen(50 << 20), in_place=write(b'i', 0), flush=flush(),
    fua=write(b'j', 4096, flags=FUA))
say(torn=seen(failed, 1 << 20))
os.unlink('${filler}')
say(retry=write(b'r', failed, 1 << 20), last=flush(), after=seen(failed, 1 << 20))`);
      const written = said['written'] as number;
      expect(written).toBeGreaterThanOrEqual(1);
      expect(said).toMatchObject({
        refused: 'ENOSPC',
        again: 'ENOSPC',
        read: 'w',
        hole: '\0',
        in_place: 'ok',
        flush: 'ok',
        fua: 'ok',
        retry: 'ok',
        last: 'ok',
        after: 'r',
      });
      // What failed may be there in part, never as anything else.
      expect(['\0', '\0w']).toContain(said['torn']);
      expect(await disk.end()).toEqual(CLEAN_END);
      const blocks = (await blocksOf(image)).slice(0, (written + 1) * 256);
      expect(blocks.slice(0, 2)).toEqual(['i', 'j']);
      expect([...new Set(blocks.slice(2, written * 256))]).toEqual(['w']);
      expect([...new Set(blocks.slice(written * 256))]).toEqual(['r']);
    },
  );
});

/** Takes all space but `leaveBytes`. */
async function fill(folder: string, file: string, leaveBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  const bytes = Math.max(0, bavail * bsize - leaveBytes);
  await succeed('fallocate', ['-l', String(bytes), file], { env: systemPath() });
}

describeWithPeers(
  ['strace', 'nbdsh', 'mkfs.ext4'],
  'a file system that cannot zero a range',
  () => {
    it('F30: has the zeroes written, and holes punched', async (context) => {
      await using folder = await Folder.make();
      const system = SmallFileSystem.make(folder, 'blocks', ['-O', '^extent,^has_journal,^64bit']);
      if (system === undefined) return context.skip(NO_MOUNT);
      try {
        const image = await originalImage(folder, system.path);
        await using disk = await Faulty.serve(context, { cache: 'writeback', image });
        const said = await disk.client(`
say(kept=attempt(h.zero, 8192, 0, nbd.CMD_FLAG_NO_HOLE), holes=attempt(h.zero, 8192, 16384))
say(fast=attempt(h.zero, 8192, 32768, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE))
say(trim=attempt(h.trim, 8192, 65536), flush=flush())`);
        expect(said).toEqual({ kept: 'ok', holes: 'ok', fast: 'ENOTSUP', trim: 'ok', flush: 'ok' });
        expect(disk.calls('fallocate').map(({ error }) => error)).toContain('EOPNOTSUPP');
        expect(await disk.end()).toEqual(CLEAN_END);
        const blocks = await disk.blocks();
        expect(blocks.slice(0, 10)).toEqual(Array.from('\0\0oo\0\0oooo'));
      } finally {
        await system.unmount();
      }
    });
  },
);

describeWithPeers(['strace', 'nbdsh'], 'a file size limit', () => {
  it.for(PLAIN_MODES)(
    'F08, F11: ends a write short, which is ENOSPC, and more room heals it (%s)',
    async (cache, context) => {
      // The image ends beyond the limit; the write that crosses it is short, the rest is EFBIG.
      const under = ['prlimit', '--fsize=524800:unlimited'];
      await using disk = await Faulty.serve(context, { cache, under });
      const said = await disk.client(`
say(below=write(b'a', 0), across=write(b'b', 524288), beyond=write(b'c', 786432),
    fua=write(b'c', 786432, flags=FUA), read=seen(786432), flush=flush())
say(torn=[seen(524288, 512), seen(524800, 3584)])
os.system('prlimit --fsize=unlimited --pid ' + str(PID))
say(retry=write(b'b', 524288), more=write(b'c', 786432), last=flush())`);
      expect(said).toEqual({
        below: 'ok',
        across: 'ENOSPC',
        beyond: 'ENOSPC',
        fua: 'ENOSPC',
        read: 'o',
        flush: 'ok',
        torn: ['b', 'o'],
        retry: 'ok',
        more: 'ok',
        last: 'ok',
      });
      const short = disk.calls('pwrite64').find(({ result }) => result === 512);
      expect(short).toBeDefined();
      expect(await disk.end()).toEqual(CLEAN_END);
      const blocks = await disk.blocks();
      expect([blocks[0], blocks[128], blocks[192]]).toEqual(['a', 'b', 'c']);
    },
  );
});

describeWithPeers(['strace', 'nbdsh'], 'a file that others change', () => {
  it.for(PLAIN_MODES)(
    'F10, F28: that was cut is EIO where it ends, and served where it does not (%s)',
    async (cache, context) => {
      await using disk = await Faulty.serve(context, { cache });
      const said = await disk.client(`
say(before=seen(917504))
os.truncate('${disk.image}', 524288 + 512)
say(gone=seen(917504), across=seen(524288), zero=attempt(h.zero, 4096, 786432),
    trim=attempt(h.trim, 4096, 786432), there=seen(0), write=write(b'w', 4096), flush=flush())
os.truncate('${disk.image}', 2 << 20)
say(size=h.get_size(), grown=seen(917504))`);
      expect(said).toEqual({
        before: 'o',
        gone: 'EIO',
        across: 'EIO',
        zero: 'EIO',
        trim: 'EIO',
        there: 'o',
        write: 'ok',
        flush: 'ok',
        size: MIB,
        grown: '\0',
      });
      expect(await disk.end()).toEqual(CLEAN_END);
    },
  );

  it('F28: that was replaced is served on, and its successor can be too', async (context) => {
    await using disk = await Faulty.serve(context, { cache: 'writeback', options: ['-t'] });
    const refused = await sluice(['serve', '-k', disk.folder.file('b.sock'), disk.image]);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('LOCKED') as string });
    const other = disk.folder.file('other.img');
    await writeFile(other, Buffer.alloc(MIB, 'n'));
    const kept = disk.folder.file('kept.img');
    await succeed('ln', [disk.image, kept]);
    await rename(other, disk.image);
    const said = await disk.client(`say(read=seen(0), write=write(b'w', 4096), flush=flush())`);
    expect(said).toEqual({ read: 'o', write: 'ok', flush: 'ok' });
    {
      // The lock is of the file, not of the name.
      const anew = ['-f', 'raw', '-k', disk.folder.file('b.sock'), disk.image];
      await using server = await serve(anew);
      await nbdsh(server.uri, `assert h.pread(2, 4096) == b'nn'`);
      expect(await server.outcome).toMatchObject({ code: 0 });
    }
    expect([(await blocksOf(kept))[1], (await blocksOf(disk.image))[1]]).toEqual(['w', 'n']);
  });
});

const DIRECT_MODES = ['none', 'directsync'] as const;

describeWithPeers(['strace', 'nbdsh'], 'O_DIRECT that cannot be had', () => {
  it.for(DIRECT_MODES)('F29: is a refusal, never the page cache (%s)', async (cache) => {
    await using folder = await Folder.make();
    const image = await originalImage(folder);
    const options = ['-f', 'raw', '--cache', cache, '-k', folder.file('a.sock'), image];
    // The first descriptor, then the O_DSYNC one.
    for (const nth of [1, 2]) {
      const inject = [`openat:error=EINVAL:when=${nth}`];
      const tracing = { path: image, calls: ['openat'], inject };
      const [program = '', ...under] = underStrace(tracing, folder.file(`calls-${nth}`));
      const command = [...under, process.execPath, SLUICE, 'serve', ...options];
      const { code, stdout, stderr } = await run(program, command, { env: ONE_THREAD });
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(/^sluice: cannot open .* \(ERR_SLUICE_DIRECT_UNSUPPORTED\)\n$/);
    }
    expect(new Set(await blocksOf(image))).toEqual(new Set(['o']));
  });
});
