/** Images of every kind of the format, made by qemu-img and qemu-io. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Where an image is made, and what its files are called there. */
export const IMAGE = 'IMAGE';
export const DATA = 'DATA';

/** A file in a chain of backing files. */
interface Layer {
  readonly sizeBytes: number;
  /** Of a qcow2 file; absent: it is raw. */
  readonly options?: string;
  readonly io?: readonly string[];
}

/** What is done to an image: commands of qemu-io, or one of qemu-img. */
type Deed = { readonly io: readonly string[] } | { readonly img: string };

/** How an image is made. */
export interface Kind {
  readonly name: string;
  /** Of `qemu-img create -o`. */
  readonly options: string;
  readonly sizeBytes: number;
  /** The backing files, the deepest first. */
  readonly chain?: readonly Layer[];
  readonly deeds?: readonly Deed[];
  /** Names of its snapshots. */
  readonly snapshots?: readonly string[];
}

/** What the options of a kind say. */
export interface Shape {
  readonly clusterBytes: number;
  /** What an entry can say on its own: a cluster, or a subcluster. */
  readonly unitBytes: number;
  /** What one L2 table covers. */
  readonly tableBytes: number;
  readonly version: number;
  readonly dataFile: 'none' | 'plain' | 'raw';
}

/** What the options of a kind say. */
export function shapeOf({ options }: Kind): Shape {
  const clusterBytes = bytesOf(/cluster_size=(\w+)/.exec(options)?.[1] ?? '64k');
  const extended = options.includes('extended_l2=on');
  const dataFile = options.includes('data_file=') ? 'plain' : 'none';
  return {
    clusterBytes,
    unitBytes: extended ? clusterBytes / 32 : clusterBytes,
    tableBytes: clusterBytes * (clusterBytes / (extended ? 16 : 8)),
    version: options.includes('compat=0.10') ? 2 : 3,
    dataFile: options.includes('data_file_raw=on') ? 'raw' : dataFile,
  };
}

function bytesOf(text: string): number {
  const units: Readonly<Record<string, number>> = { k: KIB, M: MIB };
  return parseInt(text, 10) * (units[text.at(-1) ?? ''] ?? 1);
}

const SPREAD = [
  'write -P 1 0 70k',
  'write -P 2 100k 9k',
  'write -P 3 200k 3k',
  'write -P 4 511k 1k',
];
const ZEROES = ['write -z 40k 32k', 'write -z -u 96k 64k', 'write -z 250k 10k'];
/** Cluster by cluster, from bytes that compress to about a half of their size. */
const PACKED = packed(64 * KIB, 0, 6);

function packed(clusterBytes: number, first: number, count: number): string[] {
  return Array.from({ length: count }, (_, index) => {
    const offset = (first + index) * clusterBytes;
    return `write -q -c -s FILL${index % 3} ${offset} ${clusterBytes}`;
  });
}

const ODD_RAW: Layer = { sizeBytes: 333_333, io: ['write -P 9 0 300k'] };
const SHORT: Layer = {
  sizeBytes: 192 * KIB,
  options: 'cluster_size=4k',
  io: ['write -P 10 64k 64k', 'write -z 16k 8k', 'write -P 11 190k 2k'],
};
const LONG_RAW: Layer = { sizeBytes: 700 * KIB, io: ['write -P 12 0 700k'] };
const TWO_SNAPSHOTS: readonly Deed[] = [
  { io: SPREAD },
  { img: `snapshot -c one ${IMAGE}` },
  { io: ['write -P 5 0 20k', 'write -P 6 300k 40k'] },
  { img: `snapshot -c two ${IMAGE}` },
  { io: ['write -P 7 8k 8k'] },
];

