/**
 * Reads, writes, zeroes and closes that fail on a served disk (the rows of faults.test.ts):
 * whoever asked is told, others are served, what was acknowledged is there, and a fault that is
 * not one of a sync is not sticky.
 */
import { expect, it } from 'vitest';
import { describeWithPeers } from '../support/peers.ts';
import { changed, CLEAN_END, Faulty, ORIGINAL, PLAIN_MODES, STABLE_MODES } from './faults.ts';

/** The call that reads or writes one block in a mode, and how often opening has made it. */
const READ = { writeback: ['preadv2', 1], none: ['pread64', 2] } as const;
/** Calls that are alone are made on the thread that serves. */
const ALONE = ['--aio', 'auto'];

describeWithPeers(['strace', 'nbdsh'], 'a served read or write that fails', () => {
  it.for(PLAIN_MODES)(
    'F01: EIO of a read is told to its reader only (%s)',
    async (cache, context) => {
      const [call, nth] = READ[cache];
      await using disk = await Faulty.serve(context, {
        cache,
        inject: [`${call}:error=EIO:when=${nth}`],
      });
      const said = await disk.client(`
say(failed=seen(0), again=seen(0), other=seen(8192), write=write(b'w', 4096), flush=flush(),
    written=seen(4096))`);
      expect(said).toEqual({
        failed: 'EIO',
        again: ORIGINAL,
        other: ORIGINAL,
        write: 'ok',
        flush: 'ok',
        written: 'w',
      });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({ 1: 'w' }));
    },
  );

  it.for([
    ['writeback', 'EIO', 'EIO'],
    ['none', 'EIO', 'EIO'],
    ['none', 'ENOSPC', 'ENOSPC'],
    ['writeback', 'EDQUOT', 'ENOSPC'],
    ['writeback', 'EFBIG', 'ENOSPC'],
  ] as const)(
    'F03, F06, F08: %s: a write that fails with %s is %s to its client',
    async (row, context) => {
      const [cache, error, told] = row;
      const inject = [`pwrite64:error=${error}:when=2`];
      await using disk = await Faulty.serve(context, { cache, inject });
      const said = await disk.client(`
say(first=write(b'a', 0), second=write(b'b', 0), after=seen(0), other=write(b'c', 8192),
    flush=flush(), retry=write(b'd', 4096), last=flush())`);
      expect(said).toEqual({
        first: 'ok',
        second: told,
        after: 'a',
        other: 'ok',
        flush: 'ok',
        retry: 'ok',
        last: 'ok',
      });
      // A failed write may have changed bytes: the flush after it is not elided (durability 4).
      expect(disk.calls('fdatasync')).toHaveLength(2);
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({ 0: 'a', 1: 'd', 2: 'c' }));
    },
  );

  it.for(PLAIN_MODES)(
    'F03: of a merged write each part is tried alone (%s)',
    async (cache, context) => {
      const inject = ['pwrite64:error=EIO:when=1'];
      await using disk = await Faulty.serve(context, { cache, inject });
      const said = await disk.client(`
say(parts=together(lambda: [later_write(b'm', 4096 * block) for block in range(4)]))
say(flush=flush())`);
      expect(said).toEqual({ parts: ['ok', 'ok', 'ok', 'ok'], flush: 'ok' });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({ 0: 'm', 1: 'm', 2: 'm', 3: 'm' }));
    },
  );

  it.for(PLAIN_MODES)(
    'F03: in a merged write no part hides behind another (%s)',
    async (row, context) => {
      // Nothing works from the first call to the fourth: the whole, and then three of four parts.
      const inject = ['pwrite64:error=EIO:when=1..4'];
      await using disk = await Faulty.serve(context, { cache: row, inject });
      const said = await disk.client(`
say(parts=together(lambda: [later_write(b'm', 4096 * block) for block in range(4)]))
say(flush=flush())`);
      const writes = disk.calls('pwrite64');
      const good = writes
        .filter(({ result }) => result > 0)
        .flatMap(({ args, result }) => {
          const first = Number(args.split(', ').at(-1)) / 4096;
          return Array.from({ length: result / 4096 }, (_, index) => first + index);
        });
      const parts = [0, 1, 2, 3].map((block) => (good.includes(block) ? 'ok' : 'EIO'));
      expect(parts).toContain('EIO');
      expect(said).toEqual({ parts, flush: 'ok' });
      expect(await disk.end()).toEqual(CLEAN_END);
      const there = Object.fromEntries(good.map((block) => [block, 'm']));
      expect(await disk.blocks()).toEqual(changed(there));
    },
  );

  it.for(STABLE_MODES)(
    'F17: EIO of a stable write is its own affair (%s)',
    async (cache, context) => {
      const inject = ['pwrite64:error=EIO:when=2'];
      await using disk = await Faulty.serve(context, { cache, inject });
      const said = await disk.client(`
say(first=write(b'a', 0), second=write(b'b', 4096), third=write(b'c', 8192), flush=flush(),
    again=write(b'd', 4096), last=flush())`);
      expect(said).toEqual({
        first: 'ok',
        second: 'EIO',
        third: 'ok',
        flush: 'ok',
        again: 'ok',
        last: 'ok',
      });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({ 0: 'a', 1: 'd', 2: 'c' }));
    },
  );

  it.for(PLAIN_MODES)('F12, F13: interruptions are not passed on (%s)', async (cache, context) => {
    const [read, nth] = READ[cache];
    const inject = [
      `pwrite64:error=EINTR:when=1`,
      `${read}:error=EAGAIN:when=${nth}`,
      `fdatasync:error=EINTR:when=1`,
    ];
    await using disk = await Faulty.serve(context, { cache, inject });
    const said = await disk.client(`
say(write=write(b'w', 0), read=seen(4096), flush=flush(), fua=write(b'f', 8192, flags=FUA))`);
    expect(said).toEqual({ write: 'ok', read: ORIGINAL, flush: 'ok', fua: 'ok' });
    expect(disk.calls('fdatasync').map(({ error }) => error)).toEqual(['EINTR', undefined]);
    expect(await disk.end()).toEqual(CLEAN_END);
    expect(await disk.blocks()).toEqual(changed({ 0: 'w', 2: 'f' }));
  });

  it('F13: EAGAIN without an end is an error, in a bounded time', async (context) => {
    const inject = ['pwrite64:error=EAGAIN:when=1..100'];
    await using disk = await Faulty.serve(context, { cache: 'none', inject });
    const said = await disk.client(`
say(write=write(b'w', 0), read=seen(4096), flush=flush())`);
    expect(said).toEqual({ write: 'EIO', read: ORIGINAL, flush: 'ok' });
    expect(disk.calls('pwrite64').length).toBeLessThan(20);
    expect(await disk.end()).toEqual(CLEAN_END);
  });

  it('F01, F03: a direct write whose edges cannot be read changes nothing', async (context) => {
    // The first read is the probe at the open.
    const inject = ['pread64:error=EIO:when=2'];
    await using disk = await Faulty.serve(context, { cache: 'none', inject });
    const said = await disk.client(`
say(odd=write(b'w', 333, 6000), read=seen(0, 8192), again=write(b'v', 333, 6000), flush=flush())`);
    expect(said).toEqual({ odd: 'EIO', read: ORIGINAL, again: 'ok', flush: 'ok' });
    expect(await disk.end()).toEqual(CLEAN_END);
    expect(await disk.blocks()).toEqual(changed({ 0: 'ov', 1: 'ov' }));
  });

  it('F11: a short direct write is finished from its last whole block', async (context) => {
    const inject = ['pwrite64:retval=1000:when=1'];
    await using disk = await Faulty.serve(context, { cache: 'none', inject });
    const said = await disk.client(`say(write=write(b'w', 4096, 8192), flush=flush())`);
    expect(said).toEqual({ write: 'ok', flush: 'ok' });
    expect(await disk.end()).toEqual(CLEAN_END);
    // strace only says that 1000 bytes were written. 512 of them are taken for written.
    expect(await disk.blocks()).toEqual(changed({ 1: 'ow', 2: 'w' }));
    const offsets = disk.calls('pwrite64').map(({ args }) => Number(args.split(', ').at(-1)));
    expect(offsets).toEqual([4096, 5096, 4608]);
  });

  it('F01: EIO of a direct read that is waited for is told to its reader only', async (context) => {
    const inject = ['preadv2:error=EIO:when=1'];
    await using disk = await Faulty.serve(context, { cache: 'none', inject, options: ALONE });
    const said = await disk.client(`say(failed=seen(0), again=seen(0), flush=flush())`);
    expect(said).toEqual({ failed: 'EIO', again: ORIGINAL, flush: 'ok' });
    expect(await disk.end()).toEqual(CLEAN_END);
  });

  it.for(STABLE_MODES)(
    'F17: EIO of a stable write that is waited for is told (%s)',
    async (cache, context) => {
      const inject = ['pwrite64:error=EIO:when=1'];
      await using disk = await Faulty.serve(context, { cache, inject, options: ALONE });
      const said = await disk.client(`
say(first=write(b'a', 0), seen=seen(0), flush=flush())`);
      expect(said).toEqual({ first: 'EIO', seen: ORIGINAL, flush: 'ok' });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({}));
    },
  );

  it('F11: a short direct write that is waited for is finished on the pool', async (context) => {
    // Of both threads strace only says that 1000 bytes were written.
    const inject = ['pwrite64:retval=1000:when=1'];
    await using disk = await Faulty.serve(context, { cache: 'none', inject, options: ALONE });
    const said = await disk.client(`say(write=write(b'w', 4096, 8192), flush=flush())`);
    expect(said).toEqual({ write: 'ok', flush: 'ok' });
    expect(await disk.end()).toEqual(CLEAN_END);
    expect(await disk.blocks()).toEqual(changed({ 1: 'ow', 2: 'w' }));
    const offsets = disk.calls('pwrite64').map(({ args }) => Number(args.split(', ').at(-1)));
    expect(offsets).toEqual([4096, 4608, 5608, 5120]);
  });

  it('F19: EIO of a close is the exit code', async (context) => {
    await using disk = await Faulty.serve(context, {
      cache: 'writeback',
      inject: ['close:error=EIO:when=1'],
    });
    expect(await disk.client(`say(write=write(b'w', 0), flush=flush())`)).toEqual({
      write: 'ok',
      flush: 'ok',
    });
    expect(await disk.end()).toEqual({
      code: 1,
      errors: [expect.stringMatching(/^sluice: cannot close .* \(ERR_SLUICE_IO\)$/)],
    });
    expect(disk.calls('close')).toHaveLength(2);
    expect(await disk.blocks()).toEqual(changed({ 0: 'w' }));
  });
});

