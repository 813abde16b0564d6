/** What several backends are as one disk. */
import { COMMAND_SLOTS } from './abi/limits.ts';
import type { Backend } from './backend/backend.ts';

/** What backends are together. */
export interface DiskGeometry {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly blockSizeBytes: number;
  readonly depth: number;
  readonly fua: boolean;
  readonly unmaps: boolean;
}

/** Several files have one size, which is whole chunks (scheduling-options.ts). */
export function diskOver(files: readonly (Backend | undefined)[]): DiskGeometry {
  const backends = files.filter((file) => file !== undefined);
  const depth = backends.reduce((sum, backend) => sum + backend.depth, 0);
  return {
    sizeBytes: backends.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    readOnly: backends.some(({ readOnly }) => readOnly),
    blockSizeBytes: Math.max(...backends.map(({ blockSizeBytes }) => blockSizeBytes)),
    depth: Math.min(depth, COMMAND_SLOTS),
    fua: backends.every(({ fua = true }) => fua),
    unmaps: backends.some(({ unmaps = true }) => unmaps),
  };
}
