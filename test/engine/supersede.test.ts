// Superseding: invariants U1-U3 of assembly/schedule/supersede.ts, durability section 7.

import { describe, expect, it } from 'vitest';
import type { EngineConfig } from '../driver.ts';
import { type Build, BUILDS } from '../support/engine.ts';
import { BARRIER, FUA, type Options, Rig } from './rig.ts';

const EIO = 5;

/** A rig whose host is busy: what is submitted now stays in the elevator until `release`. */
function busy(build: Build, config: Partial<EngineConfig> = {}): Rig {
  const rig = new Rig(build, { depth: 1, ...config }).clean();
  rig.read(512_000, 512);
  rig.pump();
  return rig;
}

/** The host answers; returns what goes to it then, one command after the other. */
function release(rig: Rig): string[] {
  rig.log.length = 0;
  rig.answer('READ 512000+512');
  return rig.run();
}

describe.each(BUILDS)('what is superseded ($name build; durability 7)', (build) => {
  it('U1: a queued write that a later one covers is never sent; both complete', () => {
    const rig = busy(build);
    const older = rig.write(1024, 512, { data: 800_000 });
    const later = rig.write(512, 2048, { data: 900_000 });
    rig.pump();
    rig.answerAndPump('READ 512000+512');
    expect(rig.inFlight).toMatchObject([{ op: 1, offset: 512, length: 2048, data: 900_000 }]);
    expect(rig.status(older)).toBe('open');
    rig.answerAndPump('WRITE 512+2048');
    expect(rig.completions.slice(-2).map(({ tag }) => tag)).toEqual([older, later]);
    expect(rig.statuses([older, later])).toEqual(['OK', 'OK']);
    expect(rig.run()).toEqual([]);
    expect(rig.engine.counters()).toMatchObject({ superseded: 1, commands: 2, writes: 2 });
  });

  it.each([
    { older: '1024+512', later: '1024+512', what: 'the same bytes' },
    { older: '1024+512', later: '1024+513', what: 'one byte more at the end' },
    { older: '1024+512', later: '1023+513', what: 'one byte more at the start' },
    { older: '1030+5', later: '1030+5', what: 'less than a granule' },
  ])('U1: $what is covered wholly', ({ older, later }) => {
    const rig = busy(build);
    write(rig, older);
    write(rig, later);
    expect(release(rig)).toEqual([`WRITE ${later}`]);
  });

  it('U1: a write behind a conflict is superseded too', () => {
    const rig = new Rig(build).clean();
    const read = rig.read(0, 512);
    const tags = [rig.write(0, 512), rig.write(0, 512)];
    expect(rig.pump()).toEqual(['READ 0+512']);
    expect(rig.answerAndPump('READ 0+512')).toEqual(['WRITE 0+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual([]);
    expect(rig.statuses([read, ...tags])).toEqual(['OK', 'OK', 'OK']);
  });

  it('U1: what came before the older write does not matter, and the later one waits for it', () => {
    const rig = new Rig(build).clean();
    rig.read(0, 4096);
    rig.write(0, 512);
    rig.write(0, 1024);
    rig.read(512, 512);
    expect(rig.pump()).toEqual(['READ 0+4096']);
    expect(rig.answerAndPump('READ 0+4096')).toEqual(['WRITE 0+1024']);
    expect(rig.answerAndPump('WRITE 0+1024')).toEqual(['READ 512+512']);
  });

  it('U1: a read between the two that sees none of the older bytes is in nobody’s way', () => {
    const rig = busy(build);
    rig.write(0, 512);
    rig.read(512, 512);
    rig.write(0, 1024);
    expect(release(rig)).toEqual(['READ 512+512', 'WRITE 0+1024']);
  });

  it('U1: the write that has taken over orders what comes after it', () => {
    const rig = busy(build);
    rig.write(0, 512);
    rig.write(0, 512);
    rig.read(0, 512);
    rig.write(0, 512);
    expect(release(rig)).toEqual(['WRITE 0+512', 'READ 0+512', 'WRITE 0+512']);
    expect(rig.engine.counters()).toMatchObject({ superseded: 1, ordered: 2 });
  });

  it('U1: the cover of several writes that do not reach it alone is not looked for', () => {
    const rig = busy(build, { mergeBytes: 0 });
    rig.write(0, 1024);
    rig.write(0, 512);
    rig.write(512, 512);
    expect(release(rig)).toEqual(['WRITE 0+1024', 'WRITE 0+512', 'WRITE 512+512']);
  });
});

interface Kept {
  readonly what: string;
  readonly submit: (rig: Rig) => void;
  /** What goes to the host when it is free. */
  readonly commands: readonly string[];
  readonly config?: Partial<EngineConfig>;
}

const ONE: Options = { queue: 1 };
const TWICE = ['WRITE 0+512', 'WRITE 0+512'];

/** A later write comes, and the older one is sent all the same. */
const KEPT: readonly Kept[] = [
  {
    what: 'a read between them must see the older one',
    submit: (rig) => [rig.write(0, 512), rig.read(0, 512), rig.write(0, 512)],
    commands: ['WRITE 0+512', 'READ 0+512', 'WRITE 0+512'],
  },
  {
    what: 'a read between them shares a granule with the older one',
    submit: (rig) => [rig.write(0, 100), rig.read(400, 100), rig.write(0, 100)],
    commands: ['WRITE 0+100', 'READ 400+100', 'WRITE 0+100'],
  },
  {
    what: 'a status between them must see the older one',
    submit: (rig) => [rig.write(0, 512), rig.blockStatus(0, 512), rig.write(0, 512)],
    commands: ['WRITE 0+512', 'STATUS 0+512', 'WRITE 0+512'],
  },
  {
    what: 'a discard lies between them',
    submit: (rig) => [rig.write(0, 512), rig.discard(0, 512), rig.write(0, 512)],
    commands: ['WRITE 0+512', 'DISCARD 0+512', 'WRITE 0+512'],
  },
  {
    what: 'a write between them covers it in part and must come after it',
    submit: (rig) => [rig.write(0, 512), rig.write(256, 512, ONE), rig.write(0, 512)],
    commands: ['WRITE 0+512', 'WRITE 256+512', 'WRITE 0+512'],
  },
  {
    what: 'they come from different queues',
    submit: (rig) => [rig.write(0, 512), rig.write(0, 512, ONE)],
    commands: TWICE,
  },
  {
    what: 'the older one is stable: it carries FUA',
    submit: (rig) => [rig.write(0, 512, FUA), rig.write(0, 512)],
    commands: ['WRITE 0+512 STABLE', 'WRITE 0+512'],
  },
  {
    what: 'the older one is stable: the write cache is off',
    submit: (rig) => [rig.write(0, 512), rig.write(0, 512)],
    commands: ['WRITE 0+512', 'SYNC', 'WRITE 0+512 STABLE'],
    config: { wce: false },
  },
  {
    what: 'its last byte is not covered',
    submit: (rig) => [rig.write(0, 512), rig.write(0, 511)],
    commands: ['WRITE 0+512', 'WRITE 0+511'],
  },
  {
    what: 'its first byte is not covered',
    submit: (rig) => [rig.write(0, 512), rig.write(1, 511)],
    commands: ['WRITE 0+512', 'WRITE 1+511'],
  },
  {
    what: 'zeroes cover it: they are no write',
    submit: (rig) => [rig.write(0, 512), rig.writeZeroes(0, 512)],
    commands: ['WRITE 0+512', 'ZERO 0+512'],
  },
  {
    what: 'it is no write: zeroes are not superseded',
    submit: (rig) => [rig.writeZeroes(0, 512), rig.write(0, 512)],
    commands: ['ZERO 0+512', 'WRITE 0+512'],
  },
  {
    what: 'the later one is refused',
    submit: (rig) => [rig.write(0, 512), rig.write(0, 512, { flags: 64 })],
    commands: ['WRITE 0+512'],
  },
  {
    what: 'U3: the later one is a barrier',
    submit: (rig) => [rig.write(0, 512), rig.write(0, 512, BARRIER)],
    commands: TWICE,
    config: { barrier: true },
  },
  {
    what: 'U3: the older one is a barrier',
    submit: (rig) => [rig.write(0, 512, BARRIER), rig.write(0, 512)],
    commands: TWICE,
    config: { barrier: true },
  },
];

describe.each(BUILDS)('what is not superseded ($name build; durability 7)', (build) => {
  it.each(KEPT)('U1: a write is sent when $what', ({ submit, commands, config }) => {
    const rig = busy(build, config);
    submit(rig);
    rig.pump();
    expect(release(rig)).toEqual(commands);
    expect(rig.engine.counters().superseded).toBe(0);
  });

  it('U1: a write that is at the host is not superseded', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.pump();
    rig.write(0, 512);
    expect(rig.pump()).toEqual([]);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['WRITE 0+512']);
    expect(rig.engine.counters().superseded).toBe(0);
  });

  it('U1: a part that is sent again after a failure has been at the host', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    const tags = [rig.write(0, 512), rig.write(512, 512)];
    rig.pump();
    rig.answer('WRITE 0+1024', EIO);
    tags.push(rig.write(0, 1024));
    expect(rig.pump()).toEqual(['WRITE 0+512']);
    expect(rig.run()).toEqual(['WRITE 512+512', 'WRITE 0+1024']);
    expect(rig.engine.counters().superseded).toBe(0);
  });
});

