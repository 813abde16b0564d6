// Limits of one engine. All are ours: every table has a fixed size, so that the memory an engine
// uses is known before it starts and no input can make it grow.

/** Requests the engine holds at once. A power of two, at most 4096 (the sort key has 12 bits). */
export const REQUEST_SLOTS = 1024;
/** Data commands the host holds at once; the ids from here on are the syncs of the files. */
export const COMMAND_SLOTS = 256;
/** Host files of one disk, each a stability domain of its own. */
export const FILES = 8;
/** Queues that requests come from; a queue can be reset without the others. */
export const QUEUES = 64;
/** Entries of a segment table that the engine builds for a merged command. */
export const MERGE_SEGMENTS = 64;
/** Entries that each ring can hold; twice the slots, so that a completion always finds room. */
export const RING_ENTRIES = 2048;
/** Largest capacity: every byte offset is an exact JavaScript number (2^53). */
export const CAPACITY_BITS = 53;
/** The unit of the sort key and of VIRTIO sectors. */
export const SECTOR_SIZE = 512;
/** Longest merged zeroing or discard; a request that is longer goes alone. */
export const MERGE_RANGE_BYTES = 1073741824;
/** Largest data transfer of one request. A guest's firmware reads whole files at once. */
export const MAX_TRANSFER_BYTES = 268435456;
/** Largest merged data transfer that can be asked for. */
export const MAX_MERGE_BYTES = 33554432;
/** Ids of a mapping's commands for metadata: COMMAND_SLOTS + FILES and up. */
export const METADATA_IDS = 264;
