// Mutants of flushes, the latch and classes: assembly/schedule/flush.ts, stability.ts.

import { explored, mutant } from './mutant.mjs';

const FLUSH = 'assembly/schedule/flush.ts';
const STABILITY = 'assembly/schedule/stability.ts';
const PUMP = 'assembly/pump.ts';
const DISPATCH = 'assembly/dispatch.ts';
const LAND = 'assembly/land.ts';
const EMIT = 'assembly/command/emit.ts';

const WRITES = 'if (isWriteClass(Slot.at(engine, flight.head).op) && ';
const BUMP = `${WRITES}(!flight.direct || errno != 0)) {`;
const AWAIT = 'if (errno == 0 && slot.stable && !flight.direct) makeStable(engine, index);';
const WAITER_DONE = 'else if (isProven(engine, slot.need)) {\n      flushes.served += 1;';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
export const FLUSH_MUTANTS = [
  explored('F1: a flush owes one write less', FLUSH, {
    find: 'slot.need = Flushes.of(engine).completed; // F1',
    replace: 'slot.need = Flushes.of(engine).completed - 1;',
  }),
  explored('F1: need is sampled after queueing, when the sync ends', FLUSH, {
    find: WAITER_DONE,
    replace: 'else if (isProven(engine, flushes.completed)) {\n      flushes.served += 1;',
  }),
  explored('F2: cover is sampled at the end of the sync', FLUSH, {
    find: 'else domain.unproven = domain.late;',
    replace: 'else domain.unproven = NEVER;',
  }),
  explored('F3: a flush is elided while a sync runs', FLUSH, {
    find: 'else if (isProven(engine, slot.need)) {\n    count',
    replace: 'else if (Domain.at(engine, 0).running || isProven(engine, slot.need)) {\n    count',
  }),
  explored('F3: nothing is elided', FLUSH, {
    find: 'else if (isProven(engine, slot.need)) {\n    count',
    replace: 'else if (false) {\n    count',
  }),
  explored('F4: a sync serves the first waiter only', FLUSH, {
    find: WAITER_DONE,
    replace:
      'else if (flushes.served == 0 && isProven(engine, slot.need)) {\n      flushes.served += 1;',
  }),
  explored(
    'F4: a sync serves every waiter',
    FLUSH,
    {
      find: WAITER_DONE,
      replace: 'else {\n      flushes.served += 1;',
    },
    {
      find: '} else append(engine, index);\n    index = next;',
      replace: '}\n    index = next;',
    },
  ),
  explored('F4: two syncs of a file run at a time', FLUSH, {
    find: '  if (domain.running) return false;\n',
    replace: '',
  }),
  explored('F4: a flush looks at the first file only', FLUSH, {
    find: 'for (let file: u32 = 0; file < files; file++) {\n    if (Domain',
    replace: 'for (let file: u32 = 0; file < 1; file++) {\n    if (Domain',
  }),
  explored('F4: only the first file is synced', PUMP, {
    find: 'if (!needsSync(engine, file)) continue;',
    replace: 'if (file != 0 || !needsSync(engine, file)) continue;',
  }),
  explored('F4: every file is synced, dirty or not', FLUSH, {
    find: 'return domain.unproven <= max(need, flushes.fence);',
    replace: 'return max(need, flushes.fence) != 0;',
  }),
  explored('F5: a failed write does not raise the generation', DISPATCH, {
    find: BUMP,
    replace: 'if (isWriteClass(Slot.at(engine, flight.head).op) && !flight.direct && errno == 0) {',
  }),
  explored('F5: a failed stable write does not raise the generation', DISPATCH, {
    find: BUMP,
    replace: 'if (isWriteClass(Slot.at(engine, flight.head).op) && !flight.direct) {',
  }),
  explored(
    'F5: the generation rises after the completion is published',
    PUMP,
    // Offset 504 is in a part of the region that nobody uses: it remembers one file.
    {
      file: DISPATCH,
      find: '    noteVolatileWrite(engine, file);',
      replace: '    store<u32>(engine + 504, file + 1);',
    },
    {
      find: '  setClock(engine, now);\n',
      replace: `  setClock(engine, now);
  const late = load<u32>(engine + 504);
  store<u32>(engine + 504, 0);
`,
    },
    {
      find: 'import { Device, hasDevice }',
      replace:
        "import { noteVolatileWrite } from './schedule/flush.ts';\nimport { Device, hasDevice }",
    },
    {
      find: '  startSyncs(engine);\n',
      replace: '  if (late) noteVolatileWrite(engine, late - 1);\n  startSyncs(engine);\n',
    },
  ),
  mutant('F5: discard is not dirty', DISPATCH, {
    find: BUMP,
    replace: `${WRITES}Slot.at(engine, flight.head).op != 3 && (!flight.direct || errno != 0)) {`,
  }),
  explored('F5: write zeroes is not dirty', DISPATCH, {
    find: BUMP,
    replace: `${WRITES}Slot.at(engine, flight.head).op != 2 && (!flight.direct || errno != 0)) {`,
  }),
  explored('F6: the latch is not set', FLUSH, {
    find: 'changetype<Engine>(engine).latched = 1;',
    replace: '',
  }),
  explored('F6: a failed sync proves its writes and is forgotten', FLUSH, {
    find: 'changetype<Engine>(engine).latched = 1;',
    replace: 'domain.unproven = domain.late;',
  }),
  explored('F6: a later success clears the latch', FLUSH, {
    find: '} else domain.unproven = domain.late;',
    replace: `} else {
    changetype<Engine>(engine).latched = 0;
    domain.unproven = domain.late;
  }`,
  }),
  explored('F6: a flush does not look at the latch', FLUSH, {
    find: 'else if (state.latched) finish(engine, index, STATUS_FLUSH_LATCHED, 0);',
    replace: '',
  }),
  explored('F6: a failed sync fails the first waiter only', FLUSH, {
    find: 'if (errno != 0) finish(engine, index, STATUS_IO_ERROR, errno);',
    replace:
      'if (errno != 0 && flushes.served++ == 0) finish(engine, index, STATUS_IO_ERROR, errno);',
  }),
  explored('F7: a disk starts clean', FLUSH, {
    find: 'domain.unproven = 1; // F7',
    replace: 'domain.unproven = NEVER;',
  }),
  explored('F8: a group commit owes one write less', FLUSH, {
    find: '  awaitFlush(engine, index);\n}',
    replace:
      '  const owed = Flushes.of(engine).completed - 1;\n' +
      '  Slot.at(engine, index).need = owed;\n  wait(engine, index);\n}',
  }),
  explored('F8: a group commit goes on after the latch', FLUSH, {
    find: 'if (changetype<Engine>(engine).latched) {',
    replace: 'if (false) {',
  }),
  explored('F8: a stable write on the plain descriptor needs no sync', LAND, {
    find: AWAIT,
    replace: 'if (errno == 0 && slot.stable && slot.op != 1) makeStable(engine, index);',
  }),
  explored('F8: stable zeroes and discards need no sync', LAND, {
    find: AWAIT,
    replace: `if (errno == 0 && slot.stable && !flight.direct && slot.op == 1) {
      makeStable(engine, index);
    }`,
  }),
  explored('F9: opening the latch trusts what was written before', FLUSH, {
    find:
      'for (let file: u32 = 0; file < state.files; file++) ' +
      'soil(engine, file, flushes.completed);',
    replace: `for (let file: u32 = 0; file < state.files; file++) {
    Domain.at(engine, file).unproven = NEVER;
  }`,
  }),
  mutant('F9: a sync that runs while the latch opens proves what came before', FLUSH, {
    find: '  if (domain.late == NEVER) domain.late = generation;\n',
    replace: '  if (domain.late == NEVER && generation & 1) domain.late = generation;\n',
  }),
  explored('F10: companions are waited for without an end', FLUSH, {
    find: `if (waited >= <u64>state.flushWait) return 0;
  return min(state.flushWait - <u32>waited, LONGEST_WAIT);`,
    replace: 'return min(state.flushWait, LONGEST_WAIT);',
  }),
  explored('F10: nobody is told when to call again', PUMP, {
    find: 'state.wait = min(state.wait, delay);',
    replace: '',
  }),

  explored('W1: FUA is ignored', STABILITY, {
    find: 'if (state.wce && (slot.flags & asks) == 0) return;',
    replace: 'if (state.wce) return;',
  }),
  explored('W1: WCE=0: a write completes without a sync', STABILITY, {
    find: 'if (state.wce && (slot.flags & asks) == 0) return;',
    replace: 'if ((slot.flags & asks) == 0) return;',
  }),
  mutant(
    'W1: unsafe writes are stable',
    STABILITY,
    {
      find: 'slot.stable = u8(state.map != 0 && (slot.flags & REQUEST_FUA) != 0); // W1',
      replace: 'slot.stable = u8(!state.wce || (slot.flags & REQUEST_FUA) != 0);',
    },
    { find: '  if (state.has(CONFIG_NO_FLUSH)) return false;\n', replace: '' },
  ),
  mutant('W1: unsafe flushes sync', FLUSH, {
    find: 'if (state.has(CONFIG_NO_FLUSH)) finish(engine, index, STATUS_OK, 0);\n  else if',
    replace: 'if',
  }),
  explored('W2: the cache goes off without a flush', PUMP, {
    find: 'if (slot.length != 0) finish(engine, index, STATUS_OK, 0);',
    replace: 'if (slot.length <= 1) finish(engine, index, STATUS_OK, 0);',
  }),
  explored('W3: a FUA write goes to the plain descriptor and no sync follows', EMIT, {
    find: 'flight.direct ? COMMAND_STABLE : zeroFlags);',
    replace: 'zeroFlags);',
  }),
  explored('W3: a host without FUA is asked for it', STABILITY, {
    find: 'if (first.op != OP_WRITE || !first.stable || !state.has(CONFIG_FUA)) return false;',
    replace: 'if (first.op != OP_WRITE || !first.stable) return false;',
  }),
  explored('W4: after the latch every stable write goes to the O_DSYNC descriptor', STABILITY, {
    find: 'return !state.latched && Stability',
    replace: 'return state.latched || Stability',
  }),
  mutant('W3: a lone stable write shares a sync with nobody', STABILITY, {
    find: 'Stability.of(engine).open <= parts;',
    replace: 'Stability.of(engine).open < parts;',
  }),
  explored('W3: several stable writes go to the O_DSYNC descriptor', STABILITY, {
    find: 'Stability.of(engine).open <= parts;',
    replace: 'true;',
  }),
];
