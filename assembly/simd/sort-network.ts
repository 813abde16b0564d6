// Bitonic sorting networks over pairs of keys. Scalar meaning of all of it: sort the keys.
//
// N1  A key below 2^62 - 2^52 with bit 62 set is, read as a double, positive, normal and finite,
//     and such doubles are ordered as their bits are. So f64x2.pmin and pmax, one instruction
//     each, order two pairs of keys; i64x2 has no minimum. Normal, because a thread may treat
//     denormals as zero. Bit 62 is set where the keys are read and cleared where they are written.
// N2  The work area is a column of `height` vectors, a power of two of 8 or more. Each lane is
//     sorted for itself, top down, so that nothing moves between lanes; `mergeLanes` and
//     `finishLanes` merge the two at the end.
// N3  A merge of two sorted runs compares the first with the mirrored second, then both halves at
//     falling distances, down to 1. Each pass does three distances, eight vectors at a time.
//     After distance d all groups of d vectors are in order, so a distance that a pass does again
//     changes nothing: passes may overlap.
// N4  What is missing to the power of two is filled with keys that are larger than all.

import { REQUEST_SLOTS } from '../../src/abi/limits.ts';

/** Keys must be below this (N1). */
export const KEY_LIMIT: u64 = 0x3ff0000000000000;

const BIAS: u64 = 0x4000000000000000;
/** With the bias: infinity (N4). */
const PADDING: u64 = KEY_LIMIT;
/** Where the upper half goes that does not fit into the place of the keys. */
const UPPER_HALF: usize = REQUEST_SLOTS * 8;

if (REQUEST_SLOTS * 4 > 4096) ERROR('the upper half is larger than the 4 KiB of scratch for it');

/** Sorts `count` (9 to 1024) keys below KEY_LIMIT, in place. `scratch` holds 12 KiB. */
export function sortNetwork(keys: usize, scratch: usize, count: i32): void {
  let height = 8;
  while (height << 1 < count) height <<= 1;
  const size = height << 1;
  let source = keys;
  if (count != size) {
    copyPadded(keys, scratch, count, size);
    source = scratch;
  }
  const bytes = (<usize>height) << 4;
  for (let at: usize = 0; at < bytes; at += 128) sortLanes(source + at, scratch + at);
  for (let run = 16; run <= height; run <<= 1) {
    mergeMirrored(scratch, height, run);
    mergeFalling(scratch, height, run >> 4);
    mergeStep(scratch, height, 1);
  }
  mergeLanes(scratch, height);
  mergeFalling(scratch, height, height >> 3);
  const upper = keys + ((<usize>height) << 3);
  if (count == size) {
    finishLanes(scratch, height, keys, upper);
  } else {
    finishLanes(scratch, height, keys, scratch + UPPER_HALF);
    copyKeys(scratch + UPPER_HALF, upper, count - height);
  }
}

/** Sorts `count` (5 to 8) keys below KEY_LIMIT, in place: two columns of four, in registers. */
export function sortEight(keys: usize, count: i32): void {
  const bias = i64x2.splat(BIAS);
  const a0 = v128.or(v128.load(keys), bias);
  const a1 = v128.or(v128.load(keys, 16), bias);
  const a2 = v128.or(loadPair(keys + 32, count - 4), bias);
  const a3 = v128.or(loadPair(keys + 48, count - 6), bias);
  const b0 = f64x2.pmin(a0, a2);
  const b1 = f64x2.pmin(a1, a3);
  const b2 = f64x2.pmax(a0, a2);
  const b3 = f64x2.pmax(a1, a3);
  const c0 = f64x2.pmin(b0, b1);
  const c1 = f64x2.pmax(b0, b1);
  const c2 = f64x2.pmin(b2, b3);
  const c3 = f64x2.pmax(b2, b3);
  const d1 = f64x2.pmin(c1, c2);
  const d2 = f64x2.pmax(c1, c2);
  // One lane, and the other mirrored.
  const x01 = v128.shuffle<i64>(c0, d1, 0, 2);
  const x23 = v128.shuffle<i64>(d2, c3, 0, 2);
  const y32 = v128.shuffle<i64>(c3, d2, 1, 3);
  const y10 = v128.shuffle<i64>(d1, c0, 1, 3);
  const low01 = f64x2.pmin(x01, y32);
  const low23 = f64x2.pmin(x23, y10);
  const high01 = f64x2.pmax(x01, y32);
  const high23 = f64x2.pmax(x23, y10);
  storeFour(keys, f64x2.pmin(low01, low23), f64x2.pmax(low01, low23), 4);
  storeFour(keys + 32, f64x2.pmin(high01, high23), f64x2.pmax(high01, high23), count - 4);
}

