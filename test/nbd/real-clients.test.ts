/** The clients that people have, against the server. */

import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OP_FLUSH, OP_WRITE, REQUEST_FUA, STATUS_IO_ERROR } from '../../src/abi/request.ts';
import { describeWithPeers } from '../support/peers.ts';
import { FakeDevice } from './fake-device.ts';
import { serveFake, serveOn } from './serving.ts';
import { pattern } from './wire.ts';

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
/** A copy that is interrupted would otherwise wait for a hanging server. */
const LIMIT_MS = 60_000;

const run = promisify(execFile);
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-clients-'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs a program and returns what it prints; what it leaves where it runs is removed, too. */
async function output(program: string, ...parameters: (string | string[])[]): Promise<string> {
  const { stdout } = await run(program, parameters.flat(), { cwd: folder, timeout: LIMIT_MS });
  return stdout;
}

/** Runs statements of Python with a libnbd handle `h` that is connected to `uri`. */
function nbdsh(uri: string, ...statements: string[]): Promise<string> {
  const script = [
    'h.set_full_info(True)',
    'h.add_meta_context("base:allocation")',
    `h.connect_uri("${uri}")`,
    ...statements,
  ];
  // The system's Python has the bindings; one that is first in the path may not.
  const env = { ...process.env, PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
  const commands = script.flatMap((line) => ['-c', line]);
  return run('nbdsh', commands, { timeout: LIMIT_MS, env }).then(({ stdout }) => stdout);
}

describeWithPeers(['nbdinfo'], 'nbdinfo', () => {
  it('finds the export, its flags, its block sizes and its extents', async () => {
    await using serving = await serveFake(
      { sizeBytes: SIZE, blockSizeBytes: 512 },
      { name: 'disk', description: 'a test disk' },
    );
    serving.device.storage.fill(1, 4 * MIB, 5 * MIB);
    const { uri } = serving.server;
    const { exports } = JSON.parse(await output('nbdinfo', '--json', uri)) as {
      exports: Record<string, unknown>[];
    };
    expect(exports).toHaveLength(1);
    expect(exports[0]).toMatchObject({
      'export-name': 'disk',
      'export-size': SIZE,
      description: 'a test disk',
      contexts: ['base:allocation'],
      is_rotational: false,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
    });
    expect(JSON.parse(await output('nbdinfo', '--map', '--json', uri))).toMatchObject([
      { offset: 0, length: 4 * MIB, type: 3 },
      { offset: 4 * MIB, length: MIB, type: 0 },
      { offset: 5 * MIB, length: SIZE - 5 * MIB, type: 3 },
    ]);
  });

  it('lists the export, and is told when there is none of that name', async () => {
    await using serving = await serveFake({}, { name: 'disk' });
    const list = await output('nbdinfo', '--list', serving.server.uri.replace('disk', ''));
    expect(list).toContain('export="disk"');
    const wrong = output('nbdinfo', serving.server.uri.replace('disk', 'other'));
    await expect(wrong).rejects.toThrow('No such file or directory for export: other');
  });
});

describeWithPeers(['nbdinfo', 'nbdcopy', 'qemu-img'], 'several exports', () => {
  it('are listed by nbdinfo, and copied and looked at by their names', async () => {
    const [first, second] = [SIZE, 2 * SIZE].map((sizeBytes) => new FakeDevice({ sizeBytes }));
    if (first === undefined || second === undefined) throw new Error('two devices');
    await using serving = await serveOn([
      { device: first, name: 'first', description: 'one' },
      { device: second, name: 'a b/ü', readOnly: true },
    ]);
    const [uri = '', other = ''] = serving.server.uris;
    const { exports } = JSON.parse(await output('nbdinfo', '--list', '--json', uri)) as {
      exports: Record<string, unknown>[];
    };
    expect(exports).toMatchObject([
      { 'export-name': 'first', description: 'one', 'export-size': SIZE, is_read_only: false },
      { 'export-name': 'a b/ü', 'export-size': 2 * SIZE, is_read_only: true },
    ]);
    second.storage.set(pattern(2 * SIZE));
    const target = join(folder, 'second');
    await output('nbdcopy', other, target);
    expect((await readFile(target)).equals(pattern(2 * SIZE))).toBe(true);
    expect(await output('qemu-img', 'info', '-f', 'raw', other)).toContain('32 MiB');
  });
});

describeWithPeers(['nbdcopy'], 'nbdcopy', () => {
  it.each(['inline', 'later'] as const)('copies both ways (%s)', async (mode) => {
    await using serving = await serveFake({ sizeBytes: SIZE, mode });
    const source = join(folder, 'source');
    const target = join(folder, 'target');
    const data = pattern(SIZE);
    data.fill(0, 3 * MIB, 7 * MIB);
    await writeFile(source, data);
    await output('nbdcopy', '--flush', source, serving.server.uri);
    expect(Buffer.from(serving.device.storage).equals(data)).toBe(true);
    expect(serving.device.ops()).toContain(OP_FLUSH);
    await output('nbdcopy', serving.server.uri, target);
    expect((await readFile(target)).equals(data)).toBe(true);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describeWithPeers(['nbdsh'], 'libnbd', () => {
  it('sends every command and is content with the replies', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE });
    const printed = await nbdsh(
      serving.server.uri,
      'h.pwrite(bytes(range(256)) * 16, 8192, nbd.CMD_FLAG_FUA)',
      'assert h.pread(4096, 8192) == bytes(range(256)) * 16',
      'h.pwrite(b"x" * 3, 12287)',
      'assert h.pread(5, 12286) == b"\\xfexxx\\0"',
      'h.zero(4096, 8192)',
      'h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)',
      'h.trim(4096, 0, nbd.CMD_FLAG_FUA)',
      'h.cache(1000000, 3)',
      'h.flush()',
      'entries = []',
      'h.block_status(1 << 20, 0, lambda m, o, e, err: entries.extend(e), nbd.CMD_FLAG_REQ_ONE)',
      'print(entries, h.get_structured_replies_negotiated())',
      'h.shutdown()',
    );
    expect(printed).toContain('[12288, 3] True');
    expect(serving.device.log[0]).toMatchObject({ op: OP_WRITE, flags: REQUEST_FUA });
  });

  it('64 commands in flight and 32 MiB at once', async () => {
    await using serving = await serveFake({ sizeBytes: 32 * MIB, mode: 'later' });
    await nbdsh(
      serving.server.uri,
      'big = bytes(range(256)) * (1 << 17)',
      'h.pwrite(big, 0)',
      'assert h.pread(1 << 25, 0) == big',
      'bufs = [nbd.Buffer(65536) for i in range(64)]',
      'cookies = [h.aio_pread(b, i * 65536) for i, b in enumerate(bufs)]',
      'while h.aio_in_flight() > 0: h.poll(-1)',
      'assert all(h.aio_command_completed(c) for c in cookies)',
      'assert all(b.to_bytearray() == big[:65536] for b in bufs)',
    );
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('sees an error of the device as EIO, and goes on', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE });
    serving.device.statusOf = ({ op }) => (op === OP_FLUSH ? STATUS_IO_ERROR : 0);
    const printed = await nbdsh(
      serving.server.uri,
      'try: h.flush()\nexcept nbd.Error as e: print(e.errnum)',
      'print(len(h.pread(512, 0)))',
    );
    expect(printed.trim().split('\n')).toEqual(['5', '512']);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'QEMU', () => {
  it('qemu-io reads what it wrote', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE, mode: 'later' });
    const commands = [
      'write -P 7 4096 8192',
      'read -P 7 4096 8192',
      'write -f -P 9 1M 2M',
      'read -P 9 1M 2M',
      'write -z -u 1M 1M',
      'read -P 0 1M 1M',
      'discard 2M 1M',
      'flush',
      'aio_write -P 3 8M 512k',
      'aio_read -P 0 2M 4096',
      'aio_flush',
    ];
    const printed = await output('qemu-io', [
      '-f',
      'raw',
      ...commands.flatMap((command) => ['-c', command]),
      serving.server.uri,
    ]);
    expect(printed).toContain('wrote 2097152/2097152');
    expect(printed).not.toContain('Pattern verification failed');
    expect(serving.device.storage[8 * MIB]).toBe(3);
  });

  it('qemu-img converts, compares and maps', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE });
    const source = join(folder, 'convert');
    const data = pattern(SIZE);
    data.fill(0, 2 * MIB, 6 * MIB);
    await writeFile(source, data);
    const { uri } = serving.server;
    await output('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', source, uri);
    expect(Buffer.from(serving.device.storage).equals(data)).toBe(true);
    expect(await output('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, uri)).toContain(
      'Images are identical.',
    );
    const map = await output('qemu-img', 'map', '-f', 'raw', '--output', 'json', uri);
    expect(JSON.parse(map)).toMatchObject([
      { start: 0, length: 2 * MIB, zero: false, data: true },
      { start: 2 * MIB, length: 4 * MIB, zero: true, data: false },
      { start: 6 * MIB, zero: false, data: true },
    ]);
  });

  it('a read-only export is opened read-only', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE }, { readOnly: true });
    const { uri } = serving.server;
    expect(await output('qemu-io', '-r', '-f', 'raw', '-c', 'read 0 4096', uri)).toContain(
      'read 4096/4096',
    );
    await expect(output('qemu-io', '-f', 'raw', '-c', 'write 0 4096', uri)).rejects.toThrow();
    expect(serving.device.ops()).not.toContain(OP_WRITE);
  });
});

