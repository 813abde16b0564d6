/** What keeps a qcow2 disk from another size, and what goes on around one that gets it. */
import { join } from 'node:path';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';

import type { Disk } from '../../src/disk.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { openDisk, type OpenOptions, serveNbd } from '../../src/node.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import { expectSame, pattern } from '../backend/driver.ts';
import { succeed } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { img } from './resized-image.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SMALL = 'cluster_size=512';

/** A size that a disk does not get. */
interface Refusal {
  readonly name: string;
  readonly options?: string;
  readonly open?: OpenOptions;
  /** qemu-img commands on the image. */
  readonly before?: readonly (readonly string[])[];
  readonly sizeBytes: number;
  readonly shrink?: boolean;
  readonly code: ErrorCode;
  readonly message: RegExp;
}

const REFUSALS: readonly Refusal[] = [
  {
    name: 'version 2 with snapshots',
    options: 'compat=0.10',
    before: [['snapshot', '-c', 's', 'disk']],
    sizeBytes: 2 * MIB,
    code: 'ERR_SLUICE_UNSUPPORTED',
    message: /snapshots of version 2/,
  },
  {
    name: 'bitmaps',
    before: [['bitmap', '--add', 'disk', 'b']],
    sizeBytes: 2 * MIB,
    code: 'ERR_SLUICE_UNSUPPORTED',
    message: /its bitmaps are kept up to date/,
  },
  {
    name: 'reading only',
    open: { writable: false },
    sizeBytes: 2 * MIB,
    code: 'ERR_SLUICE_READ_ONLY',
    message: /read-only; open it with writable: true$/,
  },
  {
    name: 'too little room',
    open: { maxSizeBytes: 3 * MIB },
    sizeBytes: 3 * MIB + 512,
    code: 'ERR_SLUICE_UNSUPPORTED',
    message: /room for 3145728 bytes; open it with maxSizeBytes: 3146240$/,
  },
  {
    name: 'the room of the default',
    sizeBytes: 4 * MIB + 512,
    code: 'ERR_SLUICE_UNSUPPORTED',
    message: /room for 4194304 bytes/,
  },
  {
    name: 'a part of a sector',
    sizeBytes: MIB + 100,
    code: 'ERR_SLUICE_ALIGNMENT',
    message: /1048676 bytes does not end with a block of 512/,
  },
  {
    name: 'less than it has',
    sizeBytes: MIB - 512,
    shrink: false,
    code: 'ERR_SLUICE_INVALID_ARGUMENT',
    message: /shrink: true/,
  },
  {
    name: 'too long an L1 table',
    options: SMALL,
    open: { maxSizeBytes: 2 ** 37 + 512 },
    sizeBytes: 2 ** 37 + 512,
    code: 'ERR_SLUICE_UNSUPPORTED',
    message: /more than 33554432; larger clusters/,
  },
];