/** The last distance, inside the vectors; stores `count` (1 to 4) of four keys. */
function storeFour(keys: usize, k01: v128, k23: v128, count: i32): void {
  const bias = i64x2.splat(BIAS);
  const k02 = v128.shuffle<i64>(k01, k23, 0, 2);
  const k13 = v128.shuffle<i64>(k01, k23, 1, 3);
  const low = v128.andnot(f64x2.pmin(k02, k13), bias);
  const high = v128.andnot(f64x2.pmax(k02, k13), bias);
  storePair(keys, v128.shuffle<i64>(low, high, 0, 2), count);
  storePair(keys + 16, v128.shuffle<i64>(low, high, 1, 3), count - 2);
}

/** The next two keys of `count`; what is missing is padding (N4). */
function loadPair(keys: usize, count: i32): v128 {
  if (count >= 2) return v128.load(keys);
  const padding = i64x2.splat(PADDING);
  return count == 1 ? v128.load_lane<u64>(keys, padding, 0) : padding;
}

/** The reverse of `loadPair`. */
function storePair(keys: usize, pair: v128, count: i32): void {
  if (count >= 2) v128.store(keys, pair);
  else if (count == 1) v128.store_lane<u64>(keys, pair, 0);
}

/** Copies `count` keys and fills up to `size`, an even number (N4). */
function copyPadded(keys: usize, target: usize, count: i32, size: i32): void {
  const padding = i64x2.splat(PADDING);
  const pairBytes = (<usize>(count & ~1)) << 3;
  copyPairs(keys, target, pairBytes);
  let at = pairBytes;
  if ((count & 1) != 0) {
    v128.store(target + at, v128.load_lane<u64>(keys + at, padding, 0));
    at += 16;
  }
  for (; at < (<usize>size) << 3; at += 16) v128.store(target + at, padding);
}

function copyKeys(source: usize, target: usize, count: i32): void {
  const pairBytes = (<usize>(count & ~1)) << 3;
  copyPairs(source, target, pairBytes);
  if ((count & 1) != 0) store<u64>(target + pairBytes, load<u64>(source + pairBytes));
}

/** Vectors, because what is read next are vectors and stores forward only whole ones. */
function copyPairs(source: usize, target: usize, bytes: usize): void {
  if (bytes > 256) {
    memory.copy(target, source, bytes);
  } else {
    for (let at: usize = 0; at < bytes; at += 16) v128.store(target + at, v128.load(source + at));
  }
}

/** Sorts each lane of eight vectors: the network of 19 comparators. Sets the bias (N1). */
function sortLanes(source: usize, target: usize): void {
  const bias = i64x2.splat(BIAS);
  const a0 = v128.or(v128.load(source), bias);
  const a1 = v128.or(v128.load(source, 16), bias);
  const a2 = v128.or(v128.load(source, 32), bias);
  const a3 = v128.or(v128.load(source, 48), bias);
  const a4 = v128.or(v128.load(source, 64), bias);
  const a5 = v128.or(v128.load(source, 80), bias);
  const a6 = v128.or(v128.load(source, 96), bias);
  const a7 = v128.or(v128.load(source, 112), bias);
  const b0 = f64x2.pmin(a0, a2);
  const b1 = f64x2.pmin(a1, a3);
  const b2 = f64x2.pmax(a0, a2);
  const b3 = f64x2.pmax(a1, a3);
  const b4 = f64x2.pmin(a4, a6);
  const b5 = f64x2.pmin(a5, a7);
  const b6 = f64x2.pmax(a4, a6);
  const b7 = f64x2.pmax(a5, a7);
  const c0 = f64x2.pmin(b0, b4);
  const c1 = f64x2.pmin(b1, b5);
  const c2 = f64x2.pmin(b2, b6);
  const c3 = f64x2.pmin(b3, b7);
  const c4 = f64x2.pmax(b0, b4);
  const c5 = f64x2.pmax(b1, b5);
  const c6 = f64x2.pmax(b2, b6);
  const c7 = f64x2.pmax(b3, b7);
  const d1 = f64x2.pmax(c0, c1);
  const d2 = f64x2.pmin(c2, c3);
  const d3 = f64x2.pmax(c2, c3);
  const d4 = f64x2.pmin(c4, c5);
  const d5 = f64x2.pmax(c4, c5);
  const d6 = f64x2.pmin(c6, c7);
  const e2 = f64x2.pmin(d2, d4);
  const e3 = f64x2.pmin(d3, d5);
  const e4 = f64x2.pmax(d2, d4);
  const e5 = f64x2.pmax(d3, d5);
  const f1 = f64x2.pmin(d1, e4);
  const f3 = f64x2.pmin(e3, d6);
  const f4 = f64x2.pmax(d1, e4);
  const f6 = f64x2.pmax(e3, d6);
  v128.store(target, f64x2.pmin(c0, c1));
  v128.store(target, f64x2.pmin(f1, e2), 16);
  v128.store(target, f64x2.pmax(f1, e2), 32);
  v128.store(target, f64x2.pmin(f3, f4), 48);
  v128.store(target, f64x2.pmax(f3, f4), 64);
  v128.store(target, f64x2.pmin(e5, f6), 80);
  v128.store(target, f64x2.pmax(e5, f6), 96);
  v128.store(target, f64x2.pmax(c6, c7), 112);
}

