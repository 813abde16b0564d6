/**
 * The numbers of the NBD protocol document (NetworkBlockDevice/nbd, doc/proto.md), in its spelling
 * without the NBD_ prefix. All integers on the wire are big-endian.
 */

// Magics are u64 (two words) in the handshake and u32 in transmission.

/** "NBDMAGIC", upper word. NBD proto, "Newstyle negotiation". */
export const INIT_MAGIC_HIGH = 0x4e42444d;
/** "NBDMAGIC", lower word. NBD proto, "Newstyle negotiation". */
export const INIT_MAGIC_LOW = 0x41474943;
/** The second word of an oldstyle greeting, upper word. NBD proto, "Oldstyle negotiation". */
export const OLDSTYLE_MAGIC_HIGH = 0x00004202;
/** The same, lower word. */
export const OLDSTYLE_MAGIC_LOW = 0x81861253;
/** "IHAVEOPT", upper word: second word of the greeting and start of every option. */
export const OPTION_MAGIC_HIGH = 0x49484156;
/** "IHAVEOPT", lower word. NBD proto, "Fixed newstyle negotiation". */
export const OPTION_MAGIC_LOW = 0x454f5054;
/** Start of an option reply, upper word. NBD proto, "Fixed newstyle negotiation". */
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
/** Start of an option reply, lower word. NBD proto, "Fixed newstyle negotiation". */
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
/** Start of a compact request. NBD proto, "Request message". */
export const REQUEST_MAGIC = 0x25609513;
/** Start of a simple reply. NBD proto, "Simple reply message". */
export const SIMPLE_REPLY_MAGIC = 0x67446698;
/** Start of a structured reply chunk. NBD proto, "Structured reply chunk message". */
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
/** Start of an extended request. NBD proto, "Request message". */
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
/** Start of an extended reply chunk. NBD proto, "Extended reply chunk message". */
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

// Handshake flags (server) and client flags. NBD proto, "Handshake flags", "Client flags".

/** Both sides speak fixed newstyle; the same bit in both directions. */
export const FLAG_FIXED_NEWSTYLE = 1;
/** No 124 zero bytes after EXPORT_NAME; the same bit in both directions. */
export const FLAG_NO_ZEROES = 2;

// Options. NBD proto, "Option types".

/** Select an export and begin transmission; there is no error reply. */
export const OPT_EXPORT_NAME = 1;
/** End the session. */
export const OPT_ABORT = 2;
/** List the exports. */
export const OPT_LIST = 3;
/** Begin TLS. */
export const OPT_STARTTLS = 5;
/** Ask about an export. */
export const OPT_INFO = 6;
/** Select an export and begin transmission. */
export const OPT_GO = 7;
/** Negotiate structured replies. */
export const OPT_STRUCTURED_REPLY = 8;
/** Ask which metadata contexts there are. */
export const OPT_LIST_META_CONTEXT = 9;
/** Select metadata contexts. */
export const OPT_SET_META_CONTEXT = 10;
/** Negotiate extended headers. */
export const OPT_EXTENDED_HEADERS = 11;

// Option replies. NBD proto, "Option reply types".

/** Final success. */
export const REP_ACK = 1;
/** One export of a list. */
export const REP_SERVER = 2;
/** One piece of information about an export. */
export const REP_INFO = 3;
/** One metadata context. */
export const REP_META_CONTEXT = 4;
/** The option is unknown. */
export const REP_ERR_UNSUP = 0x80000001;
/** The option is forbidden here. */
export const REP_ERR_POLICY = 0x80000002;
/** The option's data is malformed, or it does not fit what was negotiated. */
export const REP_ERR_INVALID = 0x80000003;
/** Only over TLS. */
export const REP_ERR_TLS_REQD = 0x80000005;
/** There is no such export. */
export const REP_ERR_UNKNOWN = 0x80000006;
/** The option is too large for this server. */
export const REP_ERR_TOO_BIG = 0x80000009;
/** Only with extended headers. */
export const REP_ERR_EXT_HEADER_REQD = 0x8000000a;

// Information types of INFO and GO. NBD proto, "Option reply types", NBD_REP_INFO.

/** Size and transmission flags; always sent. */
export const INFO_EXPORT = 0;
/** The canonical name. */
export const INFO_NAME = 1;
/** The description for humans. */
export const INFO_DESCRIPTION = 2;
/** Minimum and preferred block size, maximum payload. */
export const INFO_BLOCK_SIZE = 3;

// Transmission flags. NBD proto, "Transmission flags".

/** Always set. */
export const TRANSMISSION_HAS_FLAGS = 1;
/** Write-class commands are answered with EPERM. */
export const TRANSMISSION_READ_ONLY = 2;
/** FLUSH is there. */
export const TRANSMISSION_SEND_FLUSH = 4;
/** CMD_FLAG_FUA is there. */
export const TRANSMISSION_SEND_FUA = 8;
/** TRIM is there. */
export const TRANSMISSION_SEND_TRIM = 0x20;
/** WRITE_ZEROES is there. */
export const TRANSMISSION_SEND_WRITE_ZEROES = 0x40;
/** CMD_FLAG_DF is there (structured replies only). */
export const TRANSMISSION_SEND_DF = 0x80;
/** A FLUSH covers the replied writes of all connections. */
export const TRANSMISSION_CAN_MULTI_CONN = 0x100;
/** CACHE is there. */
export const TRANSMISSION_SEND_CACHE = 0x400;
/** CMD_FLAG_FAST_ZERO is there. */
export const TRANSMISSION_SEND_FAST_ZERO = 0x800;
/** BLOCK_STATUS may name contexts (extended headers and selected contexts only). */
export const TRANSMISSION_BLOCK_STATUS_PAYLOAD = 0x1000;

