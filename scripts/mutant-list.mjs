// The mutants of scripts/mutants.mjs: one broken promise each.

/**
 * @typedef {object} Mutant
 * @property {string} name what the mutant does wrong, with the invariant that it breaks
 * @property {string} file
 * @property {{ find: string, replace: string }[]} edits each `find` stands once in the file
 */

const FLUSH = 'assembly/schedule/flush.ts';
const STABILITY = 'assembly/schedule/stability.ts';
const HAZARD = 'assembly/schedule/hazard.ts';
const ELEVATOR = 'assembly/schedule/elevator.ts';
const PUMP = 'assembly/pump.ts';
const TAKE = 'assembly/request/take.ts';
const EMIT = 'assembly/command/emit.ts';
const OVERLAP = 'assembly/simd/overlap.ts';
const SORT = 'assembly/simd/sort.ts';

/** @type {readonly Mutant[]} */
export const MUTANTS = [
  // Flushes.
  one('F1: a flush owes one write less', FLUSH, {
    find: 'slot.need = domain.completed; // F1',
    replace: 'slot.need = domain.completed - 1;',
  }),
  one('F1: need is sampled when the sync ends, not at submission', FLUSH, {
    find: 'else if (slot.need <= domain.stable) {',
    replace: 'else if (domain.completed <= domain.stable) {',
  }),
  {
    name: 'F1: need is sampled when the sync is dispatched, not at submission',
    file: FLUSH,
    edits: [
      {
        find: 'domain.cover = domain.completed; // F2',
        replace: `domain.cover = domain.completed;
  for (let i = domain.head; i != NONE; i = Slot.at(engine, i).next) {
    Slot.at(engine, i).need = domain.completed;
  }`,
      },
      {
        find: '} else wait(engine, domain, index);\n}',
        replace:
          '} else {\n    slot.need = u64.MAX_VALUE;\n    wait(engine, domain, index);\n  }\n}',
      },
    ],
  },
  one('F2: cover is sampled when the sync ends', FLUSH, {
    find: '} else if (domain.cover > domain.stable) domain.stable = domain.cover;',
    replace: '} else domain.stable = domain.completed;',
  }),
  one('F3: a flush is elided while a sync runs', FLUSH, {
    find: 'else if (domain.stable >= slot.need) {',
    replace: 'else if (domain.running != 0 || domain.stable >= slot.need) {',
  }),
  one('F3: nothing is elided', FLUSH, {
    find: 'else if (domain.stable >= slot.need) {',
    replace: 'else if (domain.stable > slot.need) {',
  }),
  one('F4: a sync serves the first waiter only', FLUSH, {
    find: 'else if (slot.need <= domain.stable) {',
    replace: 'else if (served == 0 && slot.need <= domain.stable) {',
  }),
  one(
    'F4: a sync serves every waiter',
    FLUSH,
    {
      find: 'else if (slot.need <= domain.stable) {',
      replace: 'else {',
    },
    {
      find: '} else wait(engine, domain, index);\n    index = next;',
      replace: '}\n    index = next;',
    },
  ),
  one('F4: two syncs run at a time', FLUSH, {
    find: 'if (domain.running || domain.head == NONE) return false;',
    replace: 'if (domain.head == NONE) return false;',
  }),
  one('F5: a failed write does not raise the generation', PUMP, {
    find:
      'if (isWriteClass(first.op) && (!stableAlready || errno != 0)) ' +
      'noteVolatileWrite(engine);',
    replace:
      'if (isWriteClass(first.op) && !stableAlready && errno == 0) noteVolatileWrite(engine);',
  }),
  one('F5: a failed stable write does not raise the generation', PUMP, {
    find:
      'if (isWriteClass(first.op) && (!stableAlready || errno != 0)) ' +
      'noteVolatileWrite(engine);',
    replace: 'if (isWriteClass(first.op) && !stableAlready) noteVolatileWrite(engine);',
  }),
  {
    name: 'F5: the generation rises in the call after the one that publishes the write',
    file: PUMP,
    // Offset 504 is in the part of the region that nobody uses; it counts the delayed writes.
    edits: [
      {
        find: 'errno != 0)) noteVolatileWrite(engine);',
        replace: 'errno != 0)) count(engine, 504, 1);',
      },
      {
        find: '  takeResults(engine);\n  settle(engine);\n',
        replace:
          '  const late = load<u64>(engine + 504);\n  takeResults(engine);\n  settle(engine);\n',
      },
      {
        find: '  dispatch(engine);\n',
        replace: `  for (let i: u64 = 0; i < late; i++) noteVolatileWrite(engine);
  store<u64>(engine + 504, load<u64>(engine + 504) - late);
  dispatch(engine);\n`,
      },
    ],
  },
  one('F5: discard is not dirty', PUMP, {
    find: 'if (isWriteClass(first.op) && (!stable',
    replace: 'if (isWriteClass(first.op) && first.op != 3 && (!stable',
  }),
  one('F5: write zeroes is not dirty', PUMP, {
    find: 'if (isWriteClass(first.op) && (!stable',
    replace: 'if (isWriteClass(first.op) && first.op != 2 && (!stable',
  }),
  one('F6: the latch is not set', FLUSH, {
    find: 'changetype<Engine>(engine).latched = 1;',
    replace: '',
  }),
  one('F6: a failed sync raises stable', FLUSH, {
    find: 'changetype<Engine>(engine).latched = 1;',
    replace: 'changetype<Engine>(engine).latched = 1;\n    domain.stable = domain.cover;',
  }),
  one('F6: a failed sync raises stable and is forgotten', FLUSH, {
    find: 'changetype<Engine>(engine).latched = 1;',
    replace: 'domain.stable = domain.cover;',
  }),
  one('F6: a flush does not look at the latch', FLUSH, {
    find: 'else if (state.latched) finish(engine, index, STATUS_FLUSH_LATCHED, 0);',
    replace: '',
  }),
  one('F6: a failed sync fails the first waiter only', FLUSH, {
    find: 'if (errno != 0) finish(engine, index, STATUS_IO_ERROR, errno);',
    replace: 'if (errno != 0 && served++ == 0) finish(engine, index, STATUS_IO_ERROR, errno);',
  }),
  one('F7: a disk starts clean', FLUSH, {
    find: 'domain.completed = 1; // F7',
    replace: 'domain.completed = 0;',
  }),
  one('F8: a group commit owes one write less', FLUSH, {
    find: 'slot.need = domain.completed;\n  if (changetype',
    replace: 'slot.need = domain.completed - 1;\n  if (changetype',
  }),
  one('F8: a group commit goes on after the latch', FLUSH, {
    find: 'if (changetype<Engine>(engine).latched) {',
    replace: 'if (false) {',
  }),
  one('F8: a stable write on the plain descriptor needs no sync', PUMP, {
    find: 'if (errno == 0 && slot.stable && !stableAlready) awaitStable(engine, index);',
    replace: 'if (errno == 0 && slot.stable && slot.op != OP_WRITE) awaitStable(engine, index);',
  }),
  one('F8: stable zeroes and discards need no sync', PUMP, {
    find: 'if (errno == 0 && slot.stable && !stableAlready) awaitStable(engine, index);',
    replace: `if (errno == 0 && slot.stable && !stableAlready && slot.op == OP_WRITE) {
      awaitStable(engine, index);
    }`,
  }),

  // Classes.
  one('W1: FUA is ignored', STABILITY, {
    find: 'if (state.wce && (slot.flags & REQUEST_FUA) == 0) return;',
    replace: 'if (state.wce) return;',
  }),
  one('W1: with the write cache off, writes are volatile', STABILITY, {
    find: 'if (state.wce && (slot.flags & REQUEST_FUA) == 0) return;',
    replace: 'if ((slot.flags & REQUEST_FUA) == 0) return;',
  }),
  one('W1: unsafe writes are stable', STABILITY, {
    find: 'if ((state.flags & CONFIG_NO_FLUSH) != 0) return;',
    replace: '',
  }),
  one('W1: unsafe flushes sync', FLUSH, {
    find:
      'if ((state.flags & CONFIG_NO_FLUSH) != 0) ' +
      'finish(engine, index, STATUS_OK, 0);\n  else if',
    replace: 'if',
  }),
  one('W2: the cache goes off without a flush', PUMP, {
    find: 'if (slot.length != 0) finish(engine, index, STATUS_OK, 0);',
    replace: 'if (slot.length <= 1) finish(engine, index, STATUS_OK, 0);',
  }),
  one('W3: a FUA write goes to the plain descriptor and no sync follows', EMIT, {
    find: 'first.op, stable ? COMMAND_STABLE : zeroFlags);',
    replace: 'first.op, zeroFlags);',
  }),
  one('W3: a group commit is chosen after the latch', STABILITY, {
    find: '!changetype<Engine>(engine).latched && Stability',
    replace: 'Stability',
  }),
  one('W3: a lone stable write shares a sync with nobody', STABILITY, {
    find: 'Stability.of(engine).open > parts;',
    replace: 'Stability.of(engine).open >= parts;',
  }),
  one('W3: several stable writes go to the O_DSYNC descriptor', STABILITY, {
    find: 'Stability.of(engine).open > parts;',
    replace: 'false;',
  }),

  // Order.
  one('H1: a write does not wait for earlier writes (WAW swapped)', HAZARD, {
    find: 'let blockers = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);',
    replace: `let blockers: u32 = 0;
  if (reads(slot)) blockers = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);`,
  }),
  one('H1: a read does not wait for earlier writes (RAW swapped)', HAZARD, {
    find: 'let blockers = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);',
    replace: `let blockers: u32 = 0;
  if (!reads(slot)) blockers = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);`,
  }),
  one('H1: a write does not wait for earlier reads (WAR swapped)', HAZARD, {
    find: 'blockers += overlaps(engine, READ_STARTS, READ_ENDS, hazards.reads, slot);',
    replace: '',
  }),
  one('H1: the end of a range is rounded down', HAZARD, {
    find: 'slot.end = (slot.offset + slot.length + granule - 1) & ~(granule - 1);',
    replace: 'slot.end = (slot.offset + slot.length) & ~(granule - 1);',
  }),
  one('H1: ranges are not rounded to the granule', HAZARD, {
    find: 'const granule = <u64>changetype<Engine>(engine).blockSize;',
    replace: 'const granule: u64 = 1;',
  }),
  one('H1: overlap is off by one: the end belongs to the range', HAZARD, {
    find: 'slot.end = (slot.offset + slot.length + granule - 1) & ~(granule - 1);',
    replace: 'slot.end = ((slot.offset + slot.length + granule - 1) & ~(granule - 1)) + 1;',
  }),
  one('H1: overlap is off by one: the last byte does not belong to the range', HAZARD, {
    find: 'slot.end = (slot.offset + slot.length + granule - 1) & ~(granule - 1);',
    replace: 'slot.end = ((slot.offset + slot.length + granule - 1) & ~(granule - 1)) - 1;',
  }),
  one('H2: neighbours free each other', HAZARD, {
    find: 'return a.start < b.end && b.start < a.end && !(reads(a) && reads(b));',
    replace: 'return a.start <= b.end && b.start <= a.end && !(reads(a) && reads(b));',
  }),
  one('H2: one finished blocker is enough', HAZARD, {
    find: 'waiter.blockers -= 1;',
    replace: 'waiter.blockers = 0;',
  }),
  one('H3: a blocked write blocks nobody', HAZARD, {
    find: `append(engine, WRITE_STARTS, WRITE_ENDS, WRITE_OWNERS, hazards.writes, index);
    hazards.writes += 1;`,
    replace: `if (blockers == 0) {
      append(engine, WRITE_STARTS, WRITE_ENDS, WRITE_OWNERS, hazards.writes, index);
      hazards.writes += 1;
    }`,
  }),

  // Merging.
  one('E2: stable writes merge with volatile ones', ELEVATOR, {
    find: 'return slot.stable ? KIND_STABLE_WRITE : KIND_WRITE;',
    replace: 'return KIND_WRITE;',
  }),
  one('E2: requests merge across a hole', ELEVATOR, {
    find: 'slot.offset != last.offset + last.length',
    replace: 'slot.offset < last.offset + last.length',
  }),
  one('E2: the byte limit is off by one', ELEVATOR, {
    find: 'bytes + slot.length <= <u64>changetype<Engine>(engine).mergeBytes',
    replace: 'bytes + slot.length <= <u64>changetype<Engine>(engine).mergeBytes + 1',
  }),
  one('E2: the segment limit is off by one', ELEVATOR, {
    find: 'segments + slot.segments <= <u32>MERGE_SEGMENTS',
    replace: 'segments + slot.segments <= <u32>MERGE_SEGMENTS + 1',
  }),
  one('E2: parts of a failed command merge again', ELEVATOR, {
    find: 'if ((slot.alone | last.alone) != 0 || slot.kind == KIND_BLOCK_STATUS) return false;',
    replace: 'if (slot.kind == KIND_BLOCK_STATUS) return false;',
  }),
  one('E2: all parts of a failed command get its error', PUMP, {
    find: 'else if (errno != 0 && merged) sendAgainAlone(engine, index);',
    replace: '',
  }),
  one('E3: the first run goes first, not the oldest', ELEVATOR, {
    find: 'if (oldest.head == NONE || run.oldest < oldest.oldest) oldest = run;',
    replace: 'if (oldest.head == NONE) oldest = run;',
  }),
  one('E3: runs that do not fit are forgotten', ELEVATOR, {
    find: 'elevator.runs != 0 && i < elevator.found; i++',
    replace: 'elevator.runs > 1 && i < elevator.found; i++',
  }),
  one('E3: the depth is exceeded by one', 'assembly/command/slot.ts', {
    find: 'return inFlight < depth ? depth - inFlight : 0;',
    replace: 'return inFlight <= depth ? depth + 1 - inFlight : 0;',
  }),

  // Commands, requests, and the story.
  one('X1: a merged table forgets where a request with a table ends', EMIT, {
    find: 'i < slot.segments; i++) {',
    replace: 'i < slot.segments - 1; i++) {',
  }),
  one('X2: any two segments are neighbours', EMIT, {
    find: 'lastLength == <u64>address) {',
    replace: 'lastLength <= <u64>address) {',
  }),
  one('T1: the completion ring overflows', TAKE, {
    find: 'if (waiting + SlotPool.of(engine).open >= <u32>RING_ENTRIES) return NONE;',
    replace: 'if (waiting >= <u32>RING_ENTRIES) return NONE;',
  }),
  one('T2: offset and length are added without care', TAKE, {
    find: 'if (slot.offset > state.capacity - slot.length) return STATUS_OUT_OF_RANGE;',
    replace: 'if (slot.offset + slot.length > state.capacity) return STATUS_OUT_OF_RANGE;',
  }),
  one('T2: a read-only disk is written', TAKE, {
    find: 'if (isWriteClass(op) && (state.flags & CONFIG_READ_ONLY) != 0) return STATUS_READ_ONLY;',
    replace: '',
  }),
  one('T2: the lengths of a table need not add up', TAKE, {
    find: 'return bytes == slot.length ? STATUS_OK : STATUS_INVALID;',
    replace: 'return STATUS_OK;',
  }),
  one('P1: requests are taken before answers', PUMP, {
    find: '  takeResults(engine);\n  settle(engine);\n',
    replace: '  takeRequests(engine);\n  takeResults(engine);\n  settle(engine);\n',
  }),
  one('P1: what refused requests leave free is not used', PUMP, {
    find: 'more = takeRequests(engine);',
    replace: 'takeRequests(engine);\n    more = false;',
  }),

  // Kernels.
  one('H1: the last of an odd number of ranges is not looked at', OVERLAP, {
    find: 'ends + at, count & 1, start, end);',
    replace: 'ends + at, 0, start, end);',
  }),
  one('H1: the last pair of ranges is not looked at', OVERLAP, {
    find: 'for (; at + 16 <= bytes; at += 16) {',
    replace: 'for (; at + 32 <= bytes; at += 16) {',
  }),
  one('E1: keys that are nearly sorted are taken for sorted', SORT, {
    find: 'if (prefix == count) return;',
    replace: 'if (prefix >= count - 1) return;',
  }),
  one('E1: a sorted start and a sorted tail are not merged', SORT, {
    find: 'if (sorted != 0) mergeRuns(keys, scratch, sorted, count - sorted);',
    replace: '',
  }),
  one('E1: two networks are not merged', SORT, {
    find: 'if (sorted != 0) mergeRuns(keys, scratch, sorted, part);',
    replace: '',
  }),
];

/**
 * @param {string} name
 * @param {string} file
 * @param {{ find: string, replace: string }[]} edits
 * @returns {Mutant}
 */
function one(name, file, ...edits) {
  return { name, file, edits };
}
