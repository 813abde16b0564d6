// Saving and restoring a device.

import { describe, expect, it } from 'vitest';
import { VIRTIO_F_VERSION_1 } from '../../src/abi/virtio-ring.ts';
import { feature } from '../../src/virtio/features.ts';
import type { VirtioBlkState } from '../../src/virtio/state.ts';
import { configByte, drive, DRIVER_OK, NEEDS_RESET, setUp, turn, VALUES } from './fake-queues.ts';

const code = (code: string) => expect.objectContaining({ code }) as Error;
const INVALID = code('ERR_SLUICE_INVALID_ARGUMENT');
const BUSY = code('ERR_SLUICE_BUSY');

const NO_MMIO = {
  deviceFeaturesSel: 0,
  driverFeaturesSel: 0,
  queueSel: 0,
  pageSize: 4096,
  queueAlign: 0,
};

async function saved(): Promise<VirtioBlkState> {
  const { blk, fake } = setUp({ queues: 2, values: { capacityBytes: 512 << 10 } });
  drive(blk);
  fake.events.onInterrupt(0);
  blk.resized(VALUES.capacityBytes);
  return blk.save();
}

describe('save', () => {
  it('pauses, waits for what is in flight, and stays paused until resume', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.open[0] = 1;
    fake.taken();
    const saving = blk.save();
    await turn();
    expect(fake.taken()).toEqual(['stop', 'detach 0']);
    await fake.complete();
    const state = await saving;
    expect(state.queues[0]).toMatchObject({ nextAvail: 7, nextUsed: 7, enabled: true });
    expect(fake.taken()).toEqual(['attach 0']);
    expect(fake.configs[0]?.position).toEqual({ nextAvail: 7, nextUsed: 7 });
    blk.resume();
    expect(fake.taken()).toEqual(['run', 'resume']);
  });

  it('gives plain JSON', async () => {
    const state = await saved();
    expect(JSON.parse(JSON.stringify(state))).toEqual(state);
    expect(state).toMatchObject({ version: 1, status: DRIVER_OK, isr: 3, generation: 1 });
  });

  it('is refused while it runs, and when the driver resets the device meanwhile', async () => {
    const { blk, fake } = setUp();
    drive(blk);
    fake.open[0] = 1;
    const saving = blk.save();
    await expect(blk.save()).rejects.toThrow(BUSY);
    blk.writeStatus(0);
    const refused = expect(saving).rejects.toThrow(BUSY);
    await fake.complete();
    await refused;
    expect(blk.status).toBe(0);
  });

  it('does not attach a broken queue again', async () => {
    const { blk, fake } = setUp({ queues: 2 });
    drive(blk);
    fake.events.onBroken({ queue: 1, error: 1, reason: 'x', head: 0, descriptor: 0 });
    fake.taken();
    const state = await blk.save();
    expect(state.queues.map(({ broken }) => broken)).toEqual([false, true]);
    expect(fake.taken()).toContain('attach 0');
    expect(blk.registers.isAttached(1)).toBe(false);
  });
});

it('the registers of mmio are saved and restored', async () => {
  const first = setUp({ queues: 2, legacy: true }).blk;
  first.mmio.write(0x028, 4, 16_384);
  first.mmio.write(0x030, 4, 1);
  const { blk } = setUp({ queues: 2, legacy: true });
  await blk.restore(await first.save());
  blk.mmio.write(0x038, 4, 8);
  blk.mmio.write(0x040, 4, 2);
  expect(blk.registers.settings(1)).toMatchObject({ desc: 0x8000n, device: 0xc000n });
});

