/**
 * F20 for raw: SIGKILL in each system call on the image in turn. What was acknowledged, flushed or
 * not, is there (durability 3, README); what was in flight is old or new, sector by sector; and the
 * image can be opened again at once. Random moments under load are in kill.test.ts.
 */
import { readFile } from 'node:fs/promises';
import { expect, it, type TestContext } from 'vitest';
import type { CacheModeName } from '../../src/cache-mode.ts';
import { openDisk } from '../../src/node.ts';
import { describeWithPeers } from '../support/peers.ts';
import { CLEAN_END, Faulty, MIB, ORIGINAL, PLAIN_MODES } from './faults.ts';

const SECTOR_BYTES = 512;

/** One request; those of a step are sent together. */
interface Ask {
  readonly op: 'write' | 'fua' | 'zero' | 'zero-fua' | 'flush';
  readonly letter: string;
  readonly offset: number;
  readonly length: number;
}

const ask = (op: Ask['op'], letter: string, block: number, length = 4096): Ask => {
  return { op, letter, offset: block * 4096, length };
};
const FLUSH = ask('flush', '', 0, 0);

const STEPS: readonly (readonly Ask[])[] = [
  [ask('write', 'a', 0)],
  [FLUSH],
  // Neighbours become one call, and overwrite what was flushed.
  [ask('write', 'b', 0), ask('write', 'c', 1), ask('write', 'd', 2), ask('write', 'e', 9)],
  [ask('fua', 'f', 1)],
  // O_DIRECT reads the edges first.
  [{ op: 'write', letter: 'g', offset: 1333, length: 5000 }],
  [FLUSH, ask('write', 'h', 20, 65536)],
  [ask('zero', '\0', 21)],
  [ask('zero-fua', '\0', 9), ask('fua', 'i', 10)],
  [ask('write', 'j', 0)],
];

const CLIENT = `
def send(ask):
    op, letter, offset, length = (ask[name] for name in ('op', 'letter', 'offset', 'length'))
    flags = FUA if op.endswith('fua') else 0
    if op == 'flush': return later_flush()
    if op.startswith('zero'): return Later(h.aio_zero, length, offset, flags=flags)
    return later_write(letter.encode(), offset, length, flags)
answered, sent = [], 0
try:
    for step in json.loads(STEPS):
        sent += 1
        requests = [send(ask) for ask in step]
        answered.append(requests)
        wait(*requests)
except nbd.Error:
    pass
say(sent=sent, answers=[[request.answer for request in requests] for requests in answered])
`;

/** The system calls of the steps; how often one thread makes each is found out by a first run. */
const CALLS = ['pread64', 'pwrite64', 'pwritev', 'pwritev2', 'fallocate', 'fdatasync', 'close'];

interface Killed {
  readonly sent: number;
  readonly answers: readonly (readonly (string | null)[])[];
}

describeWithPeers(['strace', 'nbdsh'], 'SIGKILL in each system call', () => {
  it.for([...PLAIN_MODES, 'writethrough'] as const)(
    'F20: loses nothing that was acknowledged (%s)',
    async (cache, context) => {
      const moments = await momentsOf(cache, context);
      expect(moments.length).toBeGreaterThan(8);
      let killed = 0;
      for (let at = 0; at < moments.length; at += 2) {
        const pair = moments.slice(at, at + 2).map((moment) => survives(cache, context, moment));
        killed += (await Promise.all(pair)).filter(Boolean).length;
      }
      // What is sent together may be merged in another way the next time, and so be less calls.
      expect(killed).toBeGreaterThan(moments.length - 4);
    },
  );
});

/** `call:when=n` for every call that a run without a fault makes. */
async function momentsOf(cache: CacheModeName, context: TestContext): Promise<string[]> {
  await using disk = await Faulty.serve(context, { cache });
  const said = (await disk.client(scriptOf(STEPS))) as unknown as Killed;
  expect(said.answers.flat().every((answer) => answer === 'ok')).toBe(true);
  expect(await disk.end()).toMatchObject({ code: 0 });
  expect(damage(await readFile(disk.image), said)).toEqual([]);
  const counts = new Map<string, number>();
  for (const { name, thread } of disk.calls(...CALLS)) {
    counts.set(`${name} ${thread}`, (counts.get(`${name} ${thread}`) ?? 0) + 1);
  }
  const most = new Map<string, number>();
  for (const [key, count] of counts) {
    const [name = ''] = key.split(' ');
    most.set(name, Math.max(count, most.get(name) ?? 0));
  }
  // The first direct read is the probe at the open: nobody is served yet.
  const first = (name: string): number => (name === 'pread64' && cache === 'none' ? 2 : 1);
  return [...most].flatMap(([name, count]) =>
    Array.from({ length: count }, (_, index) => index + 1)
      .filter((nth) => nth >= first(name))
      .map((nth) => `${name}:signal=KILL:when=${nth}`),
  );
}

/** False when the run had no such moment. */
async function survives(
  cache: CacheModeName,
  context: TestContext,
  moment: string,
): Promise<boolean> {
  await using disk = await Faulty.serve(context, { cache, inject: [moment] });
  const said = (await disk.client(scriptOf(STEPS))) as unknown as Killed;
  const { signal } = await disk.server.outcome;
  if (signal === null) expect(await disk.end()).toEqual(CLEAN_END);
  const found = await readFile(disk.image);
  expect({ moment, damage: damage(found, said) }).toEqual({ moment, damage: [] });
  await using again = await openDisk(disk.image, { format: 'raw', cache, writable: true });
  await again.flush();
  expect(Buffer.compare(await again.read(0, MIB), found)).toBe(0);
  return signal === 'SIGKILL';
}

function scriptOf(steps: typeof STEPS): string {
  return `STEPS = ${JSON.stringify(JSON.stringify(steps))}\n${CLIENT}`;
}

/** Every sector that is not as the last acknowledged request left it, nor as one in flight does. */
function damage(found: Buffer, { sent, answers }: Killed): string[] {
  const sure = Buffer.alloc(MIB, ORIGINAL);
  const maybe: Buffer[] = [];
  for (const [step, asks] of STEPS.slice(0, sent).entries()) {
    asks.forEach((ask, index) => {
      const answer = answers[step]?.[index];
      if (answer === 'ok') apply(sure, ask);
    });
    for (const [index, ask] of asks.entries()) {
      if (answers[step]?.[index] !== 'ok') maybe.push(apply(Buffer.from(sure), ask));
    }
  }
  const lost: string[] = [];
  for (let at = 0; at < MIB; at += SECTOR_BYTES) {
    const sector = found.subarray(at, at + SECTOR_BYTES);
    const allowed = [sure, ...maybe].map((image) => image.subarray(at, at + SECTOR_BYTES));
    if (allowed.every((image) => !image.equals(sector))) {
      lost.push(`sector ${at / SECTOR_BYTES}: ${sector.toString('latin1', 0, 8)}`);
    }
  }
  return lost;
}

function apply(image: Buffer, { op, letter, offset, length }: Ask): Buffer {
  return op === 'flush' ? image : image.fill(letter, offset, offset + length);
}
