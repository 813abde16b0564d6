/** Flags, calls, and the faults of bad-inputs section 4, as the kernel sees them. */

import { afterAll, beforeAll, expect, it } from 'vitest';

import type { FileBackendOptions } from '../../src/backend/file.ts';
import { loadNative } from '../../src/backend/native.ts';
import { type Bundle, bundle } from '../support/bundle.ts';
import { describeWithPeers } from '../support/peers.ts';
import { strace, type SystemCall, type Tracing } from '../support/strace.ts';
import type { Scenario, Step } from './scenario.ts';
import { hasDirect, NO_DIRECT, scratchFile, scratchFolder } from './scratch.ts';

const EIO = 5;
const EAGAIN = 11;
const ENOSPC = 28;
const EDQUOT = 122;
const CALLS =
  'openat,pread64,preadv,preadv2,pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate,close';
const MIB = 1024 * 1024;

const folder = scratchFolder();
const direct = hasDirect(folder);
const koffi = loadNative() !== null;
let script: Bundle;

beforeAll(async () => {
  script = await bundle(new URL('scenario.ts', import.meta.url));
});
afterAll(() => script.remove());

interface Played {
  readonly errnos: readonly number[];
  readonly calls: readonly SystemCall[];
  /** Names and arguments of the calls that are not about opening and probing. */
  readonly work: readonly string[];
}

/** Runs the steps on a new file. */
async function play(
  options: FileBackendOptions,
  steps: readonly Step[],
  more: { inject?: Tracing['inject']; inline?: boolean } = {},
): Promise<Played> {
  const path = scratchFile(folder, new Uint8Array(MIB).fill(1));
  const lock = koffi ? 'auto' : 'none';
  const { inject = [], inline = false } = more;
  const scenario: Scenario = { path, options: { lock, ...options }, inline, steps };
  const tracing = { path, calls: CALLS.split(','), inject };
  const { stdout, calls } = await strace(script.file, [JSON.stringify(scenario)], tracing);
  // The probe of direct mode reads the first block into memory of its own.
  const probe = options.direct === true ? calls.findIndex(({ name }) => name === 'pread64') : -1;
  const work = calls
    .filter(({ name }, index) => name !== 'openat' && name !== 'close' && index !== probe)
    .map(({ name, args }) => `${name}(${args})`);
  return { errnos: JSON.parse(stdout) as number[], calls, work };
}

/** The flags of each open, in order. */
function flagsOf(calls: readonly SystemCall[]): string[][] {
  return calls
    .filter(({ name }) => name === 'openat')
    .map(({ args }) => /O_[A-Z_|]+/.exec(args)?.[0].split('|') ?? []);
}

/** The offsets of the calls of a kind: the last argument, but for the vectored ones with flags. */
function offsetsOf(calls: readonly SystemCall[], name: string): number[] {
  const last = name.endsWith('2') ? -2 : -1;
  return calls
    .filter((call) => call.name === name)
    .map(({ args }) => Number(args.split(', ').at(last)));
}

describeWithPeers(['strace'], 'the descriptors', () => {
  it.for([
    ['reading', { writable: false }, ['O_RDONLY'], undefined],
    ['writing', { writable: true }, ['O_RDWR'], ['O_RDWR', 'O_DSYNC']],
    ['writing without syncs', { writable: true, noFlush: true }, ['O_RDWR'], undefined],
    ['reading directly', { direct: true }, ['O_RDONLY', 'O_DIRECT'], undefined],
    [
      'writing directly',
      { writable: true, direct: true },
      ['O_RDWR', 'O_DIRECT'],
      ['O_RDWR', 'O_DIRECT', 'O_DSYNC'],
    ],
  ] as const)('for %s have the flags of the table', async ([, options, plain, stable], context) => {
    if ('direct' in options && !direct) context.skip(NO_DIRECT);
    const { calls } = await play(options, [['close']]);
    const expected = [plain, ...(stable === undefined ? [] : [stable])];
    const flags = flagsOf(calls).map((found) => found.filter((flag) => flag !== 'O_NONBLOCK'));
    expect(flags.map((found) => [...found].sort())).toEqual(
      expected.map((wanted) => [...wanted, 'O_CLOEXEC'].sort()),
    );
    expect(calls.filter(({ name }) => name === 'close')).toHaveLength(expected.length);
  });
});

