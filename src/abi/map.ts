// The region of a qcow2 mapping: the part that the host writes before `initMap`, and what it may
// read between two calls. It lies at CONFIG_MAP bytes from the engine's base, on a 64-byte border.

// Host files of a mapped disk.
/** The image: its metadata, and its data unless there is a data file. */
export const FILE_IMAGE = 0;
/** The external data file. */
export const FILE_DATA = 1;
/** The backing disk; only read. */
export const FILE_BACKING = 2;
/**
 * Compressed clusters of the image. A read names the compressed bytes; one cluster of plain ones
 * comes back.
 */
export const FILE_COMPRESSED = 3;
/** The image's data, deciphered: offsets are the image's. */
export const FILE_CIPHERED = 4;

// Configuration.
/** u32: 9 to 21. */
export const MAP_CLUSTER_BITS = 0;
/** u32: MAP_VERSION_2 and the like. */
export const MAP_FLAGS = 4;
/** u32: 0 to 6. */
export const MAP_REFCOUNT_ORDER = 8;
/** u32: entries of the active L1 table. */
export const MAP_L1_ENTRIES = 12;
/** u64: host offset of the active L1 table. */
export const MAP_L1_OFFSET = 16;
/** u64: host offset of the refcount table. */
export const MAP_TABLE_OFFSET = 24;
/** u32: entries of the refcount table, all clusters of it. */
export const MAP_TABLE_ENTRIES = 32;
/** u32: entries to which it may grow. */
export const MAP_TABLE_ROOM = 36;
/** u64: bytes of the image file. */
export const MAP_FILE_BYTES = 40;
/** u64: bytes of the backing disk, with MAP_BACKING. */
export const MAP_BACKING_BYTES = 48;
/** u32: slices of L2 tables to keep. */
export const MAP_L2_SLICES = 56;
/** u32: slices of refcount blocks to keep. */
export const MAP_REFCOUNT_SLICES = 60;
/** u32: buffers of one cluster each, for copies and compressed clusters. */
export const MAP_BUFFERS = 64;
/** u32: entries of the list of fixed metadata at MAP_RANGES_AT. */
export const MAP_RANGES = 68;
/** u32, microseconds: greatest age of metadata that was not written; 0: no limit. */
export const MAP_FLUSH_INTERVAL = 72;
/** u32: clusters to reserve at once, at most. */
export const MAP_RESERVE_CLUSTERS = 76;
/** u32: log2 of the bytes of a granule: what one bit of the map at MAP_GRANULES_AT stands for. */
export const MAP_GRANULE_BITS = 80;
/** u32: granules of the disk; 0: what is written is not noted. */
export const MAP_GRANULES = 84;
/** Bytes of the configuration. */
export const MAP_CONFIG_SIZE = 88;

/** No zero flag in entries. */
export const MAP_VERSION_2 = 1;
export const MAP_EXTENDED_L2 = 2;
export const MAP_BACKING = 4;
/** Data lies in FILE_DATA, where it has the guest's offsets. */
export const MAP_DATA_FILE = 8;
/** And that file, read alone, is the disk. */
export const MAP_RAW_DATA_FILE = 16;
export const MAP_CIPHERED = 32;
/** The file does not read as zeroes behind its end: what is new is zeroed. */
export const MAP_NO_HOLES = 64;
/** Clusters that become free are given back to the host. */
export const MAP_PUNCH = 128;
/** No write is allowed. */
export const MAP_READ_ONLY = 256;

// State that the host may read.
/** u64: the offset or the entry that was wrong. */
export const MAP_CORRUPT_VALUE = 88;
/** u64: the guest offset, or where in the image it stands. */
export const MAP_CORRUPT_WHERE = 96;
/** u32: 1 while metadata waits to be written, or clusters to be freed. */
export const MAP_DIRTY = 104;
/** u32: set by the host: give back what is reserved, and reserve no more (close). */
export const MAP_CLOSING = 108;
/** u32: set by the host: write what is dirty now. */
export const MAP_WRITE_NOW = 112;
/** u32: clusters that are reserved. */
export const MAP_RESERVED = 116;
/** u32 each: relative to the map, where the host puts what it has read. */
export const MAP_L1_AT = 120;
export const MAP_TABLE_AT = 124;
export const MAP_RANGES_AT = 128;
export const MAP_HEADER_AT = 132;
/** u32, likewise: a bit for each granule that was written to, the first bits are the lowest. */
export const MAP_GRANULES_AT = 136;
/** u32: 0, or the CORRUPT_* that was found; no write succeeds any more then. */
export const MAP_CORRUPT = 140;

// Counters, u64 each.
export const MAP_COUNT_L2_HITS = 144;
export const MAP_COUNT_L2_LOADS = 152;
export const MAP_COUNT_REFCOUNT_LOADS = 160;
export const MAP_COUNT_METADATA_WRITES = 168;
export const MAP_COUNT_ALLOCATED = 176;
export const MAP_COUNT_FREED = 184;
export const MAP_COUNT_COPIED_BYTES = 192;
export const MAP_COUNT_CYCLES = 200;
/** Cycles that had to make data stable before the tables that point to it. */
export const MAP_COUNT_FENCES = 208;
export const MAP_COUNT_RESERVES = 216;

/** Private state. */
export const MAP_STATE = 256;

// An entry of the list of fixed metadata: u64 offset, u64 length, both in bytes.
export const RANGE_OFFSET = 0;
export const RANGE_LENGTH = 8;
export const RANGE_SIZE = 16;
/** Most fixed ranges: header, tables, snapshots' L1 tables, bitmaps. */
export const RANGES_MAX = 4096;

// What can be wrong with an image (MAP_CORRUPT).
/** An L1 entry has reserved bits, or is no multiple of a cluster. */
export const CORRUPT_L1_ENTRY = 1;
/** An L2 entry is not one that the format knows. */
export const CORRUPT_L2_ENTRY = 2;
/** A data cluster does not begin at a multiple of a cluster. */
export const CORRUPT_DATA_OFFSET = 3;
/** A write was about to hit metadata. */
export const CORRUPT_OVERLAP = 4;
/** A refcount block is not where one can be. */
export const CORRUPT_REFCOUNT_TABLE = 5;
/** A cluster in use has a refcount that it cannot have. */
export const CORRUPT_REFCOUNT = 6;

// Limits, all ours.
/** Commands for metadata at the host. Their ids follow those of the syncs. */
export const MAP_IOS = 64;
/** Largest slice of a table in bytes; smaller where a cluster is. */
export const SLICE_BYTES = 4096;
/** Slices that are copied to be written at once. */
export const STAGED_SLICES = 128;
/** Runs of clusters that wait to be freed. */
export const FREE_RUNS = 4096;
/** Runs of reserved clusters. */
export const RESERVED_RUNS = 16;
