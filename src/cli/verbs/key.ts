/** Keys of encrypted images on the command line: the contents of a file, or a secret. */
import { readFile } from 'node:fs/promises';
import { Option } from 'commander';
import type { EncryptionOptions } from '../../node.ts';
import { Refusal } from '../refusal.ts';
import { readSecrets, secretOf, type Secrets } from './secret.ts';

/** What the command line says of a key. */
export interface KeyOptions {
  readonly keyFile?: string | undefined;
  readonly keySecret?: string | undefined;
  readonly object?: readonly string[];
}

/** Of verbs that make an encrypted image: its secret is named in `-o`. */
export function keyFileOption(): Option {
  return new Option(
    '--key-file <path>',
    'file that holds the key of encrypted images; a line feed at its end counts',
  );
}

/** Of verbs that open one. */
export function keyOptions(): Option[] {
  const secret = '--key-secret <id>';
  return [
    keyFileOption(),
    new Option(secret, 'the --object that is the key of encrypted images').conflicts('keyFile'),
  ];
}

/** The key that was named; undefined where none was. */
export async function readKey(
  { keyFile, keySecret, object = [] }: KeyOptions,
  secrets?: Secrets,
): Promise<EncryptionOptions | undefined> {
  if (keySecret !== undefined) {
    const found = secrets ?? (await readSecrets({ object }));
    return { key: secretOf(found, keySecret, '--key-secret') };
  }
  if (keyFile === undefined) return undefined;
  const key = await readFile(keyFile).catch((cause: unknown) => {
    throw new Refusal(`read the key file '${keyFile}'`, cause);
  });
  return { key };
}
