/**
 * Syncs that fail or take long on a served disk (the rows of test/e2e/faults.test.ts; durability
 * sections 4 and 6): a failed sync is nobody's success, on no connection, now or later; everything
 * else goes on; the exit code tells.
 */
import { expect, it } from 'vitest';
import { serve } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import type { SystemCall } from '../support/strace.ts';
import { nbdsh } from './image.ts';
import { CLEAN_END, Faulty, LATCHED_END, ORIGINAL, PLAIN_MODES, STABLE_MODES } from './faults.ts';

const MODES_AND_ERRORS = [
  ['writeback', 'EIO'],
  ['writeback', 'ENOSPC'],
  ['none', 'EIO'],
  ['none', 'EDQUOT'],
] as const;

/** What is told of a flush before the failing sync, of it and of all that follow. */
const LATCH = `
say(before=write(b'a', 0), good=flush(), more=write(b'b', 4096), failed=flush())
say(again=[flush() for attempt in range(3)])
other = nbd.NBD()
other.connect_uri(h.get_uri())
say(elsewhere=attempt(other.flush))
say(write=write(b'c', 8192), fua=write(b'd', 12288, flags=FUA), last=flush())
say(zero=attempt(h.zero, 4096, 20480, FUA), trim=attempt(h.trim, 4096, 24576, FUA))
say(reads=[seen(block * 4096) for block in range(5)])
other.shutdown()
`;

describeWithPeers(['strace', 'nbdsh'], 'a sync that fails', () => {
  it.for(MODES_AND_ERRORS)(
    'F14, F15, F16: %s: after %s no flush succeeds, by whomever, and no sync is tried',
    async ([cache, error], context) => {
      const inject = [`fdatasync:error=${error}:when=2`];
      await using disk = await Faulty.serve(context, { cache, inject });
      expect(await disk.client(LATCH)).toEqual({
        before: 'ok',
        good: 'ok',
        more: 'ok',
        failed: 'EIO',
        again: ['EIO', 'EIO', 'EIO'],
        elsewhere: 'EIO',
        write: 'ok',
        // By whatever descriptor: the system tells one writer only what it has lost (W4).
        fua: 'EIO',
        last: 'EIO',
        // Stable only by a sync.
        zero: 'EIO',
        trim: 'EIO',
        reads: ['a', 'b', 'c', 'd', ORIGINAL],
      });
      // The system would have called the third one a success.
      expect(disk.calls('fdatasync').map((call) => call.error)).toEqual([undefined, error]);
      expect(await disk.end()).toEqual(LATCHED_END);
      expect((await disk.blocks()).slice(0, 4)).toEqual(['a', 'b', 'c', 'd']);
      await opensAnew(disk);
    },
  );

  it.for(PLAIN_MODES)(
    'F14: fails whoever waits for it, and those behind them (%s)',
    async (cache, context) => {
      const inject = ['fdatasync:error=EIO:delay_enter=300000:when=1'];
      await using disk = await Faulty.serve(context, { cache, inject, poolThreads: 4 });
      const said = await disk.client(`
wait(*[later_write(b'a', 8192 * block) for block in range(8)])
first = [later_flush() for flush in range(8)]
time.sleep(0.1)
meanwhile = wait(later_write(b'b', 4096))
second = [later_flush() for flush in range(8)]
say(waiting=all(flush.answer is None for flush in first + second))
say(meanwhile=meanwhile, first=list(set(wait(*first))), second=list(set(wait(*second))),
    read=seen(4096))`);
      expect(said).toEqual({
        waiting: true,
        meanwhile: ['ok'],
        first: ['EIO'],
        second: ['EIO'],
        read: 'b',
      });
      expect(disk.calls('fdatasync')).toHaveLength(1);
      expect(await disk.end()).toEqual(LATCHED_END);
    },
  );

  it.for(STABLE_MODES)(
    'F14, F17: fails every stable write that shares it (%s)',
    async (cache, context) => {
      const inject = ['fdatasync:error=EIO:when=1'];
      await using disk = await Faulty.serve(context, { cache, inject });
      const said = await disk.client(`
say(group=together(lambda: [later_write(b'g', 8192 * block) for block in range(8)]))
say(alone=write(b'a', 4096))
say(group_again=together(lambda: [later_write(b'h', 8192 * block) for block in range(8)]))
say(flush=flush(), read=seen(4096))`);
      expect(disk.calls('fdatasync')).toHaveLength(1);
      expect(said).toEqual({
        group: Array(8).fill('EIO'),
        alone: 'EIO',
        group_again: Array(8).fill('EIO'),
        flush: 'EIO',
        read: 'a',
      });
      expect(stableWrites(disk)).toEqual(Array(17).fill(false));
      expect(await disk.end()).toEqual(LATCHED_END);
    },
  );

  it('F14: is said on stderr while the server lives', async (context) => {
    const inject = ['fdatasync:error=EIO:when=1'];
    await using disk = await Faulty.serve(context, { cache: 'writeback', inject });
    await disk.client(`say(write=write(b'w', 0), flush=flush())\ntime.sleep(2)`);
    const { stderr } = await disk.server.outcome;
    expect(stderr).toMatch(/^sluice: warning: a sync of the image failed: every flush fails/m);
  });

  it('F16: at the end, with no client left to tell, is the exit code', async (context) => {
    const inject = ['fdatasync:error=ENOSPC:when=1'];
    await using disk = await Faulty.serve(context, { cache: 'writeback', inject });
    expect(await disk.client(`say(write=write(b'w', 0))`)).toEqual({ write: 'ok' });
    expect(await disk.end()).toMatchObject({
      code: 1,
      errors: [expect.stringMatching(/^sluice: /)],
    });
    expect((await disk.blocks())[0]).toBe('w');
  });
});