describeWithPeers(['fio'], 'fio', () => {
  it('verifies what it wrote with many requests in flight', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE, mode: 'later' });
    const printed = await output(
      'fio',
      ['--name=verify', '--ioengine=nbd', `--uri=${serving.server.uri}`, '--rw=randrw'],
      ['--bs=4k', '--iodepth=64', '--size=16M', '--verify=crc32c', '--verify_fatal=1'],
      ['--fsync=32', '--output-format=json'],
    );
    const { jobs } = JSON.parse(printed.slice(printed.indexOf('{'))) as {
      jobs: { error: number }[];
    };
    expect(jobs[0]?.error).toBe(0);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describeWithPeers(['nbdkit', 'nbdinfo'], "nbdkit's nbd plugin", () => {
  it('passes the export on', async () => {
    await using serving = await serveFake({ sizeBytes: SIZE });
    const printed = await output('nbdkit', [
      '-U',
      '-',
      'nbd',
      `socket=${serving.path}`,
      '--run',
      'nbdinfo --size "$uri"',
    ]);
    expect(Number(printed)).toBe(SIZE);
  });
});

describe('a URI', () => {
  it('with every kind of character is understood by those who are here', async (context) => {
    await using serving = await serveFake({ sizeBytes: SIZE }, { name: 'a b/ü?&#%' });
    const size = output('nbdinfo', '--size', serving.server.uri);
    const missing = await size.catch((error: NodeJS.ErrnoException) => error);
    if (missing instanceof Error && missing.code === 'ENOENT') context.skip('needs nbdinfo');
    expect(Number(await size)).toBe(SIZE);
  });
});
