// Taking requests and completing them: invariants S1, S2 of assembly/request/slot.ts and T1, T2 of
// take.ts.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/request.ts';
import type { EngineConfig, RequestRecord } from '../driver.ts';
import { BUILDS } from '../support/engine.ts';
import { FUA, type Options, Rig } from './rig.ts';

const MIB = 1024 * 1024;
const HUGE = 2n ** 63n;
const LAST = 2n ** 64n - 1n;

describe.each(BUILDS)('limits and back-pressure ($name build)', (build) => {
  it('T1: the engine holds 1024 requests; the others stay in the ring, and none is lost', () => {
    const rig = new Rig(build, { depth: 4 });
    const tags = Array.from({ length: 2048 }, (_, i) => rig.read(i * 512, 512, { data: 720896 }));
    expect(() => rig.read(0, 512)).toThrow('the ring is full');
    rig.pump();
    expect(rig.engine.requestsWaiting()).toBe(1024);
    rig.run();
    expect(rig.engine.requestsWaiting()).toBe(0);
    expect(rig.completions.map(({ tag }) => tag).toSorted((a, b) => a - b)).toEqual(tags);
  });

  it('T1: nothing is taken whose completion would find no room', () => {
    const rig = new Rig(build);
    const { engine } = rig;
    for (let round = 0; round < 3; round++) {
      for (let i = engine.requestsWaiting(); i < 2048; i++) rig.submit({ op: 255 });
      engine.pump();
    }
    expect(engine.requestsWaiting()).toBe(2048);
    expect(engine.takeCompletions(10)).toHaveLength(10);
    engine.pump();
    expect(engine.requestsWaiting()).toBe(2038);
    const rest: number[] = [];
    for (let turn = 0; turn < 8; turn++) {
      rest.push(...engine.takeCompletions(700).map(({ tag }) => tag));
      engine.pump();
    }
    expect(rest).toEqual(Array.from({ length: 4096 - 10 }, (_, index) => index + 11));
  });

  it('T1: requests that are held keep room for their completions', () => {
    const rig = new Rig(build, { depth: 256 });
    const { engine } = rig;
    for (let i = 0; i < 1000; i++) rig.read(i * 1024, 512, { data: 720896 });
    engine.pump();
    for (let i = 0; i < 2000; i++) rig.submit({ op: 255 });
    engine.pump();
    // 1000 held, 1048 refused: the completion ring is spoken for.
    expect(engine.requestsWaiting()).toBe(2000 - 1048);
    const answers = Array.from({ length: 4 }, () => {
      const commands = engine.takeCommands();
      for (const { id } of commands) engine.result(id, 0);
      engine.pump();
      return commands.length;
    });
    expect(answers).toEqual([256, 256, 256, 232]);
    expect(engine.takeCompletions()).toHaveLength(2048);
    engine.pump();
    expect(engine.takeCompletions()).toHaveLength(952);
  });

  it('S1: slots are used again, whatever list they were in: 20,000 requests of every kind', () => {
    const rig = new Rig(build, { depth: 8, wce: false });
    let submitted = 0;
    const data = { data: 720896 };
    for (let round = 0; round < 100; round++) {
      for (let i = 0; i < 40; i++) {
        const at = ((round * 7 + i * 13) % 200) * 512;
        rig.write(at, 1024, data);
        rig.read(at, 512, data);
        rig.writeZeroes(at + 512, 1024);
        rig.flush();
        rig.submit({ op: 200 });
        submitted += 5;
      }
      for (let turn = 0; turn < 100 && rig.engine.requestsWaiting() > 1500; turn++) {
        rig.pump();
        const some = rig.inFlight.splice(0, 6);
        for (const { id } of some) rig.engine.result(id, id % 5 === 0 ? 5 : 0);
      }
      rig.pump();
    }
    rig.run();
    expect(rig.completions).toHaveLength(submitted);
    expect(new Set(rig.completions.map(({ tag }) => tag)).size).toBe(submitted);
  });

  it('S2: requests with the same tag are told apart by nobody but the caller', () => {
    const rig = new Rig(build);
    const record = { tag: 0xffff_ffff, op: abi.OP_READ, flags: 0, segments: 1, data: 720896 };
    for (let i = 0; i < 64; i++) rig.engine.submit({ ...record, offset: i * 1024, length: 512 });
    rig.run();
    expect(rig.completions.map(({ tag }) => tag)).toEqual(Array(64).fill(0xffff_ffff));
  });

  it('S2: a completed request is never completed again, however often the engine runs', () => {
    const rig = new Rig(build);
    rig.read(0, 512);
    rig.run();
    for (let i = 0; i < 10; i++) rig.pump();
    expect(rig.completions).toHaveLength(1);
  });
});