describeWithPeers(['qemu-img', 'nbdinfo'], 'the disk of a qcow2 image', () => {
  const folder = imageFolder();
  let name = '';
  let path = '';
  let serial = 0;
  const open = (options: OpenOptions = {}): Promise<Disk> =>
    openDisk(path, { format: 'qcow2', writable: true, backing: { folders: [folder] }, ...options });
  const create = (options = 'compat=1.1', sizeBytes = MIB): void => {
    name = `disk-${serial++}`;
    path = join(folder, name);
    img(folder, 'create', '-q', '-f', 'qcow2', '-o', options, name, String(sizeBytes));
  };

  it.for(REFUSALS)('does not get another size: $name', async (refusal) => {
    const { options, before = [], sizeBytes, shrink = true, code, message } = refusal;
    create(options);
    for (const command of before)
      img(folder, ...command.map((word) => (word === 'disk' ? name : word)));
    const contents = pattern(MIB - 1000, 3);
    const first = await open();
    await first.write(1000, contents);
    await first.close();
    const bytes = readFileSync(path);
    const disk = await open(refusal.open);
    const told: number[] = [];
    disk.onResize((size) => told.push(size));
    await expectRefusal(disk.resize(sizeBytes, { shrink }), code, message);
    expect([disk.size, told]).toEqual([MIB, []]);
    expectSame(await disk.read(1000, contents.length), contents);
    if (!disk.readOnly) {
      await disk.write(0, pattern(900, 5));
      await disk.flush();
      expectSame(await disk.read(0, 900), pattern(900, 5));
    }
    await disk.close();
    if (refusal.open?.writable === false) expectSame(readFileSync(path), bytes);
    expect(img(folder, 'check', name)).toContain('No errors were found');
    expect(img(folder, 'info', name)).toContain(`(${MIB} bytes)`);
  });

  it('keeps room for the tables that it has, however much is asked for', async () => {
    create(SMALL, 1024 * MIB);
    const bytes: number[] = [];
    for (const maxSizeBytes of [1024 * MIB, 2 ** 37, 2 ** 44, 2 ** 47, Number.MAX_SAFE_INTEGER]) {
      const disk = await open({ maxSizeBytes });
      bytes.push(disk.device.mapBytes);
      await disk.close();
    }
    expect(bytes).toEqual(bytes.toSorted((a, b) => a - b));
  });

  it('has a data file that is as long as it was when the size is refused', async () => {
    create(`${SMALL},data_file=data`);
    const disk = await open({ maxSizeBytes: 2 ** 38 });
    await expectRefusal(disk.resize(2 ** 38), 'ERR_SLUICE_UNSUPPORTED', /L1 table/);
    await disk.close();
    expect(statSync(join(folder, 'data')).size).toBe(MIB);
  });

  it('stays without writes when it was found corrupt', async () => {
    create();
    const first = await open();
    await first.write(0, new Uint8Array(MIB).fill(1));
    await first.close();
    const image = new PokedImage(readFileSync(path));
    // Its second cluster lies in the L1 table.
    image.put64(image.l2 + 8, (1n << 63n) | BigInt(image.l1));
    writeFileSync(path, image.bytes);
    const disk = await open();
    await expect(disk.write(65_536, new Uint8Array(512))).rejects.toThrow(/corrupt/);
    expect(disk.corruption).toBeDefined();
    await expect(disk.resize(2 * MIB)).rejects.toThrow(/corrupt/);
    expect(disk.size).toBe(MIB);
    expect(disk.corruption).toBeDefined();
    await expect(disk.write(0, new Uint8Array(512))).rejects.toThrow(/corrupt/);
    expect((await disk.read(0, 1))[0]).toBe(1);
    await disk.close();
    expect(img(folder, 'info', name)).toContain('corrupt: true');
  });

  it('answers what comes before, while and after it gets another size', async () => {
    create(SMALL);
    const disk = await open({ maxSizeBytes: 20 * MIB });
    const random = new Random(20_261_122);
    const slots = Array.from({ length: 100 }, () => 0);
    const offsetOf = (slot: number): number => slot * 10_000;
    const waiting: Promise<unknown>[] = [];
    const write = (slot: number): void => {
      const value = (slots[slot] ?? 0) + 1;
      slots[slot] = value;
      waiting.push(disk.write(offsetOf(slot), pattern(10_000, slot * 7 + value)));
    };
    const read = (slot: number): void => {
      const value = slots[slot] ?? 0;
      const expected = value === 0 ? new Uint8Array(10_000) : pattern(10_000, slot * 7 + value);
      const check = disk.read(offsetOf(slot), 10_000).then((found) => expectSame(found, expected));
      waiting.push(check);
    };
    const some = async (count: number): Promise<void> => {
      for (let step = 0; step < count; step++) {
        const slot = random.below(slots.length);
        if (random.chance(0.6)) write(slot);
        else read(slot);
        if (random.chance(0.05)) waiting.push(disk.flush());
        if (random.chance(0.1)) await new Promise(setImmediate);
      }
    };
    for (const size of [1.5, 9, 1.25, 20, 20, 1]) {
      await some(40);
      waiting.push(disk.resize(size * MIB, { shrink: true }));
      await some(80);
    }
    await Promise.all(waiting);
    expect(disk.size).toBe(MIB);
    for (const slot of slots.keys()) read(slot);
    await Promise.all(waiting);
    await disk.close();
    expect(img(folder, 'check', name)).toContain('No errors were found');
    const again = await open();
    for (const [slot, value] of slots.entries()) {
      if (value === 0) continue;
      expectSame(await again.read(offsetOf(slot), 10_000), pattern(10_000, slot * 7 + value));
    }
    await again.close();
  });

  it('gets its size before it is closed', async () => {
    create(SMALL);
    const disk = await open();
    const resized = [disk.resize(3 * MIB), disk.resize(4 * MIB)];
    await disk.close();
    await Promise.all(resized);
    expect(img(folder, 'info', name)).toContain(`(${4 * MIB} bytes)`);
    await expect(disk.resize(MIB)).rejects.toMatchObject({ code: 'ERR_SLUICE_CLOSED' });
    expect(img(folder, 'check', name)).toContain('No errors were found');
  });

  it('tells NBD clients that come, and drivers, how large it is', async () => {
    create(SMALL);
    const disk = await open();
    const told: number[] = [];
    const undo = disk.onResize((size) => told.push(size));
    const server = await serveNbd(disk, { socket: join(folder, 'nbd.sock') });
    const uri = `nbd+unix:///?socket=${join(folder, 'nbd.sock')}`;
    const size = async (): Promise<string> => (await succeed('nbdinfo', ['--size', uri])).trim();
    expect(await size()).toBe(String(MIB));
    await disk.resize(4 * MIB);
    expect(await size()).toBe(String(4 * MIB));
    await server.close();
    const blk = createVirtioBlk(disk, { ramBytes: MIB, arenaBytes: MIB });
    expect(blk.mmio.read(0x100, 4)).toBe((4 * MIB) / 512);
    await disk.write(0, pattern(5000, 1));
    await disk.resize(2 * MIB, { shrink: true });
    expect(blk.mmio.read(0x100, 4)).toBe((2 * MIB) / 512);
    expectSame(await disk.read(0, 5000), pattern(5000, 1));
    await blk.close();
    undo();
    await disk.resize(3 * MIB);
    expectSame(await disk.read(0, 5000), pattern(5000, 1));
    expect(told).toEqual([4 * MIB, 2 * MIB]);
    await disk.close();
    expect(img(folder, 'check', name)).toContain('No errors were found');
  });
});
