/** Small images of every kind, made by qemu-img and qemu-io, for the checker and its company. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How an image is made. Every command runs in the folder of the image. */
export interface Kind {
  readonly name: string;
  /** Of `qemu-img create -o`. */
  readonly options: string;
  readonly size: string;
  /** Of qemu-io, after the creation. */
  readonly writes?: readonly string[];
  /** The backing file is a raw file of this size. */
  readonly backingBytes?: number;
  /** Made by `qemu-img convert -c` from a file of this size. */
  readonly compressedBytes?: number;
  /** Of qemu-img, then; `IMAGE` is the image. */
  readonly commands?: readonly (readonly string[])[];
  /** Of qemu-io, at the end. */
  readonly lateWrites?: readonly string[];
  /** The guest's data cannot be read without more than the image. */
  readonly encrypted?: boolean;
}

const SPREAD = ['write -P 1 0 6k', 'write -P 2 40k 9k', 'write -P 3 200k 3k', 'write -P 4 511k 1k'];
const WIDTHS = [1, 2, 4, 8, 32, 64];
const TWO_SNAPSHOTS = [
  ['snapshot', '-c', 'one', 'IMAGE'],
  ['snapshot', '-c', 'two', 'IMAGE'],
];

/** Every kind of image that the checker has to know. */
export const KINDS: readonly Kind[] = [
  { name: 'empty', options: 'cluster_size=512', size: '512k' },
  { name: 'of 0 bytes', options: 'cluster_size=4k', size: '0' },
  { name: 'v2', options: 'compat=0.10,cluster_size=512', size: '512k', writes: SPREAD },
  { name: 'v2, 4k', options: 'compat=0.10,cluster_size=4k', size: '1M', writes: SPREAD },
  { name: '512', options: 'cluster_size=512', size: '512k', writes: SPREAD },
  { name: '4k', options: 'cluster_size=4k', size: '4M', writes: SPREAD },
  { name: '64k', options: 'cluster_size=64k', size: '1M', writes: SPREAD },
  ...WIDTHS.map((bits) => ({
    name: `refcounts of ${bits} bits`,
    options: `cluster_size=512,refcount_bits=${bits}`,
    size: '512k',
    writes: SPREAD,
  })),
  {
    name: 'extended L2',
    options: 'cluster_size=16k,extended_l2=on',
    size: '1M',
    writes: [
      ...SPREAD,
      'write -z 32k 4k',
      'write -z 192k 64k',
      'write -z -u 40k 512',
      'discard 0 2k',
    ],
  },
  {
    name: 'zero clusters',
    options: 'cluster_size=1k',
    size: '1M',
    writes: [
      ...SPREAD,
      'write -z 0 3k',
      'write -z -u 40k 4k',
      'write -z 100k 50k',
      'discard 200k 1k',
    ],
  },
  {
    name: 'preallocated',
    options: 'cluster_size=1k,preallocation=metadata',
    size: '256k',
    writes: ['write -P 1 0 7k', 'write -z 100k 10k'],
  },
  {
    name: 'backed',
    options: 'cluster_size=2k',
    size: '512k',
    backingBytes: 99_840,
    writes: [...SPREAD, 'write -z 60k 20k', 'discard 12k 4k'],
  },
  {
    name: 'backed extended L2',
    options: 'cluster_size=16k,extended_l2=on',
    size: '512k',
    backingBytes: 99_840,
    writes: [...SPREAD, 'write -z 60k 20k'],
  },
  { name: 'zlib', options: 'cluster_size=4k', size: '', compressedBytes: 300_032 },
  {
    name: 'zlib, overwritten',
    options: 'cluster_size=2k',
    size: '',
    compressedBytes: 200_192,
    commands: TWO_SNAPSHOTS,
    lateWrites: ['write -P 7 0 5k', 'write -P 8 66k 2k', 'write -z 100k 4k'],
  },
  {
    name: 'zlib extended L2',
    options: 'cluster_size=16k,extended_l2=on',
    size: '',
    compressedBytes: 200_192,
    lateWrites: ['write -P 7 0 5k', 'write -z 100k 4k'],
  },
  {
    name: 'zstd',
    options: 'cluster_size=4k,compression_type=zstd',
    size: '',
    compressedBytes: 99_840,
  },
  {
    name: 'data file',
    options: 'cluster_size=4k,data_file=DATA',
    size: '1M',
    writes: [...SPREAD, 'write -z 100k 50k'],
  },
  {
    name: 'raw data file',
    options: 'cluster_size=4k,data_file=DATA,data_file_raw=on',
    size: '1M',
    writes: SPREAD,
  },
  {
    name: 'snapshots',
    options: 'cluster_size=512',
    size: '512k',
    writes: SPREAD,
    commands: [...TWO_SNAPSHOTS, ['snapshot', '-d', 'one', 'IMAGE']],
    lateWrites: ['write -P 5 1k 2k', 'write -P 6 300k 2k', 'write -P 7 45k 1k'],
  },
  {
    name: 'v2 snapshots',
    options: 'compat=0.10,cluster_size=1k',
    size: '512k',
    writes: SPREAD,
    commands: [...TWO_SNAPSHOTS, ['snapshot', '-a', 'one', 'IMAGE']],
    lateWrites: ['write -P 5 1k 2k'],
  },
  {
    name: 'extended L2 snapshots',
    options: 'cluster_size=16k,extended_l2=on,refcount_bits=2',
    size: '512k',
    writes: SPREAD,
    commands: TWO_SNAPSHOTS,
    lateWrites: ['write -P 5 1k 2k'],
  },
  {
    name: 'bitmaps',
    options: 'cluster_size=1k',
    size: '512k',
    writes: SPREAD,
    commands: [
      ['bitmap', '--add', '-g', '4096', 'IMAGE', 'first'],
      ['bitmap', '--add', '-g', '512', 'IMAGE', 'second'],
    ],
    lateWrites: ['write -P 9 7k 3k'],
  },
  {
    name: 'LUKS',
    options: 'cluster_size=4k,encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=100',
    size: '256k',
    encrypted: true,
  },
  { name: 'lazy', options: 'cluster_size=1k,lazy_refcounts=on', size: '512k', writes: SPREAD },
  { name: 'odd size', options: 'cluster_size=4k', size: '102912', writes: ['write -P 1 98k 2560'] },
];

