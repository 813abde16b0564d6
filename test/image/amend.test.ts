/** Amended images: as qemu-img makes them, and after power cuts and failures. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { amend, type Amendment } from '../../src/image/qcow2/amend.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { expectSame } from '../backend/driver.ts';
import { readGuest } from '../model/qcow2.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  type Change,
  change,
  expectSameByQemu,
  expectWhole,
  failEveryWrite,
  IMAGE,
  io,
  load,
  makeImage,
  run,
} from './edited-image.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const WRITES = ['write -q -P 1 0 20k', 'write -q -P 2 100k 60k', 'write -q -P 3 252k 4k'];
const ZEROES = ['write -q -z 4k 4k', 'write -q -z -u 104k 6k', 'write -q -z 300k 30k'];
/** Of each amendment. */
const STATES = 16;
const SNAPSHOT = ['qemu-img', 'snapshot', '-c', 's', IMAGE];

/** An amendment as `qemu-img amend -o` takes it. */
function optionsOf({ version, lazyRefcounts, refcountBits, dataFileRaw }: Amendment): string {
  const all = [
    version === undefined ? '' : `compat=${version === 2 ? '0.10' : '1.1'}`,
    lazyRefcounts === undefined ? '' : `lazy_refcounts=${lazyRefcounts ? 'on' : 'off'}`,
    refcountBits === undefined ? '' : `refcount_bits=${refcountBits}`,
    dataFileRaw === undefined ? '' : `data_file_raw=${dataFileRaw ? 'on' : 'off'}`,
  ];
  return all.filter((text) => text !== '').join(',');
}

interface Case {
  readonly options: string;
  readonly changes: readonly Amendment[];
  readonly writes?: readonly string[];
  readonly commands?: readonly (readonly string[])[];
}

