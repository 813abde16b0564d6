// Mutants of the virtio device: its rings, its guest memory, its requests.

import { ringMutant as mutant } from './mutant.mjs';

const SPLIT = 'assembly/ring/split.ts';
const PACKED = 'assembly/ring/packed.ts';
const WALK = 'assembly/ring/walk.ts';
const TAKE = 'assembly/ring/take.ts';
const USED = 'assembly/ring/used.ts';
const QUEUE = 'assembly/ring/queue.ts';
const SLOT = 'assembly/ring/slot.ts';
const INFLIGHT = 'assembly/ring/inflight.ts';
const PEEK = 'assembly/ring/peek.ts';
const GUEST = 'assembly/guest.ts';
const PUMP = 'assembly/pump.ts';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
const RECORDS = [
  mutant('Y1: a chain that was taken is not marked', INFLIGHT, {
    find: 'store<u8>(state, 1, INFLIGHT_STATE_FLAG);',
    replace: '',
  }),
  mutant('Y1: nobody can tell in which order chains were taken', INFLIGHT, {
    find: 'queue.counter += 1;',
    replace: '',
  }),
  mutant('Y2: what was returned stays in the record', INFLIGHT, {
    find: 'store<u8>(state, 0, INFLIGHT_STATE_FLAG);',
    replace: '',
  }),
  mutant('Y2: the used index of the record stays behind', INFLIGHT, {
    find: 'store<u16>(record, <u16>queue.used, INFLIGHT_USED_INDEX);',
    replace: '',
  }),
  mutant('Y2: a batch has no list', INFLIGHT, {
    find: 'store<u16>(stateAt(queue, head), last, INFLIGHT_STATE_NEXT);',
    replace: '',
  }),
  mutant('Y3: what was left comes last', TAKE, {
    find: 'const isLeftOver = leftOver(queue) != 0;',
    replace: 'const isLeftOver = leftOver(queue) != 0 && availableSplit(queue) <= leftOver(queue);',
  }),
  mutant('Y3: what was left gets another place in the record', TAKE, {
    find: 'if (queue.inflight != 0 && !isLeftOver) enterRecord(queue, head);',
    replace: 'if (queue.inflight != 0) enterRecord(queue, head);',
  }),
];

