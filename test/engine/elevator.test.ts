// Sorting and merging: invariants E1-E3 of assembly/schedule/elevator.ts, durability section 7.

import { describe, expect, it } from 'vitest';
import { BUILDS } from '../support/engine.ts';
import { Random } from './random.ts';
import { FUA, type Options, Rig } from './rig.ts';

const MAY_UNMAP: Options = { flags: 2 };
const FAST: Options = { flags: 4 };
const FUA_ZERO: Options = { flags: 1 };

type Kind = readonly [op: 'read' | 'blockStatus' | 'write' | 'writeZeroes' | 'discard', Options?];

/** What may share a command with its like, and what never does. */
const KINDS: Record<string, Kind> = {
  READ: ['read'],
  WRITE: ['write'],
  'WRITE FUA': ['write', FUA],
  ZERO: ['writeZeroes'],
  'ZERO MAY_UNMAP': ['writeZeroes', MAY_UNMAP],
  'ZERO FAST': ['writeZeroes', FAST],
  'ZERO MAY_UNMAP FAST': ['writeZeroes', { flags: 6 }],
  DISCARD: ['discard'],
  STATUS: ['blockStatus'],
};

function submit(rig: Rig, [op, options]: Kind, offset: number, length: number): number {
  return rig[op](offset, length, options);
}

describe.each(BUILDS)('sorting ($name build)', (build) => {
  it('E1: what does not conflict is sent by kind and place, whatever its order', () => {
    const rig = new Rig(build);
    for (const offset of [40960, 8192, 81920]) {
      rig.write(offset, 512);
      rig.read(offset + 4096, 512);
    }
    expect(rig.pump()).toEqual([
      'READ 12288+512',
      'READ 45056+512',
      'READ 86016+512',
      'WRITE 8192+512',
      'WRITE 40960+512',
      'WRITE 81920+512',
    ]);
  });

  it('E1: 1 to 1024 requests in any order come out sorted', () => {
    const random = new Random(3);
    for (const count of [1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200, 255, 1000, 1024]) {
      const rig = new Rig(build, { depth: 256, capacity: 2 ** 52, mergeBytes: 0 });
      const step = 2 ** 41;
      const places = random.shuffle(Array.from({ length: count }, (_, index) => index * step));
      for (const offset of places) rig.read(offset, 512, { data: 720896 });
      const commands = rig.pump();
      // More runs than commands: the oldest go first, in order of age.
      const expected = count <= 256 ? places.toSorted((a, b) => a - b) : places.slice(0, 256);
      expect(commands).toEqual(expected.map((offset) => `READ ${offset}+512`));
      rig.run();
      expect(rig.completions).toHaveLength(count);
    }
  });
});

/** Ways in which `count` requests may arrive, as indexes of places. */
const ARRIVALS: Record<string, (places: number[], random: Random) => number[]> = {
  sorted: (places) => places,
  backwards: (places) => places.toReversed(),
  'in any order': (places, random) => random.shuffle(places),
  'sorted but for the last eighth': (places, random) => {
    const tail = new Set(random.shuffle(places).slice(0, places.length >> 3));
    return [...places.filter((place) => !tail.has(place)), ...tail];
  },
  'sorted but for the first': (places) => [...places.slice(1), 0],
  'from two sides': (places) =>
    places.map((_, i) => (i % 2 === 0 ? i >> 1 : places.length - (i + 1) / 2)),
};

describe.each(BUILDS)('sorting all there is ($name build)', (build) => {
  it.each(Object.keys(ARRIVALS))('E1: neighbours that arrive %s become runs of 64', (arrival) => {
    const random = new Random(9);
    for (const count of [5, 17, 24, 63, 65, 96, 100, 129, 192, 255, 300, 511, 777, 1000, 1024]) {
      const rig = new Rig(build, { depth: 256 });
      const places = Array.from({ length: count }, (_, index) => index);
      for (const place of ARRIVALS[arrival]!(places, random)) {
        rig.read(place * 512, 512, { data: 720896 });
      }
      const runs = Array.from({ length: Math.ceil(count / 64) }, (_, index) => {
        const length = Math.min(64, count - index * 64) * 512;
        return `READ ${index * 32768}+${length}`;
      });
      expect(rig.pump()).toEqual(runs);
    }
  });
});