const UP_AND_DOWN: readonly Amendment[] = [{ version: 2 }, { version: 3 }, { version: 2 }];
const WIDTHS: readonly Amendment[] = [1, 64, 8, 2, 32, 4, 16].map((refcountBits) => ({
  refcountBits,
}));
const LARGE_WIDTHS: readonly Amendment[] = [8, 64, 32, 16].map((refcountBits) => ({
  refcountBits,
}));
const CASES: readonly Case[] = [
  { options: 'cluster_size=512', changes: [...WIDTHS, ...UP_AND_DOWN] },
  { options: 'cluster_size=4k', changes: UP_AND_DOWN, writes: [...WRITES, ...ZEROES] },
  // From 1 bit on, qemu-img 7.2 does not come to an end here, nor with 64 bits in 2 MiB.
  { options: 'cluster_size=64k', changes: [...LARGE_WIDTHS, ...UP_AND_DOWN] },
  { options: 'cluster_size=2M', changes: [{ lazyRefcounts: true }, { version: 2 }] },
  {
    options: 'cluster_size=16k,extended_l2=on',
    changes: [...WIDTHS, { lazyRefcounts: true }],
    writes: [...WRITES, ...ZEROES],
  },
  {
    options: 'cluster_size=64k,lazy_refcounts=on',
    changes: [{ lazyRefcounts: false }, { lazyRefcounts: true }, { version: 2 }],
  },
  { options: 'compat=0.10', changes: [{ version: 3, lazyRefcounts: true, refcountBits: 1 }] },
  { options: 'refcount_bits=8', changes: [{ version: 2, refcountBits: 16 }] },
  {
    options: 'cluster_size=1k',
    changes: [{ refcountBits: 2 }, { refcountBits: 16 }, ...UP_AND_DOWN],
    writes: [...WRITES, ...ZEROES],
    commands: [SNAPSHOT, io('write -q -P 9 0 7k', 'write -q -z 8k 1k', 'write -q -z 400k 5k')],
  },
  {
    options: 'cluster_size=1k',
    changes: [{ refcountBits: 8 }, { version: 3 }],
    commands: [['qemu-img', 'bitmap', '--add', '-g', '512', IMAGE, 'b'], io('write -q 0 9k')],
  },
  {
    options: 'compression_type=zstd',
    changes: [{ refcountBits: 8 }, { lazyRefcounts: true }],
    writes: ['write -q -c -P 5 0 64k', 'write -q -c -P 6 64k 64k'],
  },
  {
    options: 'cluster_size=4k',
    changes: [{ refcountBits: 8 }, { refcountBits: 16, version: 2 }],
    writes: ['write -q -c -P 5 0 4k', 'write -q -c -P 6 4k 4k', 'write -q -c -P 6 12k 4k'],
  },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'an amended image', () => {
  const folder = imageFolder();

  it.for(CASES)('is as qemu-img amends it: $options', async (one) => {
    const { options, changes, writes = WRITES, commands = [] } = one;
    makeImage(folder, ['-o', options, IMAGE, '512k'], io(...writes), ...commands);
    for (const wanted of changes) {
      const work = await change(folder, (file, header) => amend(file, header, IMAGE, wanted));
      expectSameByQemu(folder, ['amend', '-o', optionsOf(wanted), IMAGE]);
      const guest = options.includes('zstd') ? undefined : readGuest(work.start);
      let left = STATES;
      for (const { epoch, bytes } of work.states) {
        if (left-- === 0) break;
        expectWhole(bytes, `${optionsOf(wanted)}, epoch ${epoch}`);
        if (left % 8 === 0 && guest !== undefined) expectSame(readGuest(bytes), guest);
      }
    }
  });

  it('has any width of refcounts, where qemu-img does not come to an end', async () => {
    for (const [options, bits] of [
      ['cluster_size=64k,refcount_bits=1', 64],
      ['cluster_size=2M', 64],
    ] as const) {
      makeImage(folder, ['-o', options, IMAGE, '4M'], io(...WRITES));
      const work: Change = (file, header) => amend(file, header, IMAGE, { refcountBits: bits });
      const { end, start } = await change(folder, work);
      const header = expectWhole(end, options);
      expect(header.refcountBits).toBe(bits);
      expect(run(folder, 'qemu-img', 'check', '-q', IMAGE)).toBe(0);
      expectSame(readGuest(end), readGuest(start));
    }
  });

  it('keeps what backing files do not show, and snapshots, in version 2', async () => {
    run(folder, 'qemu-img', 'create', '-q', '-f', 'raw', 'a.raw', '512k');
    run(folder, 'qemu-io', '-f', 'raw', '-c', 'write -q -P 7 0 512k', 'a.raw');
    const backing = ['-b', 'a.raw', '-F', 'raw', '-o', 'cluster_size=1k'];
    makeImage(
      folder,
      [...backing, IMAGE, '512k'],
      io(...WRITES, ...ZEROES),
      SNAPSHOT,
      io('write -q -P 9 101k 7k', 'write -q -z 8k 1k', 'write -q -z 400k 5k'),
    );
    const below = new Uint8Array(readFileSync(join(folder, 'a.raw')));
    const before = new Uint8Array(readFileSync(join(folder, IMAGE)));
    const { states, end } = await change(folder, (file, header) =>
      amend(file, header, IMAGE, { version: 2 }),
    );
    const guest = readGuest(before, below);
    for (const { epoch, bytes } of states) {
      expectWhole(bytes, `epoch ${epoch}`);
      if (epoch % 8 === 0) expectSame(readGuest(bytes, below), guest);
    }
    expectSameByQemu(folder, ['amend', '-o', 'compat=0.10', IMAGE]);
    const { corruptions, leaks } = checkBytes(end, parseHeader(end, IMAGE));
    expect({ corruptions, leaks }).toEqual({ corruptions: 0, leaks: 0 });
    for (const image of [IMAGE, 'was.qcow2']) {
      if (image !== IMAGE) writeFileSync(join(folder, image), before);
      run(folder, 'qemu-img', 'snapshot', '-a', 's', image);
    }
    expect(run(folder, 'qemu-img', 'compare', '-q', IMAGE, 'was.qcow2')).toBe(0);
  });

  it('keeps what a snapshot has where the disk reads as zeroes', async () => {
    makeImage(
      folder,
      ['-o', 'cluster_size=64k', IMAGE, '512k'],
      io('write -q -P 7 0 128k'),
      SNAPSHOT,
      io('write -q -z 0 64k'),
    );
    const { states } = await change(folder, (file, header) =>
      amend(file, header, IMAGE, { version: 2 }),
    );
    for (const { epoch, bytes } of states) expectWhole(bytes, `epoch ${epoch}`);
    expect(run(folder, 'qemu-img', 'check', '-q', IMAGE)).toBe(0);
    run(folder, 'qemu-img', 'snapshot', '-a', 's', IMAGE);
    const read = ['-f', 'qcow2', '-c', 'read -P 7 0 128k', IMAGE];
    expect(execFileSync('qemu-io', read, { cwd: folder, encoding: 'utf8' })).not.toContain(
      'failed',
    );
  });

  it('is whole when a write fails, and can be amended again', async () => {
    for (const wanted of [{ version: 2 }, { refcountBits: 64 }] as const) {
      const writes = io('write -q -P 1 0 20k', 'write -q -z 4k 4k', 'write -q -z -u 9k 2k');
      makeImage(folder, ['-o', 'cluster_size=1k', IMAGE, '64k'], writes, SNAPSHOT);
      const work = (file: MemoryFile): Promise<unknown> =>
        amend(file, parseHeader(file.bytes, IMAGE), IMAGE, wanted);
      const again: Promise<unknown>[] = [];
      const failures = await failEveryWrite(
        folder,
        (file, header) => amend(file, header, IMAGE, wanted),
        (bytes, failing) => {
          expectWhole(bytes, `write ${failing}`);
          again.push(work(new MemoryFile(bytes)));
        },
      );
      expect(failures).toBeGreaterThan(2);
      await Promise.all(again);
    }
  });

  it('on a block device takes room that is free', async () => {
    makeImage(folder, ['-o', 'cluster_size=1k', IMAGE, '512k'], io(...WRITES, ...ZEROES), SNAPSHOT);
    const made = readFileSync(join(folder, IMAGE));
    const device = new Uint8Array(1024 * 1024).fill(0xa5);
    device.set(made);
    const file = new MemoryFile(device);
    const guest = readGuest(file.bytes);
    for (const wanted of [{ refcountBits: 64 }, { refcountBits: 16, version: 2 }] as const) {
      const header = parseHeader(file.bytes, IMAGE);
      const after = await amend(file, header, IMAGE, wanted, { isBlockDevice: true });
      expect(checkBytes(file.bytes, after)).toMatchObject({ corruptions: 0, leaks: 0 });
      expectSame(readGuest(file.bytes), guest);
    }
    expect(file.sizeBytes).toBe(1024 * 1024);
  });

  it('stops when it is told to, before the change is made', async () => {
    makeImage(folder, ['-o', 'cluster_size=512', IMAGE, '512k'], io(...WRITES));
    for (const wanted of [{ version: 2 }, { refcountBits: 64 }] as const) {
      const { memory } = load(folder);
      const start = memory.bytes.slice();
      const header = parseHeader(start, IMAGE);
      const signal = AbortSignal.abort(new Error('enough'));
      await expect(amend(memory, header, IMAGE, wanted, { signal })).rejects.toThrow('enough');
      expectSame(memory.bytes, start);
      const steps: number[] = [];
      const options = { onProgress: (done: number, total: number) => steps.push(done / total) };
      await amend(memory, header, IMAGE, wanted, options);
      expect(steps.at(-1)).toBe(1);
    }
  });
});

