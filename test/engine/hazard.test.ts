// Order of overlapping requests: invariants H1-H3 of assembly/schedule/hazard.ts, durability
// section 7.

import { describe, expect, it } from 'vitest';
import { BUILDS } from '../support/engine.ts';
import { Random } from './random.ts';
import { FUA, Rig } from './rig.ts';

const OPS = ['read', 'blockStatus', 'write', 'writeZeroes', 'discard'] as const;
const READS: readonly string[] = ['read', 'blockStatus'];

/** `offset+length`. */
function range(text: string): [offset: number, length: number] {
  return text.split('+').map(Number) as [number, number];
}

describe.each(BUILDS)('conflicts ($name build; durability 7)', (build) => {
  for (const first of OPS) {
    for (const second of OPS) {
      const conflict = !READS.includes(first) || !READS.includes(second);
      const rule = conflict ? 'waits for' : 'does not wait for';
      it(`H1: ${second} ${rule} an overlapping ${first}`, () => {
        const rig = new Rig(build).clean();
        rig[first](0, 1024);
        rig[second](512, 1024);
        const commands = rig.pump();
        expect(commands).toHaveLength(conflict ? 1 : 2);
        expect(rig.engine.counters().ordered).toBe(conflict ? 1 : 0);
        expect(rig.answerAndPump(commands[0]!)).toHaveLength(conflict ? 1 : 0);
      });
    }
  }

  it.each([
    { granule: 512, first: '0+512', second: '512+512', conflict: false },
    { granule: 512, first: '512+512', second: '0+512', conflict: false },
    { granule: 512, first: '0+511', second: '511+1', conflict: true },
    { granule: 512, first: '0+1', second: '1+1', conflict: true },
    { granule: 512, first: '0+513', second: '1023+1', conflict: true },
    { granule: 512, first: '0+513', second: '1024+1', conflict: false },
    { granule: 4096, first: '0+512', second: '3584+512', conflict: true },
    { granule: 4096, first: '0+4096', second: '4096+512', conflict: false },
    { granule: 4096, first: '4096+1', second: '4095+1', conflict: false },
    { granule: 1, first: '100+28', second: '128+28', conflict: false },
    { granule: 1, first: '100+29', second: '128+28', conflict: true },
    { granule: 1, first: '128+28', second: '100+29', conflict: true },
    { granule: 1048576, first: '0+1', second: '1048575+1', conflict: true },
  ])(
    'H1: at granule $granule, $first and $second conflict: $conflict',
    ({ granule, first, second, conflict }) => {
      const rig = new Rig(build, { blockSize: granule }).clean();
      rig.write(...range(first));
      rig.discard(...range(second));
      expect(rig.pump()).toHaveLength(conflict ? 1 : 2);
    },
  );

  it('H1: at the end of the largest disk, ranges are compared without wrapping', () => {
    const capacity = 2 ** 53 - 1;
    const rig = new Rig(build, { capacity, blockSize: 1 << 20 }).clean();
    rig.write(capacity - 1, 1);
    rig.write(0, 512);
    rig.write(capacity - 512, 511);
    expect(rig.pump()).toEqual(['WRITE 0+512', `WRITE ${capacity - 1}+1`]);
    expect(rig.answerAndPump(`WRITE ${capacity - 1}+1`)).toEqual([`WRITE ${capacity - 512}+511`]);
  });
});