describeWithPeers(['strace', 'nbdsh'], 'a served zeroing or discard', () => {
  it.for(PLAIN_MODES)(
    'F30: is written where the file system has no holes (%s)',
    async (cache, context) => {
      const inject = ['fallocate:error=EOPNOTSUPP'];
      await using disk = await Faulty.serve(context, { cache, inject });
      const said = await disk.client(`
say(zero=attempt(h.zero, 8192, 0), trim=attempt(h.trim, 4096, 16384),
    fua=attempt(h.zero, 4096, 32768, FUA), read=seen(0, 8192), neighbour=seen(8192))`);
      expect(said).toEqual({ zero: 'ok', trim: 'ok', fua: 'ok', read: '\0', neighbour: ORIGINAL });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({ 0: '\0', 1: '\0', 8: '\0' }));
    },
  );

  it.for(PLAIN_MODES)(
    'F30: that fails with EIO is told, and changes nothing else (%s)',
    async (cache, context) => {
      const inject = ['fallocate:error=EIO'];
      await using disk = await Faulty.serve(context, { cache, inject });
      const said = await disk.client(`
say(zero=attempt(h.zero, 8192, 0), trim=attempt(h.trim, 4096, 16384), read=seen(0, 20480),
    write=write(b'w', 4096), flush=flush())`);
      expect(said).toEqual({ zero: 'EIO', trim: 'EIO', read: ORIGINAL, write: 'ok', flush: 'ok' });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect(await disk.blocks()).toEqual(changed({ 1: 'w' }));
    },
  );

  it.for(PLAIN_MODES)(
    'F30: that comes late never hits the write after it (%s)',
    async (cache, context) => {
      const inject = ['fallocate:delay_enter=200000'];
      await using disk = await Faulty.serve(context, { cache, inject, poolThreads: 4 });
      const said = await disk.client(`
punch = Later(h.aio_trim, 65536, 0)
late = later_write(b'w', 4096)
other = later_write(b'x', 131072)
wait(other)
say(overtaken=late.answer is None and punch.answer is None)
say(answers=wait(punch, late), read=seen(4096), order=punch.ended <= late.ended)`);
      expect(said).toEqual({ overtaken: true, answers: ['ok', 'ok'], read: 'w', order: true });
      expect(await disk.end()).toEqual(CLEAN_END);
      expect((await disk.blocks())[1]).toBe('w');
    },
  );
});