// Commands. NBD proto, "Request types".

/** Read data. */
export const CMD_READ = 0;
/** Write data; the payload follows the header. */
export const CMD_WRITE = 1;
/** Finish outstanding requests and close; no reply. */
export const CMD_DISC = 2;
/** What was replied to before is on stable storage after. */
export const CMD_FLUSH = 3;
/** The contents are no longer needed. */
export const CMD_TRIM = 4;
/** Prefetch. */
export const CMD_CACHE = 5;
/** Write zeroes without sending them. */
export const CMD_WRITE_ZEROES = 6;
/** Which extents are allocated. */
export const CMD_BLOCK_STATUS = 7;

// Command flags. NBD proto, "Command flags".

/** Stable before the reply. */
export const CMD_FLAG_FUA = 1;
/** WRITE_ZEROES: allocate, do not punch a hole. */
export const CMD_FLAG_NO_HOLE = 2;
/** READ: at most one content chunk. */
export const CMD_FLAG_DF = 4;
/** BLOCK_STATUS: one extent only. */
export const CMD_FLAG_REQ_ONE = 8;
/** WRITE_ZEROES: fail rather than be as slow as a write. */
export const CMD_FLAG_FAST_ZERO = 16;
/** Extended headers: the length is that of a payload, which follows. */
export const CMD_FLAG_PAYLOAD_LEN = 32;

// Structured reply chunks. NBD proto, "Structured reply flags", "Structured reply types".

/** The last chunk of a reply. */
export const REPLY_FLAG_DONE = 1;
/** No payload. */
export const REPLY_TYPE_NONE = 0;
/** u64 offset, then data. */
export const REPLY_TYPE_OFFSET_DATA = 1;
/** u64 offset, u32 length of zeroes. */
export const REPLY_TYPE_OFFSET_HOLE = 2;
/** u32 context id, then extents. */
export const REPLY_TYPE_BLOCK_STATUS = 5;
/** u32 context id, u32 count, then extents of 64 bits; extended headers only. */
export const REPLY_TYPE_BLOCK_STATUS_EXT = 6;
/** u32 error, u16 message length, message. */
export const REPLY_TYPE_ERROR = 0x8001;
/** The same, then the u64 offset of what went wrong. */
export const REPLY_TYPE_ERROR_OFFSET = 0x8002;
/** Every type with this bit begins like REPLY_TYPE_ERROR. */
export const REPLY_TYPE_ERROR_BIT = 0x8000;

/** base:allocation: it reads as zeroes. NBD proto, "The base:allocation metadata context". */
export const STATE_ZERO = 2;

// Errors. NBD proto, "Error values".

/** Operation not permitted: a write on a read-only export. */
export const NBD_EPERM = 1;
/** Input or output error. */
export const NBD_EIO = 5;
/** Invalid argument. */
export const NBD_EINVAL = 22;
/** No space left, or a write past the end. */
export const NBD_ENOSPC = 28;
/** Not supported: FAST_ZERO only. */
export const NBD_ENOTSUP = 95;

// Sizes of messages, in bytes.

/** The greeting: two magics and the handshake flags. */
export const GREETING_SIZE = 18;
/** The client flags. */
export const CLIENT_FLAGS_SIZE = 4;
/** The header of an option. */
export const OPTION_SIZE = 16;
/** The header of an option reply. */
export const OPTION_REPLY_SIZE = 20;
/** Zeroes after the answer to EXPORT_NAME, unless FLAG_NO_ZEROES was negotiated. */
export const EXPORT_NAME_ZEROES = 124;
/** The header of a compact request. */
export const REQUEST_HEADER_SIZE = 28;
/** The header of an extended request. */
export const EXTENDED_REQUEST_SIZE = 32;
/** A simple reply without its data. */
export const SIMPLE_REPLY_SIZE = 16;
/** The header of a structured reply chunk. */
export const CHUNK_SIZE = 20;
/** The header of an extended reply chunk. */
export const EXTENDED_CHUNK_SIZE = 32;
/** An extent of BLOCK_STATUS, and one of BLOCK_STATUS_EXT. */
export const EXTENT_SIZE_32 = 8;
export const EXTENT_SIZE_64 = 16;

/** Longest string on the wire, in bytes. NBD proto, "Values". */
export const MAX_STRING_BYTES = 4096;
/** The port of the protocol (IANA). */
export const DEFAULT_PORT = 10809;
/** What reads as zeroes, and what is allocated. NBD proto, "Metadata contexts". */
export const CONTEXT_BASE_ALLOCATION = 'base:allocation';
/** Which image of a chain says it. QEMU, docs/interop/nbd.rst. */
export const CONTEXT_ALLOCATION_DEPTH = 'qemu:allocation-depth';
/** Before the name of a dirty bitmap. QEMU, docs/interop/nbd.rst. */
export const CONTEXT_DIRTY_BITMAP = 'qemu:dirty-bitmap:';