describe.each(BUILDS)('order ($name build; durability 7)', (build) => {
  it('H2: a request goes to the host only after every earlier conflicting one has finished', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 1024);
    rig.write(4096, 1024);
    rig.read(512, 4096);
    expect(rig.pump()).toEqual(['WRITE 0+1024', 'WRITE 4096+1024']);
    expect(rig.answerAndPump('WRITE 4096+1024')).toEqual([]);
    expect(rig.answerAndPump('WRITE 0+1024')).toEqual(['READ 512+4096']);
  });

  it('H2: a stable write has finished when its sync has, not before', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512, FUA);
    rig.write(8192, 512, FUA);
    rig.read(0, 512);
    expect(rig.pump()).toEqual(['WRITE 0+512', 'WRITE 8192+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    expect(rig.answerAndPump('SYNC')).toEqual(['READ 0+512']);
  });

  it('H2: a part of a failed merged write still blocks what overlaps it', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.write(512, 512);
    rig.read(512, 512);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+1024', 5)).toEqual(['WRITE 0+512', 'WRITE 512+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual([]);
    expect(rig.answerAndPump('WRITE 512+512', 5)).toEqual(['READ 512+512']);
  });

  it('H3: a blocked request blocks later ones that conflict with it alone', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 8192);
    rig.read(4096, 8192);
    rig.write(8192, 8192);
    expect(rig.pump()).toEqual(['WRITE 0+8192']);
    expect(rig.answerAndPump('WRITE 0+8192')).toEqual(['READ 4096+8192']);
    expect(rig.answerAndPump('READ 4096+8192')).toEqual(['WRITE 8192+8192']);
  });

  it('H3: conflicting requests complete in submission order', () => {
    const rig = new Rig(build).clean();
    const tags = [rig.write(0, 512), rig.read(0, 512), rig.discard(0, 512), rig.write(0, 512)];
    rig.run();
    expect(rig.completions.slice(1).map(({ tag }) => tag)).toEqual(tags);
  });

  it('H2: 600 requests that wait for one all go when it is done', () => {
    const rig = new Rig(build, { depth: 256 }).clean();
    rig.writeZeroes(0, 1024 * 1024);
    for (let i = 0; i < 600; i++) rig.read(i * 1024, 512, { data: 720896 });
    expect(rig.pump()).toEqual(['ZERO 0+1048576']);
    expect(rig.engine.counters().ordered).toBe(600);
    expect(rig.answerAndPump('ZERO 0+1048576')).toHaveLength(256);
    rig.run();
    expect(rig.completions).toHaveLength(602);
  });
});

describe.each(BUILDS)('the comparison of a request with all others ($name build)', (build) => {
  it('H1: it finds a conflict at every index among 0 to 40 others, writes and reads', () => {
    for (const kind of ['writeZeroes', 'blockStatus'] as const) {
      for (let others = 1; others <= 40; others++) {
        for (const at of new Set([0, 1, (others - 1) >> 1, others - 2, others - 1])) {
          if (at < 0 || at >= others) continue;
          const rig = new Rig(build, { depth: 256 });
          for (let i = 0; i < others; i++) rig[kind](i * 1024, 512);
          rig.discard(at * 1024, 1);
          expect(rig.pump(), `${kind} ${at} of ${others}`).toHaveLength(others);
        }
      }
    }
  });

  it('H1: it counts as many as there are, whatever their order (against a plain count)', () => {
    const random = new Random(20);
    for (let round = 0; round < 60; round++) {
      const rig = new Rig(build, { depth: 256 });
      const others = random.shuffle(
        Array.from({ length: random.below(70) }, (_, index) => ({
          offset: index * 4096 + random.below(3) * 512,
          length: 512 * (1 + random.below(5)),
        })),
      );
      for (const { offset, length } of others) rig.writeZeroes(offset, length);
      const offset = random.below(40) * 4096 + 512 * random.below(8);
      const length = 512 * (1 + random.below(80));
      rig.read(offset, length);
      rig.pump();
      const blockers = others.filter(
        (other) => other.offset < offset + length && offset < other.offset + other.length,
      );
      for (const other of blockers) {
        expect(rig.status(others.length + 1)).toBe('open');
        expect(rig.log).not.toContain(`READ ${offset}+${length}`);
        rig.answerAndPump(`ZERO ${other.offset}+${other.length}`);
      }
      expect(rig.log).toContain(`READ ${offset}+${length}`);
    }
  });
});