interface Refusal {
  readonly options: string;
  readonly wanted: Amendment;
  readonly message: RegExp;
  readonly commands?: readonly (readonly string[])[];
  /** qemu-img does it. */
  readonly qemuDoesIt?: true;
}

const BITMAP = ['qemu-img', 'bitmap', '--add', IMAGE, 'b'];
const REFUSALS: readonly Refusal[] = [
  { options: 'refcount_bits=8', wanted: { version: 2 }, message: /refcounts of 16 bits/ },
  { options: 'compat=0.10', wanted: { refcountBits: 8 }, message: /refcounts of 16 bits/ },
  { options: 'compat=0.10', wanted: { lazyRefcounts: true }, message: /no lazy refcounts/ },
  { options: 'compat=1.1', wanted: { refcountBits: 3 }, message: /one of 1, 2/ },
  { options: 'compat=1.1', wanted: { refcountBits: 128 }, message: /one of 1, 2/ },
  { options: 'compat=1.1', wanted: { refcountBits: 0 }, message: /one of 1, 2/ },
  { options: 'extended_l2=on', wanted: { version: 2 }, message: /extended L2/ },
  { options: 'data_file=d.raw', wanted: { version: 2 }, message: /data file/ },
  { options: 'data_file=d.raw', wanted: { dataFileRaw: true }, message: /new images/ },
  { options: 'compat=1.1', wanted: { dataFileRaw: true }, message: /new images/ },
  {
    options: 'compat=1.1',
    wanted: { refcountBits: 1 },
    commands: [io('write -q 0 64k'), SNAPSHOT],
    message: /has a refcount of 2, which 1 bits/,
  },
  {
    options: 'compression_type=zstd',
    wanted: { version: 2 },
    message: /zstd/,
    qemuDoesIt: true,
  },
  {
    options: 'compat=1.1',
    wanted: { version: 2 },
    commands: [BITMAP],
    message: /bitmaps/,
    qemuDoesIt: true,
  },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'an amendment that cannot be', () => {
  const folder = imageFolder();

  it.for(REFUSALS)('is refused, and nothing is written: $options, $message', async (one) => {
    const { options, wanted, message, commands = [], qemuDoesIt = false } = one;
    makeImage(folder, ['-o', options, IMAGE, '1M'], ...commands);
    const { memory } = load(folder);
    const start = memory.bytes.slice();
    const work = amend(memory, parseHeader(start, IMAGE), IMAGE, wanted);
    await expectRefusal(
      work,
      /one of|16 bits|lazy/.test(message.source)
        ? 'ERR_SLUICE_INVALID_ARGUMENT'
        : 'ERR_SLUICE_UNSUPPORTED',
      message,
    );
    expectSame(memory.bytes, start);
    const code = run(folder, 'qemu-img', 'amend', '-f', 'qcow2', '-o', optionsOf(wanted), IMAGE);
    expect(code === 0).toBe(qemuDoesIt);
  });

  it('gives up a raw data file, once', async () => {
    makeImage(folder, ['-o', 'data_file=r.raw,data_file_raw=on', IMAGE, '1M']);
    await change(folder, (file, header) => amend(file, header, IMAGE, { dataFileRaw: true }));
    const named = { backing: { name: 'a.raw', format: 'raw' } };
    const refused = change(folder, (file, header) => amend(file, header, IMAGE, named));
    await expectRefusal(refused, 'ERR_SLUICE_UNSUPPORTED', /data file is raw/);
    await change(folder, (file, header) => amend(file, header, IMAGE, { dataFileRaw: false }));
    expectSameByQemu(folder, ['amend', '-o', 'data_file_raw=off', IMAGE]);
    const again = change(folder, (file, header) =>
      amend(file, header, IMAGE, { dataFileRaw: true }),
    );
    await expectRefusal(again, 'ERR_SLUICE_UNSUPPORTED', /new images/);
  });

  it('is refused for what is damaged or marked corrupt; what is dirty is repaired', async () => {
    makeImage(folder, ['-o', 'cluster_size=1k', IMAGE, '512k'], io(...WRITES));
    const { memory } = load(folder);
    const view = new DataView(memory.bytes.buffer);
    const start = memory.bytes.slice();
    const tryIt = (wanted: Amendment): Promise<unknown> =>
      amend(memory, parseHeader(memory.bytes, IMAGE), IMAGE, wanted);
    view.setUint8(79, 2);
    await expectRefusal(tryIt({ version: 2 }), 'ERR_SLUICE_CORRUPT', /marked corrupt/);
    view.setUint8(79, 0);
    const l1 = Number(view.getBigUint64(40));
    const entry = view.getBigUint64(l1);
    view.setBigUint64(l1, 0x100000000n);
    for (const wanted of [{ version: 2 }, { refcountBits: 8 }] as const) {
      await expectRefusal(tryIt(wanted), 'ERR_SLUICE_CORRUPT', /damaged.*check and repair/);
    }
    view.setBigUint64(l1, entry);
    expectSame(memory.bytes, start);
    view.setUint8(79, 1);
    await tryIt({ refcountBits: 8 });
    const header = parseHeader(memory.bytes, IMAGE);
    expect(header).toMatchObject({ dirty: false, refcountBits: 8 });
    expect(checkBytes(memory.bytes, header)).toMatchObject({ corruptions: 0, leaks: 0 });
  });
});