describe.each(BUILDS)('its completion ($name build; durability 7)', (build) => {
  it('U2: it answers what the later one answers: status and errno', () => {
    for (const [errno, status] of [
      [EIO, 1],
      [28, 2],
      [95, 6],
    ] as const) {
      const rig = busy(build);
      const tags = [rig.write(0, 512), rig.write(0, 512)];
      rig.pump();
      rig.answerAndPump('READ 512000+512');
      rig.answerAndPump('WRITE 0+512', errno);
      const told = errno === 95 ? 0 : errno;
      expect(rig.completions.slice(-2)).toEqual(
        tags.map((tag) => ({ tag, status, value: 0, errno: told })),
      );
    }
  });

  it('U2: one write takes over several, in the order of their submission', () => {
    const rig = busy(build, { mergeBytes: 0 });
    const places = [1536, 0, 1024, 512];
    const tags = [...places.map((offset) => rig.write(offset, 512)), rig.write(0, 2048)];
    expect(release(rig)).toEqual(['WRITE 0+2048']);
    expect(rig.completions.slice(-5).map(({ tag }) => tag)).toEqual(tags);
    expect(rig.engine.counters()).toMatchObject({ superseded: 4, merged: 0 });
  });

  it('U2: what a superseded write had taken over goes along', () => {
    const rig = busy(build);
    const tags = [
      rig.write(4096, 512),
      rig.write(0, 512),
      rig.write(0, 1024),
      rig.write(4096, 1024),
      rig.write(0, 8192),
    ];
    expect(release(rig)).toEqual(['WRITE 0+8192']);
    expect(rig.completions.slice(-5).map(({ tag }) => tag)).toEqual(tags);
  });

  it('U2: writes that overlap each other are taken over together', () => {
    const rig = busy(build);
    const tags = [rig.write(0, 1024), rig.write(512, 1024), rig.write(0, 2048)];
    expect(release(rig)).toEqual(['WRITE 0+2048']);
    expect(rig.completions.slice(-3).map(({ tag }) => tag)).toEqual(tags);
  });

  it('U2: 1000 writes of one place cost one command', () => {
    const rig = busy(build);
    const tags = Array.from({ length: 1000 }, () => rig.write(0, 512, { data: 720896 }));
    expect(release(rig)).toEqual(['WRITE 0+512']);
    expect(rig.completions.slice(-1000).map(({ tag }) => tag)).toEqual(tags);
  });

  it('U3: a stable write takes over a volatile one, which then waits for its sync as well', () => {
    const rig = busy(build, { fua: false });
    const tags = [rig.write(0, 512), rig.write(0, 512, FUA)];
    rig.pump();
    rig.answerAndPump('READ 512000+512');
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    expect(rig.statuses(tags)).toEqual(['open', 'open']);
    rig.answerAndPump('SYNC', EIO);
    expect(rig.statuses(tags)).toEqual(['IO_ERROR', 'IO_ERROR']);
  });

  it('U2: what was taken over stays with a part that is sent again', () => {
    const rig = busy(build);
    const tags = [rig.write(0, 512), rig.write(0, 512), rig.write(512, 512)];
    rig.pump();
    rig.answerAndPump('READ 512000+512');
    expect(rig.answerAndPump('WRITE 0+1024', EIO)).toEqual(['WRITE 0+512']);
    expect(rig.status(tags[0]!)).toBe('open');
    rig.answerAndPump('WRITE 0+512', EIO);
    rig.run();
    expect(rig.statuses(tags)).toEqual(['IO_ERROR', 'IO_ERROR', 'OK']);
  });

  it('F1: a flush owes a superseded write what it owes the later one', () => {
    const rig = busy(build);
    rig.write(0, 512);
    const early = rig.flush();
    rig.write(0, 512);
    rig.pump();
    expect(rig.status(early)).toBe('OK');
    expect(release(rig)).toEqual(['WRITE 0+512']);
    rig.flush();
    expect(rig.run()).toEqual(['SYNC']);
  });

  it('U2: who rewrites one place for ever is served: the age goes with the place', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    rig.read(0, 512);
    rig.pump();
    const first = rig.write(65536, 512);
    for (let i = 0; i < 4; i++) rig.read((i + 1) * 8192, 512);
    for (let i = 0; i < 10 && rig.status(first) === 'open'; i++) {
      rig.write(65536, 512);
      rig.read((i + 5) * 8192, 512);
      const [command] = rig.inFlight.splice(0);
      rig.engine.result(command!.id, 0);
      rig.pump();
    }
    expect(rig.status(first)).toBe('OK');
    expect(rig.log.slice(0, 2)).toEqual(['READ 0+512', 'WRITE 65536+512']);
  });
});

/** Submits `offset+length`. */
function write(rig: Rig, range: string): number {
  const [offset, length] = range.split('+').map(Number) as [number, number];
  return rig.write(offset, length);
}
