/** Images of many kinds, made by QEMU, for the verbs that are compared with it. */
import { join } from 'node:path';

import { qemu } from '../image/bad-inputs/bases.ts';

/** Makes the image `name` in a folder by commands of qemu-img and qemu-io. */
export interface ImageKind {
  readonly name: string;
  readonly make: (img: Run, io: Run, path: string) => void;
}

/** Runs a command in the folder. */
export type Run = (...args: string[]) => string;

const WRITES = ['write 3k 1k', 'write -P 7 1M 200k', 'write -z 100k 3k', 'write -zu 2M 640k'];

function created(options: string, size = '20M', more: readonly string[] = []): ImageKind['make'] {
  return (img, io, path) => {
    img(
      'create',
      '-q',
      '-f',
      'qcow2',
      ...(options === '' ? [] : ['-o', options]),
      ...more,
      path,
      size,
    );
    io(path, ...WRITES);
  };
}

/** Over the image `extended` of 20 MiB. */
function over(size: string): ImageKind['make'] {
  return (img, io, path) => {
    const backing = ['-b', 'extended.qcow2', '-F', 'qcow2'];
    img('create', '-q', '-f', 'qcow2', ...backing, path, size);
    io(path, 'write 64k 100k', 'write -z 1100k 64k', 'discard 2M 64k');
  };
}

export const KINDS: readonly ImageKind[] = [
  { name: 'default', make: created('') },
  { name: 'version-2', make: created('compat=0.10') },
  { name: 'small-clusters', make: created('cluster_size=512,refcount_bits=1') },
  { name: 'large-clusters', make: created('cluster_size=2M,refcount_bits=64,lazy_refcounts=on') },
  { name: 'extended', make: created('cluster_size=16k,extended_l2=on') },
  { name: 'preallocated', make: created('preallocation=metadata') },
  { name: 'preallocated-full', make: created('preallocation=falloc', '3M') },
  { name: 'data-file', make: created('data_file=data-file.raw') },
  { name: 'raw-data-file', make: created('data_file=raw-data-file.raw,data_file_raw=on') },
  { name: 'longer', make: over('30M') },
  { name: 'shorter', make: over('10M') },
  {
    name: 'chain',
    make: (img, io, path) => {
      img('create', '-q', '-f', 'qcow2', '-b', 'longer.qcow2', '-F', 'qcow2', path, '35M');
      io(path, 'write 25M 1M', 'write 4M 5k');
    },
  },
  {
    name: 'over-raw',
    make: (img, io, path) => {
      img('create', '-q', '-f', 'raw', 'base.raw', '5M');
      io('base.raw', '-f raw', 'write -P 3 1M 300k');
      img('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', path);
      io(path, 'write 1M 5k');
    },
  },
  {
    name: 'compressed',
    make: (img, _io, path) => {
      img('convert', '-c', '-O', 'qcow2', 'default.qcow2', path);
    },
  },
  {
    name: 'zstd',
    make: (img, _io, path) => {
      img('convert', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd', 'default.qcow2', path);
    },
  },
  {
    name: 'snapshots',
    make: (img, io, path) => {
      created('')(img, io, path);
      img('snapshot', '-c', 'first', path);
      io(path, 'write 1M 64k');
      img('snapshot', '-c', 'a name of more than sixteen characters', path);
    },
  },
  {
    name: 'bitmaps',
    make: (img, io, path) => {
      created('')(img, io, path);
      img('bitmap', '--add', path, 'one');
      img('bitmap', '--add', '--disable', '-g', '512', path, 'two');
    },
  },
];

/** Makes all of them; answers their paths, by name. */
export function makeImages(folder: string): Map<string, string> {
  const img: Run = (...args) => qemu(folder, 'qemu-img', args);
  const io: Run = (path = '', ...commands) => {
    const format = commands[0] === '-f raw' ? 'raw' : 'qcow2';
    const given = commands.filter((command) => command !== '-f raw');
    return qemu(folder, 'qemu-io', ['-f', format, ...given.flatMap((c) => ['-c', c]), path]);
  };
  const paths = new Map<string, string>();
  for (const { name, make } of KINDS) {
    make(img, io, `${name}.qcow2`);
    paths.set(name, join(folder, `${name}.qcow2`));
  }
  return paths;
}
