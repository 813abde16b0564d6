import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import * as q from '../../src/abi/qcow2.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { readBitmapDirectory } from '../../src/image/qcow2/bitmap-directory.ts';
import { type Qcow2Header, readHeader } from '../../src/image/qcow2/header.ts';
import { refuseDamagedLayout } from '../../src/image/qcow2/header-layout.ts';
import { readSnapshotTable } from '../../src/image/qcow2/snapshot-table.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { imageFolder, writeImage } from './scratch.ts';

const folder = imageFolder();

/** What `qemu-img info` says of an image, as far as it is compared. */
interface Info {
  readonly 'virtual-size': number;
  readonly 'cluster-size': number;
  readonly 'dirty-flag': boolean;
  readonly encrypted?: boolean;
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly snapshots?: readonly unknown[];
  readonly 'format-specific': { readonly data: Readonly<Record<string, unknown>> };
}

/** The same, by our header. */
function infoOf(header: Qcow2Header, snapshots: number, bitmaps: number) {
  const { backing, dataFile, version } = header;
  const v3 = {
    'lazy-refcounts': header.lazyRefcounts,
    corrupt: header.corrupt,
    'extended-l2': header.extendedL2,
  };
  return {
    'virtual-size': header.sizeBytes,
    'cluster-size': header.clusterBytes,
    'dirty-flag': header.dirty,
    encrypted: header.cryptMethod !== q.CRYPT_NONE,
    'backing-filename': backing?.name,
    'backing-filename-format': backing?.format,
    snapshots,
    bitmaps,
    data: {
      compat: version === 2 ? '0.10' : '1.1',
      'compression-type': header.compression === 'deflate' ? 'zlib' : 'zstd',
      'refcount-bits': header.refcountBits,
      ...(version === 3 ? v3 : {}),
      ...(dataFile === undefined
        ? {}
        : { 'data-file': dataFile.name, 'data-file-raw': dataFile.raw }),
    },
  };
}

function theirs(path: string) {
  const text = qemu(folder, 'qemu-img', ['info', '--output', 'json', path]);
  const info = JSON.parse(text) as Info;
  const { bitmaps, encrypt: _encrypt, ...data } = info['format-specific'].data;
  return {
    'virtual-size': info['virtual-size'],
    'cluster-size': info['cluster-size'],
    'dirty-flag': info['dirty-flag'],
    encrypted: info.encrypted === true,
    'backing-filename': info['backing-filename'],
    'backing-filename-format': info['backing-filename-format'],
    snapshots: info.snapshots?.length ?? 0,
    bitmaps: (bitmaps as readonly unknown[] | undefined)?.length ?? 0,
    data,
  };
}

async function ours(path: string) {
  const file = new MemoryFile(readFileSync(path));
  const header = await readHeader(file, path);
  refuseDamagedLayout(header, { fileBytes: file.sizeBytes, path, writable: true });
  const table = await readSnapshotTable(file, header, path);
  const directory = await readBitmapDirectory(file, header, path);
  expect(table.problem).toBeUndefined();
  expect(directory.problem).toBeUndefined();
  return infoOf(header, table.snapshots.length, directory.bitmaps.length);
}

/** qemu-img measures its own CPU time for LUKS, and gives up when the clock did not move. */
const LUKS_ATTEMPTS = 100;

function createEncrypted(format: string, path: string): void {
  const iterations = format === 'luks' ? ',encrypt.iter-time=10' : '';
  const options = `encrypt.format=${format},encrypt.key-secret=s${iterations}`;
  const secret = ['--object', 'secret,id=s,data=abc'];
  for (let attempt = 1; ; attempt++) {
    try {
      qemu(folder, 'qemu-img', [
        'create',
        '-q',
        ...secret,
        '-f',
        'qcow2',
        '-o',
        options,
        path,
        '4M',
      ]);
      return;
    } catch (error) {
      if (attempt === LUKS_ATTEMPTS || !String(error).includes('CPU usage')) throw error;
    }
  }
}

