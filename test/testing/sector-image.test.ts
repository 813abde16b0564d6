/** What a simulated disk may hold after a power cut: one test for each rule (I1 to I7). */

import { describe, expect, it } from 'vitest';
import { ANYTHING, SectorImage } from '../../src/testing/sector-image.ts';

/** A disk of four sectors that hold 0. */
function disk(lies = false): SectorImage {
  return new SectorImage({ sectors: 4, lies });
}

/** What each sector may hold, in ascending order. */
function survivorsOf(image: SectorImage): number[][] {
  return Array.from({ length: image.sectors }, (_, sector) =>
    [...image.survivors(sector)].sort((a, b) => a - b),
  );
}

function write(image: SectorImage, from: number, values: number[], stable = false): void {
  image.beginWrite(99, from, values);
  image.completeWrite(99, stable);
}

function sync(image: SectorImage, succeeded = true): void {
  image.beginSync(99);
  image.endSync(99, succeeded);
}

describe('a sector image', () => {
  it('I1: shows a write to reads when it completes and to a power cut from its beginning', () => {
    const image = disk();
    image.beginWrite(1, 0, [7, 8]);
    expect([image.now(0), image.now(1)]).toEqual([0, 0]);
    expect(survivorsOf(image)).toEqual([[0, 7], [0, 8], [0], [0]]);
    image.completeWrite(1);
    expect([image.now(0), image.now(1)]).toEqual([7, 8]);
    expect(survivorsOf(image)).toEqual([[0, 7], [0, 8], [0], [0]]);
  });

  it('I2: keeps every volatile value since the stable one', () => {
    const image = disk();
    write(image, 0, [1]);
    write(image, 0, [2]);
    expect(survivorsOf(image)[0]).toEqual([0, 1, 2]);
    write(image, 0, [3], true);
    expect(survivorsOf(image)[0]).toEqual([3]);
    write(image, 0, [4]);
    expect(survivorsOf(image)[0]).toEqual([3, 4]);
  });

  it('I3: a sync makes stable what had completed when it began, and nothing later', () => {
    const image = disk();
    write(image, 0, [1]);
    image.beginWrite(2, 1, [2]);
    image.beginSync(3);
    image.completeWrite(2);
    write(image, 0, [5]);
    image.endSync(3, true);
    expect(survivorsOf(image)).toEqual([[1, 5], [0, 2], [0], [0]]);
    sync(image);
    expect(survivorsOf(image)).toEqual([[5], [2], [0], [0]]);
  });

  it('I3: a sync that ends does not undo what became stable while it ran', () => {
    const image = disk();
    write(image, 0, [1]);
    image.beginSync(3);
    write(image, 0, [2], true);
    image.endSync(3, true);
    expect(survivorsOf(image)[0]).toEqual([2]);
  });

  it('I3: a sync of some sectors says nothing about the others', () => {
    const image = disk();
    write(image, 0, [1, 2, 3, 4]);
    image.beginSync(1, 1, 3);
    image.endSync(1, true);
    expect(survivorsOf(image)).toEqual([[0, 1], [2], [3], [0, 4]]);
  });

  it('I4: what a failed sync lost is not stable after the next one (durability 6)', () => {
    const image = disk();
    write(image, 0, [1]);
    sync(image, false);
    write(image, 1, [2]);
    sync(image);
    expect(survivorsOf(image)).toEqual([[0, 1], [2], [0], [0]]);
    image.redirty();
    sync(image);
    expect(survivorsOf(image)[0]).toEqual([1]);
  });

  it('I5: a failed write has changed the sectors that are named', () => {
    const image = disk();
    image.beginWrite(1, 0, [1, 2, 3]);
    image.failWrite(1, (sector) => sector === 1);
    expect(survivorsOf(image)).toEqual([[0], [0, 2], [0], [0]]);
    expect([image.now(0), image.now(1)]).toEqual([0, 2]);
  });

  it('I4: a failed sync also loses what was in flight or completed while it ran', () => {
    const image = new SectorImage({ sectors: 2 });
    image.beginWrite(1, 0, [5]);
    image.beginSync(9);
    image.beginWrite(2, 1, [6]);
    image.completeWrite(2);
    image.endSync(9, false);
    image.completeWrite(1);
    image.beginSync(9);
    image.endSync(9, true);
    expect([image.survivors(0), image.survivors(1)]).toEqual([new Set([0, 5]), new Set([0, 6])]);
  });

  it('I6: beside a stable write that failed another one may be lost though it succeeds', () => {
    const image = new SectorImage({ sectors: 3 });
    for (const id of [0, 1, 2]) image.beginWrite(id, id, [id + 5]);
    image.failWrite(0, () => false);
    image.hideLosses();
    image.completeWrite(1, true);
    image.completeWrite(2);
    image.beginSync(9);
    image.endSync(9, true);
    expect(image.survivors(1)).toEqual(new Set([0, 6]));
    expect(image.survivors(2)).toEqual(new Set([7]));
  });

  it('I7: on a disk that lies nothing is ever stable', () => {
    const image = disk(true);
    write(image, 0, [1], true);
    write(image, 1, [2]);
    sync(image);
    expect(survivorsOf(image)).toEqual([[0, 1], [0, 2], [0], [0]]);
  });

  it('a discard leaves anything until the next write', () => {
    const image = disk();
    image.beginDiscard(1, 0, 2);
    image.completeWrite(1);
    sync(image);
    expect(survivorsOf(image).slice(0, 2)).toEqual([[ANYTHING], [ANYTHING]]);
    write(image, 0, [5], true);
    expect(survivorsOf(image)[0]).toEqual([5]);
  });

  it('a kill leaves the page cache, and of writes in flight what the caller says', () => {
    const image = disk();
    write(image, 0, [1]);
    image.beginWrite(2, 1, [2, 3]);
    image.beginSync(3);
    image.kill((_, sector) => sector === 2);
    expect([0, 1, 2, 3].map((sector) => image.now(sector))).toEqual([1, 0, 3, 0]);
    expect(survivorsOf(image)).toEqual([[0, 1], [0], [0, 3], [0]]);
    sync(image);
    expect(survivorsOf(image)).toEqual([[1], [0], [3], [0]]);
  });

  it('refuses what lies outside the disk and ids that are taken or unknown', () => {
    const image = disk();
    image.beginWrite(1, 0, [1]);
    image.beginSync(1);
    const code = 'ERR_SLUICE_INVALID_ARGUMENT';
    expect(() => image.beginWrite(2, 3, [1, 2])).toThrow(expect.objectContaining({ code }));
    expect(() => image.beginWrite(1, 0, [1])).toThrow(expect.objectContaining({ code }));
    expect(() => image.completeWrite(2)).toThrow(expect.objectContaining({ code }));
    expect(() => image.beginSync(1)).toThrow(expect.objectContaining({ code }));
    expect(() => image.endSync(2, true)).toThrow(expect.objectContaining({ code }));
  });
});

