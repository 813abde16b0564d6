/** The client against the servers that people have: what it reads is what was written. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { OP_FLUSH } from '../../src/abi/request.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { exercise, SIZE } from './exercise.ts';
import { nbdkit, qemuNbd, type PeerServer } from './peer-servers.ts';
import { serveFake } from './serving.ts';
import { pattern } from './wire.ts';

const MIB = 2 ** 20;

/** The kinds of its extents, in order. */
async function kindsOf(uri: string): Promise<string[]> {
  await using client = await NbdClient.connect(uri);
  const found: string[] = [];
  for await (const { start, length, kind } of client.extents()) {
    found.push(`${kind} ${start / MIB}+${length / MIB}`);
  }
  return found;
}

describe('the client and the server of this package', () => {
  it.for([
    ['unix', {}],
    ['tcp', { host: '127.0.0.1', port: 0, socket: undefined }],
  ] as const)('agree over %s', async ([, place]) => {
    await using serving = await serveFake({ sizeBytes: SIZE, mode: 'later' }, place);
    await exercise(serving.server.uri, 1);
    expect(serving.device.ops()).toContain(OP_FLUSH);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('agree on names, sizes and what cannot be written', async () => {
    await using serving = await serveFake(
      { sizeBytes: SIZE, readOnly: true },
      { name: 'a name/ü' },
    );
    await using client = await NbdClient.connect(serving.server.uri);
    expect(client).toMatchObject({ size: SIZE, isReadOnly: true, minimumBlockBytes: 1 });
    const other = serving.server.uri.replace('a%20name', 'other');
    await expectRefusal(NbdClient.connect(other), 'ERR_SLUICE_OPEN', /no export of this name/);
    await expectRefusal(client.write(0, pattern(512)), 'ERR_SLUICE_READ_ONLY', /EPERM/);
  });
});

describeWithPeers(['qemu-nbd', 'qemu-img'], 'the client and qemu-nbd', () => {
  const folder = imageFolder();

  it('agree', async () => {
    const path = join(folder, 'disk.img');
    writeFileSync(path, '');
    truncateSync(path, SIZE);
    await using server = await qemuNbd('-f', 'raw', '--discard=unmap', path);
    await exercise(server.uri, 2);
  });

  it('agree on extents', async () => {
    const path = join(folder, 'sparse.img');
    writeFileSync(path, Buffer.alloc(MIB, 1));
    truncateSync(path, SIZE);
    await using server = await qemuNbd('-f', 'raw', path);
    expect(await kindsOf(server.uri)).toEqual(['data 0+1', 'zero 1+7']);
  });
});

/** Ways in which nbdkit serves 8 MiB of memory. */
const KITS: readonly (readonly [title: string, args: readonly string[]])[] = [
  ['as it is', []],
  ['without structured replies', ['--no-sr']],
  ['without fixed newstyle', ['--mask-handshake=0']],
  ['without NO_ZEROES', ['--mask-handshake=1']],
  ['one request at a time', ['--filter=noparallel']],
  ['slow', ['--filter=delay', 'rdelay=1ms', 'wdelay=1ms']],
  ['without zeroes', ['--filter=nozero', 'zeromode=none']],
  ['without extents', ['--filter=noextents']],
];
const POLICY = ['--filter=blocksize-policy', 'blocksize-error-policy=error'];
const SIZES: readonly (readonly [title: string, args: readonly string[]])[] = [
  ['of 512 bytes', ['blocksize-minimum=512', 'blocksize-preferred=4096']],
  ['of 4 KiB', ['blocksize-minimum=4096', 'blocksize-preferred=4096']],
  ['of 64 KiB', ['blocksize-minimum=64K', 'blocksize-preferred=64K', 'blocksize-maximum=128K']],
  ['with at most 64 KiB in a request', ['blocksize-minimum=1', 'blocksize-maximum=64K']],
];

describeWithPeers(['nbdkit'], 'the client and nbdkit', () => {
  it.for(KITS)('agree: %s', async ([, args]) => {
    await using server = await nbdkit(
      ...args.filter((a) => a.startsWith('--')),
      'memory',
      '8M',
      ...args.filter((a) => !a.startsWith('--')),
    );
    await exercise(server.uri, 3);
  });

  it.for(SIZES)('agree on blocks %s', async ([, args]) => {
    await using server = await nbdkit(POLICY[0]!, 'memory', '8M', POLICY[1]!, ...args);
    await exercise(server.uri, 4);
  });

  it('agree on a large disk with little in it', async () => {
    await using server = await nbdkit('data', `@${2 ** 40} 1 @${3 * 2 ** 40} 2`, 'size=4T');
    let [bytes, zeroes] = [0, 0];
    await using client = await NbdClient.connect(server.uri);
    for await (const { start, length, kind } of client.extents()) {
      expect(start).toBe(bytes + zeroes);
      if (kind === 'data') bytes += length;
      else zeroes += length;
    }
    expect(bytes).toBeLessThan(MIB);
    expect(bytes).toBeGreaterThan(0);
    expect(bytes + zeroes).toBe(2 ** 42);
    const into = new Uint8Array(3);
    await client.read(3 * 2 ** 40 - 1, into);
    expect([...into]).toEqual([0, 2, 0]);
  });

  it('find an empty export empty', async () => {
    await using server = await nbdkit('null', '0');
    expect(await kindsOf(server.uri)).toEqual([]);
  });

  it('agree on extents inside blocks: a block with data in it is data', async () => {
    const args = ['data', '@10000 1 @1052672 2', 'size=4M'];
    const sizes = ['blocksize-minimum=64K', 'blocksize-preferred=64K'];
    await using server = await nbdkit(POLICY[0]!, ...args, POLICY[1]!, ...sizes);
    expect(await kindsOf(server.uri)).toEqual([
      'data 0+0.0625',
      'zero 0.0625+0.9375',
      'data 1+0.0625',
      'zero 1.0625+2.9375',
    ]);
  });

  async function failing(server: PeerServer, message: RegExp): Promise<void> {
    await using client = await NbdClient.connect(server.uri);
    await expectRefusal(client.read(0, new Uint8Array(4096)), 'ERR_SLUICE_IO', message);
    // The connection is there all the same.
    await client.flush();
  }

  it('agree on errors', async () => {
    const args = ['--filter=error', 'memory', '8M', 'error-pread=EIO', 'error-pread-rate=100%'];
    await using structured = await nbdkit(...args);
    await failing(structured, /the server reported EIO/);
    await using simple = await nbdkit('--no-sr', ...args);
    await failing(simple, /the server reported EIO/);
  });

  it('end together when it dies', async () => {
    await using server = await nbdkit('--filter=delay', 'memory', '8M', 'rdelay=60');
    await using client = await NbdClient.connect(server.uri);
    const reads = [0, 1].map((at) => client.read(at, new Uint8Array(1)));
    const ended = Promise.allSettled(reads);
    await client.write(0, new Uint8Array(1));
    await server.program.stop('SIGKILL');
    for (const read of await ended) {
      expect(read).toMatchObject({ reason: { code: 'ERR_SLUICE_CONNECTION', operation: 'read' } });
    }
  });
});
