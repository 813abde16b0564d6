/** Headers that are written anew: what they say, after a power cut as well. */
import { describe, expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import type { HeaderChanges } from '../../src/image/qcow2/header-content.ts';
import { parseHeader, type Qcow2Header } from '../../src/image/qcow2/header.ts';
import { rewriteHeader } from '../../src/image/qcow2/rewrite-header.ts';
import { setBacking } from '../../src/image/qcow2/set-backing.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  change,
  expectSameByQemu,
  expectWhole,
  failEveryWrite,
  IMAGE,
  io,
  makeImage,
  run,
} from './edited-image.ts';
import { LoggedFile } from './logged-file.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const SEED = 7;
const LONG = 'x'.repeat(1023);

/** What a header says, as far as a rewrite may change it. */
function said({ version, backing, lazyRefcounts, bitmaps, unknownExtensions }: Qcow2Header) {
  return JSON.stringify({ version, backing, lazyRefcounts, bitmaps, unknownExtensions });
}

/** A header without tables, with these unknown extensions. */
function bare(
  version: 2 | 3,
  clusterBits: number,
  extensions: readonly number[] = [],
  headerBytes = version === 2 ? 72 : 104,
): Uint8Array {
  const bytes = new Uint8Array(2 ** clusterBits * 3);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, version);
  view.setUint32(20, clusterBits);
  view.setBigUint64(48, BigInt(2 ** clusterBits));
  view.setUint32(56, 1);
  if (version === 3) {
    view.setBigUint64(80, 1n << 40n);
    view.setUint32(96, 4);
    view.setUint32(100, headerBytes);
    bytes.fill(0x77, 112, headerBytes);
  }
  let at = headerBytes;
  for (const [index, length] of extensions.entries()) {
    view.setUint32(at, 0x1000 + index);
    view.setUint32(at + 4, length);
    bytes.fill(0x30 + index, at + 8, at + 8 + length);
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return bytes;
}

interface Step {
  readonly changes: HeaderChanges;
}
const name = (length: number, letter: string): HeaderChanges => ({
  backing: { name: letter.repeat(length), format: 'raw' },
});
const STEPS: readonly Step[] = [
  name(1000, 'a'),
  name(1023, 'b'),
  name(3, 'c'),
  name(700, 'd'),
  { version: 2 as const },
  { version: 3 as const, lazyRefcounts: true },
  { backing: 'none' as const },
  { bitmaps: { count: 1, directoryOffset: 0x20000, directoryBytes: 32 } },
  { bitmaps: { count: 3, directoryOffset: 0x40000, directoryBytes: 96 }, ...name(900, 'e') },
  { bitmaps: 'none' as const },
  { version: 2 as const, ...name(1022, 'f') },
  name(1021, 'g'),
].map((changes) => ({ changes }));