describe.each(BUILDS)('merging ($name build; durability 7)', (build) => {
  for (const [first, kind] of Object.entries(KINDS)) {
    for (const [second, other] of Object.entries(KINDS)) {
      const joins = first === second && first !== 'STATUS';
      it(`E2: ${first} and then ${second}: ${joins ? 'one command' : 'two commands'}`, () => {
        for (const backwards of [false, true]) {
          const rig = new Rig(build);
          submit(rig, kind, backwards ? 1024 : 0, 1024);
          submit(rig, other, backwards ? 0 : 1024, 1024);
          expect(rig.pump()).toHaveLength(joins ? 1 : 2);
          expect(rig.engine.counters().merged).toBe(joins ? 1 : 0);
        }
      });
    }
  }

  it('E2: only what ends where the next begins joins', () => {
    const rig = new Rig(build);
    for (const offset of [0, 512, 1536, 2048, 4096]) rig.read(offset, 512);
    expect(rig.pump()).toEqual(['READ 0+1024', 'READ 1536+1024', 'READ 4096+512']);
  });

  it('E2: requests of one place do not join, and the older one takes the neighbour', () => {
    const rig = new Rig(build);
    rig.read(0, 512);
    rig.read(0, 512);
    rig.read(512, 512);
    expect(rig.pump()).toEqual(['READ 0+512', 'READ 0+1024']);
  });

  it('E2: the byte limit is met exactly, and a limit of 0 merges nothing', () => {
    for (const [mergeBytes, commands] of [
      [1536, ['READ 0+1536']],
      [1535, ['READ 0+1024', 'READ 1024+512']],
      [0, ['READ 0+512', 'READ 512+512', 'READ 1024+512']],
      [0xffff_ffff, ['READ 0+1536']],
    ] as const) {
      const rig = new Rig(build, { mergeBytes });
      for (const offset of [0, 512, 1024]) rig.read(offset, 512);
      expect(rig.pump()).toEqual(commands);
    }
  });

  it('E2: a merged zeroing or discard stays within 1 GiB; a request above it goes alone', () => {
    const GIB = 1024 * 1024 * 1024;
    for (const [change, name] of [
      ['discard', 'DISCARD'],
      ['writeZeroes', 'ZERO'],
    ] as const) {
      const rig = new Rig(build, { capacity: 2 ** 40, mergeBytes: 0 });
      for (let i = 0; i < 3; i++) rig[change]((i * GIB) / 2, GIB / 2);
      rig[change](2 * GIB, 3 * GIB);
      rig[change](5 * GIB, 512);
      expect(rig.pump()).toEqual([
        `${name} 0+${GIB}`,
        `${name} ${GIB}+${GIB / 2}`,
        `${name} ${2 * GIB}+${3 * GIB}`,
        `${name} ${5 * GIB}+512`,
      ]);
    }
  });

  it('E2: write zeroes and discard carry no bytes: limits of transfers do not split them', () => {
    const rig = new Rig(build, { mergeBytes: 512 });
    for (let i = 0; i < 100; i++) rig.discard(i * 512, 512);
    for (let i = 200; i < 300; i++) rig.writeZeroes(i * 512, 512);
    expect(rig.pump()).toEqual(['ZERO 102400+51200', 'DISCARD 0+51200']);
  });

  it('E2: write zeroes merge across classes: only a sync makes them stable', () => {
    const rig = new Rig(build).clean();
    const plain = rig.writeZeroes(0, 512);
    const stable = rig.writeZeroes(512, 512, FUA_ZERO);
    expect(rig.pump()).toEqual(['ZERO 0+1024']);
    expect(rig.answerAndPump('ZERO 0+1024')).toEqual(['SYNC']);
    expect([rig.status(plain), rig.status(stable)]).toEqual(['OK', 'open']);
  });
});

describe.each(BUILDS)('a busy host ($name build)', (build) => {
  it('E3: when not all runs fit, the run with the oldest request goes first', () => {
    const rig = new Rig(build, { depth: 1 });
    for (const offset of [90112, 0, 45056]) rig.read(offset, 512);
    expect(rig.pump()).toEqual(['READ 90112+512']);
    expect(rig.answerAndPump('READ 90112+512')).toEqual(['READ 0+512']);
    expect(rig.answerAndPump('READ 0+512')).toEqual(['READ 45056+512']);
  });

  it('E3: the oldest request counts, not the first of its run', () => {
    const rig = new Rig(build, { depth: 1 });
    rig.read(500_736, 512);
    rig.pump();
    rig.read(8704, 512);
    rig.read(0, 512);
    rig.read(8192, 512);
    expect(rig.answerAndPump('READ 500736+512')).toEqual(['READ 8192+1024']);
    expect(rig.answerAndPump('READ 8192+1024')).toEqual(['READ 0+512']);
  });

  it('E3: nothing starves: a request waits for older runs only, whatever arrives', () => {
    const rig = new Rig(build, { depth: 1 });
    for (let i = 0; i < 5; i++) rig.read(i * 1024, 512);
    rig.pump();
    const far = rig.read(1024 * 1000, 512);
    for (let i = 0; i < 5; i++) {
      rig.read(100_352 + i * 1024, 512);
      rig.read(i * 1024, 512);
      expect(rig.status(far)).toBe('open');
      rig.answerAndPump(rig.log.at(-1) ?? '');
    }
    expect(rig.log.at(-1)).toBe('READ 1024000+512');
  });

  it('E3: what waits goes on merging with what arrives', () => {
    const rig = new Rig(build, { depth: 1 });
    rig.read(65536, 512);
    rig.pump();
    rig.read(1024, 512);
    expect(rig.pump()).toEqual([]);
    rig.read(512, 512);
    expect(rig.pump()).toEqual([]);
    rig.read(0, 512);
    expect(rig.answerAndPump('READ 65536+512')).toEqual(['READ 0+1536']);
  });

  it('E3: no more commands are at the host than the depth says', () => {
    for (const depth of [1, 2, 255, 256]) {
      const rig = new Rig(build, { depth });
      for (let i = 0; i < 600; i++) rig.read(i * 1024, 512, { data: 720896 });
      expect(rig.pump()).toHaveLength(depth);
      expect(rig.pump()).toEqual([]);
      for (let i = 0; i < Math.min(depth, 3); i++) {
        expect(rig.answerAndPump(rig.log[i]!)).toHaveLength(1);
      }
    }
  });
});
