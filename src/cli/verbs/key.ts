/** Keys of encrypted images on the command line. */
import { readFile } from 'node:fs/promises';
import { Option } from 'commander';
import type { EncryptionOptions } from '../../node.ts';
import { Refusal } from '../refusal.ts';

export function keyOption(): Option {
  return new Option(
    '--key-file <path>',
    'file that holds the key of encrypted images; a line feed at its end counts',
  );
}

/** The key in a file; undefined where none was named. */
export async function readKey(path: string | undefined): Promise<EncryptionOptions | undefined> {
  if (path === undefined) return undefined;
  const key = await readFile(path).catch((cause: unknown) => {
    throw new Refusal(`read the key file '${path}'`, cause);
  });
  return { key };
}
