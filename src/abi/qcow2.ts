// Numbers of the qcow2 format (QEMU, docs/interop/qcow2.txt). Everything on disk is big-endian.
// 64-bit masks are given as bit numbers. A limit says whose it is.

// Header: byte offsets in cluster 0.
export const QCOW2_MAGIC = 0x514649fb;
export const HEADER_MAGIC = 0;
export const HEADER_VERSION = 4;
export const HEADER_BACKING_FILE_OFFSET = 8;
export const HEADER_BACKING_FILE_SIZE = 16;
export const HEADER_CLUSTER_BITS = 20;
export const HEADER_SIZE = 24;
export const HEADER_CRYPT_METHOD = 32;
export const HEADER_L1_SIZE = 36;
export const HEADER_L1_TABLE_OFFSET = 40;
export const HEADER_REFCOUNT_TABLE_OFFSET = 48;
export const HEADER_REFCOUNT_TABLE_CLUSTERS = 56;
export const HEADER_NB_SNAPSHOTS = 60;
export const HEADER_SNAPSHOTS_OFFSET = 64;
/** From here on version 3 only. */
export const HEADER_INCOMPATIBLE_FEATURES = 72;
export const HEADER_COMPATIBLE_FEATURES = 80;
export const HEADER_AUTOCLEAR_FEATURES = 88;
export const HEADER_REFCOUNT_ORDER = 96;
export const HEADER_LENGTH = 100;
export const HEADER_COMPRESSION_TYPE = 104;
export const HEADER_BYTES_V2 = 72;
export const HEADER_BYTES_V3 = 104;

export const CRYPT_NONE = 0;
export const CRYPT_AES = 1;
export const CRYPT_LUKS = 2;
export const COMPRESSION_DEFLATE = 0;
export const COMPRESSION_ZSTD = 1;

// Feature bits.
export const INCOMPATIBLE_DIRTY_BIT = 0;
export const INCOMPATIBLE_CORRUPT_BIT = 1;
export const INCOMPATIBLE_DATA_FILE_BIT = 2;
export const INCOMPATIBLE_COMPRESSION_BIT = 3;
export const INCOMPATIBLE_EXTENDED_L2_BIT = 4;
export const COMPATIBLE_LAZY_REFCOUNTS_BIT = 0;
export const AUTOCLEAR_BITMAPS_BIT = 0;
export const AUTOCLEAR_RAW_DATA_FILE_BIT = 1;

// Header extensions.
export const EXTENSION_END = 0;
export const EXTENSION_BACKING_FORMAT = 0xe2792aca;
export const EXTENSION_FEATURE_NAMES = 0x6803f857;
export const EXTENSION_BITMAPS = 0x23852875;
export const EXTENSION_ENCRYPTION = 0x0537be77;
export const EXTENSION_DATA_FILE = 0x44415441;

// L1 and L2 entries.
/** Offset of a table or a cluster: bits 9 to 55. */
export const ENTRY_OFFSET_FIRST_BIT = 9;
export const ENTRY_OFFSET_LAST_BIT = 55;
/** The refcount is exactly 1. */
export const ENTRY_COPIED_BIT = 63;
export const ENTRY_COMPRESSED_BIT = 62;
/** Reads as zeroes; version 3 with standard entries only. */
export const ENTRY_ZERO_BIT = 0;
export const L2_ENTRY_BYTES = 8;
export const EXTENDED_L2_ENTRY_BYTES = 16;
export const SUBCLUSTERS = 32;

// Limits; the format's where nothing is said.
export const CLUSTER_BITS_MIN = 9;
/** QEMU. */
export const CLUSTER_BITS_MAX = 21;
export const EXTENDED_L2_CLUSTER_BITS_MIN = 14;
export const REFCOUNT_ORDER_MAX = 6;
/** QEMU. */
export const L1_BYTES_MAX = 33554432;
/** QEMU. */
export const REFCOUNT_TABLE_BYTES_MAX = 8388608;
/** QEMU. */
export const SNAPSHOTS_MAX = 65536;
/** QEMU. */
export const SNAPSHOT_TABLE_BYTES_MAX = 67108864;
/** QEMU. */
export const SNAPSHOT_EXTRA_BYTES_MAX = 1024;
export const BACKING_NAME_BYTES_MAX = 1023;
/** QEMU: shorter than 16. */
export const BACKING_FORMAT_BYTES_MAX = 15;
/** QEMU. */
export const BITMAPS_MAX = 65535;
/** QEMU: 1024 for each of BITMAPS_MAX. */
export const BITMAP_DIRECTORY_BYTES_MAX = 67107840;
/** Linux: PATH_MAX without the final NUL. */
export const DATA_FILE_NAME_BYTES_MAX = 4095;

// Lengths of header extensions and of a row of the feature name table: kind, bit, name.
export const EXTENSION_HEADER_BYTES = 8;
export const FEATURE_NAME_ROW_BYTES = 48;
export const FEATURE_NAME_TEXT = 2;
export const BITMAPS_EXTENSION_BYTES = 24;
export const ENCRYPTION_EXTENSION_BYTES = 16;

// Snapshot table entry; then extra data, id, name, padding to 8.
export const SNAPSHOT_L1_OFFSET = 0;
export const SNAPSHOT_L1_SIZE = 8;
export const SNAPSHOT_ID_SIZE = 12;
export const SNAPSHOT_NAME_SIZE = 14;
export const SNAPSHOT_DATE_SECONDS = 16;
export const SNAPSHOT_DATE_NANOSECONDS = 20;
export const SNAPSHOT_VM_CLOCK = 24;
export const SNAPSHOT_VM_STATE_SIZE = 32;
export const SNAPSHOT_EXTRA_SIZE = 36;
export const SNAPSHOT_ENTRY_BYTES = 40;
/** Extra data: byte offsets in it. */
export const SNAPSHOT_EXTRA_VM_STATE_SIZE = 0;
export const SNAPSHOT_EXTRA_DISK_SIZE = 8;
export const SNAPSHOT_EXTRA_ICOUNT = 16;

// Bitmap directory entry; then extra data, name, padding to 8.
export const BITMAP_TABLE_OFFSET = 0;
export const BITMAP_TABLE_SIZE = 8;
export const BITMAP_FLAGS = 12;
export const BITMAP_TYPE = 16;
export const BITMAP_GRANULARITY_BITS = 17;
export const BITMAP_NAME_SIZE = 18;
export const BITMAP_EXTRA_SIZE = 20;
export const BITMAP_ENTRY_BYTES = 24;
export const BITMAP_FLAG_IN_USE_BIT = 0;
export const BITMAP_FLAG_AUTO_BIT = 1;
export const BITMAP_FLAG_EXTRA_COMPATIBLE_BIT = 2;
/** The one type there is: which parts of the disk were written. */
export const BITMAP_TYPE_DIRTY = 1;
/** QEMU. */
export const BITMAP_GRANULARITY_BITS_MIN = 9;
/** QEMU. */
export const BITMAP_GRANULARITY_BITS_MAX = 31;
/** QEMU. */
export const BITMAP_NAME_BYTES_MAX = 1023;
/** QEMU: of the bits of one bitmap, in whole clusters. */
export const BITMAP_BYTES_MAX = 536870912;