/** Of each write in turn, whether it went to the O_DSYNC descriptor. They are of one block each. */
function stableWrites(disk: Faulty): boolean[] {
  const plain = disk.calls('openat').find(({ args }) => !args.includes('O_DSYNC'))?.result;
  return disk.calls('pwrite64').map(({ args }) => Number.parseInt(args, 10) !== plain);
}

/** The latch is of one opening: the next one syncs before it believes anything. */
async function opensAnew({ image, folder }: Faulty): Promise<void> {
  await using server = await serve(['-f', 'raw', '-k', folder.file('b.sock'), image]);
  await nbdsh(server.uri, `h.flush()\nassert h.pread(1, 4096) == b'b'`);
  expect(await server.outcome).toMatchObject({ code: 0 });
}

describeWithPeers(['strace', 'nbdsh'], 'a sync that takes long', () => {
  it.for(PLAIN_MODES)(
    'F18: stops nobody; a flush rides on it only with nothing written since (%s)',
    async (cache, context) => {
      const inject = ['fdatasync:delay_enter=1000000:when=1'];
      await using disk = await Faulty.serve(context, { cache, inject, poolThreads: 4 });
      const said = await disk.client(`
before = later_write(b'a', 0)
wait(before)
first = later_flush()
time.sleep(0.1)
second = later_flush()
others = [later_write(b'b', 8192 + 4096 * block) for block in range(16)]
wait(*others)
say(reads=[seen(4096 * block) for block in range(4)], slow=first.answer or second.answer)
third = later_flush()
fourth = later_flush()
say(answers=wait(first, second, third, fourth))
say(ended=[flush.ended for flush in (first, second, third, fourth)], written=others[-1].ended)`);
      expect(said).toMatchObject({
        reads: ['a', ORIGINAL, 'b', 'b'],
        slow: null,
        answers: ['ok', 'ok', 'ok', 'ok'],
      });
      const ended = said['ended'] as number[];
      const syncs = disk.calls('fdatasync');
      expect(syncs).toHaveLength(2);
      // The second sync begins after the writes that the third flush owes were answered.
      expect(syncs[1]!.startMicros).toBeGreaterThan(said['written'] as number);
      for (const [flush, at] of ended.entries()) {
        const sync: SystemCall = syncs[flush < 2 ? 0 : 1]!;
        expect(at, `flush ${flush + 1}`).toBeGreaterThanOrEqual(sync.endMicros);
      }
      expect(await disk.end()).toEqual(CLEAN_END);
    },
  );

  it('F22: is what SIGTERM waits for: requests, then the sync, then the close', async (context) => {
    const inject = ['fdatasync:delay_enter=300000:when=1'];
    const options = ['-t'];
    await using disk = await Faulty.serve(context, { cache: 'writeback', inject, options });
    const said = await disk.client(`
say(acknowledged=wait(*[later_write(b't', 8192 * block) for block in range(16)]))
os.kill(PID, signal.SIGTERM)`);
    expect(said).toEqual({ acknowledged: Array(16).fill('ok') });
    expect(await disk.end()).toEqual(CLEAN_END);
    const names = disk.calls('pwrite64', 'fdatasync', 'close').map(({ name }) => name);
    const writes = Array<string>(16).fill('pwrite64');
    expect(names).toEqual([...writes, 'fdatasync', 'close', 'close']);
    const [sync] = disk.calls('fdatasync');
    expect(disk.calls('close')[0]!.startMicros).toBeGreaterThanOrEqual(sync!.endMicros);
    const there = (await disk.blocks()).slice(0, 32);
    expect(there).toEqual(Array.from({ length: 32 }, (_, at) => (at % 2 === 0 ? 't' : ORIGINAL)));
  });
});