describe('a power cut', () => {
  function written(): SectorImage {
    const image = disk();
    write(image, 0, [1, 1]);
    write(image, 1, [2, 2]);
    image.beginWrite(3, 2, [3, 3]);
    return image;
  }

  it.each([
    [{ kind: 'stable' }, [0, 0, 0, 0]],
    [{ kind: 'prefix', writes: 1 }, [1, 1, 0, 0]],
    [{ kind: 'prefix', writes: 2 }, [1, 2, 2, 0]],
    [{ kind: 'prefix', writes: 3 }, [1, 2, 3, 3]],
    [{ kind: 'torn', writes: 1, sectors: 1 }, [1, 2, 0, 0]],
    [{ kind: 'torn', writes: 2, sectors: 1 }, [1, 2, 3, 0]],
    [{ kind: 'subset', writes: new Set([1, 3]) }, [1, 1, 3, 3]],
    [{ kind: 'subset', writes: new Set([2]) }, [0, 2, 2, 0]],
  ] as const)('of the kind %o leaves %o', (cut, left) => {
    const image = written();
    image.cut(cut);
    expect([0, 1, 2, 3].map((sector) => image.now(sector))).toEqual(left);
    expect(survivorsOf(image)).toEqual(left.map((value) => [value]));
    expect(image.volatileWrites()).toEqual([]);
  });

  it('lists what it may undo: in completion order, then what is in flight', () => {
    expect(written().volatileWrites()).toEqual([
      { write: 1, completed: 1, sectors: [0, 1] },
      { write: 2, completed: 2, sectors: [1, 2] },
      { write: 3, completed: 0, sectors: [2, 3] },
    ]);
  });

  it('drawn by seeds leaves survivors only, and in the end each of them', () => {
    const found = [0, 1, 2, 3].map(() => new Set<number>());
    for (let seed = 0; seed < 200; seed++) {
      const image = written();
      image.cut({ kind: 'sample', seed });
      for (const [sector, values] of found.entries()) values.add(image.now(sector));
    }
    const sorted = found.map((values) => [...values].sort((a, b) => a - b));
    expect(sorted).toEqual(survivorsOf(written()));
  });
});

describe('a copy of an image', () => {
  it('goes its own way, also when either has grown', () => {
    const image = disk();
    for (let value = 1; value <= 100; value++) write(image, value % 4, [value]);
    const copy = image.clone();
    expect(survivorsOf(copy)).toEqual(survivorsOf(image));
    sync(copy);
    expect(survivorsOf(copy)).toEqual([[100], [97], [98], [99]]);
    expect(image.survivors(0).size).toBe(26);
    const small = disk();
    small.copyFrom(image);
    expect(survivorsOf(small)).toEqual(survivorsOf(image));
    image.copyFrom(copy);
    expect(survivorsOf(image)).toEqual(survivorsOf(copy));
  });
});
