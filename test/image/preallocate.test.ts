/** Clusters for what a disk is to have more: after power cuts, and with writes that fail. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { HEADER_SIZE } from '../../src/abi/qcow2.ts';
import { growL1 } from '../../src/image/qcow2/grow-l1.ts';
import { parseHeader, type Qcow2Header, readHeader } from '../../src/image/qcow2/header.ts';
import { preallocate } from '../../src/image/qcow2/preallocate.ts';
import { writeU64 } from '../../src/image/qcow2/write-field.ts';
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
} from './edited-image.ts';
import { imageFolder } from './scratch.ts';

const CLUSTER_BYTES = 512;
const OLD_CLUSTERS = 200;
/** A guest cluster in the last table of the disk as it was. */
const WRITTEN = 196;
const NEW_BYTES = 400 * 1024;
const OFFSET = 0x00ff_ffff_ffff_fe00n;
/** What the room is filled with, so that it is seen. */
const MARK = 0xee;

/** As resizing.ts has it done. */
function grown(isMarked: boolean): Change {
  return async (file, header) => {
    const long = await growL1(file, header, IMAGE, NEW_BYTES, false);
    await preallocate(file, long, {
      sizeBytes: NEW_BYTES,
      isWritten: true,
      isBlockDevice: false,
      fill: async (from, to) => {
        if (isMarked) await file.write(from, new Uint8Array(to - from).fill(MARK));
        await file.sync();
      },
    });
    await writeU64(file, HEADER_SIZE, BigInt(NEW_BYTES));
    return readHeader(file, IMAGE);
  };
}

describeWithPeers(['qemu-img', 'qemu-io'], 'clusters before the disk has them', () => {
  const folder = imageFolder();

  /** The table at the end of the disk is one that a snapshot has too, or the disk's alone. */
  function make(isShared: boolean): void {
    const snapshot = ['qemu-img', 'snapshot', '-c', 'one', IMAGE];
    makeImage(
      folder,
      ['-o', 'cluster_size=512', IMAGE, '100k'],
      io('write -q -P 1 0 10k', 'write -q -P 2 98k 1k'),
      ...(isShared ? [snapshot] : []),
    );
  }

  it.for([true, false])('are counted, and filled, before a table names them', async (isShared) => {
    make(isShared);
    const { states } = await change(folder, grown(true));
    let named = 0;
    for (const { epoch, bytes } of states) {
      const where = `epoch ${epoch}`;
      const header = expectWhole(bytes, where);
      expect(bytes[placeOf(bytes, header, WRITTEN)], where).toBe(2);
      for (let guest = OLD_CLUSTERS; guest < NEW_BYTES / CLUSTER_BYTES; guest++) {
        const place = placeOf(bytes, header, guest);
        if (place > 0) expect(bytes[place], `${where}, ${guest}`).toBe(MARK);
        else expect(header.sizeBytes, where).toBeLessThan(NEW_BYTES);
        named += Number(place > 0);
      }
    }
    expect(named).toBeGreaterThan(NEW_BYTES / CLUSTER_BYTES);
  });

  it('are those of qemu-img', async () => {
    make(true);
    await change(folder, grown(false));
    expectSameByQemu(folder, ['resize', '--preallocation=metadata', IMAGE, String(NEW_BYTES)]);
    expectSameByQemu(folder, ['snapshot', '-l', IMAGE]);
  });

  it('hide nothing of a backing file in the cluster that the end goes through', async () => {
    writeFileSync(join(folder, 'base.raw'), new Uint8Array(2 * NEW_BYTES).fill(7));
    for (const over of [[], ['-b', 'base.raw', '-F', 'raw']]) {
      makeImage(folder, ['-o', 'cluster_size=1k', ...over, IMAGE, String(99.5 * 1024)]);
      const { end } = await change(folder, grown(true));
      const bytes = Buffer.from(end);
      const header = expectWhole(bytes, 'at the end');
      expect(placeOf(bytes, header, 99) > 0).toBe(over.length === 0);
      expect(placeOf(bytes, header, 100)).toBeGreaterThan(0);
    }
  });

  it('leave the file as it was where there is no room for them', async () => {
    make(true);
    const { memory, log } = load(folder);
    const { length } = memory.bytes;
    const header = parseHeader(memory.bytes, IMAGE);
    const work = preallocate(log, header, {
      sizeBytes: OLD_CLUSTERS * CLUSTER_BYTES + 28 * CLUSTER_BYTES,
      isWritten: false,
      isBlockDevice: false,
      fill: () => Promise.reject(new Error('no room')),
    });
    await expect(work).rejects.toThrow('no room');
    expect(memory.bytes.length - length).toBeLessThanOrEqual(2 * CLUSTER_BYTES);
    expectWhole(memory.bytes, 'after that');
  });

  it('are lost at worst when a write fails', async () => {
    make(true);
    const failures = await failEveryWrite(folder, grown(true), (bytes, failing) => {
      expectWhole(bytes, `write ${failing}`);
    });
    expect(failures).toBeGreaterThan(10);
  });
});

/** Where a guest cluster lies in the file; 0: nowhere. */
function placeOf(bytes: Buffer, header: Qcow2Header, guest: number): number {
  const { l1Offset, l1Entries, l2Entries } = header;
  const index = Math.floor(guest / l2Entries);
  const table = index < l1Entries ? bytes.readBigUInt64BE(l1Offset + index * 8) & OFFSET : 0n;
  if (table === 0n) return 0;
  return Number(bytes.readBigUInt64BE(Number(table) + (guest % l2Entries) * 8) & OFFSET);
}
