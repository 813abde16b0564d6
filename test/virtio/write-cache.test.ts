// The write cache of the device. VIRTIO 1.3, 5.2.4, 5.2.5 and 5.2.6.2.

import { describe, expect, it } from 'vitest';
import * as blkAbi from '../../src/abi/virtio-blk.ts';
import { VIRTIO_F_VERSION_1 } from '../../src/abi/virtio-ring.ts';
import { feature } from '../../src/virtio/features.ts';
import type { VirtioBlk } from '../../src/virtio/virtio-blk.ts';
import {
  accept,
  configByte,
  drive,
  DRIVER,
  DRIVER_OK,
  FEATURES_OK,
  LEGACY_DRIVER_OK,
  setUp,
  turn,
} from './fake-queues.ts';

const WRITEBACK = 32;
const VERSION_1 = feature(VIRTIO_F_VERSION_1);
const FLUSH = feature(blkAbi.VIRTIO_BLK_F_FLUSH);
const CONFIG_WCE = feature(blkAbi.VIRTIO_BLK_F_CONFIG_WCE);

const write = (blk: VirtioBlk, value: number): Promise<boolean> =>
  blk.writeConfig(WRITEBACK, Uint8Array.of(value));
const byte = (blk: VirtioBlk): number => configByte(blk, WRITEBACK);

describe('the first mode (D4)', () => {
  it.each([
    [true, FLUSH | CONFIG_WCE, true],
    [true, FLUSH, true],
    [true, CONFIG_WCE, false],
    [true, 0n, false],
    [false, FLUSH | CONFIG_WCE, false],
    [false, FLUSH, false],
    [false, CONFIG_WCE, false],
    [false, 0n, false],
  ])('VIRTIO 5.2.5.2: disk wce %s, accepted %d: wce %s', async (wce, accepted, wanted) => {
    const { blk, fake } = setUp({ wce });
    await turn();
    drive(blk, VERSION_1 | accepted);
    await turn();
    expect(fake.wce).toBe(wanted);
    expect(blk.wce).toBe(wanted);
    expect(fake.running).toBe(true);
  });

  it('VIRTIO 5.2.5.2: CONFIG_WCE without FLUSH reads 0 after FEATURES_OK', () => {
    const { blk } = setUp();
    expect(byte(blk)).toBe(1);
    blk.writeStatus(DRIVER);
    accept(blk, VERSION_1 | CONFIG_WCE);
    blk.writeStatus(FEATURES_OK);
    expect(byte(blk)).toBe(0);
  });

  it('without a way to flush, writes are stable before the first is taken (D2)', async () => {
    const { blk, fake } = setUp();
    fake.slowCache = true;
    drive(blk, VERSION_1);
    expect(blk.status).toBe(DRIVER_OK);
    expect(fake.running).toBe(false);
    await fake.cacheDone();
    expect(fake.wce).toBe(false);
    expect(fake.running).toBe(true);
  });

  it('VIRTIO 5.2.5: reset restores it', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    await write(blk, 0);
    expect([fake.wce, byte(blk)]).toEqual([false, 0]);
    blk.writeStatus(0);
    expect(byte(blk)).toBe(1);
    await turn();
    expect(fake.wce).toBe(true);
  });

  it('a legacy driver without CONFIG_WCE and FLUSH is written through from DRIVER_OK', async () => {
    const { blk, fake } = setUp({ legacy: true });
    blk.writeStatus(DRIVER);
    accept(blk, 0n);
    expect(fake.wce).toBe(true);
    blk.writeStatus(LEGACY_DRIVER_OK);
    await turn();
    expect(fake.wce).toBe(false);
  });
});

