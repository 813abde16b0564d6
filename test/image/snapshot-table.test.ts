import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';

import * as q from '../../src/abi/qcow2.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import { readSnapshotTable, type SnapshotTable } from '../../src/image/qcow2/snapshot-table.ts';
import { describeWithPeers } from '../support/peers.ts';
import { basePath, makeBases, qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { badInputs, expectRefusal, imageFolder } from './scratch.ts';

const folder = imageFolder();

async function read(bytes: Uint8Array): Promise<SnapshotTable> {
  const file = new MemoryFile(bytes);
  return readSnapshotTable(file, await readHeader(file, 'a.qcow2'), 'a.qcow2');
}

/** What a damaged row of the table must report; Q104 is refused. */
const PROBLEMS: Readonly<Record<string, RegExp>> = {
  Q101: /^the snapshot table, at offset 2147418112: it ends inside entry 0 of 1$/,
  Q102: /snapshot "s1": its L1 table at 0x[0-9a-f]+ has 2147483648 bytes, more than 33554432$/,
  Q103: /snapshot "s1": its L1 table at 0x400200 has 8 bytes; it must begin at a multiple/,
  Q105: /it ends inside entry 0 of 1$/,
};

describeWithPeers(['qemu-img', 'qemu-io'], 'the snapshot table', () => {
  const base = (): PokedImage => new PokedImage(readFileSync(basePath(folder, 'snap')));
  const tableOf = (image: PokedImage): number => image.at(q.HEADER_SNAPSHOTS_OFFSET);

  beforeAll(() => makeBases(folder, ['v3', 'snap']));

  it('is empty where there are no snapshots, whatever its offset is', async () => {
    const image = new PokedImage(readFileSync(basePath(folder, 'v3')));
    image.put64(q.HEADER_SNAPSHOTS_OFFSET, 0x7fff0000n);
    expect(await read(image.bytes)).toEqual({ snapshots: [], lengthBytes: 0 });
  });

  it.each(Object.keys(PROBLEMS))('reports a problem, and opens: %s', async (id) => {
    const [row] = badInputs(Number(id.slice(1)), Number(id.slice(1)));
    const image = base();
    row!.poke(image);
    expect((await read(image.bytes)).problem).toMatch(PROBLEMS[id]!);
  });

  it('refuses more extra data than may be read (Q104)', async () => {
    const image = base();
    badInputs(104, 104)[0]!.poke(image);
    await expectRefusal(read(image.bytes), 'ERR_SLUICE_IMAGE', /4294967295 bytes of extra data/);
  });

  it('reports an L1 table that passes the end of the file', async () => {
    const image = base();
    image.put64(tableOf(image), 0x7fff0000n);
    expect((await read(image.bytes)).problem).toMatch(/0x7fff0000 .* passes the end of the file/);
    image.put64(tableOf(image), 0xffff_ffff_ffff_0000n);
    expect((await read(image.bytes)).problem).toMatch(/passes the end of the file/);
  });

  it('reports a name that is not a text, and shows it', async () => {
    const image = base();
    const extraBytes = image.u32(tableOf(image) + q.SNAPSHOT_EXTRA_SIZE);
    const idAt = tableOf(image) + q.SNAPSHOT_ENTRY_BYTES + extraBytes;
    image.put8(idAt + image.u16(tableOf(image) + q.SNAPSHOT_ID_SIZE) + 1, 0);
    const { snapshots, problem } = await read(image.bytes);
    expect(problem).toMatch(/snapshot "s\\u0000": its id or name is not a text$/);
    expect(snapshots[0]).toMatchObject({ id: '1', problem });
  });

  it('reports a disk of more than 2^53 bytes', async () => {
    const image = base();
    const extraAt = tableOf(image) + q.SNAPSHOT_ENTRY_BYTES;
    image.put64(extraAt + q.SNAPSHOT_EXTRA_DISK_SIZE, 1n << 60n);
    expect((await read(image.bytes)).problem).toMatch(/its disk has 1152921504606847000 bytes/);
  });
});

describe('a long snapshot table', () => {
  /** An image of 512-byte clusters with a table of `count` entries of `entryBytes`. */
  function image(count: number, entryBytes: number): PokedImage {
    const tableAt = 2048;
    const file = new PokedImage(new Uint8Array(tableAt + count * entryBytes));
    file.put32(q.HEADER_MAGIC, q.QCOW2_MAGIC);
    file.put32(q.HEADER_VERSION, 2);
    file.put32(q.HEADER_CLUSTER_BITS, 9);
    file.put32(q.HEADER_REFCOUNT_TABLE_CLUSTERS, 1);
    file.put64(q.HEADER_REFCOUNT_TABLE_OFFSET, 1024n);
    file.put32(q.HEADER_NB_SNAPSHOTS, count);
    file.put64(q.HEADER_SNAPSHOTS_OFFSET, BigInt(tableAt));
    for (let index = 0; index < count; index++) {
      const at = tableAt + index * entryBytes;
      const id = String(index);
      const name = 'n'.repeat(entryBytes - q.SNAPSHOT_ENTRY_BYTES - id.length - (index % 8));
      file.put16(at + q.SNAPSHOT_ID_SIZE, id.length);
      file.put16(at + q.SNAPSHOT_NAME_SIZE, name.length);
      file.put(at + q.SNAPSHOT_ENTRY_BYTES, id + name);
    }
    return file;
  }

  it('is read to its end', async () => {
    const { snapshots, lengthBytes, problem } = await read(image(1000, 1024).bytes);
    expect(problem).toBeUndefined();
    expect(lengthBytes).toBe(1000 * 1024);
    expect(snapshots.map(({ id }) => Number(id))).toEqual(
      Array.from({ length: 1000 }, (_, i) => i),
    );
  });

  it('has its snapshots before the cut, when the file ends inside it', async () => {
    const file = image(1000, 1024);
    file.truncate(2048 + 500 * 1024 + 100);
    const { snapshots, lengthBytes, problem } = await read(file.bytes);
    expect(snapshots).toHaveLength(500);
    expect(lengthBytes).toBe(500 * 1024);
    expect(problem).toMatch(/at offset 514048: it ends inside entry 500 of 1000$/);
  });

  it('is read as far as its limit', async () => {
    const { snapshots, problem } = await read(image(1100, 65536).bytes);
    expect(snapshots).toHaveLength(q.SNAPSHOT_TABLE_BYTES_MAX / 65536);
    expect(problem).toMatch(/it ends inside entry 1024 of 1100$/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'snapshots of qemu-img', () => {
  beforeAll(() => makeBases(folder, ['v2', 'snap']));

  it.each(['v2', 'snap'] as const)('are listed as qemu-img lists them (%s)', async (name) => {
    const path = basePath(folder, name);
    for (const title of ['first', 'ein zweiter, äöü', 'x'.repeat(200)]) {
      qemu(folder, 'qemu-img', ['snapshot', '-c', title, path]);
    }
    if (name === 'snap') qemu(folder, 'qemu-img', ['resize', '-q', path, '128M']);
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'last', path]);
    const info = JSON.parse(qemu(folder, 'qemu-img', ['info', '--output', 'json', path])) as {
      snapshots: Record<string, unknown>[];
    };
    const { snapshots, problem } = await read(readFileSync(path));
    expect(problem).toBeUndefined();
    const listed = snapshots.map((snapshot) => ({
      id: snapshot.id,
      name: snapshot.name,
      'vm-state-size': snapshot.vmStateBytes,
      'date-sec': snapshot.dateSeconds,
      'date-nsec': snapshot.dateNanoseconds,
      'vm-clock-sec': Number(snapshot.vmClockNanoseconds / 1_000_000_000n),
      'vm-clock-nsec': Number(snapshot.vmClockNanoseconds % 1_000_000_000n),
    }));
    expect(info.snapshots).toMatchObject(listed);
    expect(snapshots.map(({ diskBytes }) => diskBytes / 2 ** 20)).toEqual(
      listed.map(({ name: title }) => (name === 'snap' && title === 'last' ? 128 : 64)),
    );
  });
});