/** An image that has been made. */
export interface Made {
  readonly kind: Kind;
  readonly folder: string;
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly backing: Uint8Array | undefined;
  /** The bytes of the external data file. */
  readonly data: Uint8Array | undefined;
}

/** Makes an image in a new folder, which `remove` deletes. */
export function make(kind: Kind): Made {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-qcow2-'));
  const run = (program: string, ...args: string[]): void => {
    execFileSync(program, args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
  };
  // Now and then qemu-img cannot measure how long it hashes.
  const create = (...args: string[]): void => {
    for (let tries = kind.encrypted ? 20 : 1; tries > 1; tries--) {
      if (spawnSync('qemu-img', args, { cwd: folder }).status === 0) return;
    }
    run('qemu-img', ...args);
  };
  const write = (commands: readonly string[] | undefined): void => {
    if (commands === undefined) return;
    run('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), 'IMAGE');
  };
  const options = ['-o', kind.options];
  const backing = kind.backingBytes === undefined ? undefined : pattern(kind.backingBytes);
  if (backing !== undefined) writeFileSync(join(folder, 'BACKING'), backing);
  if (kind.compressedBytes === undefined) {
    const secret = kind.encrypted ? ['--object', 'secret,id=key,data=abc'] : [];
    const named = backing === undefined ? [] : ['-b', 'BACKING', '-F', 'raw'];
    create('create', ...secret, '-f', 'qcow2', ...options, ...named, 'IMAGE', kind.size);
  } else {
    writeFileSync(join(folder, 'SOURCE'), pattern(kind.compressedBytes));
    run('qemu-img', 'convert', '-c', '-O', 'qcow2', ...options, 'SOURCE', 'IMAGE');
  }
  write(kind.writes);
  for (const command of kind.commands ?? []) run('qemu-img', ...command);
  write(kind.lateWrites);
  const path = join(folder, 'IMAGE');
  const data = kind.options.includes('DATA') ? readFileSync(join(folder, 'DATA')) : undefined;
  return { kind, folder, path, bytes: readFileSync(path), backing, data };
}

/** Removes what `make` has made. */
export function remove({ folder }: Made): void {
  rmSync(folder, { recursive: true, force: true });
}

/** Bytes that compress well, and differ from one sector to the next. */
function pattern(lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let index = 0; index < lengthBytes; index++) {
    bytes[index] = index % 512 < 100 ? (index * 7 + (index >> 9) * 13) & 0xff : index >> 9;
  }
  return bytes;
}
