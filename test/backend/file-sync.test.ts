import { closeSync, openSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { clientCame, clientWent } from '../../src/backend/company.ts';
import { EINVAL } from '../../src/backend/errno.ts';
import { newCounters } from '../../src/backend/file-counters.ts';
import { FileSync, PROBE_INTERVAL, QUIET_SYNCS } from '../../src/backend/file-sync.ts';
import { syncDataHere } from '../../src/backend/file-transfer.ts';
import { WAITED_BYTES } from '../../src/backend/patience.ts';

const EIO = 5;

/** A file whose syncs the test answers; a sync on the thread takes `syncMs` by the clock. */
class Fake {
  readonly counters = newCounters();
  readonly pooled: ((errno: number) => void)[] = [];
  here = 0;
  errno = 0;
  syncMs = 0;
  nowMs = 0;
  readonly sync: FileSync;

  constructor(waits = true) {
    const calls = {
      pooled: (settle: (errno: number) => void) => void this.pooled.push(settle),
      here: () => {
        this.here++;
        this.nowMs += this.syncMs;
        return this.errno;
      },
    };
    this.sync = new FileSync(calls, this.counters, waits);
  }

  /** Makes syncs one after the other; answers how many of them were made on the thread. */
  lone(count: number, company: () => void = () => undefined): number {
    const before = this.here;
    for (let index = 0; index < count; index++) {
      this.counters.syncs++;
      this.sync.run(true, () => undefined);
      if (this.pooled.length === 0) continue;
      company();
      this.pooled.pop()?.(0);
    }
    return this.here - before;
  }
}

/** One whose next lone sync is made on the thread. */
function quiet(): Fake {
  const fake = new Fake();
  fake.lone(QUIET_SYNCS);
  return fake;
}

describe('syncs of a file', () => {
  let fake: Fake;

  beforeEach(() => {
    fake = quiet();
    vi.spyOn(performance, 'now').mockImplementation(() => fake.nowMs);
  });

  afterEach(() => {
    vi.restoreAllMocks();
  });

  it('are pooled at first, then made on the thread, but for probes (L1)', () => {
    expect(fake.here).toBe(0);
    expect(fake.lone(1)).toBe(1);
    expect(fake.lone(10 * PROBE_INTERVAL)).toBe(10 * (PROBE_INTERVAL - 1));
  });

  it.each([
    ['a read', () => fake.counters.reads++],
    ['a write', () => fake.counters.writes++],
    ['another sync', () => fake.counters.syncs++],
  ])('are pooled again when %s came while a probe ran (L1)', (_, company) => {
    fake.lone(PROBE_INTERVAL - 1);
    fake.lone(1, company);
    expect(fake.lone(QUIET_SYNCS)).toBe(0);
    expect(fake.lone(1)).toBe(1);
  });

  it('are pooled when something else is in flight (L1)', () => {
    fake.sync.run(false, () => undefined);
    expect([fake.here, fake.pooled.length]).toEqual([0, 1]);
    fake.pooled.pop()?.(0);
    expect(fake.lone(QUIET_SYNCS)).toBe(0);
  });

  it('are pooled while the thread serves a second client (L4)', () => {
    clientCame();
    expect(fake.lone(1)).toBe(1);
    clientCame();
    expect(fake.lone(QUIET_SYNCS)).toBe(0);
    clientWent();
    expect(fake.lone(1)).toBe(1);
    clientWent();
  });

  it('are pooled when much was written since the last (L2)', () => {
    fake.counters.bytesWritten += WAITED_BYTES;
    expect(fake.lone(1)).toBe(1);
    fake.counters.bytesWritten += WAITED_BYTES + 1;
    expect(fake.lone(1)).toBe(0);
    expect(fake.lone(1)).toBe(1);
  });

  it('are pooled for a while when the disk is slow (L3)', () => {
    fake.syncMs = 2;
    expect(fake.lone(1)).toBe(1);
    expect(fake.lone(32)).toBe(0);
    expect(fake.lone(1)).toBe(1);
  });

  it('never wait where that was forbidden', () => {
    expect(new Fake(false).lone(3 * QUIET_SYNCS)).toBe(0);
  });

  it('settle with their error, wherever they are made', () => {
    const found: number[] = [];
    fake.errno = EIO;
    fake.sync.run(true, (errno) => found.push(errno));
    fake.sync.run(false, (errno) => found.push(errno));
    fake.pooled.pop()?.(EIO);
    expect(found).toEqual([EIO, EIO]);
  });

  it('that the system refuses answer its number', () => {
    const fd = openSync('/dev/null', 'w');
    expect(syncDataHere(fd, '/dev/null')).toBe(EINVAL);
    closeSync(fd);
  });
});