describe('a header that is written anew', () => {
  it.for([
    ['version 3', bare(3, 16)],
    ['version 2', bare(2, 16)],
    ['version 3 in 4 KiB', bare(3, 12)],
    ['version 2 in 4 KiB', bare(2, 12)],
    ['unknown extensions', bare(3, 16, [3, 700, 0, 41])],
    ['version 2 with unknown extensions', bare(2, 16, [3, 700, 0, 41])],
    ['unknown fields', bare(3, 16, [10], 200)],
  ] as const)('is the old one or the new one after a cut: %s', async ([, first]) => {
    const file = new MemoryFile(first.slice());
    for (const { changes } of STEPS) {
      const start = file.bytes.slice();
      const before = parseHeader(start, IMAGE);
      const log = new LoggedFile(file);
      const after = await rewriteHeader(log, before, IMAGE, changes);
      const end = file.bytes.slice();
      expect(after.version).toBe(changes.version ?? before.version);
      expect(after.unknownExtensions).toEqual(before.unknownExtensions);
      const version3 = { ...after, version: 3 as const };
      const allowed = [said(before), said(after), said(version3)];
      for (const { epoch, bytes } of log.statesAfterCuts(start, new Random(SEED))) {
        const found = parseHeader(bytes, IMAGE);
        expect(allowed, `epoch ${epoch}`).toContain(said(found));
        const again = new MemoryFile(new Uint8Array(bytes));
        const last = await rewriteHeader(again, found, IMAGE, { ...changes });
        if (changes.version !== undefined || after.version === 3) expect(last).toEqual(after);
        const isFinal = last.version === after.version;
        if (isFinal) expect(Buffer.compare(again.bytes, end)).toBe(0);
      }
    }
  });

  it('keeps unknown fields and compatible bits byte by byte', async () => {
    const file = new MemoryFile(bare(3, 16, [], 200));
    const before = parseHeader(file.bytes, IMAGE);
    const after = await rewriteHeader(file, before, IMAGE, { lazyRefcounts: true });
    expect(after.headerBytes).toBe(200);
    expect(after.compatible).toBe((1n << 40n) | 1n);
    expect(file.bytes.subarray(112, 200).every((byte) => byte === 0x77)).toBe(true);
  });

  it('is refused where old and new do not fit together, and nothing is written', async () => {
    const file = new MemoryFile(bare(3, 10));
    const first = parseHeader(file.bytes, IMAGE);
    const header = await rewriteHeader(file, first, IMAGE, name(800, 'a'));
    const start = file.bytes.slice();
    const refused = rewriteHeader(file, header, IMAGE, name(801, 'b'));
    await expectRefusal(refused, 'ERR_SLUICE_UNSUPPORTED', /do not fit.*use a shorter name/);
    const long = rewriteHeader(file, header, IMAGE, name(900, 'b'));
    await expectRefusal(long, 'ERR_SLUICE_INVALID_ARGUMENT', /first cluster of 1024 bytes/);
    expect(Buffer.compare(file.bytes, start)).toBe(0);
  });

  it('is refused with more unknown fields than a sector', async () => {
    const file = new MemoryFile(bare(3, 16, [], 520));
    const header = parseHeader(file.bytes, IMAGE);
    const refused = rewriteHeader(file, header, IMAGE, { lazyRefcounts: true });
    await expectRefusal(refused, 'ERR_SLUICE_UNSUPPORTED', /520 bytes of fields/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'another backing file', () => {
  const folder = imageFolder();

  function image(options: string): void {
    run(folder, 'qemu-img', 'create', '-q', '-f', 'raw', 'a.raw', '1M');
    run(folder, 'qemu-img', 'create', '-q', '-f', 'qcow2', 'c.qcow2', '1M');
    makeImage(folder, ['-o', options, IMAGE, '1M'], io('write -q -P 1 0 100k'));
  }

  const OPTIONS = [
    'cluster_size=512',
    'cluster_size=1k,refcount_bits=1',
    'cluster_size=4k,compat=0.10',
    'cluster_size=64k',
    'cluster_size=2M,extended_l2=on',
    'cluster_size=64k,lazy_refcounts=on,compression_type=zstd',
  ];
  const BACKINGS: readonly (readonly [name: string, format: string])[] = [
    ['a.raw', 'raw'],
    ['c.qcow2', 'qcow2'],
    [`${'./'.repeat(180)}a.raw`, 'raw'],
    ['', ''],
  ];

  it.for(OPTIONS)('is named as qemu-img rebase -u does: %s', async (options) => {
    image(options);
    for (const [to, format] of BACKINGS) {
      const backing = to === '' ? undefined : { name: to, format };
      const { states, end } = await change(folder, (file, header) =>
        setBacking(file, header, IMAGE, backing),
      );
      const by = ['-b', to, ...(format === '' ? [] : ['-F', format])];
      expectSameByQemu(folder, ['rebase', '-u', '-f', 'qcow2', ...by, IMAGE]);
      expect(parseHeader(end, IMAGE).backing).toEqual(backing);
      for (const { epoch, bytes } of states) expectWhole(bytes, `epoch ${epoch}`);
      await failEveryWrite(
        folder,
        (file, header) => setBacking(file, header, IMAGE, backing),
        (bytes, failing) => expectWhole(bytes, `write ${failing}`),
      );
    }
  });

  it('is refused where qemu-img refuses it', async () => {
    image('cluster_size=512');
    const cases: readonly (readonly [name: string, fits: boolean])[] = [
      ['x'.repeat(376), true],
      ['x'.repeat(377), false],
      [LONG, false],
      [`${LONG}x`, false],
    ];
    for (const [to, fits] of cases) {
      image('cluster_size=512');
      const work = change(folder, (file, header) =>
        setBacking(file, header, IMAGE, { name: to, format: 'raw' }),
      );
      if (fits) await work;
      else await expectRefusal(work, 'ERR_SLUICE_INVALID_ARGUMENT', /name/);
      image('cluster_size=512');
      const args = ['rebase', '-u', '-f', 'qcow2', '-b', to, '-F', 'raw', IMAGE];
      expect(run(folder, 'qemu-img', ...args) === 0).toBe(fits);
    }
  });
});
