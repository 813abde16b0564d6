/** The file that create makes takes its name when it is whole, or nothing was made. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { run, Running, sluice, SLUICE } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';

const MIB = 2 ** 20;
const OLD = 'what was there';
const qcow2 = { format: 'qcow2', sizeBytes: MIB } as const;
const root = imageFolder();
let count = 0;

/** An empty folder. */
function folderOf(): string {
  const path = join(root, String(count++));
  mkdirSync(path);
  return path;
}

describe('what has the name of a new image', () => {
  it('is replaced as a whole, and keeps its mode', async () => {
    const folder = folderOf();
    const path = join(folder, 'disk');
    writeFileSync(path, OLD);
    chmodSync(path, 0o600);
    for (const format of ['raw', 'qcow2'] as const) {
      await image.create(path, { format, sizeBytes: MIB });
      expect((await image.info(path)).format).toBe(format);
      expect(statSync(path).mode & 0o777).toBe(0o600);
    }
    expect(readdirSync(folder)).toEqual(['disk']);
  });

  it('is what a link points to, and the link stays', async () => {
    const folder = folderOf();
    writeFileSync(join(folder, 'target'), OLD);
    symlinkSync('target', join(folder, 'link'));
    await image.create(join(folder, 'link'), qcow2);
    expect(lstatSync(join(folder, 'link')).isSymbolicLink()).toBe(true);
    expect((await image.info(join(folder, 'target'))).format).toBe('qcow2');
    expect(readdirSync(folder)).toEqual(['link', 'target']);
  });

  it('stays where it is in use, and so does a data file that is', async () => {
    const folder = folderOf();
    const path = join(folder, 'disk');
    const data = join(folder, 'data');
    writeFileSync(path, new Uint8Array(MIB).fill(7));
    writeFileSync(data, new Uint8Array(MIB).fill(8));
    {
      await using disk = await openDisk(path, { format: 'raw', writable: true });
      await expectRefusal(image.create(path, qcow2), 'ERR_SLUICE_LOCKED', /has it open/);
      expect(disk.size).toBe(MIB);
    }
    {
      await using disk = await openDisk(data, { format: 'raw' });
      const dataFile = { name: 'data', raw: false };
      const work = image.create(path, { ...qcow2, image: { dataFile } });
      await expectRefusal(work, 'ERR_SLUICE_LOCKED', /has it open/);
      expect(disk.size).toBe(MIB);
    }
    expect([readFileSync(path)[0], readFileSync(data)[0]]).toEqual([7, 8]);
    expect(readdirSync(folder)).toEqual(['data', 'disk']);
  });

  it('is not touched where there is nothing to make', async () => {
    const folder = folderOf();
    const path = join(folder, 'disk');
    writeFileSync(path, OLD);
    const refused: [image.CreateImageOptions, RegExp][] = [
      [{}, /the size of the disk is missing/],
      [{ format: 'qcow2' }, /the size of the disk is missing/],
      [{ sizeBytes: -1 }, /sizeBytes must be/],
      [{ sizeBytes: MIB, preallocation: 'metadata' }, /'falloc' or 'full', not "metadata"/],
      [{ sizeBytes: MIB, image: { version: 3 } }, /version is for qcow2 images/],
      [{ ...qcow2, format: 'vmdk' as 'raw' }, /format must be 'raw' or 'qcow2', not "vmdk"/],
      [{ ...qcow2, sizeBytes: 2 ** 50, image: { clusterBits: 9 } }, /use larger clusters/],
      [{ ...qcow2, image: { dataFile: { name: 'disk', raw: false } } }, /its data file are both/],
      [{ ...qcow2, image: { dataFile: { name: 'nbd:x', raw: false } } }, /begins with a protocol/],
    ];
    for (const [options, message] of refused) {
      await expectRefusal(image.create(path, options), 'ERR_SLUICE_INVALID_ARGUMENT', message);
    }
    await expectRefusal(image.create(folder, qcow2), 'ERR_SLUICE_NOT_A_DISK', /it is a directory/);
    const nowhere = image.create(join(folder, 'no', 'disk'), qcow2);
    await expectRefusal(nowhere, 'ERR_SLUICE_OPEN', /the system reported ENOENT/);
    expect(readFileSync(path, 'utf8')).toBe(OLD);
    expect(readdirSync(folder)).toEqual(['disk']);
  });

  it('is never the backing file, whatever its name is', async () => {
    const folder = folderOf();
    const path = join(folder, 'base.raw');
    writeFileSync(path, new Uint8Array(MIB).fill(7));
    symlinkSync('base.raw', join(folder, 'link'));
    const backing = { folders: [folder] };
    const over = { name: 'base.raw', format: 'raw' } as const;
    for (const name of ['base.raw', 'link']) {
      for (const openBacking of [true, false]) {
        const options = { ...qcow2, backing, openBacking, image: { backing: over } };
        const work = image.create(join(folder, name), options);
        await expectRefusal(work, 'ERR_SLUICE_INVALID_ARGUMENT', /its backing file are both/);
      }
    }
    const dataFile = { name: 'link', raw: false };
    const options = { ...qcow2, backing, image: { backing: over, dataFile } };
    const work = image.create(join(folder, 'disk'), options);
    await expectRefusal(work, 'ERR_SLUICE_INVALID_ARGUMENT', /and the data file are both/);
    expect(readFileSync(path)).toEqual(Buffer.alloc(MIB, 7));
  });

  it('has a backing file of a folder that is allowed', async () => {
    const [folder, other] = [folderOf(), folderOf()];
    await image.create(join(other, 'base.qcow2'), { format: 'qcow2', sizeBytes: 3 * MIB + 1 });
    const name = join('..', other.slice(root.length + 1), 'base.qcow2');
    const made = { backing: { name, format: 'qcow2' } } as const;
    const path = join(folder, 'disk.qcow2');
    const create = (folders: readonly string[]): Promise<image.CreatedImage> =>
      image.create(path, { format: 'qcow2', image: made, backing: { folders } });
    await expectRefusal(create([folder]), 'ERR_SLUICE_FILE_REFUSED', /none of the folders/);
    expect(await create([other])).toMatchObject({ sizeBytes: 3 * MIB + 512 });
    const args = ['create', '-f', 'qcow2', '-b', name, '-F', 'qcow2', path];
    // Who names it on the command line allows it; what the image names is another thing.
    expect((await sluice(args)).code).toBe(0);
    const chain = ['info', '--backing-chain', path];
    expect((await sluice(chain)).stderr).toContain('in no folder that is allowed (--allow FOLDER)');
    expect((await sluice([...chain, '--allow', other])).code).toBe(0);
  });
});

