/** What the backends over one opened file have in common (FileBackend.twin). */
import { BounceBuffers } from './file-bounce.ts';

/** The size and the end of a file, and the turns of those who change a part of a block. */
export interface FileState {
  sizeBytes: number;
  /** Set when the descriptors are being closed, or are. */
  closing: Promise<void> | undefined;
  /** Ends with the growth that was asked for last. */
  growth: Promise<void>;
  readonly buffers: BounceBuffers;
}

/** The state of a file that has just been opened. */
export function newFileState(sizeBytes: number): FileState {
  const buffers = new BounceBuffers();
  return { sizeBytes, closing: undefined, growth: Promise.resolve(), buffers };
}