describe('writes of the byte', () => {
  it('VIRTIO 5.2.5.2: 0 turns the cache off, 1 on', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    expect(await write(blk, 0)).toBe(true);
    expect([byte(blk), fake.wce]).toEqual([0, false]);
    expect(await write(blk, 1)).toBe(true);
    expect([byte(blk), fake.wce]).toEqual([1, true]);
  });

  it('V88: 2 counts as 1', async () => {
    const { blk, fake } = setUp({ wce: false });
    await turn();
    drive(blk);
    await write(blk, 2);
    expect([byte(blk), fake.wce]).toEqual([1, true]);
  });

  it('V88: is ignored without CONFIG_WCE', async () => {
    const { blk, fake } = setUp();
    drive(blk, VERSION_1 | FLUSH);
    expect(await write(blk, 0)).toBe(true);
    expect([byte(blk), fake.wce]).toEqual([1, true]);
  });

  it('V88: 1 to 0 reads back at once, and is acknowledged after a flush', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.slowCache = true;
    let acknowledged = false;
    const done = write(blk, 0).then((good) => (acknowledged = good));
    expect(byte(blk)).toBe(0);
    expect(fake.running).toBe(false);
    await turn();
    expect(acknowledged).toBe(false);
    await fake.cacheDone();
    await done;
    expect(acknowledged).toBe(true);
    expect(fake.running).toBe(true);
  });

  it('a flush that fails is reported, and answers false', async () => {
    const { blk, fake, errors } = setUp();
    drive(blk);
    fake.cacheError = new Error('EIO');
    expect(await write(blk, 0)).toBe(false);
    expect(errors).toEqual([fake.cacheError]);
    expect([byte(blk), fake.wce, fake.running]).toEqual([0, false, true]);
  });

  it.each([
    [32, 2],
    [32, 4],
    [31, 2],
    [33, 1],
    [0, 8],
    [28, 8],
    [96, 1],
    [32, 0],
  ])('5.2.5.2: at %d of %d bytes is ignored', async (offset, length) => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.taken();
    const before = new Uint8Array(96);
    const after = new Uint8Array(96);
    blk.readConfig(0, before);
    expect(await blk.writeConfig(offset, new Uint8Array(length))).toBe(true);
    blk.readConfig(0, after);
    expect(after).toEqual(before);
    expect(fake.taken()).toEqual([]);
  });

  it('before FEATURES_OK is ignored, unless the driver is a legacy one', async () => {
    const modern = setUp();
    accept(modern.blk, VERSION_1 | CONFIG_WCE | FLUSH);
    await write(modern.blk, 0);
    expect(byte(modern.blk)).toBe(1);

    const { blk, fake } = setUp({ legacy: true });
    accept(blk, CONFIG_WCE | FLUSH);
    await write(blk, 0);
    expect(byte(blk)).toBe(0);
    blk.writeStatus(LEGACY_DRIVER_OK);
    await turn();
    expect([byte(blk), fake.wce]).toEqual([0, false]);
  });

  it('no other write of the status changes the mode', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    await write(blk, 0);
    for (const status of [DRIVER, FEATURES_OK, DRIVER_OK, 0xff]) blk.writeStatus(status);
    await turn();
    expect([byte(blk), fake.wce]).toEqual([0, false]);
  });
});

describe('toggling for ever (J4)', () => {
  it('asks for one change at a time, and the last wish wins', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.slowCache = true;
    fake.taken();
    const answers = Array.from({ length: 1001 }, (_, index) => write(blk, index % 2));
    expect(fake.taken().filter((call) => call.startsWith('wce'))).toEqual(['wce off']);
    expect(byte(blk)).toBe(0);
    await fake.cacheDone();
    expect(await Promise.all(answers)).toEqual(answers.map(() => true));
    expect(fake.taken()).toEqual(['run']);
  });

  it('goes on when the last wish is another one', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.slowCache = true;
    void write(blk, 0);
    const done = write(blk, 1);
    fake.taken();
    await fake.cacheDone();
    expect(fake.taken()).toEqual(['wce on']);
    await fake.cacheDone();
    expect(await done).toBe(true);
    expect([fake.wce, fake.running]).toEqual([true, true]);
  });

  it('a change to off that was refused keeps the device from taking anything', async () => {
    const { blk, fake, errors } = setUp();
    drive(blk);
    fake.setWce = () => Promise.reject(new Error('closed'));
    expect(await write(blk, 0)).toBe(false);
    expect(fake.running).toBe(false);
    expect(errors).toHaveLength(1);
  });
});
