// Mutants of order: hazards, superseding, barriers and resets.

import { explored, mutant } from './mutant.mjs';

const HAZARD = 'assembly/schedule/hazard.ts';
const SUPERSEDE = 'assembly/schedule/supersede.ts';
const BARRIER = 'assembly/schedule/barrier.ts';
const RESET = 'assembly/request/reset.ts';
const PUMP = 'assembly/pump.ts';
const OVERLAP = 'assembly/simd/overlap.ts';

const WRITES =
  'const conflicts = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);';
const END = 'slot.end = (slot.offset + slot.length + granule - 1) & ~(granule - 1);';
const DEVICE_RESET = 'if (Slot.at(engine, index).op == OP_RESET)';
const PLACES = 'if (slot.place != PLACE_READY && slot.place != PLACE_BLOCKED) return false;';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
export const ORDER_MUTANTS = [
  explored('H1: a write does not wait for earlier writes (WAW swapped)', HAZARD, {
    find: WRITES,
    replace: `let conflicts: u32 = 0;
  if (reads(slot)) conflicts = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);`,
  }),
  explored('H1: a read does not wait for earlier writes (RAW swapped)', HAZARD, {
    find: WRITES,
    replace: `let conflicts: u32 = 0;
  if (!reads(slot)) conflicts = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);`,
  }),
  explored('H1: a write does not wait for earlier reads (WAR swapped)', HAZARD, {
    find: 'return conflicts + overlaps(engine, READ_STARTS, READ_ENDS, hazards.reads, slot);',
    replace: 'return conflicts;',
  }),
  mutant('H1: the end of a range is rounded down', HAZARD, {
    find: END,
    replace: 'slot.end = (slot.offset + slot.length) & ~(granule - 1);',
  }),
  mutant('H1: ranges are not rounded to the granule', HAZARD, {
    find: 'const granule = <u64>changetype<Engine>(engine).blockSize;',
    replace: 'const granule: u64 = 1;',
  }),
  mutant('H1: overlap is off by one: the end belongs to the range', HAZARD, {
    find: END,
    replace: 'slot.end = ((slot.offset + slot.length + granule - 1) & ~(granule - 1)) + 1;',
  }),
  mutant('H1: overlap is off by one: the last byte does not belong to the range', HAZARD, {
    find: END,
    replace: 'slot.end = ((slot.offset + slot.length + granule - 1) & ~(granule - 1)) - 1;',
  }),
  mutant('H1: the last of an odd number of ranges is not looked at', OVERLAP, {
    find: 'ends + at, count & 1, start, end);',
    replace: 'ends + at, 0, start, end);',
  }),
  mutant('H1: the last pair of ranges is not looked at', OVERLAP, {
    find: 'for (; at + 16 <= bytes; at += 16) {',
    replace: 'for (; at + 32 <= bytes; at += 16) {',
  }),
  mutant('H2: neighbours free each other', HAZARD, {
    find: 'return a.start < b.end && b.start < a.end && !(reads(a) && reads(b));',
    replace: 'return a.start <= b.end && b.start <= a.end && !(reads(a) && reads(b));',
  }),
  explored('H2: one finished blocker is enough', HAZARD, {
    find: 'waiter.blockers -= 1;',
    replace: 'waiter.blockers = 0;',
  }),
  explored('H3: a blocked write blocks nobody (front merge over a hazard)', HAZARD, {
    find: `append(engine, WRITE_STARTS, WRITE_ENDS, WRITE_OWNERS, hazards.writes, index);
    hazards.writes += 1;`,
    replace: `if (conflicts == 0) {
      append(engine, WRITE_STARTS, WRITE_ENDS, WRITE_OWNERS, hazards.writes, index);
      hazards.writes += 1;
    }`,
  }),

  explored('U1: a write is superseded over a read between the two', SUPERSEDE, {
    find: 'return !conflictsAfter(engine, older);',
    replace: 'return true;',
  }),
  explored(
    'U1: a write that the host has is superseded',
    SUPERSEDE,
    { find: PLACES, replace: '' },
    {
      find: 'else withdrawBlocked(engine, older);',
      replace: 'else if (slot.place == PLACE_BLOCKED) withdrawBlocked(engine, older);',
    },
  ),
  explored('U1: a write is superseded by one that covers its start only', SUPERSEDE, {
    find: 'if (slot.offset + slot.length > later.offset + later.length) return false;',
    replace: 'if (slot.offset >= later.offset + later.length) return false;',
  }),
  mutant('U1: a write is superseded by one of another queue', SUPERSEDE, {
    find: 'slot.alone || slot.queue != later.queue) return false;',
    replace: 'slot.alone) return false;',
  }),
  explored('U2: a superseded write is never published', PUMP, {
    find: '    publishSuperseded(engine, index);\n',
    replace: '',
  }),
  explored('U2: a superseded write succeeds whatever becomes of the later one', PUMP, {
    find: 'taken.status = slot.status;\n    taken.errno = slot.errno;',
    replace: 'taken.status = 0;',
  }),
  explored('U2: what a superseded write had taken over is forgotten', SUPERSEDE, {
    find: 'let tail = slot.superseded;',
    replace: 'let tail = NONE;',
  }),
  mutant('U2: a write does not take over the age of what it supersedes', SUPERSEDE, {
    find: '  later.age = slot.age;\n',
    replace: '',
  }),
  explored('U3: a stable write is superseded by a volatile one', SUPERSEDE, {
    find: 'if (slot.op != OP_WRITE || slot.stable ||',
    replace: 'if (slot.op != OP_WRITE ||',
  }),

  explored('B1: requests are taken while a barrier stands', PUMP, {
    find: '  while (!barrierStands(engine)) {\n',
    replace: '  while (true) {\n',
  }),
  explored('B1: a request that is taken with a barrier is merged across it', PUMP, {
    find: 'else if (isBarrier(slot)) takeBarrier(engine, index);',
    replace: `else if (isBarrier(slot) && canTake(engine)) {
    takeBarrier(engine, index);
    const next = takeRequest(engine);
    enterQueue(engine, next);
    const slot = Slot.at(engine, next);
    if (isBarrier(slot) || slot.status) finish(engine, next, 5, 0);
    else start(engine, next);
  } else if (isBarrier(slot)) takeBarrier(engine, index);`,
  }),
  explored('B2: a barrier does not wait for reads', BARRIER, {
    find: 'return SlotPool.of(engine).open == 1 ? barrier.standing : NONE;',
    replace: `for (let i: u32 = 0; i < 1024; i++) {
    const slot = Slot.at(engine, i);
    if (slot.place != 0 && slot.op != 0 && i != barrier.standing) return NONE;
  }
  return barrier.standing;`,
  }),
  explored('B2: a barrier does not wait for the other queues', BARRIER, {
    find: 'return SlotPool.of(engine).open == 1 ? barrier.standing : NONE;',
    replace: `const queue = Slot.at(engine, barrier.standing).queue;
  for (let i: u32 = 0; i < 1024; i++) {
    const slot = Slot.at(engine, i);
    if (slot.place != 0 && slot.queue == queue && i != barrier.standing) return NONE;
  }
  return barrier.standing;`,
  }),
  explored(
    'B3: a durable barrier does not flush before',
    BARRIER,
    {
      find: 'else if (!isDirty(engine)) return true;',
      replace: 'else return true;',
    },
    {
      find: `  else {
    count(engine, COUNT_BARRIER_FLUSHES, 1);
    slot.preFlush = 1;
    awaitFlush(engine, index);
  }
  return false;`,
      replace: '  return false;',
    },
  ),
  explored('B3: the write of a durable barrier is volatile', 'assembly/schedule/stability.ts', {
    find: 'state.has(CONFIG_BARRIER_DURABLE) ? REQUEST_FUA | REQUEST_BARRIER : REQUEST_FUA;',
    replace: 'REQUEST_FUA;',
  }),
  explored('B3: a barrier whose flush failed is written and succeeds', BARRIER, {
    find: 'if (!slot.preFlush || slot.status != STATUS_OK) return false;',
    replace: 'if (!slot.preFlush) return false;\n  slot.status = STATUS_OK;',
  }),
  explored('B3: a durable barrier succeeds after the latch', BARRIER, {
    find: 'else if (state.latched) finish(engine, index, STATUS_FLUSH_LATCHED, 0); // B3',
    replace: 'else if (state.latched) return true;',
  }),
  mutant('B5: a barrier after a failure succeeds', BARRIER, {
    find: 'else if (status == STATUS_IO_ERROR || status == STATUS_NO_SPACE) barrier.failed = 1;',
    replace: '',
  }),

  explored(
    'F9: opening the latch is no fence',
    PUMP,
    {
      find: 'else if (isBarrier(slot)) takeBarrier(engine, index);',
      replace: `else if (slot.op == 9) {
    clearLatch(engine);
    finish(engine, index, STATUS_OK, 0);
  } else if (isBarrier(slot)) takeBarrier(engine, index);`,
    },
    { find: 'import {\n  awaitStable,', replace: 'import {\n  clearLatch,\n  awaitStable,' },
  ),

  explored('R1: a reset leaves what is queued to the host', PUMP, {
    find: '|| !concerns(engine, reset, index)) continue;',
    replace: '|| concerns(engine, reset, index)) continue;',
  }),
  mutant('R1: a reset ends other queues', RESET, {
    find: 'return slot.op == OP_RESET || slot.queue == Slot.at(engine, index).queue;',
    replace: 'return true;',
  }),
  explored('R2: a reset does not wait for the host', RESET, {
    find: `  if (slot.op == OP_RESET) return Resets.of(engine).open == 0;
  return Queue.at(engine, slot.queue).open == 0;`,
    replace: '  return true;',
  }),
  explored('R2: a reset forgets to publish what it ends', RESET, {
    find: '  finish(engine, index, STATUS_ABORTED, 0);',
    replace: '',
  }),
  explored('R4: a reset leaves the write cache as it is', RESET, {
    find: `${DEVICE_RESET} state.wce = u32(state.has(CONFIG_WCE)); // R4`,
    replace: '',
  }),
  explored('R4: a reset opens the latch', RESET, {
    find: `${DEVICE_RESET} state.wce = u32(state.has(CONFIG_WCE)); // R4`,
    replace: `if (Slot.at(engine, index).op == OP_RESET) {
    state.wce = u32(state.has(CONFIG_WCE));
    state.latched = 0;
  }`,
  }),
];
