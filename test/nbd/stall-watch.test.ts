import { describe, expect, it } from 'vitest';
import { Arena, PAGE_SIZE } from '../../src/arena.ts';
import {
  LEAST_STALL_MS,
  STALL_BYTES,
  STALL_CALM_MS,
  STALL_CHECK_MS,
  STALL_MS,
} from '../../src/nbd/limits.ts';
import { StallWatch, type Watched } from '../../src/nbd/stall-watch.ts';

const CHECKS = STALL_MS / STALL_CHECK_MS;

interface Connection extends Watched {
  waiting: boolean;
  stalling: boolean;
  movedBytes: number;
  heldBytes: number;
}

function connection(over: Partial<Connection> = {}): Connection {
  return { waiting: false, stalling: false, movedBytes: 0, heldBytes: 4096, ...over };
}

/** A watch over an arena that somebody waits for. */
function contendedWatch(): { watch: StallWatch<Connection>; relieve: () => void } {
  const arena = new Arena(PAGE_SIZE, 65_536);
  const address = arena.allocate(arena.smallBytes);
  arena.whenFree(1, () => undefined);
  const watch = new StallWatch<Connection>(arena);
  return { watch, relieve: () => arena.release(address, arena.smallBytes) };
}

/** Those to drop after so many checks. */
function after(watch: StallWatch<Connection>, checks: number, all: Connection[]): Connection[] {
  let dropped: Connection[] = [];
  for (let check = 0; check < checks; check++) dropped = watch.check(all);
  return dropped;
}

describe('the stall watch', () => {
  it('finds who holds memory without moving, and only after the time limit', () => {
    const { watch } = contendedWatch();
    const holder = connection({ stalling: true });
    const waiter = connection({ waiting: true });
    expect(after(watch, CHECKS, [holder, waiter])).toEqual([]);
    expect(after(watch, 1, [holder, waiter])).toEqual([holder]);
  });

  it('spares who moves enough, however slowly it is for others', () => {
    const { watch } = contendedWatch();
    const holder = connection({ stalling: true });
    for (let check = 0; check < 5 * CHECKS; check++) {
      expect(watch.check([holder])).toEqual([]);
      holder.movedBytes += STALL_BYTES / CHECKS;
    }
  });

  it('asks for more of who holds more', () => {
    const { watch } = contendedWatch();
    const holder = connection({ stalling: true, heldBytes: 2 ** 25 });
    let checks = 0;
    while (watch.check([holder]).length === 0) {
      holder.movedBytes += STALL_BYTES;
      checks += 1;
      expect(checks).toBeLessThanOrEqual(CHECKS);
    }
    expect(checks).toBe(CHECKS);
  });

  it('does not spare who moves a byte now and then', () => {
    const { watch } = contendedWatch();
    const holder = connection({ stalling: true });
    let dropped = false;
    for (let check = 0; check <= CHECKS; check++) {
      dropped = watch.check([holder]).length > 0;
      holder.movedBytes += 1;
    }
    expect(dropped).toBe(true);
  });

  it('has less patience with the next ones, and all of it after a calm time', () => {
    const { watch } = contendedWatch();
    const checksFor = (): number => {
      const holder = connection({ stalling: true });
      let checks = 0;
      while (watch.check([holder]).length === 0) checks += 1;
      return checks;
    };
    expect(checksFor()).toBe(CHECKS);
    expect(checksFor()).toBe(CHECKS / 2);
    checksFor();
    expect(checksFor()).toBe(LEAST_STALL_MS / STALL_CHECK_MS);
    after(watch, STALL_CALM_MS / STALL_CHECK_MS, []);
    expect(checksFor()).toBe(CHECKS);
  });

  it('starts anew when nobody waited in between', () => {
    const { watch, relieve } = contendedWatch();
    const holder = connection({ stalling: true });
    expect(after(watch, CHECKS, [holder])).toEqual([]);
    relieve();
    expect(after(watch, CHECKS, [holder])).toEqual([]);
  });

  it('spares who waits for itself alone', () => {
    const { watch } = contendedWatch();
    const both = connection({ stalling: true, waiting: true });
    expect(after(watch, 3 * CHECKS, [both])).toEqual([]);
    expect(after(watch, CHECKS + 1, [both, connection({ waiting: true })])).toEqual([both]);
  });
});
