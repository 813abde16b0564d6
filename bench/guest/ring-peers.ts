// The two peers of the ring rows behind one face: bench/c/ring.c and bench/peers/ring.ts.

import { loadNative, type Optimization } from '../native.ts';
import { attachPeerQueue, type PeerQueue, RingReader } from '../peers/ring.ts';
import type { QueueConfig } from './device.ts';
import { GUEST_MAP, PEER_PLACE, placeOf } from './memory.ts';

/** Virtqueues as a peer reads them. */
export interface RingPeer {
  /** Takes up to `count` chains from a queue, gives them back, and returns their hash. */
  readonly parse: (number: number, count: number) => number;
  /** RING_ERROR_* that has stopped a queue, and the head it was at: error | head << 8. */
  readonly error: (number: number) => number;
}

const WORD = 2 ** 32;
/** Most chains of one call. */
const MOST_CHAINS = 1024;

/** The peer in TypeScript. */
export function typeScriptRing(memory: ArrayBufferLike, configs: readonly QueueConfig[]): RingPeer {
  const reader = new RingReader(memory, PEER_PLACE);
  for (const { start, sizeBytes, place } of GUEST_MAP) reader.map(start, sizeBytes, place);
  const queues = configs.map(({ size, flags, desc, driver }): PeerQueue => {
    return attachPeerQueue({ size, flags, desc: placeOf(desc), avail: placeOf(driver) });
  });
  const taken = new Int32Array(MOST_CHAINS);
  return {
    parse: (number, count) => reader.parseChains(queues[number]!, count, taken),
    error: (number) => (queues[number]!.error | (queues[number]!.errorHead << 8)) >>> 0,
  };
}

/** The peer in C, or undefined where it cannot be built. */
export function nativeRing(
  memory: ArrayBufferLike,
  configs: readonly QueueConfig[],
  optimization: Optimization,
): RingPeer | undefined {
  const library = loadNative('ring', optimization);
  if (library === undefined) return undefined;
  const bytes = new Uint8Array(memory);
  const ring = new Uint8Array(library('uint32_t ring_size(void)')());
  library('void ring_init(void *)')(ring);
  const map = library('void ring_map(void *, uint32_t, uint32_t, uint32_t, uint32_t)');
  for (const { start, sizeBytes, place } of GUEST_MAP) {
    map(ring, start % WORD, Math.floor(start / WORD), sizeBytes, place);
  }
  const attach = library(
    'void ring_attach(void *, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t)',
  );
  configs.forEach(({ size, flags, desc, driver }, number) => {
    attach(ring, number, size, flags, placeOf(desc), placeOf(driver));
  });
  const parse = library('uint32_t ring_parse(void *, void *, uint32_t, uint32_t)');
  const error = library('uint32_t ring_error(void *, uint32_t)');
  return {
    parse: (number, count) => parse(ring, bytes, number, count),
    error: (number) => error(ring, number),
  };
}
