/** Files of certificates and keys, under the names that QEMU, nbdkit and libnbd look for. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '../errors.ts';
import { systemWords } from '../system-words.ts';

/** @throws SluiceError ERR_SLUICE_OPEN */
export async function readPem(folder: string, name: string): Promise<Buffer> {
  const path = join(folder, name);
  try {
    return await readFile(path);
  } catch (cause) {
    const message = `cannot read ${JSON.stringify(path)}: ${systemWords(cause)}`;
    throw new SluiceError('ERR_SLUICE_OPEN', message, { operation: 'open', path, cause });
  }
}

/** `readPem`; undefined where there is no such file. */
export async function readPemIfThere(folder: string, name: string): Promise<Buffer | undefined> {
  try {
    return await readPem(folder, name);
  } catch (error) {
    if (((error as SluiceError).cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
