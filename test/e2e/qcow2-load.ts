/**
 * Requests by the step, what their client was told, and what may be on the disk then.
 *
 * L1 A write that was acknowledged is there after a good end, and one that an acknowledged flush
 *    or its own FUA covers after every end.
 * L2 A write that failed, or that an end may lose, has changed each of its sectors or not.
 * L3 A discarded sector is what it was, or zero.
 */

const SECTOR_BYTES = 512;

/** One request; those of a step are sent together, and do not overlap. */
export interface Ask {
  readonly op: 'write' | 'fua' | 'zero' | 'trim' | 'flush';
  readonly letter: string;
  readonly offset: number;
  readonly length: number;
}

/** What was asked, and 'ok' or the name of the error. */
export type Answered = Ask & { readonly answer: string };

/** The steps that were made. */
export type History = readonly (readonly Answered[])[];

/** A flush. */
export const FLUSH: Ask = { op: 'flush', letter: '', offset: 0, length: 0 };

/** A write of one letter. */
export function write(letter: string, offset: number, length: number): Ask {
  return { op: 'write', letter, offset, length };
}

/** A write that is stable when it is acknowledged. */
export function fua(letter: string, offset: number, length: number): Ask {
  return { op: 'fua', letter, offset, length };
}

/** Zeroes. */
export function zero(offset: number, length: number): Ask {
  return { op: 'zero', letter: '\0', offset, length };
}

/** A discard. */
export function trim(offset: number, length: number): Ask {
  return { op: 'trim', letter: '\0', offset, length };
}

/** Tries again what fails, so often. */
const TURNS = 3;

const CLIENT = `
import errno, json
class Request:
    def __init__(self, ask):
        self.answer, op, at, length = None, ask['op'], ask['offset'], ask['length']
        if op == 'flush': h.aio_flush(self.done)
        elif op == 'zero': h.aio_zero(length, at, self.done)
        elif op == 'trim': h.aio_trim(length, at, self.done)
        else:
            data = nbd.Buffer.from_bytearray(bytearray(ask['letter'].encode() * length))
            h.aio_pwrite(data, at, self.done, nbd.CMD_FLAG_FUA if op == 'fua' else 0)
    def done(self, error):
        self.answer = errno.errorcode[error.value] if error.value else 'ok'
        return 1
history = []
def step(asks):
    requests = [Request(ask) for ask in asks]
    while any(request.answer is None for request in requests): h.poll(-1)
    history.append([dict(ask, answer=request.answer) for ask, request in zip(asks, requests)])
    return [ask for ask, request in zip(asks, requests) if request.answer != 'ok']
failed = [ask for asks in json.loads(STEPS) for ask in step(asks)]
for turn in range(TURNS):
    failed = [ask for ask in failed if step([ask])]
print(json.dumps(history))
`;

/** A client for nbdsh that takes the steps, then tries again what failed; it prints a History. */
export function clientOf(steps: readonly (readonly Ask[])[]): string {
  return `STEPS, TURNS = ${JSON.stringify(JSON.stringify(steps))}, ${TURNS}\n${CLIENT}`;
}

/** What an end may have lost: nothing, or what was not flushed. */
export type Keeps = 'acknowledged' | 'flushed';

/** A sector: what it may be when all that comes later is lost, and what came later. */
interface Sector {
  sure: ReadonlySet<string>;
  later: { readonly letter: string; readonly done: boolean }[];
}

/** The sectors that are not as the history allows: L1 to L3. */
export function damage(
  disk: Uint8Array,
  initial: Uint8Array,
  history: History,
  keeps: Keeps,
): string[] {
  const sectors = Array.from({ length: disk.length / SECTOR_BYTES }, (_, index): Sector => {
    return { sure: new Set([letterAt(initial, index)]), later: [] };
  });
  for (const step of history) {
    const flushes = step.some(({ op, answer }) => op === 'flush' && answer === 'ok');
    if (flushes) for (const sector of sectors) settle(sector);
    for (const ask of step) apply(sectors, ask);
  }
  return sectors.flatMap((sector, index) => {
    if (keeps === 'acknowledged') settle(sector);
    const allowed = [...sector.sure, ...sector.later.map(({ letter }) => letter)];
    const found = letterAt(disk, index);
    if (allowed.includes(found)) return [];
    return [`sector ${index}: ${JSON.stringify(found)}, not of ${JSON.stringify(allowed)}`];
  });
}

function apply(sectors: readonly Sector[], { op, letter, offset, length, answer }: Answered): void {
  const first = offset / SECTOR_BYTES;
  for (const sector of sectors.slice(first, first + length / SECTOR_BYTES)) {
    sector.later.push({ letter, done: answer === 'ok' && op !== 'trim' });
    if (op === 'fua' && answer === 'ok') settle(sector);
  }
}

/** The last write that was acknowledged is there, or one that came after it. */
function settle(sector: Sector): void {
  const last = sector.later.findLastIndex(({ done }) => done);
  const letters = sector.later.slice(Math.max(0, last)).map(({ letter }) => letter);
  sector.sure = new Set(last < 0 ? [...sector.sure, ...letters] : letters);
  sector.later = [];
}

/** What all bytes of a sector are; more than one letter when they differ. */
function letterAt(bytes: Uint8Array, sector: number): string {
  const start = sector * SECTOR_BYTES;
  const part = bytes.subarray(start, start + SECTOR_BYTES);
  return String.fromCharCode(...new Set(part));
}
