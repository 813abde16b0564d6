import { loadKernels, type Flavour, type KernelExports } from '../../bench/kernels.ts';

/** Both builds: the kernels keep their promises without the optimizer too. */
export const FLAVOURS: readonly Flavour[] = ['release', 'debug'];

const LENGTH_BYTES = 1048576;
const FILLER = 0xa5;

/** The kernels over a memory whose bytes a test can compare with what they should be. */
export interface KernelMemory {
  readonly exports: KernelExports;
  readonly bytes: Uint8Array;
  /** Fills everything, so that bytes that should not change are seen when they do. */
  fill(): void;
  /** True when everything outside of these [address, address + length) parts is as filled. */
  isUntouchedOutside(...parts: readonly [address: number, lengthBytes: number][]): boolean;
}

/** An instance of its own for a test file. */
export async function openKernels(flavour: Flavour): Promise<KernelMemory> {
  const { memory, exports } = await loadKernels(LENGTH_BYTES, flavour);
  const bytes = new Uint8Array(memory.buffer);
  const filled = Buffer.alloc(LENGTH_BYTES, FILLER);
  return {
    exports,
    bytes,
    fill: () => bytes.fill(FILLER),
    isUntouchedOutside: (...parts) => {
      const ordered = [...parts].sort(([a], [b]) => a - b);
      const gaps: [from: number, to: number][] = [];
      let from = 0;
      for (const [address, lengthBytes] of ordered) {
        gaps.push([from, address]);
        from = address + lengthBytes;
      }
      gaps.push([from, LENGTH_BYTES]);
      return gaps.every(([a, b]) => filled.compare(bytes, a, b, a, b) === 0);
    },
  };
}
