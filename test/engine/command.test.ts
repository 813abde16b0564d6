// Commands and answers: invariants X1, X2 of assembly/command/emit.ts and C1 of slot.ts; statuses.

import { describe, expect, it } from 'vitest';
import { type CommandRecord, EngineDriver } from '../driver.ts';
import { BUILDS } from '../support/engine.ts';
import { CONFIG, type Options, Rig } from './rig.ts';

/** The commands of a pump as records. */
function commandsOf(rig: Rig): readonly CommandRecord[] {
  const before = rig.inFlight.length;
  rig.pump();
  return rig.inFlight.slice(before);
}

describe.each(BUILDS)('segments ($name build)', (build) => {
  it('X1: a request that goes alone is handed on as it is, table and all', () => {
    const rig = new Rig(build);
    const table = rig.table([
      [800_000, 512],
      [800_512, 256],
      [900_000, 256],
    ]);
    rig.write(0, 1024, { segments: 3, data: table });
    rig.read(65536, 512, { data: 850_000 });
    rig.blockStatus(4096, 4096, { data: 860_000 });
    const [read, status, write] = commandsOf(rig);
    expect(read).toMatchObject({ op: 0, file: 0, segments: 1, data: 850_000 });
    expect(status).toMatchObject({ op: 4, data: 860_000 });
    expect(write).toMatchObject({ op: 1, segments: 3, data: table, offset: 0, length: 1024 });
  });

  it('X1: a merged command carries the bytes in order of place, not of arrival', () => {
    const rig = new Rig(build);
    rig.write(1024, 512, { data: 800_000 });
    rig.write(0, 512, { data: 900_000 });
    rig.write(512, 512, { data: 850_000 });
    const [command] = commandsOf(rig);
    expect(command).toMatchObject({ segments: 3, offset: 0, length: 1536 });
    expect(command!.table).toEqual([
      { address: 900_000, length: 512 },
      { address: 850_000, length: 512 },
      { address: 800_000, length: 512 },
    ]);
  });

  it('X1: tables of requests are spliced into the table of the run', () => {
    const rig = new Rig(build);
    const pieces: Options = {
      segments: 2,
      data: rig.table([
        [800_000, 128],
        [810_000, 384],
      ]),
    };
    rig.read(0, 512, { data: 820_000 });
    rig.read(512, 512, pieces);
    rig.read(1024, 512, { data: 830_000 });
    const [command] = commandsOf(rig);
    expect(command!.table).toEqual([
      { address: 820_000, length: 512 },
      { address: 800_000, length: 128 },
      { address: 810_000, length: 384 },
      { address: 830_000, length: 512 },
    ]);
  });

  it('X2: neighbours in memory are one segment, also where tables meet', () => {
    const rig = new Rig(build);
    const pieces: Options = {
      segments: 3,
      data: rig.table([
        [800_512, 512],
        [801_024, 256],
        [900_000, 256],
      ]),
    };
    rig.write(0, 512, { data: 800_000 });
    rig.write(512, 1024, pieces);
    rig.write(1536, 512, { data: 900_256 });
    const [command] = commandsOf(rig);
    expect(command!.table).toEqual([
      { address: 800_000, length: 1280 },
      { address: 900_000, length: 768 },
    ]);
  });

  it('X2: a run whose memory is contiguous needs no table', () => {
    const rig = new Rig(build);
    for (let i = 0; i < 64; i++) rig.write(i * 512, 512, { data: 800_000 + i * 512 });
    const [command] = commandsOf(rig);
    expect(command).toMatchObject({ segments: 1, data: 800_000, length: 32768 });
  });

  it('X2: in a memory of 4 GiB nothing joins across its end', () => {
    const base = 0xf000_0000;
    const memory = new WebAssembly.Memory({ initial: 65536, maximum: 65536 });
    const engine = EngineDriver.over(build, memory, base);
    expect(engine.init(CONFIG)).toBe(true);
    const read = { op: 0, flags: 0, segments: 1, length: 512 };
    engine.submit({ ...read, tag: 1, offset: 0, data: 2 ** 32 - 1024 });
    engine.submit({ ...read, tag: 2, offset: 512, data: 2 ** 32 - 512 });
    engine.submit({ ...read, tag: 3, offset: 1024, data: 0 });
    engine.submit({ ...read, tag: 4, offset: 1536, data: 2 ** 32 - 511 });
    engine.pump();
    const [command] = engine.takeCommands();
    expect(command!.table).toEqual([
      { address: 2 ** 32 - 1024, length: 1024 },
      { address: 0, length: 512 },
    ]);
    expect(engine.takeCompletions()).toMatchObject([{ tag: 4, status: 5 }]);
  });

  it('X1: the tables of all 256 ids lie apart', () => {
    const rig = new Rig(build, { depth: 256 });
    for (let i = 0; i < 512; i++) {
      rig.read(Math.floor(i / 2) * 4096 + (i % 2) * 512, 512, { data: 800_000 + 1024 * (i ^ 1) });
    }
    const commands = commandsOf(rig);
    expect(commands).toHaveLength(256);
    const again = commands.map(({ segments, data }) =>
      Array.from({ length: segments }, (_, index) => ({
        address: rig.engine.view.getUint32(data + index * 8, true),
        length: rig.engine.view.getUint32(data + index * 8 + 4, true),
      })),
    );
    expect(again).toEqual(commands.map(({ table }) => table));
  });
});

