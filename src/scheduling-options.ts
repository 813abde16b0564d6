/** Checks of the options that say how requests are ordered and made stable. */
import { FILES, SECTOR_SIZE } from './abi/limits.ts';
import { invalid, toSwitch, toWhole } from './arguments.ts';
import type { Backend } from './backend/backend.ts';
import type { DeadlineOptions, SchedulingOptions } from './engine.ts';

/** Longest time that a sync may wait for companions. */
export const LARGEST_FLUSH_WAIT_MICROS = 1_000_000;
/** What fits into the engine's microseconds. */
const LARGEST_EXPIRY_MS = 4_000_000;
const LARGEST_COUNT = 0xffff_ffff;
const LARGEST_CHUNK_BYTES = 2 ** 30;

/** Throws ERR_SLUICE_INVALID_ARGUMENT when an option is out of its range or out of place. */
export function checkScheduling(options: SchedulingOptions, files: readonly Backend[]): void {
  const { barrier, barrierFailsAfterError, elevator = 'none', flushWaitMicros = 0 } = options;
  if (barrier !== undefined && !['off', 'order', 'durable'].includes(barrier)) {
    throw invalid(`barrier must be 'off', 'order' or 'durable', not ${barrier}`);
  }
  toSwitch(barrierFailsAfterError, 'barrierFailsAfterError');
  toWhole(flushWaitMicros, 'flushWaitMicros', 0, LARGEST_FLUSH_WAIT_MICROS);
  if (typeof elevator === 'object' && elevator !== null) checkDeadline(elevator);
  else if (elevator !== 'none' && elevator !== 'deadline') {
    throw invalid(`elevator must be 'none', 'deadline' or its numbers, not ${String(elevator)}`);
  }
  checkFiles(files, options.chunkBytes);
}

function checkDeadline(options: DeadlineOptions): void {
  const { readExpiryMs = 0, writeExpiryMs = 0, batch = 1, writesStarved = 1 } = options;
  toWhole(readExpiryMs, 'readExpiryMs', 0, LARGEST_EXPIRY_MS);
  toWhole(writeExpiryMs, 'writeExpiryMs', 0, LARGEST_EXPIRY_MS);
  toWhole(batch, 'batch', 1, LARGEST_COUNT);
  toWhole(writesStarved, 'writesStarved', 1, LARGEST_COUNT);
}

function checkFiles(files: readonly Backend[], chunkBytes: number | undefined): void {
  if (files.length > FILES) throw invalid(`a disk has at most ${FILES} files, not ${files.length}`);
  if (files.length < 2) {
    if (chunkBytes !== undefined) throw invalid('chunkBytes is for disks of several files');
    return;
  }
  const granule = Math.max(SECTOR_SIZE, ...files.map(({ blockSizeBytes }) => blockSizeBytes));
  if (chunkBytes === undefined) {
    throw invalid(
      'a disk of several files needs chunkBytes: how much of it lies in one file at a time',
    );
  }
  const chunk = toWhole(chunkBytes, 'chunkBytes', granule, LARGEST_CHUNK_BYTES);
  if (!Number.isInteger(Math.log2(chunk))) {
    throw invalid(`chunkBytes must be a power of two, not ${chunk}`);
  }
  const sizes = new Set(files.map(({ sizeBytes }) => sizeBytes));
  if (sizes.size > 1) {
    throw invalid(`the files of a disk must have one size, not ${[...sizes].join(', ')} bytes`);
  }
  const [size = 0] = sizes;
  if (size % chunk !== 0) {
    throw invalid(`the files must be whole chunks of ${chunk} bytes long, and have ${size} bytes`);
  }
}
