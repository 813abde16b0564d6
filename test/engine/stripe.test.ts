// Several host files: M1 of assembly/map/stripe.ts, L1-L3 of assembly/command/flight.ts, and F4 of
// flush.ts with a domain for each file; durability section 8.

import { describe, expect, it } from 'vitest';
import type { EngineConfig } from '../driver.ts';
import { type Build, BUILDS } from '../support/engine.ts';
import { BARRIER, FUA, Rig, textOf } from './rig.ts';

const EIO = 5;
const ENOSPC = 28;
const CHUNK = 4096;

/** Three files, chunks of 4 KiB. */
const STRIPE: Partial<EngineConfig> = { files: 3, chunkBytes: CHUNK };

function clean(build: Build, config: Partial<EngineConfig> = {}): Rig {
  return new Rig(build, { ...STRIPE, ...config }).clean();
}

describe.each(BUILDS)('where a chunk lies ($name build)', (build) => {
  it('M1: chunk c of the disk is chunk floor(c / files) of file c mod files', () => {
    for (const files of [1, 2, 3, 7, 8]) {
      for (const chunkBytes of [512, 4096, 65536]) {
        const rig = new Rig(build, { files, chunkBytes, depth: 256, mergeBytes: 0 });
        for (let chunk = 0; chunk < 16; chunk++) {
          const within = (chunk * 128) % chunkBytes;
          rig.read(chunk * chunkBytes + within, 128, { data: 720896 });
          rig.pump();
          const inFile = Math.floor(chunk / files) * chunkBytes + within;
          expect(rig.inFlight.at(-1)).toMatchObject({ file: chunk % files, offset: inFile });
        }
      }
    }
  });

  it('M1: with one file offsets are those of the disk, and nothing is cut', () => {
    const rig = new Rig(build, { files: 1, chunkBytes: 512 });
    rig.read(100, 40_000);
    expect(rig.pump()).toEqual(['READ 100+40000']);
  });

  it('M1: at the end of the largest disk no number is cut', () => {
    const capacity = 2 ** 53 - 1;
    for (const chunkBytes of [512, 2 ** 31]) {
      const rig = new Rig(build, { files: 8, chunkBytes, capacity });
      rig.read(capacity - 100, 100);
      rig.pump();
      const chunk = Math.floor((capacity - 100) / chunkBytes);
      const within = (capacity - 100) % chunkBytes;
      const offset = Math.floor(chunk / 8) * chunkBytes + within;
      expect(rig.inFlight).toMatchObject([{ file: chunk % 8, offset, length: 100 }]);
    }
  });

  it('M1: a request that spans chunks is cut at their borders, in ascending order', () => {
    for (const op of ['read', 'write', 'writeZeroes', 'discard'] as const) {
      const rig = clean(build);
      rig[op](3000, 10_000);
      rig.pump();
      expect(rig.inFlight).toMatchObject([
        { file: 0, offset: 3000, length: 1096 },
        { file: 1, offset: 0, length: 4096 },
        { file: 2, offset: 0, length: 4096 },
        { file: 0, offset: 4096, length: 712 },
      ]);
      expect(rig.engine.counters()).toMatchObject({ commands: 4, merged: 0 });
    }
  });

  it('M1: a status answers for its first piece only', () => {
    const rig = clean(build);
    const tag = rig.blockStatus(3000, 10_000, { data: 800_000 });
    expect(rig.pump()).toEqual(['STATUS 3000+1096']);
    expect(rig.inFlight).toMatchObject([{ file: 0, data: 800_000 }]);
    rig.answerAndPump('STATUS 3000+1096', 0, 3);
    expect(rig.completions.at(-1)).toEqual({ tag, status: 0, value: 3, errno: 0 });
    expect(rig.run()).toEqual([]);
  });

  it('M1: flags go with every piece', () => {
    const rig = clean(build);
    rig.writeZeroes(0, 8192, { flags: 6 });
    rig.write(16_384, 8192, FUA);
    expect(rig.pump()).toEqual([
      'ZERO 0+4096 MAY_UNMAP FAST',
      'ZERO 0+4096 MAY_UNMAP FAST @1',
      'WRITE 4096+4096 @1',
      'WRITE 4096+4096 @2',
    ]);
  });

  it('M1: each piece carries its own bytes (G1 of gather.ts)', () => {
    const rig = clean(build);
    const table = rig.table([
      [800_000, 4000],
      [804_000, 100],
      [900_000, 4604],
    ]);
    rig.write(4096, 8704, { segments: 3, data: table });
    rig.write(12_800, 512, { data: 904_604 });
    rig.pump();
    expect(rig.inFlight.map((command) => [textOf(command), command.table])).toEqual([
      ['WRITE 0+4096 @1', [{ address: 800_000, length: 4096 }]],
      [
        'WRITE 0+4096 @2',
        [
          { address: 804_096, length: 4 },
          { address: 900_000, length: 4092 },
        ],
      ],
      ['WRITE 4096+1024', [{ address: 904_092, length: 1024 }]],
    ]);
  });

  it('M1: a request that lies whole in a chunk is handed on as it is, table and all', () => {
    const rig = clean(build);
    const table = rig.table(Array.from({ length: 100 }, (_, i) => [800_000 + i * 32, 32] as const));
    rig.write(4096, 3200, { segments: 100, data: table });
    rig.pump();
    expect(rig.inFlight).toMatchObject([{ segments: 100, data: table, file: 1, offset: 0 }]);
  });
});

