/**
 * Room for engines in v86's memory: pages at its end, behind guest RAM and all that v86 allocates.
 * A memory cannot shrink, so what a disk has left is kept for the next one.
 */
import { SluiceError } from '../errors.ts';
import { occupantOf, WASM_PAGE_SIZE } from '../place.ts';

interface Block {
  readonly start: number;
  readonly end: number;
}

const blocks = new WeakMap<WebAssembly.Memory, Block[]>();

/**
 * The start of so many bytes that nobody else uses.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED when the memory cannot grow by so much
 */
export function roomIn(memory: WebAssembly.Memory, bytes: number): number {
  const ours = blocks.get(memory) ?? [];
  const free = ours.find(
    ({ start, end }) => end - start >= bytes && occupantOf(memory, start, end) === undefined,
  );
  if (free !== undefined) return free.start;
  const pages = Math.ceil(bytes / WASM_PAGE_SIZE);
  const start = grow(memory, pages) * WASM_PAGE_SIZE;
  blocks.set(memory, [...ours, { start, end: start + pages * WASM_PAGE_SIZE }]);
  return start;
}

function grow(memory: WebAssembly.Memory, pages: number): number {
  try {
    return memory.grow(pages);
  } catch (cause) {
    throw new SluiceError(
      'ERR_SLUICE_UNSUPPORTED',
      `the memory of v86 cannot grow by ${pages * WASM_PAGE_SIZE} bytes, which the disk needs; ` +
        'give the guest less RAM, or the disk a smaller arenaBytes or metadataCacheBytes',
      { cause },
    );
  }
}