const CLUSTERS: readonly Kind[] = [
  { name: '512-byte clusters', options: 'cluster_size=512', sizeBytes: 8 * MIB },
  {
    name: 'a refcount table about to grow',
    options: 'cluster_size=512',
    sizeBytes: 9 * MIB,
    deeds: [{ io: ['write -P 1 0 7900k', 'discard 0 2M'] }],
  },
  { name: '4k clusters', options: 'cluster_size=4k', sizeBytes: 5 * MIB },
  { name: '64k clusters', options: 'cluster_size=64k', sizeBytes: GIB + 64 * KIB },
  { name: '2M clusters', options: 'cluster_size=2M', sizeBytes: 32 * MIB },
  { name: '2M clusters, two L2 tables', options: 'cluster_size=2M', sizeBytes: 513 * GIB },
  ...[1, 2, 4, 8, 32, 64].map((bits) => ({
    name: `${bits}-bit refcounts`,
    options: `cluster_size=4k,refcount_bits=${bits}`,
    sizeBytes: 3 * MIB,
    deeds: [{ io: SPREAD }],
  })),
  {
    name: '512-byte clusters, 64-bit refcounts',
    options: 'cluster_size=512,refcount_bits=64',
    sizeBytes: 4 * MIB,
    deeds: [{ io: ['write -P 1 0 1900k', 'discard 1M 30k'] }],
  },
  {
    name: '512-byte clusters, 1-bit refcounts',
    options: 'cluster_size=512,refcount_bits=1',
    sizeBytes: 4 * MIB,
  },
  ...['16k', '64k', '2M'].map((size) => ({
    name: `extended L2, ${size} clusters`,
    options: `extended_l2=on,cluster_size=${size}`,
    sizeBytes: 40 * MIB,
    deeds: [{ io: [...SPREAD, ...ZEROES] }],
  })),
  { name: 'lazy refcounts', options: 'lazy_refcounts=on,cluster_size=4k', sizeBytes: 3 * MIB },
  { name: '0 bytes', options: 'cluster_size=64k', sizeBytes: 0 },
  { name: 'one sector', options: 'cluster_size=64k', sizeBytes: 512 },
  { name: 'odd size', options: 'cluster_size=64k', sizeBytes: 1_000_448 },
];

const OLD: readonly Kind[] = [
  { name: 'v2', options: 'compat=0.10', sizeBytes: 2 * MIB, deeds: [{ io: SPREAD }] },
  { name: 'v2, 512', options: 'compat=0.10,cluster_size=512', sizeBytes: MIB },
  {
    name: 'v2, backing',
    options: 'compat=0.10,cluster_size=4k',
    sizeBytes: MIB,
    chain: [ODD_RAW],
    deeds: [{ io: SPREAD }],
  },
  {
    name: 'v2, snapshots',
    options: 'compat=0.10,cluster_size=1k',
    sizeBytes: MIB,
    deeds: TWO_SNAPSHOTS,
    snapshots: ['one', 'two'],
  },
  {
    name: 'v2, compressed',
    options: 'compat=0.10,cluster_size=4k',
    sizeBytes: MIB,
    deeds: [{ io: packed(4 * KIB, 0, 40) }],
  },
];

/** Clusters whose places run backwards, so that no two are given back as one run. */
function backwards(clusterBytes: number, count: number): string[] {
  return Array.from({ length: count }, (_, index) => {
    return `write -q -P 1 ${(count - 1 - index) * clusterBytes} ${clusterBytes}`;
  });
}

