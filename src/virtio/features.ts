/**
 * Feature bits: what a device offers, and what of it a driver may accept. VIRTIO 1.3, 2.2, 5.2.3
 * and 6.
 *
 * A legacy driver sees the first 32 bits, never sets FEATURES_OK and does not accept VERSION_1.
 * A device with `legacy` is a transitional one: it serves both kinds of driver.
 */
import {
  VIRTIO_BLK_F_BARRIER,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_GEOMETRY,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from '../abi/virtio-blk.ts';
import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../abi/virtio-ring.ts';
import { invalid, toSwitch } from '../arguments.ts';

/** Features that can be switched. What is left out is as the device thinks best. */
export interface FeatureSwitches {
  /** RING_PACKED: the packed ring beside the split one. Default on. */
  readonly packed?: boolean | undefined;
  /** INDIRECT_DESC. Default on. */
  readonly indirect?: boolean | undefined;
  /** EVENT_IDX. Default on. */
  readonly eventIdx?: boolean | undefined;
  /** IN_ORDER: used entries in the order of the available ones. Default off: it makes them wait. */
  readonly inOrder?: boolean | undefined;
  /** NOTIFICATION_DATA. Default on. */
  readonly notificationData?: boolean | undefined;
  /** RING_RESET. Default on. */
  readonly ringReset?: boolean | undefined;
  /** VERSION_1. Default on; off makes a device for legacy drivers only. */
  readonly version1?: boolean | undefined;
  /** ANY_LAYOUT, for legacy drivers. Default on. */
  readonly anyLayout?: boolean | undefined;
  /** NOTIFY_ON_EMPTY, for legacy drivers. Default on. */
  readonly notifyOnEmpty?: boolean | undefined;
  /** VIRTIO_BLK_F_SEG_MAX. Default on. */
  readonly segMax?: boolean | undefined;
  /** VIRTIO_BLK_F_GEOMETRY. Default on. */
  readonly geometry?: boolean | undefined;
  /** VIRTIO_BLK_F_BLK_SIZE. Default on. */
  readonly blockSize?: boolean | undefined;
  /** VIRTIO_BLK_F_TOPOLOGY. Default on. */
  readonly topology?: boolean | undefined;
  /** VIRTIO_BLK_F_CONFIG_WCE: the driver may turn the write cache on and off. Default on. */
  readonly configWce?: boolean | undefined;
  /** VIRTIO_BLK_F_MQ. Default on with several queues. */
  readonly multiQueue?: boolean | undefined;
  /** VIRTIO_BLK_F_DISCARD. Default on, where writes are allowed. */
  readonly discard?: boolean | undefined;
  /** VIRTIO_BLK_F_WRITE_ZEROES. Default on, where writes are allowed. */
  readonly writeZeroes?: boolean | undefined;
  /** VIRTIO_BLK_F_BARRIER, for legacy drivers of a disk that takes barriers; default on there. */
  readonly barrier?: boolean | undefined;
}

/** What decides which features a device can have. */
export interface FeatureContext {
  readonly readOnly: boolean;
  /** Legacy drivers are served too. */
  readonly legacy: boolean;
  /** The disk takes barriers. */
  readonly barriers: boolean;
  readonly queues: number;
  /** A limit for the length of a segment was asked for. */
  readonly sizeMax: boolean;
}

interface FeatureRow {
  readonly bit: number;
  /** The name of its switch, where it has one. */
  readonly name?: keyof FeatureSwitches;
  readonly byDefault?: false;
  /** Where it can be offered, and the words for where it cannot. */
  readonly where?: (context: FeatureContext) => boolean;
  readonly needs?: string;
}

const writable = ({ readOnly }: FeatureContext): boolean => !readOnly;
const legacy = (context: FeatureContext): boolean => context.legacy;
const WRITABLE = { where: writable, needs: 'a disk that is open for writing' };
const LEGACY = { where: legacy, needs: 'legacy: true' };

/** Every bit that can be offered. SCSI, LIFETIME, SECURE_ERASE and ZONED are not among them. */
const FEATURES: readonly FeatureRow[] = [
  {
    bit: VIRTIO_BLK_F_BARRIER,
    name: 'barrier',
    where: (context) => context.legacy && context.barriers,
    needs: 'legacy: true and a disk that was opened with barriers',
  },
  { bit: VIRTIO_BLK_F_SIZE_MAX, where: ({ sizeMax }) => sizeMax },
  { bit: VIRTIO_BLK_F_SEG_MAX, name: 'segMax' },
  { bit: VIRTIO_BLK_F_GEOMETRY, name: 'geometry' },
  { bit: VIRTIO_BLK_F_RO, where: ({ readOnly }) => readOnly },
  { bit: VIRTIO_BLK_F_BLK_SIZE, name: 'blockSize' },
  { bit: VIRTIO_BLK_F_FLUSH },
  { bit: VIRTIO_BLK_F_TOPOLOGY, name: 'topology' },
  { bit: VIRTIO_BLK_F_CONFIG_WCE, name: 'configWce' },
  {
    bit: VIRTIO_BLK_F_MQ,
    name: 'multiQueue',
    where: ({ queues }) => queues > 1,
    needs: 'more than one queue',
  },
  { bit: VIRTIO_BLK_F_DISCARD, name: 'discard', ...WRITABLE },
  { bit: VIRTIO_BLK_F_WRITE_ZEROES, name: 'writeZeroes', ...WRITABLE },
  { bit: VIRTIO_F_NOTIFY_ON_EMPTY, name: 'notifyOnEmpty', ...LEGACY },
  { bit: VIRTIO_F_ANY_LAYOUT, name: 'anyLayout', ...LEGACY },
  { bit: VIRTIO_F_INDIRECT_DESC, name: 'indirect' },
  { bit: VIRTIO_F_EVENT_IDX, name: 'eventIdx' },
  { bit: VIRTIO_F_VERSION_1, name: 'version1' },
  { bit: VIRTIO_F_RING_PACKED, name: 'packed' },
  { bit: VIRTIO_F_IN_ORDER, name: 'inOrder', byDefault: false },
  { bit: VIRTIO_F_NOTIFICATION_DATA, name: 'notificationData' },
  { bit: VIRTIO_F_RING_RESET, name: 'ringReset' },
];

const NAMES = FEATURES.flatMap(({ name }) => name ?? []);

/** Bits that a legacy driver can see. */
export const LEGACY_BITS = 0xffff_ffffn;

/** A bit as a set. */
export function feature(bit: number): bigint {
  return 1n << BigInt(bit);
}

/** Whether a set has a bit. */
export function hasFeature(features: bigint, bit: number): boolean {
  return (features & feature(bit)) !== 0n;
}

/**
 * The bits that a device offers.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for what cannot be offered
 */
export function offeredFeatures(switches: FeatureSwitches, context: FeatureContext): bigint {
  checkNames(switches);
  const offered = FEATURES.filter((row) => isOffered(row, switches, context));
  const bits = offered.reduce((bits, { bit }) => bits | feature(bit), 0n);
  if (!context.legacy && !hasFeature(bits, VIRTIO_F_VERSION_1)) {
    throw invalid('features.version1 can be off with legacy: true only');
  }
  return bits;
}

function isOffered(
  { name, byDefault, where, needs }: FeatureRow,
  switches: FeatureSwitches,
  context: FeatureContext,
): boolean {
  const possible = where === undefined || where(context);
  const asked = name === undefined ? undefined : switches[name];
  if (name === undefined || asked === undefined) return possible && byDefault !== false;
  if (toSwitch(asked, `features.${name}`) && !possible) {
    throw invalid(`features.${name} needs ${needs}; leave it out`);
  }
  return asked;
}

function checkNames(switches: FeatureSwitches): void {
  if (typeof switches !== 'object' || switches === null) {
    throw invalid('features must be an object of switches, as { packed: false }');
  }
  const unknown = Object.keys(switches).find((name) => !NAMES.some((known) => known === name));
  if (unknown === undefined) return;
  throw invalid(`there is no feature '${unknown}': use ${NAMES.join(', ')}`);
}

interface Negotiation {
  readonly offered: bigint;
  readonly accepted: bigint;
}

/** What makes a set unacceptable, in words for whoever looks for the reason. 2.2.2, 3.1.1. */
const REFUSALS: readonly { when: (negotiation: Negotiation) => boolean; why: string }[] = [
  {
    when: ({ offered, accepted }) => (accepted & ~offered) !== 0n,
    why: 'the driver accepts bits that were not offered',
  },
  {
    when: ({ accepted }) => !hasFeature(accepted, VIRTIO_F_VERSION_1),
    why: 'FEATURES_OK is for drivers that accept VERSION_1',
  },
  {
    when: ({ accepted }) => hasFeature(accepted, VIRTIO_BLK_F_BARRIER),
    why: 'BARRIER is for legacy drivers, and VERSION_1 was accepted',
  },
];

/** Why a device must not let FEATURES_OK stand; undefined: it may. VIRTIO 1.3, 2.2.2. */
export function refusal(offered: bigint, accepted: bigint): string | undefined {
  return REFUSALS.find(({ when }) => when({ offered, accepted }))?.why;
}

/** What a legacy driver has negotiated: it has no way to be refused. VIRTIO 1.3, 2.2.3. */
export function legacyFeatures(offered: bigint, accepted: bigint): bigint {
  return offered & accepted & LEGACY_BITS;
}
