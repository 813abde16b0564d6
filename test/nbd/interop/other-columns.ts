/** What nbdkit's nbd plugin, fio and nbd-client do with `sluice serve`. */

import { expect } from 'vitest';
import { type Outcome, run, succeed } from '../../cli/sluice.ts';
import { systemPath } from '../../e2e/image.ts';
import { FLUSH, FUA, TRIM, WRITE, WRITE_ZEROES } from '../wire.ts';
import { type Column, no, NOT_APPLICABLE, type Work, yes } from './cells.ts';
import type { ServerFeature } from './features.ts';
import { asksByVersion, NEEDS_LIBNBD } from './libnbd-columns.ts';
import { DATA_BYTES, expectSame, nbdkitArgs, type Place, SIZE, uriOf } from './places.ts';
import { everyWay, type Served } from './serving.ts';

// nbdkit's nbd plugin passes an export on; a client of nbdkit runs behind it.

function proxy(args: readonly string[], command: string): Promise<string> {
  return succeed('nbdkit', ['-U', '-', 'nbd', ...args, '--run', command]);
}

async function copy(served: Served, place: Place): Promise<void> {
  const target = served.fresh('proxy.img');
  await proxy(nbdkitArgs(place), `nbdcopy "$uri" '${target}'`);
  await expectSame(target, served.content);
}

const qemuIo = (command: string): string => `qemu-io -f raw -c '${command}' "$uri"`;

/** A command that is sent through the proxy, and what comes out of it. */
const passes =
  (type: number, flags: number, command: string): Work<Served> =>
  async ({ tap, scratch }) => {
    const heard = await tap.during(() => proxy(nbdkitArgs(scratch), command));
    expect(heard.of(type, flags)).not.toEqual([]);
  };

const keepsBack = (context: string): Work<Served> => {
  return async ({ contexts }) => {
    await succeed('nbdinfo', [`--map=${context}`, uriOf(contexts)]);
    const looking = proxy(nbdkitArgs(contexts), `nbdinfo --map=${context} "$uri"`);
    await expect(looking).rejects.toThrow('does not support metadata context');
  };
};

const ONE_CONTEXT = 'passes on base:allocation alone';

export const NBDKIT_PROXY: Column<Served, ServerFeature> = {
  name: "nbdkit's nbd plugin",
  peers: ['nbdkit', 'nbdcopy', 'nbdinfo', 'qemu-io', 'openssl'],
  cells: {
    raw: yes((at) => copy(at, at.raw)),
    qcow2: yes((at) => copy(at, at.qcow2)),
    'read, write': yes(async (at) => {
      await proxy(nbdkitArgs(at.scratch), `nbdcopy '${at.content}' "$uri"`);
      await copy(at, at.scratch);
    }),
    flush: yes(passes(FLUSH, 0, qemuIo('flush'))),
    FUA: yes(passes(WRITE, FUA, qemuIo('write -f 0 4096'))),
    trim: yes(passes(TRIM, 0, qemuIo('discard 0 64k'))),
    'write zeroes': yes(passes(WRITE_ZEROES, 0, qemuIo('write -z 0 64k'))),
    'base:allocation': yes(async ({ raw }) => {
      const map = await proxy(nbdkitArgs(raw), 'nbdinfo --map --json "$uri"');
      expect(JSON.parse(map)).toMatchObject([
        { offset: 0, length: DATA_BYTES, type: 0 },
        { offset: DATA_BYTES, length: SIZE - DATA_BYTES, type: 3 },
      ]);
    }),
    'qemu:allocation-depth': no(ONE_CONTEXT, keepsBack('qemu:allocation-depth')),
    'qemu:dirty-bitmap': no(ONE_CONTEXT, keepsBack('qemu:dirty-bitmap:dirty')),
    'list of exports': yes(async ({ raw }) => {
      const args = [`socket=${raw.socket}`, 'dynamic-export=true'];
      const list = await proxy(args, 'nbdinfo --list "$uri"');
      const names = [...list.matchAll(/export="(\w*)"/g)].map(([, name]) => name);
      expect(names).toEqual(['raw', 'qcow2', 'scratch']);
    }),
    'several connections': yes(async ({ tap, scratch, content }) => {
      const copying = `nbdcopy --connections=4 --threads=4 '${content}' "$uri"`;
      const { connections } = await tap.during(() => proxy(nbdkitArgs(scratch), copying));
      expect(connections).toBeGreaterThanOrEqual(4);
    }),
    'extended headers': no(
      NEEDS_LIBNBD,
      asksByVersion((at) => copy(at, at.raw)),
    ),
    ...everyWay(copy),
  },
};

// fio, by libnbd.

interface Job {
  readonly error: number;
  readonly read: { readonly io_bytes: number };
  readonly write: { readonly io_bytes: number };
}

async function fio({ folder }: Served, place: Place, ...options: string[]): Promise<Job[]> {
  const usual = ['--name=job', '--ioengine=nbd', '--bs=64k', '--iodepth=8'];
  const args = [...usual, `--uri=${uriOf(place)}`, ...options, '--output-format=json'];
  // fio leaves a state file where it runs.
  const output = await succeed('fio', args, { cwd: folder.path });
  const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as { jobs: Job[] };
  for (const { error } of jobs) expect(error).toBe(0);
  return jobs;
}

async function readAll(at: Served, place: Place): Promise<void> {
  const [job] = await fio(at, place, '--rw=read', `--size=${SIZE}`);
  expect(job?.read.io_bytes).toBe(SIZE);
}

