// Mutants of qcow2: assembly/map/qcow2 and what holds it to the rest of the engine. The tests of
// test/testing/qcow2-engine must kill every one: power cuts, kills and failures under random
// streams.

import { qcow2Mutant } from './mutant.mjs';

const MAP = 'assembly/map/qcow2';
const WORKER = `${MAP}/worker.ts`;
const GROW = `${MAP}/grow.ts`;
const FREES = `${MAP}/frees.ts`;
const RELEASE = `${MAP}/release.ts`;
const WRITE = `${MAP}/write.ts`;
const LINK = `${MAP}/link.ts`;
const WRITEBACK = `${MAP}/writeback.ts`;
const TABLES = `${MAP}/tables.ts`;
const ENTRY = `${MAP}/entry.ts`;
const CACHE = `${MAP}/cache.ts`;
const JOB = `${MAP}/job.ts`;
const ZERO = `${MAP}/zero.ts`;
const FILL = `${MAP}/fill.ts`;
const READ = `${MAP}/read.ts`;
const INDEX = `${MAP}/index.ts`;
const FIREWALL = `${MAP}/firewall.ts`;
const CLEARANCE = `${MAP}/clearance.ts`;
const RESERVE = `${MAP}/reserve.ts`;
const TASK = `${MAP}/task.ts`;
const TURNS = `${MAP}/turns.ts`;
const PUMP = 'assembly/pump.ts';
const LAND = 'assembly/land.ts';
const MAPPED = 'assembly/mapped.ts';
const WRITTEN = 'assembly/written.ts';
const FLUSH = 'assembly/schedule/flush.ts';

