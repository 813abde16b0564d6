/** `--object secret,...`: passphrases by name, in the words of QEMU. */
import { readFile } from 'node:fs/promises';
import { Option } from 'commander';
import { invalid } from '../../arguments.ts';
import { Refusal } from '../refusal.ts';
import { pairOf, splitList } from './format-options.ts';

/** Passphrases by the names that options of images call them. */
export type Secrets = ReadonlyMap<string, Uint8Array>;

/** What a verb has of it. */
export interface SecretOptions {
  readonly object: readonly string[];
}

export function secretOption(): Option {
  const flags = '--object <object>';
  return new Option(flags, 'secret,id=NAME,data=TEXT or file=PATH[,format=base64]: a passphrase')
    .argParser((text: string, before: readonly string[]) => [...before, text])
    .default([], 'none');
}

/** Reads all of them. */
export async function readSecrets({ object }: SecretOptions): Promise<Secrets> {
  const secrets = new Map<string, Uint8Array>();
  for (const text of object) {
    const [id, bytes] = await readSecret(text);
    if (secrets.has(id)) throw invalid(`there are two secrets '${id}'; leave one out`);
    secrets.set(id, bytes);
  }
  return secrets;
}

/** The one that `option` names. */
export function secretOf(secrets: Secrets, id: string, option: string): Uint8Array {
  const found = secrets.get(id);
  if (found !== undefined) return found;
  throw invalid(`${option} names the secret '${id}', and there is none; pass --object secret,id=`);
}

const KNOWN: ReadonlySet<string> = new Set(['id', 'data', 'file', 'format']);

async function readSecret(text: string): Promise<[id: string, bytes: Uint8Array]> {
  const [first = '', ...rest] = splitList(text);
  const type = first.replace(/^qom-type=/, '');
  if (type !== 'secret') throw invalid(`an object is a 'secret' here, not '${type}'`);
  const pairs = new Map(rest.map((pair) => pairOf(pair)));
  const unknown = [...pairs.keys()].find((name) => !KNOWN.has(name));
  if (unknown !== undefined) {
    throw invalid(`a secret takes id, data, file and format here, not '${unknown}'`);
  }
  const id = pairs.get('id') ?? '';
  if (id === '') throw invalid('a secret has a name: pass id=NAME');
  return [id, decode(id, await contents(id, pairs), pairs.get('format') ?? 'raw')];
}

async function contents(id: string, pairs: ReadonlyMap<string, string>): Promise<Buffer> {
  const data = pairs.get('data');
  const file = pairs.get('file');
  if ((data === undefined) === (file === undefined)) {
    throw invalid(`the secret '${id}' has either data=TEXT or file=PATH`);
  }
  if (data !== undefined) return Buffer.from(data);
  return readFile(file as string).catch((cause: unknown) => {
    throw new Refusal(`read the secret '${id}' in '${file}'`, cause);
  });
}

const BASE64 = /^(?:[A-Za-z\d+/]{4})*(?:[A-Za-z\d+/]{2}==|[A-Za-z\d+/]{3}=)?$/;

function decode(id: string, bytes: Buffer, format: string): Uint8Array {
  if (format === 'raw') return bytes;
  if (format !== 'base64') throw invalid(`format of a secret is raw or base64, not '${format}'`);
  const text = bytes.toString('latin1').replaceAll(/\s/g, '');
  if (BASE64.test(text)) return Buffer.from(text, 'base64');
  throw invalid(`the secret '${id}' is not base64`);
}
