/**
 * Limits of the NBD server. The protocol leaves them to the server; they keep memory and time
 * bounded whatever a client sends or fails to send.
 */

/** From this many negotiations on a newcomer evicts the oldest, if its grace is over. */
export const MAX_HANDSHAKES = 64;
/** Time that a negotiation has in any case: honest clients that come in a burst all get it. */
export const HANDSHAKE_GRACE_MS = 1000;
/** From this many negotiations on a newcomer evicts the oldest without grace. */
export const MAX_HANDSHAKES_IN_A_BURST = 1024;
/** Connections that may wait for a client slot at once; a newcomer is dropped. */
export const MAX_PARKED = 64;
/** Time from the connection to the end of the negotiation (QEMU: 10 s). */
export const HANDSHAKE_TIMEOUT_MS = 10_000;
/** Options in one negotiation; the connection is dropped at the next. */
export const MAX_OPTIONS = 1000;
/** Data of an option that is looked at; a longer one is answered with ERR_TOO_BIG. */
export const MAX_OPTION_BYTES = 16_384;
/** Data of an option that is read away; a longer one drops the connection (QEMU: 32 MiB). */
export const MAX_SKIPPED_BYTES = 33_554_432;

/** Requests of one connection whose replies are not sent yet. */
export const MAX_REQUESTS = 256;
/** Largest payload, NBD's customary one, unless the arena is small (proto, "Size constraints"). */
export const MAX_PAYLOAD_BYTES = 33_554_432;
/** A WRITE of more than the largest payload is read away up to this, and drops the client above. */
export const MAX_DRAINED_BYTES = 2 * MAX_PAYLOAD_BYTES;
/** One connection holds at most this part of the arena's space for large buffers, or one. */
export const LARGE_SHARE = 4;
/** The same for small ones: so many clients that take no replies leave room for others. */
export const SMALL_SHARE = 100;
/** CACHE reads in pieces of this size. */
export const CACHE_PIECE_BYTES = 262_144;
/** CACHE reads the first so many bytes: what is prefetched beyond drives other pages out. */
export const MAX_CACHED_BYTES = 1_073_741_824;
/** Extents in one reply for one context: more are asked for again (proto: at most 2^20). */
export const MAX_EXTENTS = 4096;

/** Bytes taken from a socket at once while negotiating. */
export const HANDSHAKE_WINDOW_BYTES = 4096;
/** Bytes taken from a socket at once in transmission: more than a unix socket holds. */
export const WINDOW_BYTES = 262_144;
/** Replies copied together for one system call. */
export const REPLY_BUFFER_BYTES = 262_144;
/** Data of at least this size is sent from the arena instead of being copied behind its header. */
export const GATHER_BYTES = 32_768;

/** So much of the data of a WRITE that is longer has come before it gets a buffer. */
export const FIRST_BYTES = 32_768;

/** How often clients that hold memory are looked at while others wait for it. */
export const STALL_CHECK_MS = 500;
/**
 * A client that holds memory while others wait has this long to move STALL_BYTES or this part of
 * what it holds, whichever is more: about 64 KiB a second, and 20 s for the largest WRITE.
 */
export const STALL_MS = 5000;
/** Each that is dropped halves that time for the next, down to this ... */
export const LEAST_STALL_MS = 1000;
/** ... until so long nobody had to be dropped. */
export const STALL_CALM_MS = 60_000;
export const STALL_BYTES = 327_680;
export const STALL_PART = 4;
/** How long `close()` waits for clients to take their replies. */
export const CLOSE_TIMEOUT_MS = 5000;