/**
 * First pass of merging runs of run/2 vectors into runs of `run` (16 or more): mirrored, then
 * distances run/4 and run/8. Four vectors of the upper run meet their mirror images.
 */
function mergeMirrored(work: usize, height: i32, run: i32): void {
  const step = (<usize>run) << 1;
  const end = work + ((<usize>height) << 4);
  for (let block = work; block < end; block += (<usize>run) << 4) {
    let down = block + ((<usize>run) << 3) + step - 16;
    for (let up = block; up < block + step; up += 16, down -= 16) {
      const a0 = v128.load(up);
      const a1 = v128.load(up + step);
      const a2 = v128.load(up + 2 * step);
      const a3 = v128.load(up + 3 * step);
      const a4 = v128.load(down);
      const a5 = v128.load(down + step);
      const a6 = v128.load(down + 2 * step);
      const a7 = v128.load(down + 3 * step);
      const b0 = f64x2.pmin(a0, a7);
      const b1 = f64x2.pmin(a1, a6);
      const b2 = f64x2.pmin(a2, a5);
      const b3 = f64x2.pmin(a3, a4);
      const b4 = f64x2.pmax(a3, a4);
      const b5 = f64x2.pmax(a2, a5);
      const b6 = f64x2.pmax(a1, a6);
      const b7 = f64x2.pmax(a0, a7);
      storeHalved(up, step, b0, b1, b2, b3);
      storeHalved(down, step, b4, b5, b6, b7);
    }
  }
}

/** Passes at falling distances, from `distance` down to what one more `mergeStep` of 1 covers. */
function mergeFalling(work: usize, height: i32, distance: i32): void {
  for (; distance > 4; distance >>= 3) mergeStep(work, height, distance >> 2);
}

/** One pass: distances 4, 2 and 1 times `stride`. */
function mergeStep(work: usize, height: i32, stride: i32): void {
  const step = (<usize>stride) << 4;
  const end = work + ((<usize>height) << 4);
  for (let block = work; block < end; block += step << 3) {
    for (let at = block; at < block + step; at += 16) {
      const a0 = v128.load(at);
      const a1 = v128.load(at + step);
      const a2 = v128.load(at + 2 * step);
      const a3 = v128.load(at + 3 * step);
      const a4 = v128.load(at + 4 * step);
      const a5 = v128.load(at + 5 * step);
      const a6 = v128.load(at + 6 * step);
      const a7 = v128.load(at + 7 * step);
      const b0 = f64x2.pmin(a0, a4);
      const b1 = f64x2.pmin(a1, a5);
      const b2 = f64x2.pmin(a2, a6);
      const b3 = f64x2.pmin(a3, a7);
      const b4 = f64x2.pmax(a0, a4);
      const b5 = f64x2.pmax(a1, a5);
      const b6 = f64x2.pmax(a2, a6);
      const b7 = f64x2.pmax(a3, a7);
      storeHalved(at, step, b0, b1, b2, b3);
      storeHalved(at + 4 * step, step, b4, b5, b6, b7);
    }
  }
}

/** Distances 2 and 1 of four vectors, stored `step` apart. */
function storeHalved(at: usize, step: usize, a0: v128, a1: v128, a2: v128, a3: v128): void {
  const b0 = f64x2.pmin(a0, a2);
  const b1 = f64x2.pmin(a1, a3);
  const b2 = f64x2.pmax(a0, a2);
  const b3 = f64x2.pmax(a1, a3);
  v128.store(at, f64x2.pmin(b0, b1));
  v128.store(at + step, f64x2.pmax(b0, b1));
  v128.store(at + 2 * step, f64x2.pmin(b2, b3));
  v128.store(at + 3 * step, f64x2.pmax(b2, b3));
}

