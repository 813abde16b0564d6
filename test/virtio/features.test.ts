// Which feature bits are offered, and what a driver may accept. VIRTIO 1.3, 2.2, 5.2.3, 6.

import { describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as ring from '../../src/abi/virtio-ring.ts';
import {
  feature,
  type FeatureContext,
  type FeatureSwitches,
  hasFeature,
  legacyFeatures,
  offeredFeatures,
  refusal,
} from '../../src/virtio/features.ts';

const PLAIN: FeatureContext = {
  readOnly: false,
  legacy: false,
  barriers: false,
  queues: 1,
  sizeMax: false,
};

function offer(context: Partial<FeatureContext> = {}, switches: FeatureSwitches = {}): bigint {
  return offeredFeatures(switches, { ...PLAIN, ...context });
}

const set = (...bits: number[]): bigint => bits.reduce((all, bit) => all | feature(bit), 0n);

describe('offered features', () => {
  it('VIRTIO 5.2.3: a plain device offers what it can do', () => {
    expect(offer()).toBe(
      set(
        blk.VIRTIO_BLK_F_SEG_MAX,
        blk.VIRTIO_BLK_F_GEOMETRY,
        blk.VIRTIO_BLK_F_BLK_SIZE,
        blk.VIRTIO_BLK_F_FLUSH,
        blk.VIRTIO_BLK_F_TOPOLOGY,
        blk.VIRTIO_BLK_F_CONFIG_WCE,
        blk.VIRTIO_BLK_F_DISCARD,
        blk.VIRTIO_BLK_F_WRITE_ZEROES,
        ring.VIRTIO_F_INDIRECT_DESC,
        ring.VIRTIO_F_EVENT_IDX,
        ring.VIRTIO_F_VERSION_1,
        ring.VIRTIO_F_RING_PACKED,
        ring.VIRTIO_F_NOTIFICATION_DATA,
        ring.VIRTIO_F_RING_RESET,
      ),
    );
  });

  it('VIRTIO 5.2.3: never SCSI, LIFETIME, SECURE_ERASE or ZONED, nor bit 30', () => {
    const everything = offer(
      { legacy: true, barriers: true, queues: 4, sizeMax: true },
      { inOrder: true },
    );
    for (const bit of [7, 15, 16, 17, 30]) expect(hasFeature(everything, bit)).toBe(false);
  });

  it('VIRTIO 5.2.3.2: FLUSH is offered whatever is switched off, as CONFIG_WCE needs it', () => {
    const names = ['packed', 'indirect', 'eventIdx', 'configWce', 'discard', 'segMax'] as const;
    const switches = Object.fromEntries(names.map((name) => [name, false]));
    expect(hasFeature(offer({}, switches), blk.VIRTIO_BLK_F_FLUSH)).toBe(true);
  });

  it('a read-only disk offers RO, and neither DISCARD nor WRITE_ZEROES', () => {
    const offered = offer({ readOnly: true });
    expect(hasFeature(offered, blk.VIRTIO_BLK_F_RO)).toBe(true);
    expect(hasFeature(offered, blk.VIRTIO_BLK_F_DISCARD)).toBe(false);
    expect(hasFeature(offered, blk.VIRTIO_BLK_F_WRITE_ZEROES)).toBe(false);
    expect(hasFeature(offer(), blk.VIRTIO_BLK_F_RO)).toBe(false);
  });

  it('MQ comes with several queues, SIZE_MAX with a limit', () => {
    expect(hasFeature(offer({ queues: 2 }), blk.VIRTIO_BLK_F_MQ)).toBe(true);
    expect(hasFeature(offer({ sizeMax: true }), blk.VIRTIO_BLK_F_SIZE_MAX)).toBe(true);
  });

  it('VIRTIO 6.3: a transitional device offers ANY_LAYOUT and NOTIFY_ON_EMPTY', () => {
    const offered = offer({ legacy: true });
    expect(hasFeature(offered, ring.VIRTIO_F_ANY_LAYOUT)).toBe(true);
    expect(hasFeature(offered, ring.VIRTIO_F_NOTIFY_ON_EMPTY)).toBe(true);
    expect(hasFeature(offered, ring.VIRTIO_F_VERSION_1)).toBe(true);
  });

  it('BARRIER is for legacy drivers of a disk that takes barriers', () => {
    const has = (context: Partial<FeatureContext>): boolean =>
      hasFeature(offer(context), blk.VIRTIO_BLK_F_BARRIER);
    expect(has({ legacy: true, barriers: true })).toBe(true);
    expect(has({ legacy: true })).toBe(false);
    expect(has({ barriers: true })).toBe(false);
  });

  it.each([
    ['packed', ring.VIRTIO_F_RING_PACKED],
    ['indirect', ring.VIRTIO_F_INDIRECT_DESC],
    ['eventIdx', ring.VIRTIO_F_EVENT_IDX],
    ['notificationData', ring.VIRTIO_F_NOTIFICATION_DATA],
    ['ringReset', ring.VIRTIO_F_RING_RESET],
    ['segMax', blk.VIRTIO_BLK_F_SEG_MAX],
    ['geometry', blk.VIRTIO_BLK_F_GEOMETRY],
    ['blockSize', blk.VIRTIO_BLK_F_BLK_SIZE],
    ['topology', blk.VIRTIO_BLK_F_TOPOLOGY],
    ['configWce', blk.VIRTIO_BLK_F_CONFIG_WCE],
    ['discard', blk.VIRTIO_BLK_F_DISCARD],
    ['writeZeroes', blk.VIRTIO_BLK_F_WRITE_ZEROES],
  ] as const)('%s can be switched off', (name, bit) => {
    expect(hasFeature(offer(), bit)).toBe(true);
    expect(hasFeature(offer({}, { [name]: false }), bit)).toBe(false);
  });

  it('IN_ORDER is offered when asked for', () => {
    expect(hasFeature(offer({}, { inOrder: true }), ring.VIRTIO_F_IN_ORDER)).toBe(true);
  });

  it.each([
    [{ barrier: true }, {}, 'features.barrier needs legacy: true and a disk that was opened'],
    [{ discard: true }, { readOnly: true }, 'features.discard needs a disk that is open'],
    [{ multiQueue: true }, {}, 'features.multiQueue needs more than one queue'],
    [{ anyLayout: true }, {}, 'features.anyLayout needs legacy: true'],
    [{ version1: false }, {}, 'features.version1 can be off with legacy: true only'],
    [{ packed: 1 }, {}, 'features.packed must be true or false, not 1'],
    [{ pakced: false }, {}, "there is no feature 'pakced': use barrier, segMax,"],
  ])('refuses %o on %o', (switches, context, message) => {
    expect(() => offer(context, switches as FeatureSwitches)).toThrow(message);
  });
});

describe('negotiation', () => {
  const offered = offer({ legacy: true, barriers: true });
  const modern = feature(ring.VIRTIO_F_VERSION_1);

  it('VIRTIO 2.2.2: any set of offered bits with VERSION_1 is accepted', () => {
    expect(refusal(offered, modern)).toBeUndefined();
    expect(refusal(offer(), offer())).toBeUndefined();
  });

  it('V87: a bit that was not offered is refused', () => {
    expect(refusal(offered, modern | feature(63))).toContain('not offered');
    expect(refusal(offered, modern | feature(64))).toContain('not offered');
    expect(refusal(offered, modern | feature(blk.VIRTIO_BLK_F_ZONED))).toContain('not offered');
  });

  it('VIRTIO 6.1: FEATURES_OK needs VERSION_1', () => {
    expect(refusal(offered, feature(blk.VIRTIO_BLK_F_FLUSH))).toContain('VERSION_1');
  });

  it('BARRIER does not go with VERSION_1', () => {
    const accepted = modern | feature(blk.VIRTIO_BLK_F_BARRIER);
    expect(refusal(offered, accepted)).toContain('BARRIER');
  });

  it('VIRTIO 2.2.3: a legacy driver gets what is offered in the first 32 bits', () => {
    const all = (1n << 64n) - 1n;
    expect(legacyFeatures(offered, all)).toBe(offered & 0xffff_ffffn);
  });
});
