/**
 * What the bytes of a guest program mean: a setup and actions, in the records of ../input.ts. Every
 * byte string means something.
 */

import { ERRNO_ENOSPC, ERRNO_ENOTSUP } from '../../../src/abi/command.ts';
import * as region from '../../../src/abi/region.ts';
import * as request from '../../../src/abi/request.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import { pick } from '../input.ts';
import { LARGE_RING, RAM_BYTES, RINGS } from './layout.ts';

const u8 = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;

/** How guest memory is cut into regions (ram.ts). */
export type Cut = 'one' | 'two' | 'pieces' | 'hole' | 'full' | 'rings' | 'big' | 'none';

/** What a device is made for. */
export interface Setup {
  readonly queues: number;
  /** A bit for each ring. */
  readonly packed: number;
  /** QUEUE_INDIRECT and the like. */
  readonly ringFlags: number;
  readonly sizes: readonly number[];
  /** DEVICE_*. */
  readonly deviceFlags: number;
  /** CONFIG_*. */
  readonly engineFlags: number;
  readonly blockSectors: number;
  readonly readError: number;
  readonly writeError: number;
  readonly rangeSectors: number;
  readonly rangeSegments: number;
  readonly cut: Cut;
  /** Guest address of the first byte of RAM. */
  readonly base: bigint;
  readonly depth: number;
  readonly mergeBytes: number;
  readonly sectors: number;
  readonly files: number;
  /** Where rings start. */
  readonly position: number;
}

const QUEUES = [1, 2, 3, 4, 4, 8, 63, 1, 0, 64];
const LARGE_SIZES = [16, 8, 4, 64, 1, 2, 256, LARGE_RING, 3, 7, 33, 100, 512, 0, 32768, 65536];
const SMALL_SIZES = [8, 4, 16, 64, 1, 2, 32, 3];
const RANGE_SECTORS = [0xffff_ffff, 8, 64, 1];
const RANGE_SEGMENTS = [32, 1, 64, 100];
const CUTS: readonly Cut[] = [
  'one',
  'two',
  'pieces',
  'hole',
  'one',
  'full',
  'big',
  'rings',
  'none',
];
const BASES = [
  0x7f59_7f22_a000n,
  0n,
  0x1_0000_0000n - 0x1_8000n,
  2n ** 64n - BigInt(RAM_BYTES),
  2n ** 63n - 0x1_0000n,
  0x10n,
];
const DEPTHS = [64, 1, 2, 3, 256, 4, 8, 16];
const MERGES = [65536, 0, 4096, 1048576];
const SECTORS = [256, 8, 1, 2048, 0, 255];
const FILES = [1, 1, 1, 2];
const POSITIONS = [0, 0xffff, 0xfffe, 0x8000, 3, 0x7fff];
const DEVICE_BITS = [
  abi.DEVICE_FIXED_FRAMING,
  abi.DEVICE_BARRIER,
  abi.DEVICE_DISCARD,
  abi.DEVICE_WRITE_ZEROES,
  abi.DEVICE_COPIED,
];

/** The setup of a program. */
export function setupOf(bytes: Uint8Array): Setup {
  const large = pick(LARGE_SIZES, u8(bytes, 2));
  const small = pick(SMALL_SIZES, u8(bytes, 3));
  const policy = u8(bytes, 7);
  const limits = u8(bytes, 8);
  const engineFlags = u8(bytes, 5);
  const rings = u8(bytes, 1);
  const deviceFlags = deviceFlagsOf(u8(bytes, 4), engineFlags);
  // The host of a copied guest offers no IN_ORDER.
  const isCopied = (deviceFlags & abi.DEVICE_COPIED) !== 0;
  const ringFlags = (rings >> 4) << 1;
  return {
    queues: pick(QUEUES, u8(bytes, 0)),
    packed: rings & 15,
    ringFlags: isCopied ? ringFlags & ~abi.QUEUE_IN_ORDER : ringFlags,
    sizes: Array.from({ length: RINGS }, (_, ring) => (ring === 0 ? large : small)),
    deviceFlags,
    engineFlags,
    blockSectors: pick([1, 2, 8, 1], u8(bytes, 6)),
    readError: policy & 3,
    writeError: (policy >> 2) & 3,
    rangeSectors: pick(RANGE_SECTORS, limits & 3),
    rangeSegments: pick(RANGE_SEGMENTS, limits >> 2),
    cut: pick(CUTS, u8(bytes, 9)),
    base: pick(BASES, u8(bytes, 10)),
    depth: pick(DEPTHS, u8(bytes, 11) & 7),
    mergeBytes: pick(MERGES, u8(bytes, 11) >> 3),
    sectors: pick(SECTORS, u8(bytes, 12)),
    files: pick(FILES, u8(bytes, 13)),
    position: pick(POSITIONS, u8(bytes, 14)),
  };
}

