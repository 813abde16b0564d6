// Drives a vhost-user-blk device with libblkio: each step writes, and reads what it has written.
// A program of its own, because libblkio blocks until requests are done.
//
//   node blkio.mjs LIBRARY SOCKET ROUNDS
//
// ROUNDS is how often memory is added and removed. Prints the steps that were done.

import assert from 'node:assert/strict';
import koffi from 'koffi';

const KIB = 1024;
const FUA = 1;
const COMPLETION_BYTES = 32;
const COMPLETION_RESULT = 16;
const QUEUES = 2;
const DEPTH = 16;

const [, , path = '', socket = '', rounds = '0'] = process.argv;
const library = koffi.load(path);
koffi.struct('Region', {
  addr: 'uintptr_t',
  len: 'size_t',
  iova: 'uint64_t',
  fd_offset: 'int64_t',
  fd: 'int',
  flags: 'uint32_t',
});
/** @typedef {{ addr: number, len: number }} Region */

const call = {
  create: library.func('int blkio_create(const char *driver, _Out_ uintptr_t *blkio)'),
  setText: library.func('int blkio_set_str(uintptr_t blkio, const char *name, const char *value)'),
  setNumber: library.func('int blkio_set_int(uintptr_t blkio, const char *name, int value)'),
  getSize: library.func(
    'int blkio_get_uint64(uintptr_t blkio, const char *name, _Out_ uint64_t *value)',
  ),
  connect: library.func('int blkio_connect(uintptr_t blkio)'),
  start: library.func('int blkio_start(uintptr_t blkio)'),
  allocate: library.func(
    'int blkio_alloc_mem_region(uintptr_t blkio, _Out_ Region *region, size_t length)',
  ),
  free: library.func('void blkio_free_mem_region(uintptr_t blkio, Region *region)'),
  map: library.func('int blkio_map_mem_region(uintptr_t blkio, Region *region)'),
  unmap: library.func('void blkio_unmap_mem_region(uintptr_t blkio, Region *region)'),
  queue: library.func('uintptr_t blkio_get_queue(uintptr_t blkio, int index)'),
  read: library.func(
    'void blkioq_read(uintptr_t q, uint64_t start, uintptr_t to, size_t length, ' +
      'uintptr_t data, uint32_t flags)',
  ),
  write: library.func(
    'void blkioq_write(uintptr_t q, uint64_t start, uintptr_t from, size_t length, ' +
      'uintptr_t data, uint32_t flags)',
  ),
  zero: library.func(
    'void blkioq_write_zeroes(uintptr_t q, uint64_t start, uint64_t length, ' +
      'uintptr_t data, uint32_t flags)',
  ),
  discard: library.func(
    'void blkioq_discard(uintptr_t q, uint64_t start, uint64_t length, ' +
      'uintptr_t data, uint32_t flags)',
  ),
  flush: library.func('void blkioq_flush(uintptr_t q, uintptr_t data, uint32_t flags)'),
  doIo: library.func(
    'int blkioq_do_io(uintptr_t q, void *completions, int least, int most, void *timeout)',
  ),
  message: library.func('const char *blkio_get_error_msg()'),
};

/** @param {number} result */
function check(result) {
  if (result < 0) throw new Error(`${call.message()} (${result})`);
  return result;
}

/**
 * Waits until `count` requests are done.
 * @param {number} queue
 * @param {number} count
 */
function finish(queue, count) {
  const completions = Buffer.alloc(count * COMPLETION_BYTES);
  assert.equal(check(call.doIo(queue, completions, count, count, null)), count);
  for (let at = COMPLETION_RESULT; at < completions.length; at += COMPLETION_BYTES) {
    assert.equal(completions.readInt32LE(at), 0);
  }
}

/**
 * Memory that the device can reach.
 * @param {number} length
 */
function mapped(length) {
  const region = /** @type {Region} */ ({});
  check(call.allocate(blkio, region, length));
  check(call.map(blkio, region));
  return { region, bytes: Buffer.from(koffi.view(BigInt(region.addr), length)) };
}

/** @param {Region} region */
function unmapped(region) {
  call.unmap(blkio, region);
  call.free(blkio, region);
}

const made = [0];
check(call.create('virtio-blk-vhost-user', made));
const blkio = made[0] ?? 0;
check(call.setText(blkio, 'path', socket));
check(call.connect(blkio));
check(call.setNumber(blkio, 'num-queues', QUEUES));
check(call.start(blkio));
const queues = Array.from({ length: QUEUES }, (_, index) => call.queue(blkio, index));
const [queue = 0] = queues;
const capacity = [0];
check(call.getSize(blkio, 'capacity', capacity));

const BLOCK = 64 * KIB;
const HALF = DEPTH * BLOCK;
const { region, bytes } = mapped(2 * HALF);
const [from, to] = [bytes.subarray(0, HALF), bytes.subarray(HALF)];
for (let at = 0; at < HALF; at += 4) from.writeUInt32LE(Math.imul(at + 1, 0x9e3779b1) >>> 0, at);

// Many at once, on all queues.
for (const verb of /** @type {const} */ (['write', 'read'])) {
  const base = verb === 'write' ? region.addr : region.addr + HALF;
  for (let index = 0; index < DEPTH; index++) {
    const at = index * BLOCK;
    call[verb](queues[index % QUEUES] ?? 0, at, base + at, BLOCK, 0, 0);
  }
  for (const each of queues) finish(each, DEPTH / QUEUES);
  call.flush(queue, 0, 0);
  finish(queue, 1);
}
assert.equal(Buffer.compare(from, to), 0);

/**
 * What the disk has there.
 * @param {number} at
 * @param {number} length
 */
function readBack(at, length) {
  call.read(queue, at, region.addr + HALF, length, 0, 0);
  finish(queue, 1);
  return to.subarray(0, length);
}

call.write(queue, 4 * HALF, region.addr, 4 * KIB, 0, FUA);
finish(queue, 1);
assert.equal(Buffer.compare(readBack(4 * HALF, 4 * KIB), from.subarray(0, 4 * KIB)), 0);
call.zero(queue, 2 * BLOCK, BLOCK, 0, 0);
call.discard(queue, 4 * BLOCK, BLOCK, 0, 0);
finish(queue, 2);
assert.ok(readBack(2 * BLOCK, BLOCK).every((byte) => byte === 0));
assert.equal(Buffer.compare(readBack(3 * BLOCK, BLOCK), from.subarray(3 * BLOCK, 4 * BLOCK)), 0);

// Memory comes and goes while other memory stays.
for (let round = 1; round <= Number(rounds); round++) {
  const length = (1 + ((round * 7) % 64)) * 4 * KIB;
  const first = mapped(length);
  const second = mapped(length);
  first.bytes.fill(round);
  call.write(queue, HALF, first.region.addr, length, 0, 0);
  finish(queue, 1);
  unmapped(first.region);
  call.read(queues[1] ?? 0, HALF, second.region.addr, length, 0, 0);
  finish(queues[1] ?? 0, 1);
  assert.ok(second.bytes.every((byte) => byte === (round & 0xff)));
  unmapped(second.region);
}
const done = { capacity: Number(capacity[0]), rounds: Number(rounds) };
process.stdout.write(JSON.stringify(done));