/** @type {readonly import('./mutant.mjs').Mutant[]} */
export const QCOW2_MUTANTS = [
  qcow2Mutant('R1: reserved clusters are handed out before the sync', WORKER, {
    find: '    case SYNC:\n      if (!fenceIsOver(map)) return false;\n',
    replace: '    case SYNC:\n',
  }),
  qcow2Mutant('R1: reserved clusters are handed out before their refcounts are written', WORKER, {
    find: '    case COUNT:\n      return writeCounts(map);',
    replace: '    case COUNT:\n      map.workerPhase = DONE;\n      return true;',
  }),
  qcow2Mutant('R1: the file is not extended over what is reserved', WORKER, {
    find: '  if (end <= map.fileBytes) return true;\n',
    replace: '  if (end != 0) return true;\n',
  }),
  qcow2Mutant('R1: an extend is not awaited', WORKER, {
    find: '  workerOrder(map, COMMAND_EXTEND, 0, end, 0);\n',
    replace: '  order(map, COMMAND_EXTEND, FILE_IMAGE, 0, end, 0, 8, 0);\n',
  }),
  qcow2Mutant('R2: reused clusters are not zeroed', WORKER, {
    find: '  if (old <= start) return true;\n',
    replace: '  if (end != 0) return true;\n',
  }),
  qcow2Mutant('R2: the last of the reused clusters is not zeroed', WORKER, {
    find: 'start, old - start, 0, IO_WORKER, 0);',
    replace: 'start, min(old - start, map.clusterBytes), 0, IO_WORKER, 0);',
  }),
  qcow2Mutant('R3: a refcount block is linked before it is stable', WORKER, {
    find: '    case SYNC:\n      if (!fenceIsOver(map)) return false;\n',
    replace:
      '    case SYNC:\n      if (map.workerBlocks == 0 && !fenceIsOver(map)) return false;\n',
  }),
  qcow2Mutant('R3: what a new block counts is taken before the link is stable', WORKER, {
    find: '    case LINK_SYNC:\n      if (!fenceIsOver(map)) return false;\n',
    replace: '    case LINK_SYNC:\n',
  }),
  qcow2Mutant('R3: a new block is never linked', WORKER, {
    find: 'map.workerBlocks != 0 ? LINK : DONE',
    replace: 'DONE',
  }),
  qcow2Mutant('R3: a new block is handed out', WORKER, {
    find: '  const block = <u64>map.workerBlocks;\n',
    replace: '  const block: u64 = 0;\n',
  }),
  qcow2Mutant('R5: what was reserved is taken although that has failed', WORKER, {
    find: '  if (map.workerErrno != 0) return failReserve(map);\n',
    replace: '  map.workerErrno = 0;\n',
  }),
  qcow2Mutant('R5: the counts of what could not be reserved stay', WORKER, {
    find: '    if (map.workerBlocks == 0) setCounts(map, map.workerStart, 0);\n    else if',
    replace: '    if (map.workerBlocks == 0) {\n    } else if',
  }),
  // One without the other goes on for ever only where the cache is full of what is kept.
  qcow2Mutant(
    'V1, V2: everybody loads at once and keeps nothing',
    TURNS,
    {
      find: '  map.turnLimit = max(1, min(map.l2Slices, map.refcountSlices) >> 1);',
      replace: '  map.turnLimit = 1000;',
    },
    {
      find: '  const slot = reason & SLOT_MASK;\n',
      replace: '  const slot = reason & SLOT_MASK;\n  if (slot != SLOT_MASK) return;\n',
    },
  ),
  qcow2Mutant('V2: a turn never ends', TURNS, {
    find: '  job.hasTurn = 0;\n  map.turns -= 1;\n',
    replace: '  job.hasTurn = 0;\n',
  }),
  qcow2Mutant('V1: who waits for a turn is not told', INDEX, {
    find: '  giveTurns(map);\n',
    replace: '',
  }),
  qcow2Mutant('R5: where many clusters have no room, none has', WORKER, {
    find: '  const triesFewer = lacksRoom && map.reserveNext > 1;',
    replace: '  const triesFewer = false;',
  }),
  qcow2Mutant('R6: a pointer that could not be written is not in the file', WORKER, {
    find: '      map.unlinked = newBlock(map) + 1; // R6\n',
    replace: '      store<u64>(map.place(map.tableAt) + ((<usize>newBlock(map)) << 3), 0);\n',
  }),
  // Not waiting for the sync of what mends is none: the sync of the counts comes before clusters
  // are taken, and covers it.
  qcow2Mutant('R6: a header that was written again is not synced', INDEX, {
    find: 'map.tableUnsure = TABLE_REWRITTEN;',
    replace: 'map.tableUnsure = 0;',
  }),
  qcow2Mutant('R5: a cluster is handed out twice', RESERVE, {
    find: '  run.start += count;\n',
    replace: '  run.start += count - 1;\n',
  }),
  qcow2Mutant('R1: after a failed sync a fence is passed', TASK, {
    find: '  if (!stable) map.workerErrno = ERRNO_EIO;\n',
    replace: '',
  }),
  qcow2Mutant('R4: the header points to a table that is not stable', GROW, {
    find: '      if (!fenceIsOver(map)) return false;\n      map.workerPhase = HEADER;',
    replace: '      map.workerPhase = HEADER;',
  }),
  // That the old table is given back only when the header is stable (R4) cannot be seen: the
  // reserve that wanted it goes on, and its sync covers the header before anything is released.
  qcow2Mutant('R4: the old table is not given back', GROW, {
    find: '  returnClusters(map, map.tableOffset, map.tableEntries / perCluster);\n',
    replace: '',
  }),
  qcow2Mutant('R4: the header goes on pointing to the old table', GROW, {
    find: '  workerOrder(map, COMMAND_WRITE, 0, HEADER_COPY_BYTES, HEADER_COPY);\n',
    replace: '',
  }),
  qcow2Mutant(
    'R4: the new table is not counted',
    GROW,
    {
      find: 'const count = min(perSlice, map.workerCount - map.workerAt);',
      replace:
        'const count = min(perSlice, map.workerCount - map.workerAt);\n' +
        '  const counted = min(count, <u64>map.workerBlocks);',
    },
    {
      find: 'for (let i: u64 = 0; i < count; i++) setRefcount',
      replace: 'for (let i: u64 = 0; i < counted; i++) setRefcount',
    },
  ),
  qcow2Mutant('D1: a refcount drops before the removal of the entry is stable', FREES, {
    find:
      '  return free.change <= map.written && (map.noFlush != 0 ||' +
      ' map.writtenGeneration <= map.proven);',
    replace: '  return free.change <= map.written;',
  }),
  qcow2Mutant('D1: a refcount drops before the entry is written', FREES, {
    find:
      '  return free.change <= map.written && (map.noFlush != 0 ||' +
      ' map.writtenGeneration <= map.proven);',
    replace: '  return true;',
  }),
  // That a cluster is not freed while a flight may read it (D1) cannot be seen: hazards keep those
  // who read it before those who drop it.
  qcow2Mutant('D2: the list of frees has room without end', FREES, {
    find: '  return map.freeCount + map.freePromised + runs <= <u32>FREE_RUNS - GROWTHS;',
    replace: '  return runs != 0;',
  }),
  qcow2Mutant('D1: what follows on a run is freed as early as that', FREES, {
    find: '      last.change = change;\n',
    replace: '',
  }),
  qcow2Mutant('L1: a hole is made although a snapshot has the cluster, too', RELEASE, {
    find: 'if (count == 1 && !addHole',
    replace: 'if (!addHole',
  }),
  qcow2Mutant(
    'L1: a hole is not awaited',
    RELEASE,
    {
      find:
        '  workerOrder(map, COMMAND_DISCARD, offset, map.punchCount <<' +
        ' (<u64>map.clusterBits), 0);',
      replace:
        '  order(map, COMMAND_DISCARD, 0, offset, map.punchCount <<' +
        ' (<u64>map.clusterBits), 0, 8, 0);',
    },
    { find: 'import { hasIo } from', replace: 'import { hasIo, order } from' },
  ),
  qcow2Mutant('L2: a reference too many is dropped', RELEASE, {
    find: 'setRefcount(map, map.foundSlot, cluster, count - 1);',
    replace: 'setRefcount(map, map.foundSlot, cluster, count == 2 ? 0 : count - 1);',
  }),
  qcow2Mutant('N4: data is never stable before its entry', LINK, {
    find: 'job.ordered != 0 ? map.generation : 0',
    replace: '0',
  }),
  qcow2Mutant('N4: an entry waits for all data but its own', LINK, {
    find: 'job.ordered != 0 ? map.generation : 0',
    replace: 'job.ordered != 0 ? map.generation - 1 : 0',
  }),
  qcow2Mutant('N4: over a backing disk data and entry share a sync', WRITE, {
    find: '    job.ordered = u32(!readsZero(map, job, i));',
    replace:
      '    const at = entryAddress(map, job.slot, job.index + i);\n' +
      '    job.ordered = u32(holdsData(map, entryAt(at), bitmapAt(map, at)));',
  }),
  qcow2Mutant('N4: over a compressed cluster data and entry share a sync', WRITE, {
    find: '    job.ordered = u32(!readsZero(map, job, i));',
    replace:
      '    const packed = (entryAt(entryAddress(map, job.slot, job.index + i)) >>' +
      ' 62) & 1;\n' +
      '    job.ordered = u32(packed == 0 && !readsZero(map, job, i));',
  }),
  qcow2Mutant('N4: a copied cluster and its entry share a sync', WRITE, {
    find: '    job.ordered = u32(!readsZero(map, job, i));',
    replace:
      '    const at = entryAddress(map, job.slot, job.index + i);\n' +
      '    const holds = holdsData(map, entryAt(at), bitmapAt(map, at));\n' +
      '    job.ordered = u32(!holds && !readsZero(map, job, i));',
  }),
  qcow2Mutant('N4: in a zero cluster that has a place data and entry share a sync', WRITE, {
    find: '  job.ordered = u32(!clean);\n',
    replace: '  job.ordered = 0;\n',
  }),
  qcow2Mutant('N4: only the first cluster of a job decides whether data must be stable', WRITE, {
    find: 'i < job.clusters && job.ordered == 0; i++',
    replace: 'i < 1 && job.ordered == 0; i++',
  }),
  qcow2Mutant('N5: a job that has failed is linked', WRITE, {
    find: '  if (errno != 0) return undo(map, id);\n',
    replace: '',
  }),
  qcow2Mutant('N5: the clusters of a job that has failed are forgotten', WRITE, {
    find: '    returnClusters(map, first, job.clusters);',
    replace: '    if (first == 0) returnClusters(map, first, job.clusters);',
  }),
  qcow2Mutant('N6: what an entry pointed to is not dropped', LINK, {
    find: '    if (job.isNew != 0) dropPlace(map, old);\n',
    replace: '',
  }),
  qcow2Mutant('N6: of a compressed cluster that straddles two only the first is dropped', LINK, {
    find: '<u32>(last - first + 1)',
    replace: '1',
  }),
  qcow2Mutant('N3: what is before the data is not copied', WRITE, {
    find: '  job.headBytes = clean && readsZero(map, job, 0) ? 0 : <u32>head;',
    replace: '  job.headBytes = head == 0 ? <u32>head : 0;',
  }),
  qcow2Mutant('N3: what is behind the data is not copied', WRITE, {
    find: 'endsInPlace(map, job) ? 0 : <u32>tail;',
    replace: 'endsInPlace(map, job) || tail != 0 ? 0 : <u32>tail;',
  }),
  qcow2Mutant('N3: the rest of a subcluster is filled beside an in-place write', WRITE, {
    find: '(clean && readsZero(map, job, last)) || endsInPlace(map, job) ?',
    replace: 'clean && readsZero(map, job, last) ?',
  }),
  qcow2Mutant('N3: the backing disk is read past its end, to fill', FILL, {
    find: '    bytes = min(bytes, map.backingBytes - job.fillAt);\n',
    replace: '',
  }),
  qcow2Mutant('N3: zeroes are filled from the backing disk', FILL, {
    find: 'if (type == UNALLOCATED && map.has(MAP_BACKING) &&',
    replace: 'if (map.has(MAP_BACKING) &&',
  }),
  qcow2Mutant('N3: of a compressed cluster head and tail are read by themselves', FILL, {
    find: 'job.fillAt = ahead == 0 && job.clusters == 1 ? u64.MAX_VALUE : stop;',
    replace: 'job.fillAt = u64.MAX_VALUE;',
  }),
  qcow2Mutant('R1 of reading: the backing disk is read past its end', READ, {
    find: '    extent.length = min(length, map.backingBytes - guest);',
    replace: '    extent.length = length;',
  }),
  qcow2Mutant('subclusters: the last one of a write is left out', LINK, {
    find: 'const end = (to - start + unit - 1) >>',
    replace: 'const end = (to - start) >>',
  }),
  qcow2Mutant('subclusters: the first one of a write is left out', LINK, {
    find: 'const first = (from - start) >> <u64>map.unitBits;',
    replace: 'const first = (from - start + unit - 1) >> <u64>map.unitBits;',
  }),
  qcow2Mutant('subclusters: a write leaves the zero bits', LINK, {
    find: '(bitmap & ~(mask << 32)) | mask',
    replace: 'bitmap | mask',
  }),
  qcow2Mutant('subclusters: zeroing takes one too many', ZERO, {
    find: 'const mask = (((<u64>1) << count) - 1) << first;',
    replace: 'const mask = (((<u64>1) << (count + 1)) - 1) << first;',
  }),
  qcow2Mutant('subclusters: zeroing leaves the data bits', ZERO, {
    find: 'const next = (bitmap & ~mask) | (mask << 32);',
    replace: 'const next = bitmap | (mask << 32);',
  }),
  qcow2Mutant('B2: two jobs give one cluster a place', JOB, {
    find: '    if (end <= cluster) continue;\n',
    replace: '    if (end != 0) continue;\n',
  }),
  qcow2Mutant('T3: an L2 table that a snapshot shares is changed', TABLES, {
    find: '  if ((entry & COPIED) == 0) return copyTable',
    replace: '  if (entry == 0) return copyTable',
  }),
  qcow2Mutant('T3: the L1 entry is written before the copied table is stable', TABLES, {
    find: 'map.copyTo | COPIED, map.generation);',
    replace: 'map.copyTo | COPIED, 0);',
  }),
  qcow2Mutant('T3: the reference to the shared table is kept', TABLES, {
    find: '    dropTable(map, map.copyFrom);\n',
    replace: '',
  }),
  qcow2Mutant('T3: the cluster of a copy that has failed is forgotten', TABLES, {
    find: '  if (errno != 0) returnClusters(map, map.copyTo, 1);\n  else if',
    replace: '  if (errno != 0) {\n  } else if',
  }),
  qcow2Mutant('N1: a cluster that a snapshot shares is written in place', ENTRY, {
    find: 'return hasPlace(map, entry) && (map.has(MAP_DATA_FILE) || (entry & COPIED) != 0);',
    replace: 'return hasPlace(map, entry);',
  }),
  qcow2Mutant('K1: what changes after the copy is written with it', WRITEBACK, {
    find: '    const at = copyAt(map, map.stagedSent);\n',
    replace:
      '    let at = copyAt(map, map.stagedSent);\n' +
      '    if (copy.kind != OF_L1) {\n' +
      '      const live = cacheOf(map, copy.kind);\n' +
      '      at = live.dataAt + (copy.index << live.sliceBits);\n' +
      '    }\n',
  }),
  qcow2Mutant('K2: entries do not wait for their data', WRITEBACK, {
    find: '  if (map.noFlush == 0 && map.proven < map.cycleFence) {',
    replace: '  if (map.noFlush == 0 && map.proven + 1000 < map.cycleFence) {',
  }),
  qcow2Mutant('K2: after a failed sync entries are written all the same', WRITEBACK, {
    find: '  if (map.noFlush == 0 && map.proven < map.cycleFence) {',
    replace: '  if (map.latched == 0 && map.proven < map.cycleFence) {',
  }),
  qcow2Mutant('K2: what failed behind a fence is clean', WRITEBACK, {
    find: '      putBack(map, copy);\n    }\n    map.cyclePhase = GATHER;',
    replace: '    }\n    map.cyclePhase = GATHER;',
  }),
  qcow2Mutant('K4: what could not be written is clean', WRITEBACK, {
    find: '    putBack(map, copy);\n  }\n  map.cycleLeft -= 1;',
    replace: '  }\n  map.cycleLeft -= 1;',
  }),
  qcow2Mutant('K4: a cycle that has failed counts as one that has not', WRITEBACK, {
    find: '  map.lastErrno = map.cycleErrno;\n',
    replace: '  map.cycleErrno = 0;\n  map.lastErrno = 0;\n',
  }),
  qcow2Mutant('K4: tables are stable when they are written', WRITEBACK, {
    find: '    map.writtenGeneration = map.generation;\n',
    replace: '    map.writtenGeneration = 0;\n',
  }),
  qcow2Mutant('A1: dirty slices are given up', CACHE, {
    find: '    if ((slice.dirty | slice.writing) != 0) continue;\n',
    replace: '    if (slice.writing != 0) continue;\n',
  }),
  qcow2Mutant('A1: slices that are being written are given up', CACHE, {
    find: '    if ((slice.dirty | slice.writing) != 0) continue;\n',
    replace: '    if (slice.dirty != 0) continue;\n',
  }),
  qcow2Mutant('A1: pins are ignored', CACHE, {
    find: 'if (slice.state == SLICE_LOADING || (slice.pins | slice.kept) != 0) continue;',
    replace: 'if (slice.state == SLICE_LOADING || slice.kept != 0) continue;',
  }),
  qcow2Mutant('A2: a slice that could not be loaded is used', INDEX, {
    find: '  if (errno != 0) forgetSlice(map, cache, slot);\n  else Slice',
    replace: '  Slice',
  }),
  qcow2Mutant('closing: the reserve is kept', INDEX, {
    find: '  if (map.closing != 0) giveUpReserve(map);\n',
    replace: '',
  }),
  qcow2Mutant('closing: the reserve is forgotten', INDEX, {
    find: '    returnClusters(map, taken(map), count);',
    replace: '    if (count == 0) returnClusters(map, taken(map), count);',
  }),
  qcow2Mutant('X1: a flush does not wait for tables', PUMP, {
    find: '  if (!mustBeWritten(engine, index, AFTER_FLUSH)) takeFlush(engine, index);',
    replace: '  takeFlush(engine, index);',
  }),
  qcow2Mutant('X1: a stable write does not wait for its tables', LAND, {
    find: '  if (!mustBeWritten(engine, index, AFTER_STABLE)) awaitStable(engine, index);',
    replace: '  awaitStable(engine, index);',
  }),
  qcow2Mutant('X1: a barrier does not wait for tables', PUMP, {
    find: '  if (!mustBeWritten(engine, index, AFTER_BARRIER)) beginBarrier(engine, index);',
    replace: '  beginBarrier(engine, index);',
  }),
  qcow2Mutant('X2: a flush whose tables could not be written succeeds', WRITTEN, {
    find: '    finish(engine, index, STATUS_IO_ERROR, errno);',
    replace: '    finish(engine, index, 0, 0);',
  }),
  qcow2Mutant('direct: tables are stable when they are written', MAPPED, {
    find: '  return isWritten(map) && map.writtenGeneration <= provenGeneration(engine);',
    replace: '  return isWritten(map);',
  }),
  qcow2Mutant('direct: a stable write goes in place although tables are not stable', MAPPED, {
    find: '  return isWritten(map) && map.writtenGeneration <= provenGeneration(engine);',
    replace: '  return map.latched == 0;',
  }),
  qcow2Mutant('direct: a write that waited is direct although tables have changed', MAPPED, {
    find: '      if (flight.direct && !tablesAreStable(engine)) flight.direct = 0;\n',
    replace: '',
  }),
  qcow2Mutant('direct: the write of a job counts as stable', MAPPED, {
    find: '      flight.direct = 0;\n      emitNew',
    replace: '      emitNew',
  }),
  qcow2Mutant('F5: writes of tables do not raise the generation', MAPPED, {
    find: '  if (changesFile(map, id)) noteVolatileWrite(engine, FILE_IMAGE);\n',
    replace: '',
  }),
  qcow2Mutant('F11: the data file is not looked at', FLUSH, {
    find: '  for (let file: u32 = 0; file < files; file++)\n    first = min',
    replace: '  for (let file: u32 = 0; file < min(files, 1); file++)\n    first = min',
  }),
  qcow2Mutant("Z2: clusters that are not the guest's alone keep their place", ZERO, {
    find: 'const keeps = isOwned(map, entry) &&',
    replace: 'const keeps = (entry & COMPRESSED) == 0 && hasPlace(map, entry) &&',
  }),
  qcow2Mutant('Z2: the place of a zeroed cluster is not dropped', ZERO, {
    find: '  if (!keeps) dropPlace(map, entry);\n',
    replace: '',
  }),
  qcow2Mutant('Z3: a part that shows the backing disk counts as zeroes', ZERO, {
    find: 'type != PACKED && !shows;',
    replace: 'type != PACKED;',
  }),
  qcow2Mutant('Z1: version 2 unmaps over a backing disk', ZERO, {
    find: '((wish & WISH_UNMAP) != 0 && !map.has(MAP_BACKING))',
    replace: '(wish & WISH_UNMAP) != 0',
  }),
  qcow2Mutant('Z4: a cluster that loses its place shows the backing disk', ZERO, {
    find: 'const flag: u64 = extended ? 0 : ZERO;',
    replace: 'const flag: u64 = extended || !keeps ? 0 : ZERO;',
  }),
  qcow2Mutant('O1: data may overlap tables', FIREWALL, {
    find: '  if (!isMetadata) return false;\n',
    replace: '  if (length != 0) return false;\n',
  }),
  qcow2Mutant('O1: tables are handed out as new clusters', WORKER, {
    find: '  if (isTaken) {',
    replace: '  if (isTaken && bytes == 0) {',
  }),
  qcow2Mutant('O2: the corrupt bit is not written', FIREWALL, {
    find: '  map.headerDirty = 1;\n  writeHeader(map);\n',
    replace: '',
  }),
  qcow2Mutant('O2: writes go on in a corrupt image', WRITE, {
    find:
      '  if (map.corrupt != 0 || map.has(MAP_READ_ONLY)) return answerError(extent,' +
      ' ERRNO_EIO);\n',
    replace: '',
  }),
  qcow2Mutant('O3: the refcount of a cluster to write is not looked at', CLEARANCE, {
    find: '  if (count != 1 || host >= map.fileBytes || isReserved(map, cluster)) {',
    replace: '  if (count == 0 || host >= map.fileBytes || isReserved(map, cluster)) {',
  }),
];