/** Zero: everything negotiated but a fixed framing and barriers; memory is not copied. */
function deviceFlagsOf(byte: number, engineFlags: number): number {
  let flags = abi.DEVICE_RUNNING;
  for (const [bit, flag] of DEVICE_BITS.entries()) {
    const isOn = (byte & (1 << bit)) !== 0;
    const isDefault = flag === abi.DEVICE_DISCARD || flag === abi.DEVICE_WRITE_ZEROES;
    if (isOn !== isDefault) flags |= flag;
  }
  // What the engine refuses is not offered.
  const offers = (engineFlags & region.CONFIG_BARRIER) !== 0;
  return offers ? flags : flags & ~abi.DEVICE_BARRIER;
}

/** The kinds of action. */
export type Kind =
  | 'chain'
  | 'burst'
  | 'pump'
  | 'answer'
  | 'host'
  | 'poke'
  | 'queue'
  | 'attach'
  | 'map'
  | 'device'
  | 'peek'
  | 'land'
  | 'event'
  | 'drain';

const KINDS: readonly Kind[] = [
  'chain',
  'pump',
  'answer',
  'chain',
  'burst',
  'host',
  'poke',
  'queue',
  'attach',
  'map',
  'device',
  'peek',
  'land',
  'event',
  'drain',
  'chain',
];

/** The kind of an action, by the low four bits of its first byte. */
export function kindOf(action: Uint8Array): Kind {
  return KINDS[u8(action, 0) & 15]!;
}

/** The ring that an action is about, by two more bits. */
export function ringOf(action: Uint8Array, { queues }: Setup): number {
  return ((u8(action, 0) >> 4) & 3) % Math.min(RINGS, Math.max(1, queues));
}

/** A parameter of an action, 1 to 7. */
export function parameter(action: Uint8Array, index: number): number {
  return u8(action, index);
}

const DELAYS = [0, 0, 1, 100, 1000, 1e6, 5e6, 2 ** 32];
const ERRNOS = [0, 0, 0, 5, 0, 0, ERRNO_ENOSPC, 0, ERRNO_ENOTSUP, 0, 122, 27, 0, 0, 0, 4];

/** Microseconds that pass before a pump. */
export function delayOf(byte: number): number {
  return pick(DELAYS, byte);
}

/** What a host answers with. */
export function errnoOf(byte: number): number {
  return pick(ERRNOS, byte & 15);
}

/** Chains of a burst. */
export function burstOf(byte: number): number {
  return byte < 0xf8 ? 1 + (byte % 31) : 1024 >> (byte & 3);
}

/** A request of the host. */
export interface HostRequest {
  readonly op: number;
  readonly flags: number;
  readonly queue: number;
  readonly sector: number;
  readonly sectors: number;
}

const HOST_OPS = [
  request.OP_WRITE,
  request.OP_READ,
  request.OP_FLUSH,
  request.OP_SET_WCE,
  request.OP_WRITE_ZEROES,
  request.OP_DISCARD,
  request.OP_CLEAR_LATCH,
  request.OP_RESET,
];

/** A request of the host's own. */
export function hostRequestOf(action: Uint8Array, { sectors }: Setup): HostRequest {
  const sector = parameter(action, 3) % Math.max(1, sectors);
  return {
    op: pick(HOST_OPS, parameter(action, 1)),
    flags: parameter(action, 2) & 1,
    queue: 0,
    sector,
    sectors: Math.min(1 + (parameter(action, 4) & 7), sectors - sector),
  };
}