describe('restore', () => {
  it('takes over a device where another was left', async () => {
    const state = await saved();
    const { blk, fake, told } = setUp({ queues: 2 });
    await blk.restore(JSON.parse(JSON.stringify(state)));
    expect([blk.status, blk.isr, blk.configGeneration]).toEqual([DRIVER_OK, 3, 1]);
    expect(blk.features.negotiated).toBe(blk.features.offered);
    expect(fake.configs[1]).toMatchObject({ size: 128, desc: 0x1000n, packed: true });
    expect(fake.configs[1]?.position).toEqual({ nextAvail: 7, nextUsed: 7 });
    expect(fake.running).toBe(false);
    expect(told).toEqual(['up']);
    blk.resume();
    expect(fake.running).toBe(true);
    blk.notify(1);
    expect(fake.taken()).toContain('notify 1');
    await expect(blk.save()).resolves.toEqual(state);
  });

  it('keeps the write cache off', async () => {
    const first = setUp();
    drive(first.blk);
    await first.blk.writeConfig(32, Uint8Array.of(0));
    const { blk, fake } = setUp();
    await blk.restore(await first.blk.save());
    expect([configByte(blk, 32), fake.wce]).toEqual([0, false]);
  });

  it('of a device that nobody has touched changes nothing', async () => {
    const state = await setUp().blk.save();
    const { blk } = setUp();
    await blk.restore(state);
    drive(blk);
    expect(blk.status).toBe(DRIVER_OK);
  });

  it('is refused on a device in use', async () => {
    const { blk } = setUp({ queues: 2 });
    drive(blk);
    await expect(blk.restore(await saved())).rejects.toThrow(BUSY);
  });

  it('a ring that cannot be attached is refused, and nothing has changed', async () => {
    const { blk, fake } = setUp({ queues: 2 });
    fake.fault = 'not in guest memory';
    fake.taken();
    await expect(blk.restore(await saved())).rejects.toThrow(
      'queues[0] of the state cannot be used: not in guest memory',
    );
    expect([blk.status, blk.isr, blk.registers.isEnabled(0), fake.taken()]).toEqual([
      0,
      0,
      false,
      [],
    ]);
    drive(blk);
    expect(blk.status).toBe(DRIVER_OK);
  });

  it('a ring that the engine refuses all the same sets NEEDS_RESET, and is told', async () => {
    const { blk, fake, errors } = setUp();
    const first = setUp();
    drive(first.blk);
    fake.refuses = 'not in guest memory';
    await blk.restore(await first.blk.save());
    expect([blk.status, blk.isr]).toEqual([DRIVER_OK | NEEDS_RESET, 2]);
    expect(errors).toMatchObject([{ code: 'ERR_SLUICE_VIRTQUEUE' }]);
  });

  it('a ring that the driver has misplaced stays off, and the device needs its reset', async () => {
    const first = setUp();
    first.fake.refuses = 'not in guest memory';
    drive(first.blk);
    const state = await first.blk.save();
    expect(state.queues[0]).toMatchObject({ enabled: true, broken: true, nextAvail: null });
    const { blk, fake, errors } = setUp();
    fake.fault = 'not in guest memory';
    await blk.restore(state);
    expect([blk.status, errors]).toEqual([DRIVER_OK | NEEDS_RESET, []]);
    expect(first.errors).toHaveLength(1);
  });

  it.each([
    [{ values: { capacityBytes: 2 << 20 } }, 'capacityBytes was 1048576 and is 2097152;'],
    [{ values: { blockSizeBytes: 4096 } }, 'blockSizeBytes was 512 and is 4096;'],
    [{ readOnly: true }, 'readOnly was false and is true;'],
    [{ serial: 'b' }, 'serial was "a" and is "b";'],
    [{ serial: 'b', readOnly: true }, 'readOnly was false and is true, serial was "a" and is "b";'],
  ])('of another disk is refused: %o', async (other, text) => {
    const first = setUp({ serial: 'a' }).blk;
    drive(first);
    const { blk } = setUp({ serial: 'a', ...other });
    const refused = blk.restore(await first.save());
    await expect(refused).rejects.toThrow(INVALID);
    await expect(blk.restore(await first.save())).rejects.toThrow(`another disk: ${text}`);
  });

  it('a disk that its host keeps otherwise will do', async () => {
    const first = setUp();
    drive(first.blk);
    const values = { capacityBytes: VALUES.capacityBytes + 511, physicalBlockBytes: 512 };
    const { blk } = setUp({ wce: false, values: { ...values, mayUnmap: false, segMax: 10 } });
    await blk.restore(await first.blk.save());
    expect([blk.status, blk.wce]).toEqual([DRIVER_OK, true]);
  });

  it.each([
    ['has none', 15, { nextAvail: null, nextUsed: null }, 'must be a number'],
    ['is off', 15, { enabled: false }, 'must be null'],
    ['waits for DRIVER_OK', 11, {}, 'must be null'],
  ])('a queue that %s must go on where it can', async (_, status, change, text) => {
    const { blk } = setUp({ queues: 2 });
    const state = await saved();
    const queues = [state.queues[0], { ...state.queues[1], ...change }];
    const refused = blk.restore({ ...state, status, queues });
    await expect(refused).rejects.toThrow(text);
    expect(blk.status).toBe(0);
  });

  it('of features that this device does not offer is refused', async () => {
    const { blk } = setUp({ queues: 2, features: { packed: false } });
    await expect(blk.restore(await saved())).rejects.toThrow('not offered');
  });

  it.each([
    ['nothing', undefined],
    ['a number', 7],
    ['a list', []],
    ['another version', { version: 2 }],
  ])('%s is refused', async (_, state) => {
    const { blk } = setUp({ queues: 2 });
    await expect(blk.restore(state)).rejects.toThrow(INVALID);
    expect(blk.status).toBe(0);
  });

  it.each([
    ['disk', undefined],
    ['disk', { capacityBytes: '1048576', blockSizeBytes: 512, readOnly: false, serial: '' }],
    ['disk', { capacityBytes: 1 << 20, blockSizeBytes: 512, readOnly: 0, serial: '' }],
    ['disk', { capacityBytes: 1 << 20, blockSizeBytes: 512, readOnly: false, serial: 7 }],
    ['features', 5],
    ['features', '0x1ffffffffffffffff'],
    ['features', 'yes'],
    ['features', `0x${feature(VIRTIO_F_VERSION_1 + 30).toString(16)}`],
    ['status', 256],
    ['status', 0x10],
    ['status', -1],
    ['status', '15'],
    ['status', 7],
    ['isr', 4],
    ['generation', 2 ** 32],
    ['generation', 0.5],
    ['wce', 1],
    ['queues', []],
    ['queues', 'two'],
    ['queues', [null, null]],
    ['mmio', undefined],
    ['mmio', { deviceFeaturesSel: 0, driverFeaturesSel: 0, queueSel: -1 }],
    ['mmio', { ...NO_MMIO, pageSize: 0 }],
    ['mmio', { ...NO_MMIO, queueAlign: 3 }],
    ['pci', undefined],
    ['pci', { deviceFeatureSelect: 0, driverFeatureSelect: 0, queueSelect: 65_536 }],
  ])('%s of %o is refused', async (field, value) => {
    const { blk } = setUp({ queues: 2 });
    const state = { ...(await saved()), [field]: value };
    await expect(blk.restore(state)).rejects.toThrow(INVALID);
    expect([blk.status, blk.registers.isEnabled(0)]).toEqual([0, false]);
  });

  it.each([
    ['size', 0],
    ['size', 512],
    ['size', '128'],
    ['desc', 4096],
    ['desc', '0x'],
    ['driver', '-0x1'],
    ['device', null],
    ['enabled', undefined],
    ['broken', 'no'],
    ['nextAvail', 65_536],
    ['nextAvail', null],
    ['nextUsed', -1],
  ])('a queue with %s of %o is refused', async (field, value) => {
    const { blk } = setUp({ queues: 2 });
    const state = await saved();
    const queues = [state.queues[0], { ...state.queues[1], [field]: value }];
    const found = typeof value === 'string' ? `"${value}"` : String(value);
    const text = `^queues.1..${field} must (be .* )?not (be )?${found}`;
    const refused = blk.restore({ ...state, queues });
    await expect(refused).rejects.toThrow(INVALID);
    await refused.catch(({ message }: Error) => expect(message).toMatch(new RegExp(text)));
    expect([blk.status, blk.registers.isEnabled(0)]).toEqual([0, false]);
  });
});
