/** Checks of the options that say how requests are ordered and made stable. */
import { FILES, SECTOR_SIZE } from './abi/limits.ts';
import { invalid, toWhole } from './arguments.ts';
import type { Backend } from './backend/backend.ts';
import type { DeadlineOptions, SchedulingOptions } from './engine.ts';
import { checkedInUse, checkOptions, type Checks, isOneOf, isSwitch, isWhole } from './options.ts';

/** Longest time that a sync may wait for companions. */
export const LARGEST_FLUSH_WAIT_MICROS = 1_000_000;
/** What fits into the engine's microseconds. */
const LARGEST_EXPIRY_MS = 4_000_000;
const LARGEST_COUNT = 0xffff_ffff;
const LARGEST_CHUNK_BYTES = 2 ** 30;

/** Checks of SchedulingOptions; the rest is in checkScheduling, which knows the files. */
export const SCHEDULING_OPTIONS: Checks<SchedulingOptions> = {
  barrier: isOneOf('off', 'order', 'durable'),
  barrierFailsAfterError: isSwitch,
  elevator: checkedInUse,
  flushWaitMicros: isWhole(0, LARGEST_FLUSH_WAIT_MICROS),
  chunkBytes: checkedInUse,
};

const DEADLINE_OPTIONS: Checks<DeadlineOptions> = {
  readExpiryMs: isWhole(0, LARGEST_EXPIRY_MS),
  writeExpiryMs: isWhole(0, LARGEST_EXPIRY_MS),
  batch: isWhole(1, LARGEST_COUNT),
  writesStarved: isWhole(1, LARGEST_COUNT),
};

/** Throws ERR_SLUICE_INVALID_ARGUMENT when an option is out of its range or out of place. */
export function checkScheduling(options: SchedulingOptions, files: readonly Backend[]): void {
  const { elevator = 'none' } = options;
  if (typeof elevator === 'object' && elevator !== null)
    checkOptions(elevator, DEADLINE_OPTIONS, 'elevator');
  else if (elevator !== 'none' && elevator !== 'deadline') {
    throw invalid(`elevator must be 'none', 'deadline' or its numbers, not ${String(elevator)}`);
  }
  checkFiles(files, options.chunkBytes);
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
