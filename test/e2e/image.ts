/** Disks with a file system on them, and the programs that use them. */
import { randomBytes } from 'node:crypto';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CACHE_MODES, type CacheModeName } from '../../src/cache-mode.ts';
import { hasDirect } from '../backend/scratch.ts';
import { type Folder, succeed } from '../cli/sluice.ts';

/** Every name that --cache takes. */
export const MODES = [...Object.keys(CACHE_MODES), 'unspecified'] as CacheModeName[];

/** The six names, and what they stand for. */
export function axesOf(mode: CacheModeName): (typeof CACHE_MODES)['none'] {
  return CACHE_MODES[mode === 'unspecified' ? 'writeback' : mode];
}

/** Why a mode cannot be tried here; undefined when it can. */
export function obstacle(mode: CacheModeName, folder: Folder): string | undefined {
  const direct = axesOf(mode).direct && !hasDirect(folder.path);
  return direct ? 'the temporary folder has no O_DIRECT' : undefined;
}

const FILES = 20;

/**
 * An ext4 file system of `fileSystemBytes` with random files in it, at the start of an image of
 * `sizeBytes`; the rest is a hole.
 */
export async function ext4(
  folder: Folder,
  name: string,
  fileSystemBytes: number,
  sizeBytes: number,
): Promise<string> {
  const tree = folder.file(`${name}.tree`);
  await mkdir(tree);
  for (let index = 0; index < FILES; index++) {
    await writeFile(join(tree, `file-${index}`), randomBytes(1 + index * 10_007));
  }
  const image = await folder.image(name, fileSystemBytes);
  await succeed('mkfs.ext4', ['-q', '-F', '-b', '4096', '-d', tree, image], { env: systemPath() });
  await truncate(image, sizeBytes);
  return image;
}

/** Fails when the file system on the image is not clean. */
export async function checkExt4(image: string): Promise<void> {
  await succeed('e2fsck', ['-fn', image], { env: systemPath() });
}

/** A script in Python with `h` connected to the server; it must not fail. Answers its output. */
export function nbdsh(uri: string, script: string): Promise<string> {
  const options = ['--base-allocation', '-u', uri, '-c', '-'];
  return succeed('nbdsh', options, { env: systemPath(), input: script });
}

/** mkfs is not in every user's PATH, and Debian's libnbd belongs to Debian's Python. */
export function systemPath(): Record<string, string> {
  return { PATH: `/usr/bin:/usr/sbin:/sbin:${process.env['PATH'] ?? ''}` };
}