describe.each(BUILDS)('ids and answers ($name build)', (build) => {
  it('C1: an id names one command until its answer is taken; the sync has one of its own', () => {
    const rig = new Rig(build, { depth: 256 });
    for (let i = 0; i < 400; i++) rig.read(i * 1024, 512, { data: 720896 });
    rig.flush();
    rig.pump();
    const ids = rig.inFlight.map(({ id }) => id);
    expect(new Set(ids).size).toBe(257);
    expect(ids.at(-1)).toBe(256);
    const freed = rig.inFlight[100]!.id;
    rig.engine.result(freed, 0);
    rig.inFlight.splice(100, 1);
    rig.pump();
    expect(rig.inFlight.at(-1)?.id).toBe(freed);
  });

  it.each([
    [0, 'OK', 0],
    [5, 'IO_ERROR', 5],
    [4, 'IO_ERROR', 4],
    [28, 'NO_SPACE', 28],
    [122, 'NO_SPACE', 122],
    [27, 'NO_SPACE', 27],
    [95, 'UNSUPPORTED', 0],
    [0xffff_ffff, 'IO_ERROR', 0xffff_ffff],
  ] as const)('errno %i of the host is status %s with errno %i', (errno, status, told) => {
    for (const op of ['read', 'write', 'writeZeroes', 'discard', 'blockStatus'] as const) {
      const rig = new Rig(build);
      const tag = rig[op](0, 512);
      const [command] = rig.pump();
      rig.answerAndPump(command!, errno);
      expect(rig.status(tag)).toBe(status);
      expect(rig.completions[0]!.errno).toBe(told);
    }
  });

  it('a failed stable write keeps the errno of its own write', () => {
    const rig = new Rig(build, { wce: false });
    rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512 STABLE', 28);
    expect(rig.completions).toEqual([{ tag: 1, status: 2, value: 0, errno: 28 }]);
  });

  it('BLOCK_STATUS returns the number of extents that the host reports', () => {
    const rig = new Rig(build);
    rig.blockStatus(0, 1024 * 1024);
    rig.pump();
    rig.answerAndPump('STATUS 0+1048576', 0, 200);
    expect(rig.completions).toEqual([{ tag: 1, status: 0, value: 200, errno: 0 }]);
  });

  it('WRITE_ZEROES hands MAY_UNMAP and FAST_ZERO on, and FUA to nobody', () => {
    const rig = new Rig(build);
    for (let flags = 0; flags < 8; flags++) rig.writeZeroes(flags * 8192, 512, { flags });
    expect(rig.pump()).toEqual([
      'ZERO 0+512',
      'ZERO 8192+512',
      'ZERO 16384+512 MAY_UNMAP',
      'ZERO 24576+512 MAY_UNMAP',
      'ZERO 32768+512 FAST',
      'ZERO 40960+512 FAST',
      'ZERO 49152+512 MAY_UNMAP FAST',
      'ZERO 57344+512 MAY_UNMAP FAST',
    ]);
  });
});
