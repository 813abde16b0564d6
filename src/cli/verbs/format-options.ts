/** `-o`: the options of a new image, in the names of qemu-img. */
import { Option } from 'commander';
import type { image } from '../../node.ts';
import { invalid } from '../../arguments.ts';
import { parseSize } from './size.ts';

/** What an image is made with. */
type NewImageOptions = NonNullable<image.ConvertOptions['image']>;

/** What else on the command line says how an image is made. */
export interface GivenOptions {
  readonly options: readonly string[];
  readonly backing?: string;
  readonly backingFormat?: 'raw' | 'qcow2';
}

export function formatOptions(): Option {
  return new Option('-o, --options <list>', 'name=value, with commas between them; help lists them')
    .argParser((text: string, before: readonly string[]) => [...before, text])
    .default([], 'none');
}

/** Says what an option of the command line means to the image. */
export type Setter = (text: string, name: string) => NewImageOptions;

/** Options of qcow2 that stand in the header. */
export const SETTERS: Readonly<Record<string, Setter>> = {
  compat: (text) => ({ version: versionOf(text) }),
  cluster_size: (text, name) => ({ clusterBits: bitsOf(parseSize(text), name, text) }),
  refcount_bits: (text, name) => ({ refcountOrder: bitsOf(Number(text), name, text) }),
  extended_l2: (text, name) => ({ extendedL2: isOn(text, name) }),
  lazy_refcounts: (text, name) => ({ lazyRefcounts: isOn(text, name) }),
  compression_type: (text) => {
    if (text === 'zlib') return { compression: 'deflate' };
    if (text === 'zstd') return { compression: 'zstd' };
    throw invalid(`compression_type is zlib or zstd, not '${text}'`);
  },
};

/** Names and values; the last one of a name counts. */
export function optionPairs(lists: readonly string[]): Map<string, string> {
  return new Map(lists.flatMap(splitList).map((pair) => pairOf(pair)));
}

/** Names and values; what has an option of its own counts more. */
export function pairsOf(given: GivenOptions): Map<string, string> {
  const pairs = optionPairs(given.options);
  if (given.backing !== undefined) pairs.set('backing_file', given.backing);
  if (given.backingFormat !== undefined) pairs.set('backing_fmt', given.backingFormat);
  return pairs;
}

/** A comma that is part of a value is doubled. */
export function splitList(list: string): string[] {
  return list.split(/(?<!,),(?!,)/).map((part) => part.replaceAll(',,', ','));
}

export function pairOf(pair: string): [name: string, value: string] {
  const at = pair.indexOf('=');
  return at < 0 ? [pair, 'on'] : [pair.slice(0, at), pair.slice(at + 1)];
}

export function backingOf(name: string | undefined, format: string | undefined) {
  if (name === undefined) {
    if (format === undefined) return undefined;
    throw invalid('a backing format was given (-F) and no backing file (-b, -B)');
  }
  if (format === 'raw' || format === 'qcow2') return { name, format } as const;
  throw invalid(`the format of the backing file is missing: pass -F raw or -F qcow2`);
}

/** The version of qcow2 that `compat` asks for. */
export function versionOf(text: string): 2 | 3 {
  const versions: Readonly<Record<string, 2 | 3>> = { '0.10': 2, v2: 2, '1.1': 3, v3: 3 };
  const version = versions[text];
  if (version === undefined) throw invalid(`compat is 0.10 or 1.1, not '${text}'`);
  return version;
}

function bitsOf(value: number | undefined, name: string, text: string): number {
  const bits = Math.log2(value ?? 0);
  if (Number.isInteger(bits)) return bits;
  throw invalid(`${name} is a power of two, not '${text}'`);
}

/** A switch of `-o`. */
export function isOn(text: string, name: string): boolean {
  if (text === 'on' || text === 'true' || text === 'yes') return true;
  if (text === 'off' || text === 'false' || text === 'no') return false;
  throw invalid(`${name} is on or off, not '${text}'`);
}
