import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { MemoryBackend, type MemoryBackendOptions } from '../../src/backend/memory.ts';
import { xtsCipher } from '../../src/image/qcow2/aes-xts.ts';
import { CryptView } from '../../src/image/qcow2/crypt-view.ts';
import { DATA, Driver, expectSame, pattern } from '../backend/driver.ts';

const EFAULT = 14;
const EINVAL = 22;
const EROFS = 30;
const ENOTSUP = 95;
const MIB = 1024 * 1024;
const SECTOR = 512;
const KEY = pattern(64);

interface World {
  readonly inner: MemoryBackend;
  readonly view: CryptView;
  readonly driver: Driver;
}

function viewOf(options: Partial<MemoryBackendOptions> = {}): World {
  const inner = new MemoryBackend({ sizeBytes: 4 * MIB, ...options });
  const view = new CryptView(inner, xtsCipher(KEY));
  return { inner, view, driver: new Driver(view) };
}

function encrypted(plain: Uint8Array, offset: number): Uint8Array {
  const bytes = Uint8Array.from(plain);
  xtsCipher(KEY).encrypt(bytes, offset / SECTOR);
  return bytes;
}

describe('a view of encrypted data', () => {
  it.each([512, 4096, 512 * 1024, 512 * 1024 + 512, 3 * MIB])(
    'encrypts a write of %i bytes with the sectors of the file, and decrypts it when read',
    async (length) => {
      const { inner, driver } = viewOf();
      const plain = pattern(length);
      expect(await driver.write(7 * SECTOR, plain)).toBe(0);
      expectSame(driver.bytes.slice(DATA, DATA + length), plain);
      const onFile = inner.volatile.slice(7 * SECTOR, 7 * SECTOR + length);
      expectSame(onFile, encrypted(plain, 7 * SECTOR));
      driver.bytes.fill(0, DATA, DATA + length);
      expectSame(await driver.read(7 * SECTOR, length), plain);
      expectSame(inner.volatile.slice(7 * SECTOR, 7 * SECTOR + length), onFile);
    },
  );

  it('takes segments of any length', async () => {
    const { inner, driver } = viewOf();
    const plain = pattern(1024);
    driver.bytes.set(plain.subarray(0, 100), DATA);
    driver.bytes.set(plain.subarray(100, 101), DATA + 3001);
    driver.bytes.set(plain.subarray(101), DATA + 9000);
    const table = driver.table([
      [DATA, 100],
      [DATA + 3001, 1],
      [DATA + 9000, 923],
    ]);
    await driver.run((id) => driver.backend.write(id, 1024, 1024, 3, table, false));
    expectSame(inner.volatile.slice(1024, 2048), encrypted(plain, 1024));
    driver.bytes.fill(0, DATA, DATA + 10000);
    await driver.run((id) => driver.backend.read(id, 1024, 1024, 3, table));
    expectSame(driver.bytes.slice(DATA, DATA + 100), plain.subarray(0, 100));
    expectSame(driver.bytes.slice(DATA + 3001, DATA + 3002), plain.subarray(100, 101));
    expectSame(driver.bytes.slice(DATA + 9000, DATA + 9923), plain.subarray(101));
  });

  it('behaves as a plain disk does, for any writes and reads', async () => {
    const command = fc.record({
      isWrite: fc.boolean(),
      sector: fc.nat(2000),
      sectors: fc.integer({ min: 1, max: 1100 }),
      seed: fc.nat(255),
    });
    const property = fc.asyncProperty(fc.array(command, { maxLength: 12 }), async (commands) => {
      const { inner, driver } = viewOf();
      const model = pattern(4 * MIB, 3);
      inner.volatile.set(encrypted(model, 0));
      for (const { isWrite, sector, sectors, seed } of commands) {
        const [offset, length] = [sector * SECTOR, sectors * SECTOR];
        if (isWrite) {
          model.set(pattern(length, seed), offset);
          expect(await driver.write(offset, pattern(length, seed))).toBe(0);
        } else {
          expectSame(await driver.read(offset, length), model.slice(offset, offset + length));
        }
      }
      expectSame(inner.volatile, encrypted(model, 0));
    });
    await fc.assert(property, { numRuns: 25 });
  });

  it('reads and writes parts of sectors, and leaves what is around them', async () => {
    const part = fc.record({
      kind: fc.constantFrom('read', 'write', 'zero'),
      offset: fc.nat(5000),
      length: fc.integer({ min: 1, max: 2500 }),
      seed: fc.nat(255),
    });
    const property = fc.asyncProperty(fc.array(part, { maxLength: 20 }), async (parts) => {
      const { inner, driver } = viewOf({ sizeBytes: 8192 });
      const model = pattern(8192, 3);
      inner.volatile.set(encrypted(model, 0));
      for (const { kind, offset, length, seed } of parts) {
        const end = offset + length;
        if (kind === 'read')
          expectSame(await driver.read(offset, length), model.slice(offset, end));
        else if (kind === 'zero') expect(await driver.zero(offset, length)).toBe(0);
        else expect(await driver.write(offset, pattern(length, seed))).toBe(0);
        if (kind === 'zero') model.fill(0, offset, end);
        else if (kind === 'write') model.set(pattern(length, seed), offset);
      }
      expectSame(inner.volatile, encrypted(model, 0));
    });
    await fc.assert(property, { numRuns: 100 });
  });

  it('moves long transfers that begin within a sector', async () => {
    const { inner, driver } = viewOf();
    const model = new Uint8Array(4 * MIB);
    inner.volatile.set(encrypted(model, 0));
    model.set(pattern(2 * MIB + 7), 100);
    expect(await driver.write(100, pattern(2 * MIB + 7))).toBe(0);
    expectSame(inner.volatile, encrypted(model, 0));
    expectSame(await driver.read(99, 2 * MIB + 9), model.slice(99, 2 * MIB + 108));
  });

  it('counts sectors as the disk does, where the cipher wants that', async () => {
    const inner = new MemoryBackend({ sizeBytes: MIB });
    const cipher = xtsCipher(KEY);
    const decipher = {
      countsOnDisk: true,
      decrypt: (bytes: Uint8Array, sector: number) => cipher.decrypt(bytes, sector),
    };
    const view = new CryptView(inner, decipher);
    const driver = new Driver(view);
    inner.volatile.set(encrypted(pattern(4096), 70 * SECTOR));
    const read = (guest: number) => driver.run((id) => view.read(id, 700, 1000, 1, DATA, guest));
    expect((await read(70 * SECTOR + 700)).errno).toBe(0);
    expectSame(driver.bytes.slice(DATA, DATA + 1000), pattern(4096).slice(700, 1700));
    expect([view.readOnly, await driver.write(0, pattern(512))]).toEqual([true, EROFS]);
  });

  it('refuses ranges outside the file or the memory', async () => {
    const { inner, driver } = viewOf();
    for (const [offset, length] of [
      [-512, 512],
      [4 * MIB, 512],
      [4 * MIB - 512, 1024],
    ] as const) {
      expect((await driver.tryRead(offset, length)).errno).toBe(EINVAL);
    }
    expect((await driver.tryRead(0, 512, driver.bytes.length - 511)).errno).toBe(EFAULT);
    expect((await driver.tryRead(0, 0)).errno).toBe(0);
    expect(inner.log).toEqual([]);
  });

  it('writes zeroes like data, never fast; discards nothing, and knows of no zeroes', async () => {
    const { inner, view, driver } = viewOf();
    inner.volatile.set(encrypted(pattern(4 * MIB), 0));
    expect(await driver.zero(512, 2 * MIB, true)).toBe(0);
    const zeroed = pattern(4 * MIB).fill(0, 512, 512 + 2 * MIB);
    expectSame(inner.volatile, encrypted(zeroed, 0));
    inner.log.length = 0;
    expect(await driver.zero(0, 512, false, true)).toBe(ENOTSUP);
    expect(await driver.discard(0, 512)).toBe(0);
    expect((await driver.run((id) => view.blockStatus(id))).errno).toBe(ENOTSUP);
    expect(view.unmaps).toBe(false);
    expect(inner.log).toEqual([]);
  });

  it('writes nothing when the file is read-only', async () => {
    const { view, driver } = viewOf({ readOnly: true });
    expect(view.readOnly).toBe(true);
    expect(await driver.write(0, pattern(512))).toBe(EROFS);
    expect(await driver.zero(0, 512)).toBe(EROFS);
  });

  it.each([true, false])('passes stable writes on, where the file has them: %s', async (fua) => {
    const { inner, view, driver } = viewOf({ fua });
    expect(view.fua).toBe(fua);
    await driver.write(0, pattern(MIB), true);
    await driver.write(0, pattern(512), false);
    const writes = inner.log.filter(({ op }) => op === 'write').map(({ stable }) => stable);
    expect(writes).toEqual([true, true, false]);
  });

  it('passes syncs, sizes and the end on', async () => {
    const { inner, view, driver } = viewOf();
    await driver.write(512, pattern(512));
    expect(await driver.sync()).toBe(0);
    expectSame(inner.stable, inner.volatile);
    inner.fail('sync', { errno: 28 });
    expect(await driver.sync()).toBe(28);
    await inner.resize(5 * MIB);
    expect(view.sizeBytes).toBe(5 * MIB);
    expect(await driver.write(5 * MIB - 512, pattern(512))).toBe(0);
    await view.close();
    expect(inner.closed).toBe(true);
  });

  it('passes the errno of the file on, leaves the rest alone and goes on', async () => {
    const { inner, driver } = viewOf();
    await driver.write(0, pattern(2 * MIB));
    inner.fail('read', { errno: 121, nth: 2 });
    driver.bytes.fill(0, DATA, DATA + 2 * MIB);
    expect((await driver.tryRead(0, 2 * MIB)).errno).toBe(121);
    const rest = driver.bytes.slice(DATA + MIB / 2, DATA + 2 * MIB);
    expectSame(rest, new Uint8Array(1.5 * MIB));
    inner.fail('write', { errno: 28, nth: 3 });
    expect(await driver.write(0, pattern(2 * MIB, 2))).toBe(28);
    expectSame(await driver.read(0, 2 * MIB), joined(pattern(2 * MIB, 2), pattern(2 * MIB), MIB));
  });

  it('lets commands wait for a slot and answers all of them, in a memory that grew', async () => {
    const { inner, driver } = viewOf({ hold: true });
    inner.volatile.set(encrypted(pattern(MIB), 0));
    const reads = Array.from({ length: 30 }, (_, index) =>
      driver.tryRead(index * 4096, 4096, DATA + index * 4096),
    );
    expect(inner.held.length).toBe(8);
    driver.memory.grow(1);
    while (inner.held.length > 0) inner.release(inner.held.at(-1)?.id);
    for (const { errno } of await Promise.all(reads)) expect(errno).toBe(0);
    const bytes = new Uint8Array(driver.memory.buffer);
    expectSame(bytes.slice(DATA, DATA + 30 * 4096), pattern(30 * 4096));
  });

  it('takes what a write carries when it starts, not when it is answered', async () => {
    const { inner, driver } = viewOf({ hold: true });
    const write = driver.write(0, pattern(512));
    driver.bytes.fill(0, DATA, DATA + 512);
    inner.releaseAll();
    await write;
    expectSame(inner.volatile.slice(0, 512), encrypted(pattern(512), 0));
  });
});

/** The first `at` bytes of one and the rest of the other. */
function joined(first: Uint8Array, second: Uint8Array, at: number): Uint8Array {
  const bytes = Uint8Array.from(second);
  bytes.set(first.subarray(0, at));
  return bytes;
}