describe.each(BUILDS)('flights ($name build)', (build) => {
  const PIECES = ['WRITE 0+4096', 'WRITE 0+4096 @1', 'WRITE 0+4096 @2'];

  it('L1: a request is done when all its pieces are answered, in any order', () => {
    for (const order of [PIECES, PIECES.toReversed()]) {
      const rig = clean(build);
      const tag = rig.write(0, 3 * CHUNK);
      expect(rig.pump()).toEqual(PIECES);
      for (const piece of order) {
        expect(rig.status(tag)).toBe('open');
        rig.answerAndPump(piece);
      }
      expect(rig.status(tag)).toBe('OK');
    }
  });

  it('L1: the errno is that of the first failure that is answered', () => {
    const rig = clean(build);
    const tag = rig.write(0, 3 * CHUNK);
    rig.pump();
    rig.answerAndPump(PIECES[2]!, ENOSPC);
    rig.answerAndPump(PIECES[0]!, EIO);
    expect(rig.status(tag)).toBe('open');
    rig.answerAndPump(PIECES[1]!);
    expect(rig.completions.at(-1)).toEqual({ tag, status: 2, value: 0, errno: ENOSPC });
  });

  it('L1: what overlaps a request waits for all its pieces (H2)', () => {
    const rig = clean(build);
    rig.write(0, 2 * CHUNK);
    rig.read(0, 512);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+4096')).toEqual([]);
    expect(rig.answerAndPump('WRITE 0+4096 @1')).toEqual(['READ 0+512']);
  });

  it('L1, S14: when a flight of several requests fails, each is sent again alone', () => {
    const rig = clean(build);
    const tags = [rig.write(0, 2048), rig.write(2048, 4096), rig.write(6144, 2048)];
    expect(rig.pump()).toEqual(['WRITE 0+4096', 'WRITE 0+4096 @1']);
    rig.answerAndPump('WRITE 0+4096', EIO);
    expect(rig.answerAndPump('WRITE 0+4096 @1')).toEqual([
      'WRITE 0+2048',
      'WRITE 2048+2048',
      'WRITE 0+2048 @1',
      'WRITE 2048+2048 @1',
    ]);
    rig.answer('WRITE 0+2048', EIO);
    expect(rig.run()).toEqual([]);
    expect(rig.statuses(tags)).toEqual(['IO_ERROR', 'OK', 'OK']);
    expect(rig.engine.counters()).toMatchObject({ reissued: 3, merged: 2, commands: 6 });
  });

  it('L2: after a failure no more pieces are sent', () => {
    const rig = clean(build, { depth: 1 });
    const tag = rig.write(0, 3 * CHUNK);
    rig.read(65536, 512);
    expect(rig.pump()).toEqual(['WRITE 0+4096']);
    expect(rig.answerAndPump('WRITE 0+4096')).toEqual(['WRITE 0+4096 @1']);
    expect(rig.answerAndPump('WRITE 0+4096 @1', EIO)).toEqual(['READ 20480+512 @1']);
    expect(rig.status(tag)).toBe('IO_ERROR');
  });

  it('L2: a failure is decided when the pieces at the host are answered too', () => {
    const rig = clean(build, { depth: 2 });
    const tag = rig.write(0, 6 * CHUNK);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+4096', EIO)).toEqual([]);
    expect(rig.status(tag)).toBe('open');
    expect(rig.answerAndPump('WRITE 0+4096 @1')).toEqual([]);
    expect(rig.status(tag)).toBe('IO_ERROR');
    expect(rig.engine.counters().commands).toBe(2);
  });

  it('a flight that the host has not taken whole goes on before others start', () => {
    const rig = clean(build, { depth: 2 });
    rig.write(0, 5 * CHUNK);
    rig.write(65536, 512);
    expect(rig.pump()).toEqual(['WRITE 0+4096', 'WRITE 0+4096 @1']);
    expect(rig.answerAndPump('WRITE 0+4096')).toEqual(['WRITE 0+4096 @2']);
    expect(rig.answerAndPump('WRITE 0+4096 @1')).toEqual(['WRITE 4096+4096']);
    expect(rig.answerAndPump('WRITE 0+4096 @2')).toEqual(['WRITE 4096+4096 @1']);
    expect(rig.answerAndPump('WRITE 4096+4096')).toEqual(['WRITE 20480+512 @1']);
  });

  it('E3: no more commands are at the host than the depth says, pieces and all', () => {
    for (const depth of [1, 2, 5, 256]) {
      const rig = clean(build, { depth, chunkBytes: 512 });
      for (let i = 0; i < 20; i++) rig.read(i * 20_480, 20_000, { data: 720896 });
      rig.pump();
      for (let turn = 0; rig.inFlight.length > 0; turn++) {
        expect(rig.inFlight.length).toBeLessThanOrEqual(depth);
        const [command] = rig.inFlight.splice(turn % rig.inFlight.length, 1);
        rig.engine.result(command!.id, 0);
        rig.pump();
      }
      expect(rig.completions.filter(({ status }) => status === 0)).toHaveLength(21);
    }
  });

  it('E3: an older request goes before a younger one that takes several commands', () => {
    const rig = clean(build, { depth: 2, mergeBytes: 0 });
    rig.write(5 * CHUNK, 512);
    rig.write(0, 2 * CHUNK);
    expect(rig.pump()).toEqual(['WRITE 4096+512 @2', 'WRITE 0+4096']);
  });

  it('a piece whose table would be too long ends at a granule', () => {
    const rig = clean(build, { chunkBytes: 65536, blockSize: 512 });
    const pieces = Array.from({ length: 200 }, (_, i) => [720_896 + i * 200, 100] as const);
    rig.write(60_000, 20_000, { segments: 200, data: rig.table(pieces) });
    rig.pump();
    // 64 segments are 6400 bytes, or less where the first is not whole.
    expect(rig.inFlight.map((command) => [textOf(command), command.segments])).toEqual([
      ['WRITE 60000+5536', 56],
      ['WRITE 0+6144 @1', 62],
      ['WRITE 6144+6144 @1', 63],
      ['WRITE 12288+2176 @1', 22],
    ]);
  });

  it('L3: pieces that share a granule are not at the host together', () => {
    const rig = clean(build, { chunkBytes: 65536, blockSize: 4096 });
    const pieces = Array.from({ length: 400 }, (_, i) => [720_896 + i * 32, 16] as const);
    const tag = rig.write(65_536 - 3200, 6400, { segments: 400, data: rig.table(pieces) });
    rig.write(262_144, 512);
    expect(rig.pump()).toEqual(['WRITE 62336+1024']);
    expect(rig.answerAndPump('WRITE 62336+1024')).toEqual(['WRITE 63360+1024']);
    // 64384 is in the granule from 61440 to 65536 as well, and so is 65408.
    expect(rig.answerAndPump('WRITE 63360+1024')).toEqual(['WRITE 64384+1024']);
    expect(rig.answerAndPump('WRITE 64384+1024')).toEqual(['WRITE 65408+128', 'WRITE 0+1024 @1']);
    expect(rig.answerAndPump('WRITE 65408+128')).toEqual([]);
    expect(rig.answerAndPump('WRITE 0+1024 @1')).toEqual(['WRITE 1024+1024 @1']);
    expect(rig.answerAndPump('WRITE 1024+1024 @1')).toEqual(['WRITE 2048+1024 @1']);
    expect(rig.answerAndPump('WRITE 2048+1024 @1')).toEqual([
      'WRITE 3072+128 @1',
      'WRITE 65536+512 @1',
    ]);
    rig.run();
    expect(rig.status(tag)).toBe('OK');
  });
});

