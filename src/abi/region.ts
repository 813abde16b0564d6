// The engine's region of linear memory: the part that both sides touch. The host writes the
// configuration, calls `init`, and from then on produces at the tails of the request and result
// rings and consumes at the heads of the command and completion rings. Ring positions are
// free-running u32 counters; entry i of a ring lies at index i modulo RING_ENTRIES.

// Configuration, written by the host before `init`.
/** u64: capacity in bytes. */
export const CONFIG_CAPACITY = 0;
/** u32: granule of hazards in bytes, a power of two (the backend's block size). */
export const CONFIG_BLOCK_SIZE = 8;
/** u32: CONFIG_READ_ONLY and the like. */
export const CONFIG_FLAGS = 12;
/** u32: data commands in flight at once, 1 to COMMAND_SLOTS. */
export const CONFIG_DEPTH = 16;
/** u32: largest merged transfer in bytes. */
export const CONFIG_MERGE_BYTES = 20;
/** u32: host files, 1 to FILES; with several the disk is striped over them. */
export const CONFIG_FILES = 24;
/** u32: bytes that lie in one file before the next one's turn; a power of two >= the granule. */
export const CONFIG_CHUNK_BYTES = 28;
/** u32, microseconds: CONFIG_DEADLINE: after how long a read, a write must not be passed over. */
export const CONFIG_READ_EXPIRY = 32;
export const CONFIG_WRITE_EXPIRY = 36;
/** u32: CONFIG_DEADLINE: runs of one direction in a row. */
export const CONFIG_BATCH = 40;
/** u32: CONFIG_DEADLINE: batches of reads that may go before waiting writes. */
export const CONFIG_WRITES_STARVED = 44;
/** u32, microseconds: how long a sync may wait for companions after a shared one; 0: never. */
export const CONFIG_FLUSH_WAIT = 48;
/** u32: 0, or where the region of a qcow2 mapping begins, from the base (map.ts). */
export const CONFIG_MAP = 52;

export const CONFIG_READ_ONLY = 1;
/** Flushes and stable writes are acknowledged without a sync (cache=unsafe). */
export const CONFIG_NO_FLUSH = 2;
/** Writes start in the volatile class (a write cache is shown). */
export const CONFIG_WCE = 4;
/** Elevator: sweeps with deadlines; without it the oldest request goes first. */
export const CONFIG_DEADLINE = 8;
/** The host can do COMMAND_STABLE; without it a stable write is a write and a sync. */
export const CONFIG_FUA = 16;
/** Barriers are taken; without it they are refused. */
export const CONFIG_BARRIER = 32;
/** A barrier is stable too: what came before it is stable before it, itself when it completes. */
export const CONFIG_BARRIER_DURABLE = 64;
/** A barrier fails when a request since the last one failed. */
export const CONFIG_BARRIER_FAILS = 128;
/** Set by initDevice: a virtio device lies beside the engine (virtio-device.ts). */
export const CONFIG_DEVICE = 256;

// Ring positions.
export const REQUEST_HEAD = 64;
export const REQUEST_TAIL = 68;
export const COMMAND_HEAD = 72;
export const COMMAND_TAIL = 76;
export const RESULT_HEAD = 80;
export const RESULT_TAIL = 84;
export const COMPLETION_HEAD = 88;
export const COMPLETION_TAIL = 92;

// State the host may read between two calls.
/** u32: 1 while completed writes need a flush to be stable. */
export const STATE_WCE = 96;
/** u32: 1 once a sync has failed. */
export const STATE_LATCHED = 100;
/** u32, microseconds: call again after that long even if nothing happens, or STATE_WAIT_NEVER. */
export const STATE_WAIT = 104;
export const STATE_WAIT_NEVER = 4294967295;

// Counters, u64 each.
export const COUNT_READS = 128;
export const COUNT_WRITES = 136;
export const COUNT_WRITE_ZEROES = 144;
export const COUNT_DISCARDS = 152;
export const COUNT_BLOCK_STATUSES = 160;
export const COUNT_BYTES_READ = 168;
export const COUNT_BYTES_WRITTEN = 176;
/** Requests that were refused before any I/O. */
export const COUNT_REFUSED = 184;
/** Requests that had to wait for an overlapping one. */
export const COUNT_ORDERED = 192;
/** Requests that rode in another one's command. */
export const COUNT_MERGED = 200;
/** Data commands handed to the host. */
export const COUNT_COMMANDS = 208;
/** Parts of a failed merged command that were sent again, alone. */
export const COUNT_REISSUED = 216;
/** Flushes, those that turning the write cache off implies included. */
export const COUNT_FLUSHES = 224;
/** Flushes answered at once: nothing volatile had completed since the last good sync. */
export const COUNT_FLUSHES_ELIDED = 232;
/** Flushes and stable writes that another one's sync has served too. */
export const COUNT_FLUSHES_COALESCED = 240;
/** Syncs handed to the host. */
export const COUNT_SYNCS = 248;
export const COUNT_SYNCS_FAILED = 256;
/** Stable writes made stable by a shared sync instead of a descriptor of their own. */
export const COUNT_GROUP_COMMITS = 264;

/** Queued writes that a later write covers, and that were never sent. */
export const COUNT_SUPERSEDED = 272;
export const COUNT_BARRIERS = 280;
/** Barriers for which a sync came first; the others found nothing volatile. */
export const COUNT_BARRIER_FLUSHES = 288;
/** Requests that a reset ended. */
export const COUNT_ABORTED = 296;
/** Syncs that waited for companions. */
export const COUNT_SYNCS_DELAYED = 304;
/** Runs that the deadline elevator chose because their time was up. */
export const COUNT_EXPIRED = 312;
/** Descriptor chains taken from virtqueues. */
export const COUNT_CHAINS = 320;
/** Interrupts that a guest wanted, one for a batch of used entries. */
export const COUNT_INTERRUPTS = 328;
/** Batches of used entries for which it wanted none. */
export const COUNT_INTERRUPTS_SUPPRESSED = 336;
/** Requests that an error has stopped. */
export const COUNT_HELD = 344;

/** Private state of the engine. */
export const ENGINE_STATE = 512;

// Rings: RING_ENTRIES (2048) records of 32, 40, 16 and 16 bytes.
export const REQUEST_RING = 2048;
export const COMMAND_RING = 67584;
export const RESULT_RING = 149504;
export const COMPLETION_RING = 182272;
/** Private tables of the engine. */
export const ENGINE_TABLES = 215040;
/** Bytes of the whole region; it must start on a 64-byte boundary. */
export const REGION_SIZE = 606208;
