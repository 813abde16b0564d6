/** Clusters for what a disk is to have more: after power cuts, and with writes that fail. */
import { expect, it } from 'vitest';

import { HEADER_SIZE } from '../../src/abi/qcow2.ts';
import { growL1 } from '../../src/image/qcow2/grow-l1.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
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
  makeImage,
} from './edited-image.ts';
import { imageFolder } from './scratch.ts';

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
      const header = expectWhole(bytes, `epoch ${epoch}`);
      for (let guest = 200; guest < NEW_BYTES / 512; guest++) {
        const l1 = header.l1Offset + Math.floor(guest / 64) * 8;
        if (Math.floor(guest / 64) >= header.l1Entries) continue;
        const table = Number(bytes.readBigUInt64BE(l1) & OFFSET);
        const entry =
          table === 0 ? 0 : Number(bytes.readBigUInt64BE(table + (guest % 64) * 8) & OFFSET);
        const isNew = header.sizeBytes === NEW_BYTES;
        if (entry === 0) expect(isNew, `epoch ${epoch}, ${guest}`).toBe(false);
        else expect(bytes[entry], `epoch ${epoch}, ${guest}`).toBe(MARK);
        named += Number(entry !== 0);
      }
    }
    expect(named).toBeGreaterThan(600);
  });

  it('are those of qemu-img', async () => {
    make(true);
    await change(folder, grown(false));
    expectSameByQemu(folder, ['resize', '--preallocation=metadata', IMAGE, String(NEW_BYTES)]);
    expectSameByQemu(folder, ['snapshot', '-l', IMAGE]);
  });

  it('are lost at worst when a write fails', async () => {
    make(true);
    const failures = await failEveryWrite(folder, grown(true), (bytes, failing) => {
      expectWhole(bytes, `write ${failing}`);
    });
    expect(failures).toBeGreaterThan(10);
  });
});
