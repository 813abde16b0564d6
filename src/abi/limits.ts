// Limits of one engine. All are ours: every table has a fixed size, so that the memory an engine
// uses is known before it starts and no input can make it grow.

/** Requests the engine holds at once. A power of two, at most 4096 (the sort key has 12 bits). */
export const REQUEST_SLOTS = 1024;
/** Data commands the host holds at once; one more id is reserved for the sync. */
export const COMMAND_SLOTS = 256;
/** Entries of a segment table that the engine builds for a merged command. */
export const MERGE_SEGMENTS = 64;
/** Entries that each ring can hold; twice the slots, so that a completion always finds room. */
export const RING_ENTRIES = 2048;
/** Largest capacity: every byte offset is an exact JavaScript number (2^53). */
export const CAPACITY_BITS = 53;
/** The unit of the sort key and of VIRTIO sectors. */
export const SECTOR_SIZE = 512;
/** Largest data transfer of one request, and NBD's customary maximum payload (32 MiB). */
export const MAX_TRANSFER_BYTES = 33554432;
