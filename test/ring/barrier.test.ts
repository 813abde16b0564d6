// The legacy barrier bit: rule V6 of assembly/request/blk.ts over B1-B5 of schedule/barrier.ts;
// spec sections 6.1 (bit 0) and 6.3 (bit 31).

import { describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { RawRequest } from '../../src/testing/guest/blk.ts';
import { encodeRanges } from '../../src/testing/guest/blk.ts';
import type { EngineConfig } from '../driver.ts';
import { answer, expectIdle, type Face, FACES, pattern, rigWith, send, waiting } from './face.ts';

const FENCE = blk.VIRTIO_BLK_T_BARRIER;
const FLAGS =
  abi.DEVICE_RUNNING | abi.DEVICE_BARRIER | abi.DEVICE_DISCARD | abi.DEVICE_WRITE_ZEROES;
const RANGE = encodeRanges([{ sector: 16, sectors: 1 }]);

/** What can be a fence: its type, the rest of it, its command. */
const FENCES: readonly (readonly [string, number, RawRequest, string])[] = [
  ['IN', blk.VIRTIO_BLK_T_IN, { sector: 16, in: 512 }, 'READ 8192+512'],
  ['OUT', blk.VIRTIO_BLK_T_OUT, { sector: 16, out: pattern(512) }, 'WRITE 8192+512'],
  ['FLUSH', blk.VIRTIO_BLK_T_FLUSH, {}, 'SYNC'],
  ['DISCARD', blk.VIRTIO_BLK_T_DISCARD, { out: RANGE }, 'DISCARD 8192+512'],
  ['WRITE_ZEROES', blk.VIRTIO_BLK_T_WRITE_ZEROES, { out: RANGE }, 'ZERO 8192+512'],
];

function fenced(face: Face, engine: Partial<EngineConfig> = {}, queues = 1) {
  return rigWith(
    face,
    {},
    { queues, device: { flags: FLAGS }, engine: { barrier: true, ...engine } },
  );
}

describe.each(FACES)('the barrier bit ($name)', (face) => {
  it.each(FENCES)('V6, B1, B2: nothing crosses %s with the bit', (_name, type, rest, command) => {
    const { rig, driver } = fenced(face);
    const before = driver.write(0, pattern(512));
    const fence = driver.raw(FENCE + type, rest);
    const after = driver.read(100, 512);
    send(rig, driver);
    expect(waiting(rig)).toEqual(['WRITE 0+512']);
    answer(rig, 'WRITE 0+512');
    expect(driver.poll()).toEqual([before]);
    expect(waiting(rig)).toEqual([command]);
    answer(rig, command);
    expect(driver.poll()).toEqual([fence]);
    expect(waiting(rig)).toEqual(['READ 51200+512']);
    rig.settle();
    expect(driver.poll()).toEqual([after]);
    expect([before, fence, after].map(({ status }) => status)).toEqual([0, 0, 0]);
    expectIdle(rig);
  });

  it('B1: what a batch brings after a fence waits, and so does what comes later', () => {
    const { rig, driver } = fenced(face);
    driver.raw(FENCE + blk.VIRTIO_BLK_T_OUT, { out: pattern(512) });
    send(rig, driver);
    driver.read(100, 512);
    send(rig, driver);
    expect(waiting(rig)).toEqual(['WRITE 0+512']);
    answer(rig, 'WRITE 0+512');
    expect(waiting(rig)).toEqual(['READ 51200+512']);
  });

  it('B1: a fence of one queue is one for all of them, and for the host', () => {
    const { rig, driver } = fenced(face, {}, 2);
    const other = rig.addQueue(1, { packed: face.packed });
    driver.raw(FENCE + blk.VIRTIO_BLK_T_IN, { in: 512 });
    send(rig, driver);
    other.read(100, 512);
    send(rig, other, 1);
    const flush = { tag: 3, op: 5, flags: 0, segments: 0, data: 0, offset: 0, length: 0 };
    rig.engine.submit(flush);
    rig.pump();
    expect(waiting(rig)).toEqual(['READ 0+512']);
    answer(rig, 'READ 0+512');
    expect(waiting(rig).sort()).toEqual(['READ 51200+512', 'SYNC']);
  });

  it('B3: a durable fence has what came before made stable, and is stable itself', () => {
    const { rig, driver } = fenced(face, { barrierDurable: true });
    const before = driver.write(0, pattern(512));
    const fence = driver.raw(FENCE + blk.VIRTIO_BLK_T_OUT, { sector: 16, out: pattern(512) });
    send(rig, driver);
    answer(rig, 'WRITE 0+512');
    expect(waiting(rig)).toEqual(['SYNC']);
    answer(rig, 'SYNC');
    expect(waiting(rig)).toEqual(['STABLE WRITE 8192+512']);
    expect(driver.poll()).toEqual([before]);
    answer(rig, 'STABLE WRITE 8192+512');
    expect(driver.poll()).toEqual([fence]);
  });

  it('B3: a durable fence fails when its flush does', () => {
    const { rig, driver } = fenced(face, { barrierDurable: true });
    rig.errnoOf = ({ op }) => (op === 5 ? 5 : 0);
    const fence = driver.raw(FENCE + blk.VIRTIO_BLK_T_OUT, { sector: 16, out: pattern(512) });
    rig.finish(driver);
    expect([fence.status, waiting(rig)]).toEqual([1, []]);
    expectIdle(rig);
  });

  it('V6: each range of a fence is one; unknown types with the bit are unsupported', () => {
    const { rig, driver } = fenced(face);
    const out = encodeRanges([16, 18, 20].map((sector) => ({ sector, sectors: 1 })));
    const zeroes = driver.raw(FENCE + blk.VIRTIO_BLK_T_WRITE_ZEROES, { out });
    const strange = driver.raw(FENCE + 77);
    const id = driver.raw(FENCE + blk.VIRTIO_BLK_T_GET_ID, { in: 20 });
    send(rig, driver);
    for (const offset of [8192, 9216, 10240]) {
      expect(waiting(rig)).toEqual([`ZERO ${offset}+512`]);
      answer(rig, `ZERO ${offset}+512`);
    }
    driver.poll();
    expect([zeroes, strange, id].map(({ status }) => status)).toEqual([0, 2, 0]);
    expectIdle(rig);
  });

  it('V6: the bit was negotiated, but the disk offers no fences: it fails', () => {
    const { rig, driver } = fenced(face, { barrier: false });
    const fence = driver.raw(FENCE + blk.VIRTIO_BLK_T_IN, { in: 512 });
    rig.finish(driver);
    expect([fence.status, rig.commands]).toEqual([1, []]);
  });

  it('V6: the bit of one request is not that of the next', () => {
    const { rig, driver } = fenced(face);
    driver.raw(FENCE + blk.VIRTIO_BLK_T_IN, { in: 512 });
    driver.read(4, 512);
    driver.read(8, 512);
    rig.finish(driver);
    expect(rig.engine.counters().barriers).toBe(1);
  });
});