/**
 * First pass of merging the two sorted lanes into one run, lane 0 before lane 1: mirrored, across
 * the lanes, then distances height/2 and height/4 in each lane.
 */
function mergeLanes(work: usize, height: i32): void {
  const step = (<usize>height) << 2;
  let down = work + step - 16;
  for (let up = work; up < down; up += 16, down -= 16) {
    const a0 = v128.load(up);
    const a1 = v128.load(up + step);
    const a2 = v128.load(up + 2 * step);
    const a3 = v128.load(up + 3 * step);
    const a4 = swapLanes(v128.load(down));
    const a5 = swapLanes(v128.load(down + step));
    const a6 = swapLanes(v128.load(down + 2 * step));
    const a7 = swapLanes(v128.load(down + 3 * step));
    const low0 = f64x2.pmin(a0, a7);
    const low1 = f64x2.pmin(a1, a6);
    const low2 = f64x2.pmin(a2, a5);
    const low3 = f64x2.pmin(a3, a4);
    const high0 = f64x2.pmax(a0, a7);
    const high1 = f64x2.pmax(a1, a6);
    const high2 = f64x2.pmax(a2, a5);
    const high3 = f64x2.pmax(a3, a4);
    const b0 = v128.shuffle<i64>(low0, high0, 0, 3);
    const b1 = v128.shuffle<i64>(low1, high1, 0, 3);
    const b2 = v128.shuffle<i64>(low2, high2, 0, 3);
    const b3 = v128.shuffle<i64>(low3, high3, 0, 3);
    const b4 = v128.shuffle<i64>(low3, high3, 1, 2);
    const b5 = v128.shuffle<i64>(low2, high2, 1, 2);
    const b6 = v128.shuffle<i64>(low1, high1, 1, 2);
    const b7 = v128.shuffle<i64>(low0, high0, 1, 2);
    storeHalved(up, step, b0, b1, b2, b3);
    storeHalved(down, step, b4, b5, b6, b7);
  }
}

function swapLanes(pair: v128): v128 {
  return v128.shuffle<i64>(pair, pair, 1, 0);
}

/** The last pass: distances 4, 2 and 1; lane 0 goes to `lower`, lane 1 to `upper`, unbiased. */
function finishLanes(work: usize, height: i32, lower: usize, upper: usize): void {
  const end = work + ((<usize>height) << 4);
  for (let at = work; at < end; at += 128, lower += 64, upper += 64) {
    const a0 = v128.load(at);
    const a1 = v128.load(at, 16);
    const a2 = v128.load(at, 32);
    const a3 = v128.load(at, 48);
    const a4 = v128.load(at, 64);
    const a5 = v128.load(at, 80);
    const a6 = v128.load(at, 96);
    const a7 = v128.load(at, 112);
    const b0 = f64x2.pmin(a0, a4);
    const b1 = f64x2.pmin(a1, a5);
    const b2 = f64x2.pmin(a2, a6);
    const b3 = f64x2.pmin(a3, a7);
    const b4 = f64x2.pmax(a0, a4);
    const b5 = f64x2.pmax(a1, a5);
    const b6 = f64x2.pmax(a2, a6);
    const b7 = f64x2.pmax(a3, a7);
    storeSplit(lower, upper, f64x2.pmin(b0, b2), f64x2.pmin(b1, b3));
    storeSplit(lower + 16, upper + 16, f64x2.pmax(b0, b2), f64x2.pmax(b1, b3));
    storeSplit(lower + 32, upper + 32, f64x2.pmin(b4, b6), f64x2.pmin(b5, b7));
    storeSplit(lower + 48, upper + 48, f64x2.pmax(b4, b6), f64x2.pmax(b5, b7));
  }
}

/** Distance 1 of two vectors; then the lanes part. */
function storeSplit(lower: usize, upper: usize, a: v128, b: v128): void {
  const bias = i64x2.splat(BIAS);
  const low = v128.andnot(f64x2.pmin(a, b), bias);
  const high = v128.andnot(f64x2.pmax(a, b), bias);
  v128.store(lower, v128.shuffle<i64>(low, high, 0, 2));
  v128.store(upper, v128.shuffle<i64>(low, high, 1, 3));
}