describe.each(BUILDS)('several domains ($name build; durability 8)', (build) => {
  it('F7: every file starts dirty, and its first sync makes it clean', () => {
    const rig = new Rig(build, STRIPE);
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC', 'SYNC @1', 'SYNC @2']);
    expect(rig.inFlight.map(({ id }) => id)).toEqual([256, 257, 258]);
    rig.answerAndPump('SYNC @1');
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('open');
    rig.answerAndPump('SYNC @2');
    expect(rig.status(flush)).toBe('OK');
    expect(rig.engine.counters()).toMatchObject({ syncs: 3, flushes: 1, flushesCoalesced: 0 });
  });

  it('F4: files that hold nothing of a flush are not touched', () => {
    const rig = clean(build);
    rig.write(CHUNK, 512);
    rig.run();
    rig.flush();
    expect(rig.run()).toEqual(['SYNC @1']);
    rig.flush();
    expect(rig.run()).toEqual([]);
  });

  it('F5: a write that spans files makes each of them dirty, piece by piece', () => {
    const rig = clean(build);
    rig.write(0, 2 * CHUNK);
    rig.pump();
    rig.answer('WRITE 0+4096');
    rig.flush();
    // The piece that is answered may be owed: it is in the file already.
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.answerAndPump('WRITE 0+4096 @1')).toEqual([]);
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC @1']);
  });

  it('F2: a write that completes in one file while another one is synced stays dirty', () => {
    const rig = clean(build);
    rig.write(0, 512);
    rig.write(CHUNK, 512);
    rig.pump();
    rig.answer('WRITE 0+512');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    rig.answerAndPump('WRITE 0+512 @1');
    rig.answerAndPump('SYNC');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC @1']);
  });

  it('F4: a flush waits for the later sync of a file when the running one came too early', () => {
    const rig = clean(build);
    rig.write(0, 512);
    rig.write(CHUNK, 512);
    rig.run();
    rig.write(0, 512);
    rig.pump();
    const first = rig.flush();
    expect(rig.pump()).toEqual(['SYNC', 'SYNC @1']);
    rig.answer('WRITE 0+512');
    const second = rig.flush();
    rig.pump();
    expect(rig.answerAndPump('SYNC')).toEqual(['SYNC']);
    rig.answerAndPump('SYNC @1');
    expect(rig.statuses([first, second])).toEqual(['OK', 'open']);
    rig.answerAndPump('SYNC');
    expect(rig.status(second)).toBe('OK');
  });

  it('F6: a flush fails when the sync of any file fails, and the latch is of the disk', () => {
    const rig = new Rig(build, STRIPE);
    const flush = rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC @1', ENOSPC);
    expect(rig.completions).toEqual([{ tag: flush, status: 1, value: 0, errno: ENOSPC }]);
    rig.answerAndPump('SYNC');
    rig.answerAndPump('SYNC @2');
    const late = rig.flush();
    rig.pump();
    expect(rig.status(late)).toBe('FLUSH_LATCHED');
    // The file whose sync failed stays dirty; the others are clean.
    expect(rig.engine.generations().files.map(({ unproven }) => unproven)).toEqual([
      undefined,
      1,
      undefined,
    ]);
  });

  it('F6: syncs that fail one after the other fail only who waits then', () => {
    const rig = new Rig(build, STRIPE);
    rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    rig.answerAndPump('SYNC @1', EIO);
    rig.answerAndPump('SYNC @2');
    expect(rig.completions).toHaveLength(1);
    expect(rig.engine.counters()).toMatchObject({ syncs: 3, syncsFailed: 2 });
  });

  it('W3: a stable write that spans chunks is written plainly and synced in each file', () => {
    const rig = clean(build);
    const write = rig.write(0, 2 * CHUNK, FUA);
    expect(rig.pump()).toEqual(['WRITE 0+4096', 'WRITE 0+4096 @1']);
    rig.answerAndPump('WRITE 0+4096');
    expect(rig.answerAndPump('WRITE 0+4096 @1')).toEqual(['SYNC', 'SYNC @1']);
    rig.answerAndPump('SYNC');
    expect(rig.status(write)).toBe('open');
    rig.answerAndPump('SYNC @1');
    expect(rig.status(write)).toBe('OK');
    rig.flush();
    expect(rig.run()).toEqual([]);
  });

  it('W3: a stable write inside a chunk goes to the O_DSYNC descriptor of its file', () => {
    const rig = clean(build);
    rig.write(CHUNK, CHUNK, FUA);
    expect(rig.run()).toEqual(['WRITE 0+4096 STABLE @1']);
    rig.write(CHUNK + 512, CHUNK, FUA);
    expect(rig.pump()).toEqual(['WRITE 512+3584 @1', 'WRITE 0+512 @2']);
  });

  it('F5: a stable write that failed leaves its file dirty', () => {
    const rig = clean(build);
    rig.write(CHUNK, CHUNK, FUA);
    rig.pump();
    rig.answerAndPump('WRITE 0+4096 STABLE @1', EIO);
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC @1']);
  });

  it('F8: stable writes at once share one sync of each file that they touch', () => {
    const rig = clean(build, { wce: false });
    const tags = [rig.write(0, 512), rig.write(CHUNK, 512), rig.write(3 * CHUNK, 512)];
    expect(rig.pump()).toEqual(['WRITE 0+512', 'WRITE 0+512 @1', 'WRITE 4096+512']);
    for (const { id } of rig.inFlight.splice(0)) rig.engine.result(id, 0);
    expect(rig.pump()).toEqual(['SYNC', 'SYNC @1']);
    rig.answerAndPump('SYNC');
    expect(rig.status(tags[1]!)).toBe('open');
    rig.answerAndPump('SYNC @1');
    expect(rig.statuses(tags)).toEqual(['OK', 'OK', 'OK']);
    expect(rig.engine.counters()).toMatchObject({ syncs: 5, groupCommits: 3 });
  });

  it('B3: a durable barrier flushes the dirty files, and those alone', () => {
    const rig = clean(build, { barrier: true, barrierDurable: true });
    rig.write(2 * CHUNK, 512);
    rig.write(0, 512, BARRIER);
    expect(rig.run()).toEqual(['WRITE 0+512 @2', 'SYNC @2', 'WRITE 0+512 STABLE']);
  });

  it('F9: opening the latch makes every file dirty, also while a sync of it runs', () => {
    const rig = new Rig(build, STRIPE);
    rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    const clear = rig.clearLatch();
    const flush = rig.flush();
    // The syncs of the other files are running since before; they cannot prove what comes now.
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.statuses([clear, flush])).toEqual(['OK', 'open']);
    rig.answerAndPump('SYNC');
    expect(rig.answerAndPump('SYNC @1')).toEqual(['SYNC @1']);
    expect(rig.answerAndPump('SYNC @2')).toEqual(['SYNC @2']);
    rig.answerAndPump('SYNC @1');
    expect(rig.status(flush)).toBe('open');
    rig.answerAndPump('SYNC @2');
    expect(rig.status(flush)).toBe('OK');
  });
});
