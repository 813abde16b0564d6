/**
 * A driver on a guest's second processor: it makes reads available one after the other while the
 * device takes them, each when the ring has a place for it, and looks at what comes back.
 */

import { workerData } from 'node:worker_threads';

/**
 * @typedef {object} Reads
 * @property {SharedArrayBuffer} buffer the memory
 * @property {number} control place of two words: reads that have come back, and those that were
 * wrong
 * @property {boolean} packed
 * @property {number} size entries of the ring
 * @property {number} count reads to make
 * @property {number} desc place of the descriptors
 * @property {number} driver place of the available ring
 * @property {number} device place of the used ring
 * @property {number} headers place of the headers, 16 bytes each
 * @property {number} data place of the data, a sector and the status each
 */

const SECTOR = 512;
const BOTH = 0x8080;

/** @type {Reads} */
const reads = workerData;
const { buffer, packed, size, count, desc, device, driver } = reads;
const bytes = new Uint8Array(buffer);
const halves = new Uint16Array(buffer);
const view = new DataView(buffer);
const control = new Int32Array(buffer, reads.control, 2);

/**
 * The chain of read `index` is descriptors 2 * slot and 2 * slot + 1 of a ring with two for each.
 *
 * @param {number} index
 */
function slotOf(index) {
  return index % (size / 2);
}

/**
 * Rising, so that the elevator keeps the order; every byte of a sector is the last one of its
 * number.
 *
 * @param {number} index
 */
function sectorOf(index) {
  return index;
}

/** @param {number} index */
function publish(index) {
  const slot = slotOf(index);
  view.setBigUint64(reads.headers + slot * 16 + 8, BigInt(sectorOf(index)), true);
  bytes[reads.data + slot * (SECTOR + 1) + SECTOR] = 0xff;
  if (!packed) {
    Atomics.store(halves, (driver + 4 + (index % size) * 2) >>> 1, 2 * slot);
    Atomics.store(halves, (driver + 2) >>> 1, (index + 1) & 0xffff);
    return;
  }
  const place = desc + 2 * slot * 16;
  const wrap = Math.floor((2 * index) / size) % 2 === 0;
  const available = wrap ? 0x80 : 0x8000;
  view.setUint16(place + 16 + 12, slot, true);
  view.setUint16(place + 16 + 14, available | 2, true);
  // The used descriptor of the last lap has written over these.
  view.setUint32(place + 8, 16, true);
  Atomics.store(halves, (place + 14) >>> 1, available | 1);
}

/** @param {number} index */
function isUsed(index) {
  if (!packed) {
    const used = Atomics.load(halves, (device + 2) >>> 1);
    return ((used - index) & 0xffff) !== 0;
  }
  const wrap = Math.floor((2 * index) / size) % 2 === 0;
  const flags = Atomics.load(halves, (desc + 2 * slotOf(index) * 16 + 14) >>> 1);
  return (flags & BOTH) === (wrap ? BOTH : 0);
}

/** @param {number} index */
function isRight(index) {
  const slot = slotOf(index);
  const at = reads.data + slot * (SECTOR + 1);
  if (bytes[at + SECTOR] !== 0) return false;
  for (let i = 0; i < SECTOR; i++) if (bytes[at + i] !== (sectorOf(index) & 0xff)) return false;
  if (packed) {
    const place = desc + 2 * slot * 16;
    return view.getUint16(place + 12, true) === slot && view.getUint32(place + 8, true) === 513;
  }
  const element = device + 4 + (index % size) * 8;
  const id = view.getUint32(element, true);
  return id === 2 * slot && view.getUint32(element + 4, true) === SECTOR + 1;
}

let published = 0;
for (let used = 0; used < count;) {
  // A burst now and a single one then; never more than the ring has.
  const most = 1 + (used % (size / 2));
  if (published < count && published - used < most) publish(published++);
  while (used < published && isUsed(used)) {
    if (!isRight(used)) Atomics.add(control, 1, 1);
    used++;
    Atomics.add(control, 0, 1);
  }
}
