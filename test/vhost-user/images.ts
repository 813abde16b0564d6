/** Images for guests to put a file system on, and what is looked at when the guest has halted. */
import { randomFillSync } from 'node:crypto';
import { writeFile } from 'node:fs/promises';

import { type Folder, run, SLUICE, succeed } from '../cli/sluice.ts';
import { checkExt4, systemPath } from '../e2e/image.ts';

export const FORMATS = ['raw', 'qcow2'] as const;
export type Format = (typeof FORMATS)[number];

export interface Stored {
  readonly image: string;
  readonly format: Format;
}

/** A check has found clusters that nobody uses, and nothing else. */
const LEAKS = 3;

/** A disk that is full of noise; that of qcow2 is in its backing file. */
export async function noisyImage(
  folder: Folder,
  format: Format,
  sizeBytes: number,
): Promise<string> {
  const raw = folder.file('noise.img');
  await writeFile(raw, randomFillSync(Buffer.alloc(sizeBytes)));
  return format === 'raw' ? raw : overlay(folder, raw);
}

/** A disk with an ext4 file system; that of qcow2 is in its backing file. */
export async function ext4Image(
  folder: Folder,
  format: Format,
  sizeBytes: number,
): Promise<string> {
  const raw = await folder.image('disk.img', sizeBytes);
  await succeed('mkfs.ext4', ['-q', '-F', raw], { env: systemPath() });
  return format === 'raw' ? raw : overlay(folder, raw);
}

async function overlay(folder: Folder, raw: string): Promise<string> {
  const image = folder.file('disk.qcow2');
  const backing = ['-b', raw, '-F', 'raw'];
  await succeed('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, image]);
  return image;
}

/** How the command line names such an image. */
export function servingOf(folder: Folder, format: Format, image: string): string[] {
  return ['-f', format, ...(format === 'qcow2' ? ['--allow', folder.path] : []), image];
}

/**
 * Fails when the tables of the image, or the file system in it, are not in order.
 * @param killed a back-end was killed: clusters may be lost
 */
export async function checkDisk(
  folder: Folder,
  { image, format }: Stored,
  killed = false,
): Promise<void> {
  if (format === 'raw') return checkExt4(image);
  await checkTables(image, killed);
  const raw = folder.file('copy.img');
  await succeed('qemu-img', ['convert', '-f', format, '-O', 'raw', image, raw]);
  await checkExt4(raw);
}

/** The same for the tables of a qcow2 image alone. */
export async function checkTables(image: string, killed: boolean): Promise<void> {
  const good = killed ? [0, LEAKS] : [0];
  const ours = await run(process.execPath, [SLUICE, 'check', '-f', 'qcow2', image]);
  if (!good.includes(ours.code ?? -1)) throw new Error(`sluice check: ${ours.stdout}`);
  const theirs = await run('qemu-img', ['check', '-f', 'qcow2', image]);
  if (!good.includes(theirs.code ?? -1)) throw new Error(`qemu-img check: ${theirs.stdout}`);
}
