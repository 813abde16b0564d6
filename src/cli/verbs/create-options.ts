/** `-o` of the verbs that make or measure an image: every option of qemu-img has its answer. */
import type { image, ImageFormat } from '../../node.ts';
import { invalid } from '../../arguments.ts';
import { backingOf, type GivenOptions, isOn, pairsOf, SETTERS } from './format-options.ts';
import { type Secrets, secretOf } from './secret.ts';
import { parseSize } from './size.ts';

/** What the command line says of a new image. */
export interface MadeOptions {
  readonly sizeBytes: number | undefined;
  readonly preallocation: Preallocation | undefined;
  readonly image: image.NewQcow2Options;
}

type Preallocation = image.Preallocation;
type Encryption = NonNullable<image.NewQcow2Options['encryption']>;

/** Passphrases that the command line has. */
export interface Keys {
  readonly secrets: Secrets;
  /** Of --key-file; null: it is no key of the image that is made. */
  readonly key: Uint8Array | undefined | null;
  /** Measuring needs none. */
  readonly isNeeded: boolean;
}

/** Options that have a place of their own below. */
const OWN = ['size', 'backing_file', 'backing_fmt', 'preallocation', 'data_file', 'data_file_raw'];
const RAW_NAMES: ReadonlySet<string> = new Set(['size', 'preallocation']);

/** What can only be refused, and why. */
const REFUSED: Readonly<Record<string, string>> = {
  encryption: 'the old AES encryption is not safe; use encrypt.format=luks',
  'encrypt.ivgen-hash-alg': 'plain64, the one that is made, has no hash',
  extent_size_hint: 'the file system chooses the size of its extents',
  nocow: 'set the attribute on the folder (chattr +C)',
};

/** The lists of `-o help`. */
export function listOptions(format: ImageFormat): string {
  const names = format === 'raw' ? [...RAW_NAMES] : [...OWN, ...Object.keys(SETTERS), ...ENCRYPT];
  return `${[`Options of ${format}:`, ...names.sort().map((name) => `  ${name}`)].join('\n')}\n`;
}

/** `-o help` was passed. */
export function asksForHelp({ options }: GivenOptions): boolean {
  return options.some((text) => text === 'help' || text === '?');
}

/** Understands all options, or refuses one by its name. */
export function madeOptionsOf(format: ImageFormat, given: GivenOptions, keys: Keys): MadeOptions {
  const pairs = pairsOf(given);
  for (const [name, text] of pairs) refuse(format, name, text);
  const preallocation = pairs.get('preallocation') as Preallocation | undefined;
  const size = pairs.get('size');
  const sizeBytes = size === undefined ? undefined : parseSize(size);
  if (size !== undefined && sizeBytes === undefined) {
    throw invalid(`size is a size in bytes, as 4096, 64k, 1.5G, not '${size}'`);
  }
  const backing = backingOf(pairs.get('backing_file'), pairs.get('backing_fmt'));
  const dataFile = dataFileOf(pairs.get('data_file'), pairs.get('data_file_raw'));
  const encryption = encryptionOf(pairs, keys);
  const parts = [...pairs].map(([name, text]) => SETTERS[name]?.(text, name) ?? {});
  const named = {
    ...(backing === undefined ? {} : { backing }),
    ...(dataFile === undefined ? {} : { dataFile }),
    ...(encryption === undefined ? {} : { encryption }),
  };
  return { sizeBytes, preallocation, image: Object.assign({}, named, ...parts) };
}

function refuse(format: ImageFormat, name: string, text: string): void {
  const reason = REFUSED[name];
  const isOff = ['off', 'no', 'false', '0'].includes(text);
  if (reason !== undefined && isOff) return;
  if (reason !== undefined) throw invalid(`option '${name}' is not supported: ${reason}`);
  const isKnown = OWN.includes(name) || name in SETTERS || ENCRYPT.includes(name);
  if (!isKnown) throw invalid(`there is no option '${name}'; -o help lists them`);
  if (format === 'raw' && !RAW_NAMES.has(name)) {
    throw invalid(`'${name}' is for qcow2 images, and a raw one is asked for`);
  }
}

function dataFileOf(name: string | undefined, raw: string | undefined) {
  const isRaw = raw !== undefined && isOn(raw, 'data_file_raw');
  if (name !== undefined) return { name, raw: isRaw };
  if (isRaw) throw invalid('data_file_raw is on, and there is no data file; pass data_file=');
  return undefined;
}

const ENCRYPT: readonly string[] = [
  'encrypt.format',
  'encrypt.key-secret',
  'encrypt.iter-time',
  'encrypt.cipher-alg',
  'encrypt.cipher-mode',
  'encrypt.ivgen-alg',
  'encrypt.hash-alg',
];

function encryptionOf(pairs: ReadonlyMap<string, string>, keys: Keys): Encryption | undefined {
  const first = ENCRYPT.find((name) => pairs.has(name));
  const format = pairs.get('encrypt.format');
  if (format === undefined) {
    if (first !== undefined)
      throw invalid(`'${first}' is for encrypted images: encrypt.format=luks`);
    if ((keys.key ?? undefined) === undefined) return undefined;
    throw invalid('a key was given (--key-file), and nothing is encrypted: encrypt.format=luks');
  }
  only(pairs, 'encrypt.format', ['luks']);
  only(pairs, 'encrypt.cipher-mode', ['xts']);
  only(pairs, 'encrypt.ivgen-alg', ['plain64']);
  const cipher = only(pairs, 'encrypt.cipher-alg', ['aes-128', 'aes-256']);
  const hash = only(pairs, 'encrypt.hash-alg', ['sha1', 'sha256', 'sha512']);
  const time = pairs.get('encrypt.iter-time');
  if (time !== undefined && !/^\d+$/.test(time)) {
    throw invalid(`encrypt.iter-time is a whole number of milliseconds, not '${time}'`);
  }
  return {
    key: keyOf(pairs.get('encrypt.key-secret'), keys),
    ...(cipher === undefined ? {} : { cipher }),
    ...(hash === undefined ? {} : { hash }),
    ...(time === undefined ? {} : { iterTimeMs: Number(time) }),
  };
}

function keyOf(secret: string | undefined, { secrets, key, isNeeded }: Keys): Uint8Array {
  if (secret !== undefined && key !== undefined && key !== null) {
    throw invalid('there are two keys, encrypt.key-secret and --key-file; leave one out');
  }
  if (secret !== undefined) return secretOf(secrets, secret, 'encrypt.key-secret');
  if (key !== undefined && key !== null) return key;
  if (!isNeeded) return new Uint8Array(0);
  const file = key === null ? '' : '--key-file, or ';
  const advice = `pass ${file}--object secret,id=ID and encrypt.key-secret=ID`;
  throw invalid(`encrypt.format=luks needs a passphrase; ${advice}`);
}

/** The value of an option, which must be one of those that can be had. */
function only<T extends string>(
  pairs: ReadonlyMap<string, string>,
  name: string,
  known: readonly T[],
): T | undefined {
  const text = pairs.get(name);
  const found = known.find((value) => value === text);
  if (text === undefined || found !== undefined) return found;
  throw invalid(`${name} is ${known.join(' or ')} here, not '${text}'`);
}
