// Mutants of merging, choosing, flights, commands and the taking of requests.

import { explored, mutant } from './mutant.mjs';

const ELEVATOR = 'assembly/schedule/elevator.ts';
const DEADLINE = 'assembly/schedule/deadline.ts';
const FLIGHT = 'assembly/command/flight.ts';
const GATHER = 'assembly/command/gather.ts';
const STRIPE = 'assembly/map/stripe.ts';
const TAKE = 'assembly/request/take.ts';
const PUMP = 'assembly/pump.ts';
const LAND = 'assembly/land.ts';
const SORT = 'assembly/simd/sort.ts';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
export const MERGE_MUTANTS = [
  explored('E2: stable writes merge with volatile ones', ELEVATOR, {
    find: 'return slot.stable ? KIND_STABLE_WRITE : KIND_WRITE;',
    replace: 'return KIND_WRITE;',
  }),
  explored('E2: requests merge across a hole', ELEVATOR, {
    find: 'slot.offset != last.offset + last.length',
    replace: 'slot.offset < last.offset + last.length',
  }),
  mutant('E2: the byte limit is off by one', ELEVATOR, {
    find: 'bytes + slot.length <= <u64>changetype<Engine>(engine).mergeBytes',
    replace: 'bytes + slot.length <= <u64>changetype<Engine>(engine).mergeBytes + 1',
  }),
  mutant('E2: the segment limit is off by one', ELEVATOR, {
    find: 'segments + slot.segments <= <u32>MERGE_SEGMENTS',
    replace: 'segments + slot.segments <= <u32>MERGE_SEGMENTS + 1',
  }),
  mutant('E2: zeroes merge without a limit', ELEVATOR, {
    find: 'return bytes + slot.length <= <u64>MERGE_RANGE_BYTES;',
    replace: 'return true;',
  }),
  mutant('E2: parts of a failed flight merge again', ELEVATOR, {
    find: 'if ((slot.alone | last.alone) != 0 || slot.kind == KIND_BLOCK_STATUS) return false;',
    replace: 'if (slot.kind == KIND_BLOCK_STATUS) return false;',
  }),
  mutant('E2: all parts of a failed flight get its error', LAND, {
    find: 'else if (errno != 0 && merged) sendAgainAlone(engine, index);',
    replace: '',
  }),
  explored('E2: parts of a failed flight are reported as good', LAND, {
    find: 'else if (errno != 0 && merged) sendAgainAlone(engine, index);',
    replace: 'else if (errno != 0 && merged) finish(engine, index, STATUS_OK, 0);',
  }),
  mutant('E3: the first run goes first, not the oldest', ELEVATOR, {
    find: 'if (changetype<usize>(oldest) == 0 || run.oldest < oldest.oldest) oldest = run;',
    replace: 'if (changetype<usize>(oldest) == 0) oldest = run;',
  }),
  explored('E3: runs that do not fit are forgotten', ELEVATOR, {
    find: 'elevator.runs != 0 && i < elevator.found; i++',
    replace: 'elevator.runs > 1 && i < elevator.found; i++',
  }),
  explored('E3: the depth is exceeded by one', 'assembly/command/slot.ts', {
    find: 'return inFlight < depth ? depth - inFlight : 0;',
    replace: 'return inFlight <= depth ? depth + 1 - inFlight : 0;',
  }),
  mutant('D1: a batch has one run too many', DEADLINE, {
    find: 'sweep.left = state.batch;',
    replace: 'sweep.left = state.batch + 1;',
  }),
  mutant('D2: the sweep always begins at the start of the disk', DEADLINE, {
    find: 'return changetype<usize>(ahead) == NO_RUN ? lowest : ahead;',
    replace: 'return lowest;',
  }),
  mutant('D3: writes starve while reads come', DEADLINE, {
    find: 'else if (writesWait) sweep.passed += 1;',
    replace: '',
  }),
  mutant('D4: nothing expires', DEADLINE, {
    find: 'if (state.now - oldest.arrival < <u64>expiry) return nextInSweep(engine, reads);',
    replace: 'if (expiry != 1) return nextInSweep(engine, reads);',
  }),
  mutant('D4: the youngest has the deadline (inversion)', DEADLINE, {
    find: 'if (changetype<usize>(oldest) == NO_RUN || run.oldest < oldest.oldest) oldest = run;',
    replace: 'if (changetype<usize>(oldest) == NO_RUN || run.oldest > oldest.oldest) oldest = run;',
  }),
  explored('L1: a flight is decided by its first answer', FLIGHT, {
    find: 'return flight.outstanding == 0 && flight.sent == flight.length;',
    replace: `if (flight.value == 0x5a5a5a5a) return false;
  flight.value = 0x5a5a5a5a;
  return true;`,
  }),
  explored('L1: the error of one command of a flight is forgotten', FLIGHT, {
    find: 'if (flight.errno == 0) flight.errno = errno;',
    replace: 'flight.errno = flight.outstanding == 0 ? errno : 0;',
  }),
  mutant(
    'L2: a flight goes on after a failure',
    FLIGHT,
    {
      find: '  flight.length = flight.sent;\n',
      replace: '',
    },
    {
      find: '    if (stalledFlight(engine) == id) setStalled(engine, NONE);\n',
      replace: '',
    },
  ),
  mutant('L3: commands that share a granule go together', FLIGHT, {
    find: 'return flight.outstanding != 0 && (at & (granule - 1)) != 0;',
    replace: 'return false;',
  }),
  explored('M1: chunks go to the files in the wrong order', STRIPE, {
    find: 'extent.hostOffset = (chunk / files) * chunkBytes + within;',
    replace: 'extent.hostOffset = (chunk / files) * chunkBytes;',
  }),
  explored('M2: an answer crosses the border of a chunk', STRIPE, {
    find: 'extent.length = min(length, chunkBytes - within);',
    replace: 'extent.length = length;',
  }),

  mutant('G1: a merged table forgets where a request with a table ends', GATHER, {
    find: 'if (flight.segment < slot.segments || slot.next == NONE) return;',
    replace: 'if (flight.segment < slot.segments - 1 || slot.next == NONE) return;',
  }),
  mutant('G1: a piece begins where the last one began', GATHER, {
    find:
      '    left -= <u64>length;\n' +
      '    if (length == rest) nextSegment(flight, slot);\n' +
      '    else flight.skip += length;\n' +
      '  }\n' +
      '  return entries;',
    replace:
      '    left -= <u64>length;\n' +
      '    if (length == rest) nextSegment(flight, slot);\n' +
      '  }\n' +
      '  return entries;',
  }),
  mutant('G2: any two segments are neighbours', GATHER, {
    find: 'lastLength == <u64>address) {',
    replace: 'lastLength <= <u64>address) {',
  }),
  mutant('T1: the completion ring overflows', TAKE, {
    find: 'waiting + pool.open < <u32>RING_ENTRIES',
    replace: 'waiting < <u32>RING_ENTRIES',
  }),
  mutant('T2: offset and length are added without care', TAKE, {
    find: 'if (slot.offset > state.capacity - slot.length) return STATUS_OUT_OF_RANGE;',
    replace: 'if (slot.offset + slot.length > state.capacity) return STATUS_OUT_OF_RANGE;',
  }),
  mutant('T2: a read-only disk is written', TAKE, {
    find: 'if (isWriteClass(op) && (state.flags & CONFIG_READ_ONLY) != 0) return STATUS_READ_ONLY;',
    replace: '',
  }),
  mutant('T2: the lengths of a table need not add up', TAKE, {
    find: 'return bytes == slot.length ? STATUS_OK : STATUS_INVALID;',
    replace: 'return STATUS_OK;',
  }),
  mutant('T2: barriers are taken where none are offered', TAKE, {
    find: 'const barrier: i32 = state.has(CONFIG_BARRIER) ? REQUEST_BARRIER : 0;',
    replace: 'const barrier: i32 = REQUEST_BARRIER;',
  }),
  mutant('P1: requests are taken before answers', PUMP, {
    find: '  takeResults(engine);\n  settle(engine);\n',
    replace: '  takeRequests(engine);\n  takeResults(engine);\n  settle(engine);\n',
  }),
  mutant('P1: what refused requests leave free is not used', PUMP, {
    find: '} while (hasMore(engine));',
    replace: '} while (false);',
  }),
  mutant('P2: time goes back', 'assembly/engine.ts', {
    find: 'if (time > state.now) state.now = time;',
    replace: 'state.now = time;',
  }),

  mutant('E1: keys that are nearly sorted are taken for sorted', SORT, {
    find: 'if (prefix == count) return;',
    replace: 'if (prefix >= count - 1) return;',
  }),
  mutant('E1: a sorted start and a sorted tail are not merged', SORT, {
    find: 'if (sorted != 0) mergeRuns(keys, scratch, sorted, count - sorted);',
    replace: '',
  }),
  mutant('E1: two networks are not merged', SORT, {
    find: 'if (sorted != 0) mergeRuns(keys, scratch, sorted, part);',
    replace: '',
  }),
];