describeWithPeers(['strace'], 'the system calls', () => {
  it('of a page-cache mode: one a command, stable writes on the second descriptor', async () => {
    const steps: Step[] = [
      ['write', 0, 4096],
      ['write', 4096, 8192, 2],
      ['read', 0, 4096],
      ['read', 0, 8192, 2],
      ['write', 8192, 4096, 1],
      ['sync'],
    ];
    const { errnos, work, calls } = await play({ writable: true }, steps);
    expect(errnos).toEqual([0, 0, 0, 0, 0, 0]);
    const [plain, stable] = calls.filter(({ name }) => name === 'openat').map((c) => c.result);
    expect(work.map((call) => call.split(', ')[0])).toEqual([
      `pwrite64(${plain}`,
      `${koffi ? 'pwritev2' : 'pwritev'}(${plain}`,
      `${koffi ? 'preadv2' : 'pread64'}(${plain}`,
      `${koffi ? 'preadv2' : 'preadv'}(${plain}`,
      `pwrite64(${stable}`,
      `fdatasync(${plain})`,
    ]);
    if (koffi) expect(work[2]).toContain('RWF_NOWAIT');
  });

  it('of direct mode: whole blocks, and the edges read first', async (context) => {
    if (!direct) context.skip(NO_DIRECT);
    const steps: Step[] = [
      ['write', 0, 8192, 2],
      ['write', 5000, 3000, 1],
      ['read', 4096, 4096],
    ];
    const { errnos, work, calls } = await play(
      { writable: true, direct: true, aio: 'threads' },
      steps,
    );
    expect(errnos).toEqual([0, 0, 0]);
    const stable = calls.filter(({ name }) => name === 'openat')[1]?.result;
    expect(work.map((call) => call.split('(')[0])).toEqual([
      'pwritev',
      'pread64',
      'pread64',
      'pwrite64',
      'pread64',
    ]);
    expect(offsetsOf(calls, 'pread64').slice(1)).toEqual([4608, 7680, 4096]);
    expect(work[3]).toMatch(new RegExp(`^pwrite64\\(${stable}, .*, 3584, 4608\\)$`));
  });

  it('with noFlush: no sync and no second descriptor', async () => {
    const steps: Step[] = [['write', 0, 4096, 1], ['sync'], ['close']];
    const { errnos, work } = await play({ writable: true, noFlush: true }, steps);
    expect(errnos).toEqual([0, 0, 0]);
    expect(work).toHaveLength(1);
    expect(work[0]).toMatch(/^pwrite64/);
  });

  it('of zeroes: zero range, or punch hole where that may be', async (context) => {
    if (!koffi) context.skip('koffi is not usable here');
    const steps: Step[] = [
      ['zero', 0, 4096],
      ['zero', 4096, 4096, 1],
      ['discard', 8192, 4096],
    ];
    const { work } = await play({ writable: true, discard: 'unmap' }, steps);
    expect(work.map((call) => call.replace(/^fallocate\(\d+, /, ''))).toEqual([
      'FALLOC_FL_KEEP_SIZE|FALLOC_FL_ZERO_RANGE, 0, 4096)',
      'FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 4096, 4096)',
      'FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 8192, 4096)',
    ]);
  });
});

/** The calls that a pooled or an inline write and read make. */
const write = {
  pooled: { writable: true, inlineBytes: 0, aio: 'threads' },
  inline: { writable: true },
} as const;

describeWithPeers(['strace'], 'a fault', () => {
  it.for([
    ['F01: EIO of a read is reported', 'preadv2', 'EIO', 'read', EIO],
    ['F03: EIO of a write is reported', 'pwrite64', 'EIO', 'write', EIO],
    ['F06: ENOSPC stays ENOSPC', 'pwrite64', 'ENOSPC', 'write', ENOSPC],
    ['F08: EDQUOT stays EDQUOT', 'pwrite64', 'EDQUOT', 'write', EDQUOT],
    ['F12: EINTR of a write is retried', 'pwrite64', 'EINTR', 'write', 0],
    ['F12: EINTR of a read is retried', 'preadv2', 'EINTR', 'read', 0],
    ['F13: EAGAIN of a write is retried', 'pwrite64', 'EAGAIN', 'write', 0],
    ['F13: EAGAIN of a read is retried', 'preadv2', 'EAGAIN', 'read', 0],
  ] as const)('on the thread, %s', async ([, call, error, op, expected], context) => {
    if (!koffi && call === 'preadv2') context.skip('koffi is not usable here');
    const inject = [`${call}:error=${error}:when=1`];
    const steps: Step[] = [
      [op, 0, 4096],
      [op, 0, 4096],
    ];
    const { errnos } = await play(write.inline, steps, { inject });
    expect(errnos).toEqual([expected, 0]);
  });

  it.for([
    ['F01: EIO of a read is reported', 'pread64', 'EIO', 'read', EIO],
    ['F03: EIO of a write is reported', 'pwrite64', 'EIO', 'write', EIO],
    ['F06: ENOSPC stays ENOSPC', 'pwrite64', 'ENOSPC', 'write', ENOSPC],
    ['F12: EINTR of a write is retried', 'pwrite64', 'EINTR', 'write', 0],
    ['F12: EINTR of a read is retried', 'pread64', 'EINTR', 'read', 0],
    ['F13: EAGAIN of a write is retried', 'pwrite64', 'EAGAIN', 'write', 0],
    ['F13: EAGAIN of a read is retried', 'pread64', 'EAGAIN', 'read', 0],
  ] as const)('on the pool, %s', async ([, call, error, op, expected]) => {
    const inject = [`${call}:error=${error}:when=1`];
    const steps: Step[] = [
      [op, 0, 4096],
      [op, 0, 4096],
    ];
    const { errnos } = await play(write.pooled, steps, { inject });
    expect(errnos).toEqual([expected, 0]);
  });

  it('F13: EAGAIN that does not end is reported after a bounded number of tries', async () => {
    const inject = ['pwrite64:error=EAGAIN'];
    const { errnos, work } = await play(write.pooled, [['write', 0, 4096]], { inject });
    expect(errnos).toEqual([EAGAIN]);
    expect(work.length).toBeLessThan(20);
  });

  it('F09: a short read goes on where it stopped', async (context) => {
    if (!koffi) context.skip('koffi is not usable here');
    const inject = ['preadv2:retval=100:when=1', 'pread64:retval=1000:when=1'];
    const { errnos, calls } = await play(write.inline, [['read', 4096, 4096]], { inject });
    expect(errnos).toEqual([0]);
    expect(offsetsOf(calls, 'preadv2')).toEqual([4096]);
    expect(offsetsOf(calls, 'pread64')).toEqual([4196, 5196]);
  });

  it('F10: a read that finds nothing is EIO', async () => {
    for (const options of [write.inline, write.pooled]) {
      const inject = ['preadv2:retval=0', 'pread64:retval=0'];
      const { errnos } = await play(options, [['read', 4096, 4096]], { inject });
      expect(errnos).toEqual([EIO]);
    }
  });

  it('F11: a short write goes on where it stopped', async () => {
    // Faults are counted by thread: a write that begins here is short once more on the pool.
    const offsets = [4096, 5096, 6096];
    for (const [options, tries] of [
      [write.inline, 3],
      [write.pooled, 2],
    ] as const) {
      const inject = ['pwrite64:retval=1000:when=1'];
      const { errnos, calls } = await play(options, [['write', 4096, 4096]], { inject });
      expect(errnos).toEqual([0]);
      expect(offsetsOf(calls, 'pwrite64')).toEqual(offsets.slice(0, tries));
    }
  });

  it('F11: a short direct write goes on from its last whole block', async (context) => {
    if (!direct) context.skip(NO_DIRECT);
    for (const inline of [false, true]) {
      const aio = inline ? 'auto' : 'threads';
      const options = { writable: true, direct: true, aio } as const;
      const inject = ['pwrite64:retval=1000:when=1'];
      const { errnos, calls } = await play(options, [['write', 4096, 8192, 1]], { inject, inline });
      expect(errnos).toEqual([0]);
      expect(offsetsOf(calls, 'pwrite64').at(-1)).toBe(4096 + (inline ? 1024 : 512));
    }
  });

  it('F11: a direct write that never fills a block is EIO', async (context) => {
    if (!direct) context.skip(NO_DIRECT);
    // Every other call: libuv goes on by itself at an odd offset, and the kernel refuses that.
    const inject = ['pwrite64:retval=100:when=1+2'];
    const options = { writable: true, direct: true, aio: 'threads' } as const;
    const { errnos } = await play(options, [['write', 4096, 512]], { inject });
    expect(errnos).toEqual([EIO]);
  });

  it('F11: a write that moves nothing is EIO', async () => {
    for (const options of [write.inline, write.pooled]) {
      const inject = ['pwrite64:retval=0'];
      const { errnos } = await play(options, [['write', 4096, 4096]], { inject });
      expect(errnos).toEqual([EIO]);
    }
  });

  it('F14, F16: a failed sync is reported once and not repeated', async () => {
    for (const [error, expected] of [
      ['EIO', EIO],
      ['ENOSPC', ENOSPC],
    ] as const) {
      const inject = [`fdatasync:error=${error}:when=1`];
      const { errnos, work } = await play(write.inline, [['sync']], { inject });
      expect(errnos).toEqual([expected]);
      expect(work).toHaveLength(1);
    }
  });

  it('a sync that is interrupted is repeated', async () => {
    const inject = ['fdatasync:error=EINTR:when=1'];
    const { errnos, work } = await play(write.inline, [['sync']], { inject });
    expect(errnos).toEqual([0]);
    expect(work).toHaveLength(2);
  });

  it('F17: EIO of a stable write is reported, and the next one works', async () => {
    const inject = ['pwrite64:error=EIO:when=1'];
    const steps: Step[] = [
      ['write', 0, 4096, 1],
      ['write', 0, 4096, 1],
    ];
    expect((await play(write.inline, steps, { inject })).errnos).toEqual([EIO, 0]);
  });

  it('F19: EIO of a close is reported by close()', async () => {
    const inject = ['close:error=EIO:when=2'];
    const { errnos } = await play(write.inline, [['close']], { inject });
    expect(errnos).toEqual([-1]);
  });

  it('F30: zeroes are written where fallocate is unsupported', async (context) => {
    if (!koffi) context.skip('koffi is not usable here');
    const options = { writable: true, discard: 'unmap' } as const;
    const inject = ['fallocate:error=EOPNOTSUPP'];
    const steps: Step[] = [
      ['zero', 0, 4096, 1],
      ['zero', 0, 4096, 1],
      ['discard', 0, 4096],
    ];
    const { errnos, work } = await play(options, steps, { inject });
    expect(errnos).toEqual([0, 0, 0]);
    expect(work.map((call) => call.split('(')[0])).toEqual([
      'fallocate',
      'fallocate',
      'pwrite64',
      'pwrite64',
    ]);
  });

  it('F30: another error of fallocate is reported; nothing is written instead', async (context) => {
    if (!koffi) context.skip('koffi is not usable here');
    const options = { writable: true, discard: 'unmap' } as const;
    for (const [error, expected] of [
      ['EIO', EIO],
      ['ENOSPC', ENOSPC],
    ] as const) {
      const inject = [`fallocate:error=${error}`];
      const steps: Step[] = [
        ['zero', 0, 4096, 1],
        ['zero', 0, 4096],
        ['discard', 0, 4096],
      ];
      const { errnos, work } = await play(options, steps, { inject });
      expect(errnos).toEqual([expected, expected, expected]);
      expect(work).toHaveLength(3);
    }
  });

  it('of fallocate that is an interruption is repeated', async (context) => {
    if (!koffi) context.skip('koffi is not usable here');
    const inject = ['fallocate:error=EINTR:when=1'];
    const { errnos, work } = await play(write.inline, [['zero', 0, 4096]], { inject });
    expect(errnos).toEqual([0]);
    expect(work).toHaveLength(2);
  });

  it('RWF_NOWAIT that is not supported is not tried again', async (context) => {
    if (!koffi) context.skip('koffi is not usable here');
    const inject = ['preadv2:error=EOPNOTSUPP'];
    const { errnos, work } = await play(
      { ...write.inline, aio: 'threads' },
      [
        ['read', 0, 512],
        ['read', 0, 512],
      ],
      { inject },
    );
    expect(errnos).toEqual([0, 0]);
    expect(work.map((call) => call.split('(')[0])).toEqual(['preadv2', 'pread64', 'pread64']);
  });
});