interface Hostile extends Partial<RequestRecord> {
  readonly what: string;
  readonly status: string;
  readonly config?: Partial<EngineConfig>;
}

const READ = { op: abi.OP_READ, segments: 1, length: 512 };
const WRITE = { op: abi.OP_WRITE, segments: 1, length: 512 };
const READ_ONLY = { readOnly: true };
const BARRIERS = { barrier: true };

/** The disk has 1 MiB. */
const HOSTILE: readonly Hostile[] = [
  { what: 'operation 10', op: 10, status: 'INVALID' },
  { what: 'operation 255', op: 255, flags: 255, status: 'INVALID' },
  { what: 'READ with FUA', ...READ, flags: 1, status: 'INVALID' },
  { what: 'WRITE with MAY_UNMAP', ...WRITE, flags: 2, status: 'INVALID' },
  { what: 'WRITE with an unknown flag', ...WRITE, flags: 0x80, status: 'INVALID' },
  { what: 'WRITE_ZEROES with flag 8', op: 2, length: 512, flags: 8, status: 'INVALID' },
  { what: 'DISCARD with FAST_ZERO', op: 3, length: 512, flags: 4, status: 'INVALID' },
  { what: 'BLOCK_STATUS with FUA', op: 4, length: 512, flags: 1, status: 'INVALID' },
  { what: 'FLUSH with FUA', op: 5, flags: 1, status: 'INVALID' },
  { what: 'SET_WCE with a flag', op: 6, length: 1, flags: 1, status: 'INVALID' },
  { what: 'RESET_QUEUE with a flag', op: 7, flags: 1, status: 'INVALID' },
  { what: 'RESET with a flag', op: 8, flags: 1, status: 'INVALID' },
  { what: 'CLEAR_LATCH with a flag', op: 9, flags: 1, status: 'INVALID' },
  { what: 'READ as a barrier that is not offered', ...READ, flags: 8, status: 'INVALID' },
  { what: 'FLUSH as a barrier that is not offered', op: 5, flags: 8, status: 'INVALID' },
  {
    what: 'BLOCK_STATUS as a barrier',
    op: 4,
    length: 512,
    flags: 8,
    config: BARRIERS,
    status: 'INVALID',
  },
  { what: 'SET_WCE as a barrier', op: 6, flags: 8, config: BARRIERS, status: 'INVALID' },
  { what: 'RESET_QUEUE as a barrier', op: 7, flags: 8, config: BARRIERS, status: 'INVALID' },
  { what: 'RESET as a barrier', op: 8, flags: 8, config: BARRIERS, status: 'INVALID' },
  { what: 'CLEAR_LATCH as a barrier', op: 9, flags: 8, config: BARRIERS, status: 'INVALID' },
  { what: 'READ of queue 64', ...READ, queue: 64, status: 'INVALID' },
  { what: 'FLUSH of queue 65535', op: 5, queue: 0xffff, status: 'INVALID' },
  { what: 'RESET_QUEUE of queue 64', op: 7, queue: 64, status: 'INVALID' },
  { what: 'RESET of queue 64', op: 8, queue: 64, status: 'INVALID' },
  { what: 'SET_WCE 2', op: 6, length: 2, status: 'INVALID' },
  { what: 'SET_WCE 2^32', op: 6, length: 2n ** 32n, status: 'INVALID' },
  { what: 'SET_WCE 2^64-1', op: 6, length: LAST, status: 'INVALID' },
  { what: 'READ of one byte past the end', ...READ, offset: MIB - 511, status: 'OUT_OF_RANGE' },
  { what: 'READ at the end', ...READ, offset: MIB, status: 'OUT_OF_RANGE' },
  {
    what: 'READ of nothing past the end',
    ...READ,
    length: 0,
    offset: MIB + 1,
    status: 'OUT_OF_RANGE',
  },
  {
    what: 'READ at 2^64-512: the end wraps to 0',
    ...READ,
    offset: 2n ** 64n - 512n,
    status: 'OUT_OF_RANGE',
  },
  { what: 'READ at 2^64-1', ...READ, offset: LAST, status: 'OUT_OF_RANGE' },
  { what: 'READ at 2^63', ...READ, offset: HUGE, status: 'OUT_OF_RANGE' },
  { what: 'READ of 2^63', ...READ, length: HUGE, status: 'OUT_OF_RANGE' },
  { what: 'READ of 2^64-1 at 1', ...READ, offset: 1, length: LAST, status: 'OUT_OF_RANGE' },
  { what: 'READ at 2^32: not cut to 32 bits', ...READ, offset: 2 ** 32, status: 'OUT_OF_RANGE' },
  { what: 'READ of 2^32: not cut to 32 bits', ...READ, length: 2 ** 32, status: 'OUT_OF_RANGE' },
  {
    what: 'WRITE of 2^63 at 2^63: the sum is 0',
    ...WRITE,
    offset: HUGE,
    length: HUGE,
    status: 'OUT_OF_RANGE',
  },
  { what: 'WRITE_ZEROES past the end', op: 2, offset: 512, length: MIB, status: 'OUT_OF_RANGE' },
  { what: 'DISCARD of 2^64-1', op: 3, length: LAST, status: 'OUT_OF_RANGE' },
  { what: 'BLOCK_STATUS past the end', op: 4, offset: 1, length: MIB, status: 'OUT_OF_RANGE' },
  { what: 'READ of no segment', ...READ, segments: 0, status: 'INVALID' },
  { what: 'WRITE of no segment', ...WRITE, segments: 0, status: 'INVALID' },
  { what: 'READ of 1025 segments', ...READ, segments: 1025, status: 'INVALID' },
  { what: 'WRITE of 2^32-1 segments', ...WRITE, segments: 0xffff_ffff, status: 'INVALID' },
  { what: 'WRITE to a read-only disk', ...WRITE, config: READ_ONLY, status: 'READ_ONLY' },
  { what: 'WRITE_ZEROES to it', op: 2, length: 512, config: READ_ONLY, status: 'READ_ONLY' },
  { what: 'DISCARD on it', op: 3, length: 512, config: READ_ONLY, status: 'READ_ONLY' },
  {
    what: 'READ of 32 MiB and one byte',
    ...READ,
    length: 32 * MIB + 1,
    config: { capacity: 2 ** 40 },
    status: 'INVALID',
  },
  {
    what: 'READ whose end is past the largest disk',
    ...READ,
    offset: 2n ** 53n - 100n,
    config: { capacity: 2 ** 53 - 1 },
    status: 'OUT_OF_RANGE',
  },
];