/** Options of `qemu-img create` and a size. */
const CREATED: readonly (readonly [options: string, size: string])[] = [
  ['compat=0.10', '64M'],
  ['compat=0.10,cluster_size=512', '1M'],
  ['compat=1.1', '64M'],
  ...['512', '4k', '64k', '2M'].map((size) => [`cluster_size=${size}`, '64M'] as const),
  ...[1, 2, 4, 8, 16, 32, 64].map((bits) => [`refcount_bits=${bits}`, '64M'] as const),
  ...['16k', '64k', '2M'].map((size) => [`extended_l2=on,cluster_size=${size}`, '1G'] as const),
  ['lazy_refcounts=on', '64M'],
  ['compression_type=zstd', '64M'],
  ['preallocation=metadata', '64M'],
  ['data_file=plain.raw', '64M'],
  ['data_file=raw.raw,data_file_raw=on', '64M'],
  ['cluster_size=64k', '1000001k'],
  ['cluster_size=64k', '512'],
  ['cluster_size=64k', '0'],
  ['cluster_size=2M', '1P'],
  ['cluster_size=64k', '63T'],
];

describeWithPeers(['qemu-img', 'qemu-io'], 'a good image', () => {
  it.each(CREATED)('says what qemu-img says: %s, %s', async (options, size) => {
    const path = join(folder, 'created.qcow2');
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, size]);
    expect(await ours(path)).toEqual(theirs(path));
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'an image with a history', () => {
  const img = (...args: string[]): string => qemu(folder, 'qemu-img', args);
  const io = (path: string, ...commands: string[]): string =>
    qemu(folder, 'qemu-io', ['-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), path]);
  let count = 0;
  let path = '';

  const create = (size: string, ...options: string[]): string => {
    path = join(folder, `${count++}.qcow2`);
    img('create', '-q', '-f', 'qcow2', ...options, path, size);
    return path;
  };

  beforeAll(() => {
    img('create', '-q', '-f', 'raw', 'base.raw', '1M');
  });

  it('of backing files, the last one shorter, says what qemu-img says', async () => {
    img('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'mid.qcow2', '2M');
    create('4M', '-b', 'mid.qcow2', '-F', 'qcow2');
    expect(await ours(path)).toEqual(theirs(path));
    img('rebase', '-u', '-b', '', path);
    expect(await ours(path)).toEqual(theirs(path));
  });

  it('of zeroes, snapshots, bitmaps and resizing says what qemu-img says', async () => {
    create('64M');
    io(path, 'write -P 1 0 1M', 'write -z 64k 64k', 'write -z -u 128k 64k');
    img('snapshot', '-c', 'one', path);
    img('snapshot', '-c', 'two', path);
    img('snapshot', '-a', 'one', path);
    img('snapshot', '-d', 'one', path);
    img('bitmap', '--add', path, 'b0');
    img('resize', '-q', path, '1G');
    img('resize', '-q', '--shrink', path, '3M');
    expect(await ours(path)).toEqual(theirs(path));
    img('bitmap', '--remove', path, 'b0');
    img('snapshot', '-d', 'two', path);
    img('amend', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path);
    expect(await ours(path)).toEqual(theirs(path));
    img('amend', '-f', 'qcow2', '-o', 'compat=0.10', path);
    expect(await ours(path)).toEqual(theirs(path));
    img('amend', '-f', 'qcow2', '-o', 'compat=1.1,refcount_bits=4', path);
    expect(await ours(path)).toEqual(theirs(path));
  });

  it('of compression says what qemu-img says', async () => {
    path = join(folder, 'compressed.qcow2');
    img('convert', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd', 'base.raw', path);
    expect(await ours(path)).toEqual(theirs(path));
  });

  it.each(['luks', 'aes'])('of encryption (%s) says what qemu-img says', async (format) => {
    path = join(folder, `${format}.qcow2`);
    createEncrypted(format, path);
    expect(await ours(path)).toEqual(theirs(path));
    const header = await readHeader(new MemoryFile(readFileSync(path)), path);
    expect(header.cryptMethod).toBe(format === 'luks' ? q.CRYPT_LUKS : q.CRYPT_AES);
    expect(header.encryption).toEqual(
      format === 'luks' ? { offset: expect.any(Number), length: expect.any(Number) } : undefined,
    );
  });

  it('that is dirty or corrupt says what qemu-img says', async () => {
    for (const bit of [q.INCOMPATIBLE_DIRTY_BIT, q.INCOMPATIBLE_CORRUPT_BIT]) {
      const image = new PokedImage(readFileSync(create('64M')));
      image.put64(q.HEADER_INCOMPATIBLE_FEATURES, 1n << BigInt(bit));
      writeImage(folder, 'poked.qcow2', image.bytes);
      path = join(folder, 'poked.qcow2');
      expect(await ours(path)).toEqual(theirs(path));
    }
  });
});