const CONTENTS: readonly Kind[] = [
  {
    name: 'clusters in disorder',
    options: 'cluster_size=512',
    sizeBytes: 3 * MIB,
    deeds: [{ io: backwards(512, 4500) }],
  },
  {
    name: 'zero clusters',
    options: 'cluster_size=4k',
    sizeBytes: MIB,
    deeds: [{ io: [...SPREAD, ...ZEROES, 'write -z 512k 64k'] }],
  },
  {
    name: 'preallocated',
    options: 'cluster_size=4k,preallocation=metadata',
    sizeBytes: MIB,
    deeds: [{ io: ['write -P 1 0 6k', 'write -z 100k 40k', 'write -z -u 200k 40k'] }],
  },
  { name: 'zlib', options: 'cluster_size=64k', sizeBytes: MIB, deeds: [{ io: PACKED }] },
  {
    name: 'zlib, 512-byte clusters',
    options: 'cluster_size=512',
    sizeBytes: 256 * KIB,
    deeds: [{ io: packed(512, 0, 100) }],
  },
  {
    name: 'zlib, 2M clusters',
    options: 'cluster_size=2M',
    sizeBytes: 20 * MIB,
    deeds: [{ io: packed(2 * MIB, 0, 8) }],
  },
  {
    name: 'zstd',
    options: 'cluster_size=16k,compression_type=zstd',
    sizeBytes: MIB,
    deeds: [{ io: packed(16 * KIB, 0, 20) }],
  },
  {
    name: 'bitmap',
    options: 'cluster_size=4k',
    sizeBytes: MIB,
    deeds: [{ io: SPREAD }, { img: `bitmap --add --disable ${IMAGE} first` }],
  },
  {
    name: 'L1 larger than needed',
    options: 'cluster_size=512',
    sizeBytes: 512 * KIB,
    deeds: [
      { io: SPREAD },
      { img: `resize -q ${IMAGE} 8M` },
      { img: `resize -q --shrink ${IMAGE} 512k` },
    ],
  },
  { name: 'data file', options: `cluster_size=4k,data_file=${DATA}`, sizeBytes: 3 * MIB },
  {
    name: 'raw data file',
    options: `cluster_size=4k,data_file=${DATA},data_file_raw=on`,
    sizeBytes: 3 * MIB,
    deeds: [{ io: SPREAD }],
  },
  {
    name: 'data file, extended L2',
    options: `cluster_size=16k,extended_l2=on,data_file=${DATA}`,
    sizeBytes: 3 * MIB,
    deeds: [{ io: [...SPREAD, ...ZEROES] }],
  },
];

const CHAINS: readonly Kind[] = [
  { name: 'raw backing', options: 'cluster_size=4k', sizeBytes: MIB, chain: [ODD_RAW] },
  {
    name: 'a chain of 3',
    options: 'cluster_size=16k',
    sizeBytes: MIB,
    chain: [LONG_RAW, SHORT],
    deeds: [{ io: ['write -P 1 20k 20k', 'write -z 100k 20k'] }],
  },
  {
    name: 'large clusters, backing',
    options: 'cluster_size=2M',
    sizeBytes: 9 * MIB,
    chain: [LONG_RAW],
  },
  {
    name: 'backing, compressed',
    options: 'cluster_size=4k',
    sizeBytes: MIB,
    chain: [SHORT],
    deeds: [{ io: packed(4 * KIB, 10, 30) }],
  },
  {
    name: 'extended L2, backing, compressed',
    options: 'extended_l2=on,cluster_size=16k',
    sizeBytes: MIB,
    chain: [LONG_RAW],
    deeds: [{ io: [...packed(16 * KIB, 3, 9), 'write -P 2 300k 3k', 'write -z 310k 3k'] }],
  },
  {
    name: 'data file, backing',
    options: `cluster_size=4k,data_file=${DATA}`,
    sizeBytes: MIB,
    chain: [ODD_RAW],
    deeds: [{ io: SPREAD }],
  },
];

