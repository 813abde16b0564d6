/** Disks of NBD servers are copied, compared and told of as those of files are. */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';

import type { image } from '../../src/node.ts';
import { Running, sluice, SLUICE } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { nbdkit, type PeerServer, qemuNbd } from '../nbd/peer-servers.ts';
import { serveScript } from '../nbd/scripted-server.ts';
import { pattern } from '../nbd/wire.ts';
import { describeWithPeers } from '../support/peers.ts';

const MIB = 2 ** 20;
const SIZE = 24 * MIB;

/** The built package: its threads are files. */
const BUILT = new URL('../../dist/node.js', import.meta.url).href;
const { image: built } = (await import(BUILT)) as { image: typeof image };

describeWithPeers(['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdkit'], 'a disk of an NBD server', () => {
  const folder = imageFolder();
  const at = (name: string): string => join(folder, name);
  /** What is on the disk of `exported.img`, which servers serve; `disk.img` is a twin of it. */
  const data = Buffer.alloc(SIZE);

  beforeAll(() => {
    for (const start of [0, 1_000_000, 5 * MIB, 5 * MIB + 200_000, SIZE - 5000]) {
      pattern(70_000).copy(data, start);
    }
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'raw', 'disk.img', String(SIZE)]);
    writeFileSync(at('dense.img'), data);
    qemu(folder, 'qemu-img', ['convert', '-f', 'raw', '-O', 'raw', 'dense.img', 'disk.img']);
    qemu(folder, 'qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', 'disk.img', 'disk.qcow2']);
    spawnSync('cp', ['--sparse=always', at('disk.img'), at('exported.img')]);
  });

  const exported = (): Promise<PeerServer> => qemuNbd('-f', 'raw', '-r', at('exported.img'));
  /** A fresh file of noise that a server serves for writing. */
  function writable(name: string, size: number, ...more: string[]): Promise<PeerServer> {
    writeFileSync(at(name), Buffer.alloc(size, 0xa5));
    return qemuNbd('-f', 'raw', '--discard=unmap', ...more, at(name));
  }
  function expectSame(one: string, other: string): void {
    const run = spawnSync('qemu-img', ['compare', one, other], { cwd: folder, encoding: 'utf8' });
    expect(run.stdout + run.stderr).toBe('Images are identical.\n');
  }
  async function succeeds(...args: string[]): Promise<string> {
    const run = await sluice(args, { cwd: folder });
    expect(run).toMatchObject({ code: 0, stderr: '' });
    return run.stdout;
  }

  it('is copied into images, and what is sparse stays sparse', async () => {
    await using server = await exported();
    await succeeds('convert', server.uri, 'copy.img');
    expect(readFileSync(at('copy.img')).equals(data)).toBe(true);
    expect(statSync(at('copy.img')).blocks).toBeLessThanOrEqual(statSync(at('disk.img')).blocks);
    for (const options of [[], ['-c'], ['-c', '-o', 'compression_type=zstd']]) {
      await succeeds('convert', '-f', 'raw', ...options, '-O', 'qcow2', server.uri, 'copy.qcow2');
      expectSame('disk.img', 'copy.qcow2');
      qemu(folder, 'qemu-img', ['check', '-q', 'copy.qcow2']);
    }
    expect(statSync(at('copy.qcow2')).size).toBeLessThan(2 * MIB);
  });

  it('is copied from servers that know less', async () => {
    const image = ['file', at('exported.img')];
    for (const args of [['--no-sr'], ['--mask-handshake=0'], ['--filter=noextents']]) {
      await using server = await nbdkit(...args, ...image);
      await built.convert(server.uri, at('less.img'));
      expect(readFileSync(at('less.img')).equals(data)).toBe(true);
      expect(statSync(at('less.img')).blocks * 512).toBeLessThan(2 * MIB);
    }
  });

  it('is copied from servers that want whole blocks, and from any place', async () => {
    const sizes = ['blocksize-minimum=64K', 'blocksize-preferred=64K', 'blocksize-maximum=128K'];
    const policy = ['--filter=blocksize-policy', 'blocksize-error-policy=error', ...sizes];
    await using server = await nbdkit(policy[0]!, 'file', at('exported.img'), ...policy.slice(1));
    await succeeds('convert', server.uri, 'blocks.img');
    expect(readFileSync(at('blocks.img')).equals(data)).toBe(true);
    await succeeds('dd', `if=${server.uri}`, 'of=part.img', 'bs=1000', 'skip=999', 'count=5001');
    const part = Buffer.concat([data.subarray(999_000, 6_000_000), Buffer.alloc(216)]);
    expect(readFileSync(at('part.img')).equals(part)).toBe(true);
  });

  it('is a part of several that become one', async () => {
    await using server = await exported();
    await succeeds('convert', 'disk.qcow2', server.uri, 'both.img');
    expect(readFileSync(at('both.img')).equals(Buffer.concat([data, data]))).toBe(true);
  });

  it.for([
    ['a raw image', 'disk.img', []],
    ['a qcow2 image', 'disk.qcow2', []],
    ['a qcow2 image, with -n', 'disk.qcow2', ['-n']],
    ['a raw image, all as data', 'disk.img', ['-S', '0']],
  ] as const)('takes the copy of %s', async ([, from, options]) => {
    await using server = await writable('target.img', SIZE + MIB);
    await succeeds('convert', ...options, from, server.uri);
    const found = readFileSync(at('target.img'));
    expect(found.subarray(0, SIZE).equals(data)).toBe(true);
    // As with qemu-img the rest of a larger export stays.
    expect(found.subarray(SIZE).every((byte) => byte === 0xa5)).toBe(true);
    const isSparse = options[0] !== '-S';
    expect(statSync(at('target.img')).blocks * 512 < 4 * MIB).toBe(isSparse);
  });

  it('takes a part of a disk', async () => {
    await using server = await writable('part-target.img', 4 * MIB);
    await succeeds(
      'dd',
      '-f',
      'raw',
      'if=disk.img',
      `of=${server.uri}`,
      'bs=1M',
      'skip=5',
      'count=1',
    );
    const found = readFileSync(at('part-target.img'));
    expect(found.subarray(0, MIB).equals(data.subarray(5 * MIB, 6 * MIB))).toBe(true);
    expect(found.subarray(MIB).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('takes a copy without zeroes where it has them', async () => {
    await using server = await nbdkit('memory', String(SIZE));
    await succeeds('convert', '-n', '--target-is-zero', 'disk.img', server.uri);
    expectSame('disk.img', server.uri);
    await using noise = await writable('noise.img', SIZE);
    await succeeds('convert', '-n', '--target-is-zero', 'disk.img', noise.uri);
    expect(readFileSync(at('noise.img'))[4 * MIB]).toBe(0xa5);
  });

  it('takes copies of disks that end inside its blocks', async () => {
    writeFileSync(at('odd.img'), data.subarray(0, 5 * MIB + 1000));
    const policy = [
      'blocksize-error-policy=error',
      'blocksize-minimum=64K',
      'blocksize-preferred=64K',
    ];
    for (const zeroes of [[], ['--filter=nozero']]) {
      await using server = await nbdkit(
        ...zeroes,
        '--filter=blocksize-policy',
        'memory',
        String(SIZE),
        ...policy,
      );
      const { uri } = server;
      await succeeds('convert', 'odd.img', uri);
      await succeeds('convert', uri, 'back.img');
      const found = readFileSync(at('back.img'));
      expect(found.subarray(0, 5 * MIB + 1000).equals(data.subarray(0, 5 * MIB + 1000))).toBe(true);
      expect(found.subarray(5 * MIB + 1000).every((byte) => byte === 0)).toBe(true);
    }
  });

  it('is copied to another server, and the copy is flushed whatever the cache mode', async () => {
    await using from = await exported();
    const log = at('log');
    await using to = await nbdkit('--filter=log', 'memory', String(SIZE), `logfile=${log}`);
    await succeeds('convert', '-t', 'unsafe', from.uri, to.uri);
    expectSame(from.uri, to.uri);
    const requests = readFileSync(log, 'utf8').split('\n');
    const last = (kind: string): number => requests.findLastIndex((line) => line.includes(kind));
    expect(last(' Flush ')).toBeGreaterThan(last(' Write '));
    expect(last(' Write ')).toBeGreaterThan(0);
  });

  it('is compared', async () => {
    await using server = await exported();
    expect(await succeeds('compare', server.uri, 'disk.qcow2')).toBe('The disks are the same.\n');
    expect(await succeeds('compare', '-s', 'disk.img', server.uri)).toBe(
      'The disks are the same.\n',
    );
    copyFileSync(at('dense.img'), at('other.img'));
    const other = readFileSync(at('other.img'));
    other[3 * MIB + 5] = 1;
    writeFileSync(at('other.img'), other);
    const run = await sluice(['compare', server.uri, at('other.img')]);
    expect(run).toMatchObject({
      code: 1,
      stdout: `The disks differ, first at offset ${3 * MIB}.\n`,
    });
    const strict = await sluice(['compare', '-s', server.uri, at('dense.img')]);
    expect(strict).toMatchObject({
      code: 1,
      stdout: /^The disks are allocated otherwise/ as never,
    });
  });

  it('is told of as qemu-img tells of it', async () => {
    await using server = await exported();
    const { uri } = server;
    const img = (...args: string[]): unknown => JSON.parse(qemu(folder, 'qemu-img', args));
    const info = { ...(img('info', '--output=json', uri) as object), filename: uri };
    expect(await built.info(uri)).toEqual(info);
    expect(await built.chainInfo(uri)).toEqual([info]);
    expect(await succeeds('info', uri)).toContain('disk size: unavailable\n');
    expect(JSON.parse(await succeeds('map', '--output', 'json', uri))).toEqual(
      img('map', '--output=json', uri),
    );
    const part = ['--start-offset', '1000000', '--max-length', '5M'];
    expect(JSON.parse(await succeeds('map', '--output', 'json', ...part, uri))).toEqual(
      img('map', '--output=json', ...part, uri),
    );
    expect(JSON.parse(await succeeds('measure', '-O', 'qcow2', '--output', 'json', uri))).toEqual(
      img('measure', '-O', 'qcow2', '--output=json', uri),
    );
  });

  it('is read as raw only, and never taken for an image by itself', async () => {
    await using server = await qemuNbd('-f', 'raw', '-r', at('disk.qcow2'));
    const { uri } = server;
    const copy = at('raw-copy');
    for (const work of [
      () => built.convert(uri, copy),
      () => built.info(uri),
      () => built.measure(uri),
    ]) {
      await expectRefusal(work(), 'ERR_SLUICE_UNSUPPORTED', /looks like a qcow2 image.*-f raw/);
    }
    const format = 'qcow2';
    await expectRefusal(
      built.convert(uri, copy, { format }),
      'ERR_SLUICE_UNSUPPORTED',
      /not as qcow2/,
    );
    const snapshot = { id: '1' } as never;
    const work = built.convert(uri, copy, { snapshot, format: 'raw' });
    await expectRefusal(work, 'ERR_SLUICE_UNSUPPORTED', /no snapshots/);
    expect(existsSync(copy)).toBe(false);
    await built.convert(uri, copy, { format: 'raw' });
    expect(readFileSync(copy).equals(readFileSync(at('disk.qcow2')))).toBe(true);
  });

  it.for([
    ['qcow2', /written as raw, not as qcow2/, ['-O', 'qcow2'], SIZE],
    ['compressed data', /not written compressed/, ['-c', '-O', 'qcow2'], SIZE],
    ['more than it has', /it has 1048576 bytes, and the source 25165824/, [], MIB],
  ] as const)('is not written with %s', async ([, message, options, size]) => {
    await using server = await writable('kept.img', size);
    const run = await sluice(['convert', ...options, at('disk.img'), server.uri]);
    expect([run.code, run.stdout]).toEqual([1, '']);
    expect(run.stderr).toMatch(message);
    expect(readFileSync(at('kept.img')).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('that is read-only, or not there, is not written', async () => {
    await using server = await exported();
    await expectRefusal(
      built.convert(at('disk.img'), server.uri),
      'ERR_SLUICE_READ_ONLY',
      /the export is read-only/,
    );
    const other = server.uri.replace(':///', ':///none');
    const missing = built.convert(at('disk.img'), other);
    await expectRefusal(missing, 'ERR_SLUICE_OPEN', /no export of this name/);
    for (const verb of ['check', 'resize', 'snapshot', 'commit']) {
      const more = verb === 'resize' ? ['1G'] : [];
      const run = await sluice([verb, ...(verb === 'snapshot' ? ['-l'] : []), server.uri, ...more]);
      expect([verb, run.code === 0]).toEqual([verb, false]);
      expect(run.stderr).toMatch(/is a URI \(nbd\+unix\)/);
    }
  });

  it('is copied over a backing file', async () => {
    await using server = await exported();
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'raw', 'base.img', String(SIZE)]);
    qemu(folder, 'qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 24M', 'base.img']);
    const backing = ['-B', 'base.img', '-F', 'raw'];
    await succeeds('convert', '-O', 'qcow2', ...backing, server.uri, 'over.qcow2');
    expectSame('disk.img', 'over.qcow2');
  });

  it('that takes no more bytes fails the copy, and is not flushed', async () => {
    const log = at('full-log');
    const full = ['error-pwrite=ENOSPC', 'error-pwrite-rate=100%', `logfile=${log}`];
    const filters = ['--filter=error', '--filter=log'];
    await using server = await nbdkit(...filters, 'memory', String(SIZE), ...full);
    const work = built.convert(at('disk.img'), server.uri);
    await expectRefusal(work, 'ERR_SLUICE_NO_SPACE', /write of \d+ bytes .* reported ENOSPC/);
    expect(readFileSync(log, 'utf8')).not.toContain(' Flush ');
  });

  it('into which a copy is ended by Ctrl-C is said to be written in part', async () => {
    await using server = await nbdkit('--filter=delay', 'memory', String(SIZE), 'delay-write=60');
    const args = ['convert', '-p', at('disk.img'), server.uri];
    await using running = new Running(process.execPath, [SLUICE, ...args]);
    // Zeroes are there, data is not.
    await running.shows(/\/100%/);
    const { code, stderr } = await running.stop('SIGINT');
    expect(code).toBe(130);
    expect(stderr).toContain('the target is written in part');
  });

  it('whose server dies leaves nothing under the name of the copy', async () => {
    const before = readdirSync(folder);
    for (const options of [[], ['--salvage']]) {
      await using server = await nbdkit(
        '--filter=noextents',
        '--filter=delay',
        'memory',
        '8M',
        'rdelay=60',
      );
      await using running = new Running(process.execPath, [
        SLUICE,
        'convert',
        '-f',
        'raw',
        ...options,
        server.uri,
        at('never.img'),
      ]);
      while (readdirSync(folder).length === before.length) await sleep(5);
      await server.program.stop('SIGKILL');
      const { code, stderr } = await running.outcome;
      expect(code).toBe(1);
      expect(stderr).toMatch(/the server closed the connection|the connection was lost/);
      expect(stderr).toContain('ERR_SLUICE_CONNECTION');
      expect(readdirSync(folder)).toEqual(before);
    }
  });

  it('whose sectors cannot be read is salvaged', async () => {
    const script = `if [ $4 -le 8192 ] && [ $(($4 + $3)) -gt 8192 ]; then echo EIO >&2; exit 1; fi
      dd if=${at('exported.img')} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none`;
    await using server = await nbdkit('eval', 'get_size=echo 65536', `pread=${script}`);
    await expectRefusal(built.convert(server.uri, at('bad.img')), 'ERR_SLUICE_IO', /reported EIO/);
    const unreadable: unknown[] = [];
    await built.convert(server.uri, at('salvaged.img'), {
      onUnreadable: (offset, length) => unreadable.push([offset, length]),
    });
    expect(unreadable).toEqual([[8192, 512]]);
    const found = Buffer.from(data.subarray(0, 65_536)).fill(0, 8192, 8704);
    expect(readFileSync(at('salvaged.img')).equals(found)).toBe(true);
  });

  it('whose server never answers is given up by a signal', async () => {
    await using server = await serveScript((peer) => peer.agree());
    const stop = new AbortController();
    const work = built.convert(server.uri, at('given-up.img'), {
      signal: stop.signal,
      format: 'raw',
    });
    setTimeout(() => stop.abort(new Error('enough')), 100);
    await expect(work).rejects.toThrow('enough');
    expect(existsSync(at('given-up.img'))).toBe(false);
  });
});