describe.each(BUILDS)('hostile records ($name build)', (build) => {
  it.each(HOSTILE)('T2: $what is answered $status before any I/O', (row) => {
    const { what: _, status, config, ...record } = row;
    const rig = new Rig(build, config);
    const tag = rig.submit(record);
    expect(rig.pump()).toEqual([]);
    expect(rig.status(tag)).toBe(status);
    expect(rig.completions).toEqual([{ ...rig.completions[0], value: 0, errno: 0 }]);
    expect(rig.engine.counters()).toMatchObject({ refused: 1, reads: 0, writes: 0, commands: 0 });
  });

  it('T2: bytes, tables and segments outside the memory are INVALID', () => {
    const rig = new Rig(build);
    const end = rig.memory.buffer.byteLength;
    const table = (...pieces: [address: number, length: number][]): Options => ({
      segments: pieces.length,
      data: rig.table(pieces),
    });
    const far = (segments: number, data: number): Options => ({ segments, data });
    const good = table([800_000, 256], [810_000, 256]);
    const wrong: readonly Options[] = [
      far(1, end - 511),
      far(1, 0xffff_ffff),
      far(2, end - 15),
      far(2, 0xffff_fff0),
      far(2, 0xffff_ffff),
      far(1024, end - 1024 * 8 + 1),
      table([800_000, 256], [end - 255, 256]),
      table([0xffff_ff00, 256], [800_000, 256]),
      table([800_000, 256], [810_000, 255]),
      table([800_000, 256], [810_000, 257]),
      table([800_000, 512], [810_000, 0xffff_ffff]),
      table([0, 0xffff_ffff], [0, 513]),
    ];
    for (const options of wrong) {
      const tags = [rig.read(0, 512, options), rig.write(512, 512, options)];
      expect(rig.pump()).toEqual([]);
      expect(tags.map((tag) => rig.status(tag))).toEqual(['INVALID', 'INVALID']);
    }
    const status = rig.blockStatus(0, 512, { data: end - 4095 });
    const neighbours = [rig.read(512, 512), rig.read(0, 512, good)];
    expect(rig.run()).toEqual(['READ 0+1024']);
    expect(rig.status(status)).toBe('INVALID');
    expect(neighbours.map((tag) => rig.status(tag))).toEqual(['OK', 'OK']);
  });

  it('T2: what is just allowed passes', () => {
    const rig = new Rig(build, { capacity: 2 ** 40 }, 34 * MIB);
    const end = rig.memory.buffer.byteLength;
    const pieces = Array.from({ length: 1024 }, () => [end - 1, 1] as const);
    rig.submit({ ...READ, length: 32 * MIB, data: end - 32 * MIB });
    rig.submit({ ...READ, offset: 2 ** 40 - 512, data: end - 512 });
    rig.write(2 ** 39, 1024, { segments: 1024, data: rig.table(pieces) });
    rig.blockStatus(0, 512, { data: end - 4096 });
    rig.discard(2 ** 38, 2 ** 39 - 2 ** 38 - 512);
    rig.submit({ op: abi.OP_FLUSH, offset: LAST, length: LAST, segments: 0xffff_ffff });
    rig.submit({ op: abi.OP_SET_WCE, offset: LAST, length: 1 });
    rig.run();
    expect(rig.completions.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0, 0, 0]);
  });

  it('T2: a request of no bytes is done at once, even at the very end and over a conflict', () => {
    const rig = new Rig(build, { wce: false }).clean();
    rig.write(0, 512);
    const tags = [
      rig.read(0, 0),
      rig.write(0, 0, FUA),
      rig.writeZeroes(1, 0),
      rig.discard(MIB, 0),
      rig.blockStatus(MIB, 0),
    ];
    expect(rig.pump()).toEqual(['WRITE 0+512 STABLE']);
    expect(tags.map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK', 'OK', 'OK']);
  });

  it('T2: a refused request orders nothing and makes nothing dirty', () => {
    const rig = new Rig(build).clean();
    rig.submit({ op: abi.OP_WRITE, offset: 0, length: MIB * 2, segments: 1 });
    rig.read(0, 512);
    rig.flush();
    expect(rig.pump()).toEqual(['READ 0+512']);
    expect(rig.engine.counters().ordered).toBe(0);
  });

  it('T2: a read-only disk still reads, flushes and changes its cache', () => {
    const rig = new Rig(build, { readOnly: true });
    const tags = [rig.read(0, 512), rig.flush(), rig.setWce(0), rig.blockStatus(0, 512)];
    rig.run();
    expect(tags.map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK', 'OK']);
  });

  it('each kind of request is counted once, with its bytes', () => {
    const rig = new Rig(build);
    rig.read(0, 1024);
    rig.read(4096, 512);
    rig.write(8192, 2048);
    rig.writeZeroes(16384, 512);
    rig.discard(32768, 512);
    rig.blockStatus(65536, 512);
    rig.flush();
    rig.submit({ op: 10 });
    rig.run();
    expect(rig.engine.counters()).toMatchObject({
      reads: 2,
      bytesRead: 1536,
      writes: 1,
      bytesWritten: 2048,
      writeZeroes: 1,
      discards: 1,
      blockStatuses: 1,
      flushes: 1,
      refused: 1,
      commands: 6,
      syncs: 1,
    });
  });
});