describe('work that does not come to its end', () => {
  it('leaves nothing when it is stopped', async () => {
    const folder = folderOf();
    const path = join(folder, 'disk');
    writeFileSync(path, OLD);
    for (const format of ['raw', 'qcow2'] as const) {
      const stop = new AbortController();
      const reason = new Error('enough');
      const work = image.create(path, {
        format,
        sizeBytes: 64 * MIB,
        preallocation: 'full',
        signal: stop.signal,
        onProgress: ({ doneBytes }) => doneBytes > MIB && stop.abort(reason),
      });
      await expect(work).rejects.toBe(reason);
    }
    expect(readFileSync(path, 'utf8')).toBe(OLD);
    expect(readdirSync(folder)).toEqual(['disk']);
  });

  /** Starts making a large file, and waits until a part of it is there. */
  async function started(folder: string): Promise<Running> {
    writeFileSync(join(folder, 'disk'), OLD);
    const args = ['create', '-f', 'qcow2', '-o', 'preallocation=full', 'disk', '20G'];
    const program = new Running(process.execPath, [SLUICE, ...args], { cwd: folder });
    for (;;) {
      const other = readdirSync(folder).find((name) => name !== 'disk');
      if (other !== undefined && statSync(join(folder, other)).blocks > 20_000) return program;
      await setTimeout(5);
    }
  }

  it('leaves the old file when it is killed', async () => {
    const folder = folderOf();
    await using program = await started(folder);
    expect((await program.stop('SIGKILL')).signal).toBe('SIGKILL');
    expect(readFileSync(join(folder, 'disk'), 'utf8')).toBe(OLD);
    const rest = readdirSync(folder).find((name) => name !== 'disk');
    await expectRefusal(
      image.info(join(folder, rest!), { format: 'qcow2' }),
      'ERR_SLUICE_IMAGE',
      /magic|qcow2/,
    );
  });

  it('leaves nothing but the old file after Ctrl-C', async () => {
    const folder = folderOf();
    await using program = await started(folder);
    const { code, stderr } = await program.stop('SIGINT');
    expect([code, stderr]).toEqual([130, 'sluice: nothing was made (stopped by a signal)\n']);
    expect(readdirSync(folder)).toEqual(['disk']);
    expect(readFileSync(join(folder, 'disk'), 'utf8')).toBe(OLD);
  });

  it('says that the file system is full', async (context) => {
    const folder = folderOf();
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2M', 'tmpfs', folder]);
    if (mounted.status !== 0) return context.skip('tmpfs cannot be mounted here');
    try {
      writeFileSync(join(folder, 'disk'), OLD);
      for (const format of ['raw', 'qcow2'] as const) {
        for (const preallocation of ['falloc', 'full'] as const) {
          const options = { format, sizeBytes: 8 * MIB, preallocation };
          const work = image.create(join(folder, 'disk'), options);
          await expectRefusal(work, 'ERR_SLUICE_NO_SPACE', /no space is left \(ENOSPC\)/);
        }
      }
      expect(readdirSync(folder)).toEqual(['disk']);
      expect(readFileSync(join(folder, 'disk'), 'utf8')).toBe(OLD);
    } finally {
      execFileSync('umount', [folder]);
    }
  });

  it('says that the folder is for reading only', async (context) => {
    if (process.getuid?.() !== 0) return context.skip('needs root, which becomes somebody else');
    const folder = folderOf();
    const as = ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, SLUICE];
    chmodSync(root, 0o755);
    const { code, stderr } = await run('setpriv', [...as, 'create', join(folder, 'disk'), '1M']);
    if (stderr.includes('setpriv')) return context.skip('setpriv cannot be used here');
    expect(code).toBe(1);
    expect(stderr).toMatch(/cannot create ".*": the system reported EACCES \(ERR_SLUICE_OPEN\)\n/);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'a block device', () => {
  it('is written where it is, and shows nothing of what it held', async (context) => {
    const folder = folderOf();
    const file = join(folder, 'file');
    writeFileSync(file, new Uint8Array(16 * MIB).fill(0xff));
    const { status, stdout } = spawnSync('losetup', ['-f', '--show', file], { encoding: 'utf8' });
    if (status !== 0) return context.skip('loop devices cannot be made here');
    const device = stdout.trim();
    try {
      for (const preallocation of ['off', 'metadata', 'falloc', 'full'] as const) {
        await image.create(device, { format: 'qcow2', sizeBytes: 4 * MIB, preallocation });
        const io = qemu(folder, 'qemu-io', ['-f', 'qcow2', '-c', 'read -P 0 0 4M', device]);
        expect(io).not.toMatch(/fail|error/i);
      }
      const large = image.create(device, { sizeBytes: 17 * MIB });
      await expectRefusal(large, 'ERR_SLUICE_NO_SPACE', /use a larger device/);
      expect(existsSync(device)).toBe(true);
    } finally {
      execFileSync('losetup', ['-d', device]);
    }
  });
});