/** @type {readonly import('./mutant.mjs').Mutant[]} */
const RINGS = [
  mutant('Q1: an index that goes back is believed', SPLIT, {
    find: 'return waiting > queue.size ? TOO_MANY : waiting + leftOver(queue);',
    replace: 'return waiting + leftOver(queue);',
  }),
  mutant('Q1: what is in flight does not count', SPLIT, {
    find: 'if (((index - queue.used) & 0xffff) > queue.size) return TOO_MANY;',
    replace: '',
  }),
  mutant('Q1: the available index runs past 65535', SPLIT, {
    find: 'queue.avail = (queue.avail + 1) & 0xffff;',
    replace: 'queue.avail += 1;',
  }),
  mutant('Q2: a used element has no length', SPLIT, {
    find: 'store<u32>(element, length, USED_ELEMENT_LENGTH);',
    replace: 'store<u32>(element, 0, USED_ELEMENT_LENGTH);',
  }),
  mutant('Q2: the used index runs past 65535', SPLIT, {
    find: 'queue.used = (queue.used + chains) & 0xffff;',
    replace: 'queue.used += chains;',
  }),
  mutant('Q3: the flag of the used ring is written though EVENT_IDX rules', SPLIT, {
    find: 'if (queue.has(QUEUE_EVENT_IDX)) return;',
    replace: '',
  }),
  mutant('Q4: avail_event is one behind', SPLIT, {
    find: 'storeRelease(event, <u16>queue.avail);',
    replace: 'storeRelease(event, <u16>(queue.avail - 1));',
  }),
  mutant('2.7.7.2: the first decision is made as if one had been made before', SPLIT, {
    find: 'queue.isSignalledKnown == 0 || passes(event, queue)',
    replace: 'passes(event, queue)',
  }),
  mutant('2.7.7.2: the event is off by one', SPLIT, {
    find: '((queue.used - event - 1) & 0xffff)',
    replace: '((queue.used - event) & 0xffff)',
  }),
  mutant('NOTIFY_ON_EMPTY: what is in flight does not count', SPLIT, {
    find: 'queue.inFlight == 0 && ',
    replace: '',
  }),
  mutant('P1: a used descriptor is available', PACKED, {
    find: 'return isAvail == wrap && isUsed != wrap;',
    replace: 'return isAvail == wrap;',
  }),
  mutant('P1: more is in flight than the ring has', TAKE, {
    find: 'if (queue.slots + slots > queue.size) {',
    replace: 'if (slots > queue.size) {',
  }),
  mutant('P2: every used descriptor has a length that counts', PACKED, {
    find: 'let flags: u32 = length != 0 ? VIRTQ_DESC_F_WRITE : 0;',
    replace: 'let flags: u32 = VIRTQ_DESC_F_WRITE;',
  }),
  mutant('P3: the places of a list are not skipped', PACKED, {
    find: 'queue.used += slots;',
    replace: 'queue.used += 1;',
  }),
  mutant('P3: the wrap counter of used descriptors stands still', PACKED, {
    find: 'queue.usedWrap ^= 1;',
    replace: '',
  }),
  mutant('P1: the wrap counter of available descriptors stands still', PACKED, {
    find: 'queue.availWrap ^= 1;',
    replace: '',
  }),
  mutant('2.8.14: an event of the next lap is taken for one of this', PACKED, {
    find: 'event -= queue.size;',
    replace: 'event -= 0;',
  }),
  mutant('2.8.14: the last decision of another lap counts', PACKED, {
    find: '  queue.isSignalledKnown = 0;',
    replace: '',
  }),
  mutant('2.8.14: DESC counts though EVENT_IDX was not negotiated', PACKED, {
    find: 'flags != RING_EVENT_FLAGS_DESC || !queue.has(QUEUE_EVENT_IDX)',
    replace: 'flags != RING_EVENT_FLAGS_DESC',
  }),
  mutant('K2: direct descriptors before a table do not count', WALK, {
    find: 'CHAIN_DESCRIPTORS + 1 - (steps - left)',
    replace: '<u32>CHAIN_DESCRIPTORS',
  }),
  mutant('K3: a readable buffer may come after a writable one', WALK, {
    find: 'if (writable < walk.direction) return fail(walk, RING_ERROR_ORDER, at);',
    replace: '',
  }),
  mutant('K4: a buffer may run past its region', WALK, {
    find: 'const rest = region.size - (address - region.start);',
    replace: 'const rest = region.size;',
  }),
  mutant('K4: the second piece of a buffer lies where the first does', WALK, {
    find: 'address += <u64>piece;',
    replace: '',
  }),
  mutant('K5: INDIRECT is followed though it was not negotiated', WALK, {
    find: 'if (!queue.has(QUEUE_INDIRECT)) return RING_ERROR_INDIRECT_FEATURE;',
    replace: '',
  }),
  mutant('K5: a table may name a table', WALK, {
    find: 'if (nested) return RING_ERROR_INDIRECT_NESTED;',
    replace: '',
  }),
  mutant('K5: INDIRECT may have NEXT', WALK, {
    find: 'if ((flags & VIRTQ_DESC_F_NEXT) != 0) return RING_ERROR_INDIRECT_NEXT;',
    replace: '',
  }),
  mutant('K5: a packed table may come after NEXT', WALK, {
    find: 'if (left + 1 != steps) return fail(walk, RING_ERROR_INDIRECT_NEXT, index);',
    replace: '',
  }),
  mutant('K5: a table may be part of a descriptor', WALK, {
    find: 'length % DESC_SIZE == 0 && entries != 0',
    replace: 'entries != 0',
  }),
  mutant('K5: a table may have 65536 entries', WALK, {
    find: 'entries <= INDIRECT_ENTRIES_MAX',
    replace: 'entries <= INDIRECT_ENTRIES_MAX + 1',
  }),
  mutant('K7: a chain may have 4 GiB', WALK, {
    find: 'return walk.total <= <u64>u32.MAX_VALUE || fail(walk, RING_ERROR_BYTES, at);',
    replace: 'return true;',
  }),
  mutant('2.7.5: next may be one past the table', WALK, {
    find: 'if (at >= entries * DESC_SIZE)',
    replace: 'if (at > entries * DESC_SIZE)',
  }),
  mutant('C1: a table begins without what the record held', SLOT, {
    find: 'memory.copy(place, ownSegments(chain), CHAIN_SEGMENTS * SEGMENT_SIZE);',
    replace: '',
  }),
  mutant('C1: chains are taken though no table is free', SLOT, {
    find: 'state.freeTable != NONE &&',
    replace: '',
  }),
  mutant('T1: notifications are not asked for again', TAKE, {
    find: '    enable(queue);\n',
    replace: '',
  }),
  mutant('T1: buffers are taken before DRIVER_OK', TAKE, {
    find: 'state.has(DEVICE_RUNNING) && ',
    replace: '',
  }),
  mutant('T2: the first queue is always first', TAKE, {
    find: 'state.turn = state.turn + 1 < state.queueCount ? state.turn + 1 : 0;',
    replace: 'state.turn = 0;',
  }),
  mutant('T3: a call takes all that there is', TAKE, {
    find: 'state.budget = <u32>CHAINS * 2;',
    replace: 'state.budget = <u32>CHAINS * 64;',
  }),
  mutant('T4: a head that is in flight is taken again', TAKE, {
    find: 'if (!enterHead(queue, head)) return refuse(device, queue, RING_ERROR_IN_FLIGHT, head);',
    replace: 'enterHead(queue, head);',
  }),
  mutant('T4: a buffer id that is in flight is taken again', TAKE, {
    find: 'if (!enterHead(queue, walk.id)) return',
    replace: 'if (!enterHead(queue, walk.id) && false) return',
  }),
  mutant('T4: a head that came back stays in flight', SLOT, {
    find: 'leaveHead(queue, chain.head);',
    replace: '',
  }),
  mutant('T5: chains are taken though a request is held', TAKE, {
    find: ' || state.held != 0',
    replace: '',
  }),
  mutant('2.7.6: a head may be one past the table', TAKE, {
    find: 'if (head >= queue.size) return refuse(',
    replace: 'if (head > queue.size) return refuse(',
  }),
  mutant('U2: what is decided does not wait for its turn', USED, {
    find: 'if (chain.state != CHAIN_DONE) break;',
    replace: '',
  }),
  mutant('U2: a batch skips the places of its last list only', USED, {
    find: 'slots += chain.slots;',
    replace: 'slots = chain.slots;',
  }),
  mutant('U2: a batch is one place in the used ring', USED, {
    find: 'chains += 1;',
    replace: 'chains = 1;',
  }),
  mutant('U2: a batch has the length of all', USED, {
    find: 'length = chain.usedLength;',
    replace: 'length += chain.usedLength;',
  }),
  mutant('U3: what was published is published again', USED, {
    find: '  state.used = 0;\n',
    replace: '',
  }),
  mutant('U4: chains of a dead queue are returned', USED, {
    find: 'CHAIN_DONE;\n  if (queue.state == QUEUE_DEAD) closeChain(device, index);\n  else if',
    replace: 'CHAIN_DONE;\n  if',
  }),
  mutant('U5: chains of a copied guest are returned at once', USED, {
    find: 'else if (changetype<Device>(device).has(DEVICE_LANDS)) appendLanded(device, index);',
    replace: '',
  }),
  mutant('Y1: a peek goes past what is available', PEEK, {
    find: 'return ((queue.peek - queue.avail) & 0xffff) < waiting;',
    replace: 'return waiting != 0;',
  }),
  mutant('Y2: a peek follows a table that is not there', PEEK, {
    find: 'walk.stopsAtTable = u32(!hasTable);',
    replace: 'walk.stopsAtTable = 0;',
  }),
  mutant('Y3: what failed has written its data', PEEK, {
    find: 'chain.status == VIRTIO_BLK_S_OK ? chain.written : 0',
    replace: 'chain.written',
  }),
  mutant('N1: a split queue may have any size', QUEUE, {
    find: 'return queue.isPacked || popcnt(queue.size) == 1;',
    replace: 'return true;',
  }),
  mutant('N1: a packed queue may begin with descriptors in flight', QUEUE, {
    find: 'return queue.nextAvail == queue.nextUsed && ',
    replace: 'return ',
  }),
  mutant('N2: the driver area need not be aligned', QUEUE, {
    find: 'driver % driverAlign != 0 || ',
    replace: '',
  }),
  mutant('N2: the used ring may lie on the descriptors', QUEUE, {
    find: 'if (overlap(desc, descBytes, used, deviceBytes)) return ATTACH_OVERLAP;',
    replace: '',
  }),
  mutant('N3: nobody learns of a broken queue', QUEUE, {
    find: 'state.broken |= bitOf(queue);',
    replace: '',
  }),
  mutant('N4: a queue goes off with chains in flight', QUEUE, {
    find: 'if (queue.state == QUEUE_ON || queue.inFlight != 0) return ATTACH_BUSY;',
    replace: 'if (queue.state == QUEUE_ON) return ATTACH_BUSY;',
  }),
  mutant('I1: the memory under a device area may go', QUEUE, {
    find: 'if (<u64>(queue.device - start) < region.size) return true;',
    replace: '',
  }),
  mutant('I1: a ring may run past its region', GUEST, {
    find: 'length <= this.size - offset',
    replace: 'length <= this.size',
  }),
  mutant('I1: what was the last region is one still', GUEST, {
    find: 'last.size = 0;',
    replace: '',
  }),
  mutant('I2: the engine may be guest memory', GUEST, {
    find: 'if (<u64>address < engineEnd && end > <u64>engine) return MAP_RANGE;',
    replace: '',
  }),
  mutant('I2: guest memory may run past the memory', GUEST, {
    find: ' || end > (<u64>memory.size()) << 16',
    replace: '',
  }),
  mutant('I2: regions may overlap', GUEST, {
    find: 'if (overlap(start, size, other.start, other.size)) return MAP_RANGE;',
    replace: '',
  }),
  mutant('I3: a region may not end at 2^64', GUEST, {
    find: 'start + (size - 1) < start',
    replace: 'start + size < start',
  }),
];

