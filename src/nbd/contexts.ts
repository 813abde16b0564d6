/**
 * Metadata contexts: which an export has, which of them a client chose, and what they say. NBD
 * proto, "Metadata contexts"; QEMU, docs/interop/nbd.rst.
 *
 *   base:allocation           bit 0: a hole; bit 1: reads as zeroes
 *   qemu:allocation-depth     0: no image says it; 1: this one; 2: its backing file; and so on
 *   qemu:dirty-bitmap:NAME    bit 0: dirty
 *
 * M1  The id of a context is its place in the list of the export, so it is the same in each session
 *     and each selection.
 */
import {
  EXTENT_ABSENT,
  EXTENT_DEPTH,
  EXTENT_FLAGS,
  EXTENT_HOLE,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_ZERO,
} from '../abi/request.ts';
import type { Device } from '../device.ts';
import type { DirtyMap } from '../dirty-map.ts';
import { SluiceError } from '../errors.ts';
import type { ExtentWriter } from './extents.ts';
import {
  CONTEXT_ALLOCATION_DEPTH,
  CONTEXT_BASE_ALLOCATION,
  CONTEXT_DIRTY_BITMAP,
} from './protocol.ts';

/** One context. */
export interface MetaContext {
  readonly name: string;
  readonly kind: 'allocation' | 'depth' | 'bitmap';
  /** Of a bitmap. */
  readonly map?: DirtyMap;
}

/** What an export may have: as many as a selection, which is a word, has bits. */
export const MAX_CONTEXTS = 32;
/** Of these, the most that are bitmaps. */
export const MAX_BITMAPS = MAX_CONTEXTS - 2;
/** Nothing is selected. A selection has bit `n` for the context at place `n`. */
export const NO_CONTEXTS = 0;

/** Steps in one bitmap for one reply: what is behind them is asked for again. */
const MAX_STEPS = 256;
const DIRTY = 1;
const WORD = 2 ** 32;

/** The id of the context at a place. */
export function contextId(place: number): number {
  return place + 1;
}

/** The selection of the context with an id alone, or NO_CONTEXTS where there is none. */
export function contextWithId(contexts: readonly MetaContext[], id: number): number {
  return id >= 1 && id <= contexts.length ? (1 << (id - 1)) >>> 0 : NO_CONTEXTS;
}

/** The context at this place is in the selection. */
export function isSelected(selection: number, place: number): boolean {
  return ((selection >>> place) & 1) !== 0;
}

/** What is offered besides base:allocation. */
export interface ContextOptions {
  readonly allocationDepth: boolean;
  readonly bitmaps: readonly string[];
  /** Bitmaps that the device does not have are passed over. */
  readonly bitmapsIfThere: boolean;
}

/**
 * The contexts of an export.
 * @throws what `Device.readBitmap` throws; ERR_SLUICE_UNSUPPORTED for a bitmap that is not there
 */
export async function readContexts(
  device: Device,
  options: ContextOptions,
): Promise<MetaContext[]> {
  const contexts: MetaContext[] = [{ name: CONTEXT_BASE_ALLOCATION, kind: 'allocation' }];
  if (options.allocationDepth) contexts.push({ name: CONTEXT_ALLOCATION_DEPTH, kind: 'depth' });
  for (const name of options.bitmaps) {
    const map = await device.readBitmap?.(name);
    if (map !== undefined) {
      contexts.push({ name: `${CONTEXT_DIRTY_BITMAP}${name}`, kind: 'bitmap', map });
    } else if (!options.bitmapsIfThere) {
      throw noBitmap('the disk has no', name);
    }
  }
  return contexts;
}

/**
 * Refuses what was asked of all exports and none has.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED
 */
export function refuseAbsent(
  bitmaps: Iterable<string>,
  exports: readonly { readonly name: string; readonly contexts: readonly MetaContext[] }[],
): void {
  const names = exports.map(({ name }) => JSON.stringify(name));
  const where = names.length === 1 ? 'the disk has no' : `none of ${names.join(', ')} has a`;
  for (const name of new Set(bitmaps)) {
    const wanted = `${CONTEXT_DIRTY_BITMAP}${name}`;
    const isThere = exports.some(({ contexts }) => contexts.some(({ name }) => name === wanted));
    if (!isThere) throw noBitmap(where, name);
  }
}

function noBitmap(where: string, name: string): SluiceError {
  const found = `${where} bitmap ${JSON.stringify(name)}`;
  const advice = 'sluice info lists those of a qcow2 image; no other has any';
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', `${found}; ${advice}`);
}

/**
 * The contexts that queries stand for. "base:", "qemu:" and "qemu:dirty-bitmap:" stand for all that
 * begin so, and no query at all for every context, but only in a list. Unknown ones mean nothing.
 * @param lists of LIST_META_CONTEXT, not of SET_META_CONTEXT
 */
export function selectionOf(
  contexts: readonly MetaContext[],
  queries: readonly string[],
  lists: boolean,
): number {
  const asked = new Set(queries);
  let selection = NO_CONTEXTS;
  for (const [place, { name, kind }] of contexts.entries()) {
    const isAll = lists && (asked.size === 0 || asked.has(`${name.split(':', 1)[0]}:`));
    const isBitmaps = lists && kind === 'bitmap' && asked.has(CONTEXT_DIRTY_BITMAP);
    if (isAll || isBitmaps || asked.has(name)) selection |= 1 << place;
  }
  return selection >>> 0;
}

/** The device is to be asked for what these contexts say. */
export function asksDevice(contexts: readonly MetaContext[], selection: number): boolean {
  return contexts.some(({ map }, place) => map === undefined && isSelected(selection, place));
}

/** What a context says of a range, from the device's table at `address` or from its bitmap. */
export function describe(
  { kind, map }: MetaContext,
  table: DataView,
  address: number,
  entries: number,
  offset: number,
  writer: ExtentWriter,
): void {
  if (map !== undefined) return describeBitmap(map, offset, writer);
  for (let index = 0; index < entries; index++) {
    const from = address + index * EXTENT_SIZE;
    const high = table.getUint32(from + EXTENT_LENGTH + 4, true);
    const length = high * WORD + table.getUint32(from + EXTENT_LENGTH, true);
    const flags = table.getUint32(from + EXTENT_FLAGS, true);
    const depth = table.getUint32(from + EXTENT_DEPTH, true);
    const value =
      kind === 'allocation' ? flags & (EXTENT_HOLE | EXTENT_ZERO) : depthOf(flags, depth);
    if (!writer.add(length, value)) return;
  }
}

function depthOf(flags: number, depth: number): number {
  return (flags & EXTENT_ABSENT) === 0 ? depth + 1 : 0;
}

function describeBitmap(map: DirtyMap, offset: number, writer: ExtentWriter): void {
  const end = offset + writer.left;
  let at = offset;
  for (let step = 0; step < MAX_STEPS; step++) {
    const next = map.runEnd(at, end);
    if (!writer.add(next - at, map.isDirty(at) ? DIRTY : 0)) return;
    at = next;
  }
}