/** Of fio's job for the scratch export. */
const sends =
  (type: number, ...options: string[]): Work<Served> =>
  async (at) => {
    const heard = await at.tap.during(() => fio(at, at.scratch, '--size=1M', ...options));
    expect(heard.of(type)).not.toEqual([]);
  };

const refused =
  (parameter: string, choose: (at: Served) => Place): Work<Served> =>
  async (at) => {
    const args = ['--name=job', '--ioengine=nbd', `--uri=${uriOf(choose(at))}`, '--size=1M'];
    const { code, stdout, stderr } = await run('fio', args, { cwd: at.folder.path });
    expect(code).not.toBe(0);
    expect(stdout + stderr).toContain(`local file access (${parameter}) is not allowed`);
  };

const NO_FILES = 'its libnbd refuses files in URIs';
const VERIFIED = ['--rw=randrw', '--verify=crc32c', '--verify_fatal=1'];

export const FIO: Column<Served, ServerFeature> = {
  name: 'fio',
  peers: ['fio', 'nbdinfo', 'openssl'],
  cells: {
    raw: yes((at) => readAll(at, at.raw)),
    qcow2: yes((at) => readAll(at, at.qcow2)),
    'read, write': yes(sends(WRITE, ...VERIFIED)),
    flush: yes(sends(FLUSH, ...VERIFIED, '--fsync=4')),
    FUA: NOT_APPLICABLE,
    trim: yes(sends(TRIM, '--rw=trim')),
    'write zeroes': NOT_APPLICABLE,
    'base:allocation': NOT_APPLICABLE,
    'qemu:allocation-depth': NOT_APPLICABLE,
    'qemu:dirty-bitmap': NOT_APPLICABLE,
    'list of exports': NOT_APPLICABLE,
    'several connections': yes(async (at) => {
      const many = ['--numjobs=4', '--thread', '--rw=write', '--size=1M', '--offset_increment=1M'];
      const heard = await at.tap.during(() => fio(at, at.scratch, ...many));
      expect(heard.connections).toBeGreaterThanOrEqual(4);
      expect(heard.bytesOf(WRITE)).toBe(4 * 2 ** 20);
    }),
    'extended headers': no(
      NEEDS_LIBNBD,
      asksByVersion((at) => readAll(at, at.raw)),
    ),
    'unix socket': yes((at) => readAll(at, at.raw)),
    TCP: yes((at) => readAll(at, at.tcp)),
    'TLS, X.509': no(
      NO_FILES,
      refused('tls-certificates', ({ x509 }) => x509),
    ),
    'TLS, pre-shared key': no(
      NO_FILES,
      refused('tls-psk-file', ({ psk }) => psk),
    ),
  },
};

// nbd-client lists exports by itself; to connect one it needs the kernel's module.

function nbdClient(...args: string[]): Promise<Outcome> {
  return run('nbd-client', args, { env: systemPath() });
}

async function list(expected: string, ...args: string[]): Promise<void> {
  const output = await succeed('nbd-client', args, { env: systemPath() });
  expect(
    output
      .split('\n')
      .filter((line) => !line.startsWith('Negotiation'))
      .join('\n'),
  ).toBe(expected);
}

const listTcp = ({ port }: Place): readonly string[] => ['-l', 'localhost', String(port)];

export const NBD_CLIENT: Column<Served, ServerFeature> = {
  name: 'nbd-client -l',
  peers: ['nbd-client', 'openssl'],
  cells: {
    raw: NOT_APPLICABLE,
    qcow2: NOT_APPLICABLE,
    'read, write': NOT_APPLICABLE,
    flush: NOT_APPLICABLE,
    FUA: NOT_APPLICABLE,
    trim: NOT_APPLICABLE,
    'write zeroes': NOT_APPLICABLE,
    'base:allocation': NOT_APPLICABLE,
    'qemu:allocation-depth': NOT_APPLICABLE,
    'qemu:dirty-bitmap': NOT_APPLICABLE,
    'list of exports': yes(({ raw }) =>
      list(
        'raw: the raw one\nqcow2: the qcow2 one\nscratch: the scratch one\n',
        '-l',
        '-unix',
        raw.socket!,
      ),
    ),
    'several connections': NOT_APPLICABLE,
    'extended headers': NOT_APPLICABLE,
    'unix socket': yes(({ raw }) =>
      list(
        'raw: the raw one\nqcow2: the qcow2 one\nscratch: the scratch one\n',
        '-l',
        '-unix',
        raw.socket!,
      ),
    ),
    TCP: yes(({ tcp }) => list('disk\n', ...listTcp(tcp))),
    'TLS, X.509': yes(({ x509 }) => {
      const pem = (name: string): string => `${x509.certificates}/${name}.pem`;
      const client = ['--certfile', pem('client-cert'), '--keyfile', pem('client-key')];
      const server = ['--cacertfile', pem('ca-cert'), '--tlshostname', 'localhost'];
      return list('disk\n', ...listTcp(x509), '--enable-tls', ...server, ...client);
    }),
    'TLS, pre-shared key': no('knows certificates alone', async ({ psk }) => {
      const { code, stderr } = await nbdClient('-l', '-unix', psk.socket!);
      expect(code).toBe(1);
      expect(stderr).toContain('needs TLS');
      expect((await nbdClient('--help')).stderr).not.toMatch(/psk/i);
    }),
  },
};
