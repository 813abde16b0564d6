// The request record (host -> engine) and the completion record (engine -> host), little-endian.
//
//   request     0        4    5     6        8             12      16        24         32
//               | tag    | op |flags| queue  | segments    | data  | offset  | length   |
//   completion  0        4         8         12       16
//               | tag    | status  | value   | errno  |
//
// data: the address of the bytes when segments is 1; of a table of {u32 address, u32 length} when
// it is more. A table must stay as it is until the request completes: it is checked when the
// request is taken and read again when it is sent. What an untrusted guest may write is copied
// first.
// READ and WRITE have segments >= 1; BLOCK_STATUS has the address of its result table.
// value: extents written (BLOCK_STATUS). errno: what the host reported when status is IO_ERROR or
// NO_SPACE, else 0.

export const REQUEST_TAG = 0;
export const REQUEST_OP = 4;
export const REQUEST_FLAGS = 5;
export const REQUEST_QUEUE = 6;
export const REQUEST_SEGMENTS = 8;
export const REQUEST_DATA = 12;
export const REQUEST_OFFSET = 16;
export const REQUEST_LENGTH = 24;
export const REQUEST_SIZE = 32;

export const COMPLETION_TAG = 0;
export const COMPLETION_STATUS = 4;
export const COMPLETION_VALUE = 8;
export const COMPLETION_ERRNO = 12;
export const COMPLETION_SIZE = 16;

// Operations. Those from FLUSH on have no range; SET_WCE takes 0 or 1 in length.
export const OP_READ = 0;
export const OP_WRITE = 1;
export const OP_WRITE_ZEROES = 2;
export const OP_DISCARD = 3;
export const OP_BLOCK_STATUS = 4;
export const OP_FLUSH = 5;
export const OP_SET_WCE = 6;
/** Ends the queue of the record: what the host does not hold is aborted, the rest awaited. */
export const OP_RESET_QUEUE = 7;
/** The same for all queues; then the write cache is as at first. */
export const OP_RESET = 8;
/** Takes syncs for true again after one has failed: somebody has looked at the damage. */
export const OP_CLEAR_LATCH = 9;

// Flags of a request.
/** WRITE, WRITE_ZEROES, DISCARD: stable before it completes (spec: stable class). */
export const REQUEST_FUA = 1;
/** WRITE_ZEROES: the range may be unmapped. */
export const REQUEST_MAY_UNMAP = 2;
/** WRITE_ZEROES: fail with UNSUPPORTED rather than write zeroes slowly. */
export const REQUEST_FAST_ZERO = 4;
/**
 * READ, WRITE, WRITE_ZEROES, DISCARD, FLUSH: everything earlier completes first and nothing later
 * starts before this has completed (VIRTIO_BLK_T_BARRIER). Only where CONFIG_BARRIER offers it.
 */
export const REQUEST_BARRIER = 8;

// Status of a completion.
export const STATUS_OK = 0;
/** The host reported an error; errno says which. */
export const STATUS_IO_ERROR = 1;
/** The host reported ENOSPC, EDQUOT or EFBIG. */
export const STATUS_NO_SPACE = 2;
/** A write-class request on a read-only disk. */
export const STATUS_READ_ONLY = 3;
/** offset + length lies past the capacity. */
export const STATUS_OUT_OF_RANGE = 4;
/** Unknown operation, a flag that the operation does not take, or a malformed record. */
export const STATUS_INVALID = 5;
/** The backend cannot do it (FAST_ZERO, DISCARD). */
export const STATUS_UNSUPPORTED = 6;
/** A sync failed earlier: nothing can be promised to be stable (CLEAR_LATCH, or open anew). */
export const STATUS_FLUSH_LATCHED = 7;
/** The request's queue was reset. What it was to write may be there, in part, or not. */
export const STATUS_ABORTED = 8;

// An entry of a segment table.
export const SEGMENT_ADDRESS = 0;
export const SEGMENT_LENGTH = 4;
export const SEGMENT_SIZE = 8;

// An entry of a BLOCK_STATUS result table: u64 length, u32 flags, u32 depth. Entries are contiguous
// from the offset of the request; HOLE and ZERO are those of NBD's base:allocation. Depth 0 is this
// image, 1 its backing file, and so on. ABSENT: no image of the chain says anything of it.
export const EXTENT_LENGTH = 0;
export const EXTENT_FLAGS = 8;
export const EXTENT_DEPTH = 12;
export const EXTENT_SIZE = 16;
export const EXTENT_HOLE = 1;
export const EXTENT_ZERO = 2;
export const EXTENT_COMPRESSED = 4;
export const EXTENT_ABSENT = 8;
/** Entries of a result table. */
export const EXTENT_TABLE_ENTRIES = 256;
