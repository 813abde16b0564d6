/** Images for guests to put a file system on, and what is looked at when the guest has halted. */
import { randomFillSync } from 'node:crypto';
import { writeFile } from 'node:fs/promises';

import { type Folder, SLUICE, succeed } from '../cli/sluice.ts';
import { checkExt4 } from '../e2e/image.ts';

export const FORMATS = ['raw', 'qcow2'] as const;
export type Format = (typeof FORMATS)[number];

/** A disk that is full of noise; that of qcow2 is in its backing file. */
export async function noisyImage(
  folder: Folder,
  format: Format,
  sizeBytes: number,
): Promise<string> {
  const raw = folder.file('noise.img');
  await writeFile(raw, randomFillSync(Buffer.alloc(sizeBytes)));
  if (format === 'raw') return raw;
  const image = folder.file('disk.qcow2');
  const backing = ['-b', raw, '-F', 'raw'];
  await succeed('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, image]);
  return image;
}

/** Fails when the tables of the image, or the file system in it, are not in order. */
export async function checkDisk(folder: Folder, format: Format, image: string): Promise<void> {
  if (format === 'raw') return checkExt4(image);
  await succeed('qemu-img', ['check', '-q', '-f', format, image]);
  await succeed(process.execPath, [SLUICE, 'check', '-f', format, image]);
  const raw = folder.file('copy.img');
  await succeed('qemu-img', ['convert', '-f', format, '-O', 'raw', image, raw]);
  await checkExt4(raw);
}