const SNAPSHOTS: readonly Kind[] = [
  {
    name: 'snapshots',
    options: 'cluster_size=4k',
    sizeBytes: MIB,
    deeds: TWO_SNAPSHOTS,
    snapshots: ['one', 'two'],
  },
  {
    name: 'snapshots, applied and deleted',
    options: 'cluster_size=512',
    sizeBytes: MIB,
    deeds: [
      ...TWO_SNAPSHOTS,
      { img: `snapshot -a one ${IMAGE}` },
      { io: ['write -P 8 8k 12k'] },
      { img: `snapshot -d one ${IMAGE}` },
    ],
    snapshots: ['two'],
  },
  {
    name: 'a snapshot, 2M clusters',
    options: 'cluster_size=2M',
    sizeBytes: 20 * MIB,
    deeds: [{ io: ['write -P 1 0 20M'] }, { img: `snapshot -c one ${IMAGE}` }],
    snapshots: ['one'],
  },
  {
    name: 'snapshots, compressed',
    options: 'cluster_size=4k',
    sizeBytes: MIB,
    deeds: [{ io: packed(4 * KIB, 0, 40) }, ...TWO_SNAPSHOTS],
    snapshots: ['one', 'two'],
  },
  {
    name: 'snapshots, extended L2, 2-bit refcounts',
    options: 'extended_l2=on,cluster_size=16k,refcount_bits=2',
    sizeBytes: MIB,
    deeds: TWO_SNAPSHOTS,
    snapshots: ['one', 'two'],
  },
  {
    name: 'snapshots, zero clusters, backing',
    options: 'cluster_size=4k',
    sizeBytes: MIB,
    chain: [SHORT],
    deeds: [{ io: ZEROES }, ...TWO_SNAPSHOTS, { io: ZEROES }],
    snapshots: ['one', 'two'],
  },
];

/** Every kind of image that is written. */
export const KINDS: readonly Kind[] = [...CLUSTERS, ...OLD, ...CONTENTS, ...CHAINS, ...SNAPSHOTS];

/** Runs a program of QEMU's in a folder; answers what it prints. */
export function qemu(folder: string, program: string, args: readonly string[]): string {
  return execFileSync(program, args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
}

/** Runs commands of qemu-io on a file of a folder. */
export function qemuIo(
  folder: string,
  commands: readonly string[],
  file = IMAGE,
  raw = false,
): void {
  const args = [
    '-t',
    'unsafe',
    '-f',
    raw ? 'raw' : 'qcow2',
    ...commands.flatMap((c) => ['-c', c]),
    file,
  ];
  const { status, stdout, stderr } = spawnSync('qemu-io', args, { cwd: folder, encoding: 'utf8' });
  const said = `${stdout}${stderr}`;
  if (status === 0 && !/fail|error|invalid/i.test(said)) return;
  throw new Error(`qemu-io ${args.join(' ')}: ${said.slice(0, 2000)}`);
}

/** Makes an image in a new folder. Its backing files are called LAYER0 and so on. */
export function make(kind: Kind, folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const index of [0, 1, 2]) writeFileSync(join(folder, `FILL${index}`), fill(index));
  const chain = kind.chain ?? [];
  for (const [index, layer] of chain.entries()) makeLayer(folder, chain, index, layer);
  create(folder, IMAGE, kind.options, kind.sizeBytes, chain, chain.length);
  for (const deed of kind.deeds ?? []) {
    if ('io' in deed) qemuIo(folder, deed.io);
    else qemu(folder, 'qemu-img', deed.img.split(' '));
  }
}

function makeLayer(folder: string, chain: readonly Layer[], index: number, layer: Layer): void {
  const name = `LAYER${index}`;
  const { options, sizeBytes, io } = layer;
  if (options === undefined) writeFileSync(join(folder, name), new Uint8Array(sizeBytes));
  else create(folder, name, options, sizeBytes, chain, index);
  if (io !== undefined) qemuIo(folder, io, name, options === undefined);
}

function create(
  folder: string,
  name: string,
  options: string,
  sizeBytes: number,
  chain: readonly Layer[],
  layers: number,
): void {
  const format = chain[layers - 1]?.options === undefined ? 'raw' : 'qcow2';
  const backing = layers === 0 ? [] : ['-b', `LAYER${layers - 1}`, '-F', format];
  const args = ['create', '-q', '-f', 'qcow2', '-o', options, ...backing, name, `${sizeBytes}`];
  qemu(folder, 'qemu-img', args);
}

/** Bytes of which the longer half of each 512 is one value. */
function fill(seed: number): Uint8Array {
  const bytes = new Uint8Array(2 * MIB);
  for (let index = 0, state = seed + 1; index < bytes.length; index++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[index] = index % 512 < 200 ? state >>> 24 : seed + 20;
  }
  return bytes;
}