const BLK = 'assembly/request/blk.ts';
const RANGES = 'assembly/request/blk-ranges.ts';
const ANSWER = 'assembly/request/blk-answer.ts';
const HOLD = 'assembly/request/hold.ts';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
const REQUESTS = [
  mutant('V1: a legacy status may have any length', BLK, {
    find: 'length != BLK_HEADER_SIZE || lastLength != 1',
    replace: 'length != BLK_HEADER_SIZE',
  }),
  mutant('V2: half a header is one', BLK, {
    find: 'if (walk.readable < <u64>BLK_HEADER_SIZE) return false;',
    replace: 'if (walk.readable < 8) return false;',
  }),
  mutant('V2: a status area is data', BLK, {
    find: 'if (length >= <u32>SECTOR_SIZE || ',
    replace: 'if (true || ',
  }),
  mutant('V3: on a read-only disk what was not negotiated is looked at first', BLK, {
    find: 'if (isReadOnly(engine) && changesDisk(type))',
    replace: 'if (isReadOnly(engine) && type == VIRTIO_BLK_T_OUT)',
  }),
  mutant('V4: DISCARD works though it was not negotiated', BLK, {
    find: 'if (device.has(DEVICE_DISCARD)) ',
    replace: 'if (true) ',
  }),
  mutant('V4: WRITE_ZEROES works though it was not negotiated', BLK, {
    find: 'if (device.has(DEVICE_WRITE_ZEROES)) ',
    replace: 'if (true) ',
  }),
  mutant('V5: byte offsets of more than 64 bits wrap', BLK, {
    find: 'sector >> SECTOR_BITS != 0 || ',
    replace: '',
  }),
  mutant('V5: a request may begin in a block', BLK, {
    find: ' || (sector & (blockSectors - 1)) != 0',
    replace: '',
  }),
  mutant('V5: data may have the other direction', BLK, {
    find: 'walk.stray != 0 || ',
    replace: '',
  }),
  mutant('V6: the barrier bit counts though it was not negotiated', BLK, {
    find: ' && device.has(DEVICE_BARRIER)',
    replace: '',
  }),
  mutant('V6: the barrier bit means nothing', BLK, {
    find: 'const flags = barrier ? REQUEST_BARRIER : 0;',
    replace: 'const flags = 0;',
  }),
  mutant('5.2.6: an id has 21 bytes', BLK, {
    find: '<u64>VIRTIO_BLK_ID_BYTES',
    replace: '<u64>VIRTIO_BLK_ID_BYTES + 1',
  }),
  mutant('L2: no range at all is a list', RANGES, {
    find: 'bytes == 0 || ',
    replace: '',
  }),
  mutant('L2: there may be more ranges than the limit says', RANGES, {
    find: ' || bytes > most',
    replace: '',
  }),
  mutant('L3: a discard may unmap', RANGES, {
    find: '(range.flags & ~flags) != 0',
    replace: '(range.flags & ~VIRTIO_BLK_RANGE_F_UNMAP) != 0',
  }),
  mutant('L1: a range past the end is found when others have begun', RANGES, {
    find: 'if (range.sector > sectors - range.sectors) return VIRTIO_BLK_S_IOERR;',
    replace: '',
  }),
  mutant('L4: a range may be longer than the limit says', RANGES, {
    find: 'range.sectors > longest || ',
    replace: '',
  }),
  mutant('W1: the last request decides the status', ANSWER, {
    find: 'if (chain.status == VIRTIO_BLK_S_OK) chain.status',
    replace: 'chain.status',
  }),
  mutant('W2: the status is not written', ANSWER, {
    find: 'store<u8>(place, <u8>chain.status);',
    replace: '',
  }),
  mutant('W3: what failed has written its data', ANSWER, {
    find: 'chain.status == VIRTIO_BLK_S_OK ? chain.written : 0',
    replace: 'chain.written',
  }),
  mutant('W4: the status of a dead queue is written', ANSWER, {
    find: 'if (Queue.at(device, chain.queue).state == QUEUE_DEAD) return;',
    replace: '',
  }),
  mutant('O1: of what is held the first is resumed', HOLD, {
    find: 'device.heldHead = slot.next;',
    replace: 'device.heldHead = NONE;',
  }),
  mutant('O1: EFBIG is no lack of space', HOLD, {
    find: '    case ERRNO_EFBIG:\n',
    replace: '',
  }),
  mutant('O1: reads have the policy of writes', HOLD, {
    find: 'isWriteClass(slot.op) ? device.writeError : device.readError',
    replace: 'device.writeError',
  }),
  mutant('O1: the reset of one queue ends what is held of another', PUMP, {
    find: 'if (<u32>slot.queue == queue) abort(engine, index);',
    replace: 'if (true) abort(engine, index);',
  }),
  mutant('O4: what fails while its queue is being reset is held', HOLD, {
    find: 'if (isOfDead(engine, slot.tag)) return ON_ERROR_REPORT; // O4',
    replace: '',
  }),
  mutant('O2: the failure of a stable write is ignored', HOLD, {
    find: 'if (action == ON_ERROR_IGNORE && slot.stable != 0) return ON_ERROR_REPORT; // O2',
    replace: '',
  }),
  mutant('T6: of a copied guest everything is taken', TAKE, {
    find: 'const chains = min(waiting, queue.copied);',
    replace: 'const chains = waiting;',
  }),
  mutant('C1: chains leave the host no room', SLOT, {
    find: 'state.outstanding + (BLK_RANGES + HOST_REQUESTS) <= <u32>REQUEST_SLOTS',
    replace: 'state.outstanding + BLK_RANGES <= <u32>REQUEST_SLOTS',
  }),
  mutant('U4: decided chains of a dead queue are kept', QUEUE, {
    find: 'if (next == QUEUE_DEAD) dropDecided(device, queue);',
    replace: '',
  }),
  mutant('K4: a buffer runs over the end of the address space', WALK, {
    find: 'if (length != 0 && address + (length - 1) < address) return',
    replace: 'if (false) return',
  }),
  mutant('O3: what the backend cannot do is an error of the medium', HOLD, {
    find: ' || errno == <u32>ERRNO_ENOTSUP',
    replace: '',
  }),
];

/** All of them. */
export const RING_MUTANTS = [...RINGS, ...RECORDS, ...REQUESTS];
