// The virtio device beside an engine: a region of memory that begins where the engine's ends. The
// host writes the words of the first two blocks and calls the exports; the rest is the engine's.
// Offsets are relative to the start of this region, which is at the engine's base + REGION_SIZE.

// The device. Written by the host between calls; read by the engine when it takes a request.
/** u32: virtqueues, 1 to VIRTQUEUES. Set by initDevice. */
export const DEVICE_QUEUE_COUNT = 0;
/** u32: DEVICE_RUNNING and the like. */
export const DEVICE_FLAGS = 4;
/** u32: sectors of a logical block, a power of two: sector and length are multiples of it. */
export const DEVICE_BLOCK_SECTORS = 8;
/** u32: limits of DISCARD and WRITE_ZEROES, as in the configuration space. */
export const DEVICE_DISCARD_SECTORS = 12;
export const DEVICE_DISCARD_SEGMENTS = 16;
export const DEVICE_ZEROES_SECTORS = 20;
export const DEVICE_ZEROES_SEGMENTS = 24;
/** u32: what an I/O error of a read, of a volatile write does (ON_ERROR_*). */
export const DEVICE_READ_ERROR = 28;
export const DEVICE_WRITE_ERROR = 32;
/** u8[20]: the answer to GET_ID. */
export const DEVICE_ID = 36;
/** u64, a bit for each queue: the host sets it to have a queue looked at; the engine clears it. */
export const DEVICE_KICKED = 56;
/** u64: the engine sets it: the guest wants an interrupt. The host clears it. */
export const DEVICE_INTERRUPTS = 64;
/** u64: the engine sets it: the queue has been stopped, see QUEUE_ERROR. The host clears it. */
export const DEVICE_BROKEN = 72;
/** u32: requests that an error has stopped (ON_ERROR_STOP). */
export const DEVICE_HELD = 80;
/** u32: chains taken and not returned, over all queues. */
export const DEVICE_IN_FLIGHT = 84;
/** u32: errno of the last request that was stopped. */
export const DEVICE_HELD_ERRNO = 88;
/** u32: the first chain that waits to be landed, or none (DEVICE_LANDS). */
export const DEVICE_LANDED = 92;
/** u64: offset on the disk of the last request that was stopped. */
export const DEVICE_HELD_OFFSET = 96;

/** DRIVER_OK: buffers are taken. */
export const DEVICE_RUNNING = 1;
/** Neither VERSION_1 nor ANY_LAYOUT: header and status have a descriptor each, 5.2.6.4. */
export const DEVICE_FIXED_FRAMING = 2;
/** VIRTIO_BLK_F_BARRIER was negotiated. */
export const DEVICE_BARRIER = 4;
/** VIRTIO_BLK_F_DISCARD was negotiated. */
export const DEVICE_DISCARD = 8;
/** VIRTIO_BLK_F_WRITE_ZEROES was negotiated. */
export const DEVICE_WRITE_ZEROES = 16;
/** What is mapped is a copy of the guest's memory, which the host keeps (copied guests). */
export const DEVICE_COPIED = 32;
/** Somebody watches guest memory: what is written there is to be told. */
export const DEVICE_WATCHED = 64;
/** Decided chains land: they wait until the host has looked at what they have written. */
export const DEVICE_LANDS = 96;

/** The guest is told. */
export const ON_ERROR_REPORT = 0;
/** The request stays as it is, and no chain is taken, until the host calls resumeDevice. */
export const ON_ERROR_STOP = 1;
/** The guest is told that it went well. */
export const ON_ERROR_IGNORE = 2;
/** As STOP when there is no space, as REPORT else. */
export const ON_ERROR_STOP_ENOSPC = 3;

// The queues: QUEUE_STRIDE bytes each from DEVICE_QUEUES on. The host writes the first words and
// calls attachQueue, which checks and latches them: they may change at will after that.
export const DEVICE_QUEUES = 1196032;
export const QUEUE_STRIDE = 8448;
/** u32: entries. */
export const QUEUE_SIZE = 0;
/** u32: QUEUE_PACKED and the like, as negotiated. */
export const QUEUE_FLAGS = 4;
/** u64: guest addresses: descriptor table or ring; driver area; device area. */
export const QUEUE_DESC = 8;
export const QUEUE_DRIVER = 16;
export const QUEUE_DEVICE = 24;
/**
 * u32: where to go on. Split: the index of the next available entry, and of the next used one.
 * Packed: offset of the next descriptor with the wrap counter in bit 15. Also written by
 * detachQueue. A new queue starts with 0 and 0, packed with WRAP_BIT and WRAP_BIT.
 */
export const QUEUE_NEXT_AVAIL = 32;
export const QUEUE_NEXT_USED = 36;
/** u32: QUEUE_OFF and so on. Written by the engine. */
export const QUEUE_STATE = 40;
/** u32: RING_ERROR_* when the state is QUEUE_BROKEN. */
export const QUEUE_ERROR = 44;
/** u32: the head (split) or slot (packed) of the chain that broke it, and the descriptor. */
export const QUEUE_ERROR_HEAD = 48;
export const QUEUE_ERROR_DESCRIPTOR = 52;
/** u32: chains taken from it and not returned. */
export const QUEUE_IN_FLIGHT = 56;
/** u32: chains that may be taken from it (DEVICE_COPIED): those that have been copied in. */
export const QUEUE_COPIED = 60;
/**
 * u32: where the record of what is in flight lies, INFLIGHT_* below, on a boundary of 8 bytes; 0:
 * none is kept. Split only, without IN_ORDER, and not of a copied guest.
 */
export const QUEUE_INFLIGHT = 64;
/** u32: chains in the record that are to be taken first; their heads lie behind its states. */
export const QUEUE_RESUBMITS = 68;
/** u64: more than every counter in the record. */
export const QUEUE_COUNTER = 72;
/** Private: from here on. */
export const QUEUE_PRIVATE = 80;

// The record of what is in flight, as vhost-user describes it for split queues: a head, a state for
// each descriptor, and (not of the standard) the u16 heads that are to be taken first.
/** u64: none are defined. */
export const INFLIGHT_FEATURES = 0;
/** u16: 1. */
export const INFLIGHT_VERSION = 8;
/** u16: states. */
export const INFLIGHT_DESCRIPTORS = 10;
/** u16: the head of the last chain that was returned. */
export const INFLIGHT_LAST_BATCH_HEAD = 12;
/** u16: the used index, behind which no chain was returned that is still marked. */
export const INFLIGHT_USED_INDEX = 14;
export const INFLIGHT_STATES = 16;
export const INFLIGHT_STATE_SIZE = 16;
/** u8: 1 while the chain with this head is in flight. */
export const INFLIGHT_STATE_FLAG = 0;
/** u16: the head of the chain that was returned before it. */
export const INFLIGHT_STATE_NEXT = 6;
/** u64: the order in which chains were taken. */
export const INFLIGHT_STATE_COUNTER = 8;

export const QUEUE_PACKED = 1;
export const QUEUE_INDIRECT = 2;
export const QUEUE_EVENT_IDX = 4;
export const QUEUE_IN_ORDER = 8;
export const QUEUE_NOTIFY_ON_EMPTY = 16;

export const QUEUE_OFF = 0;
export const QUEUE_ON = 1;
/** Takes nothing; what is in flight goes on and is returned. */
export const QUEUE_PAUSED = 2;
/** The driver has broken a rule: takes nothing; what is in flight goes on and is returned. */
export const QUEUE_BROKEN = 3;
/** Being reset: the rings are not touched any more; what is in flight is dropped. */
export const QUEUE_DEAD = 4;

// Why a queue was stopped. 2.7 and 2.8 say what a driver MUST and MUST NOT do.
/** More available entries than the queue has, or more in flight. */
export const RING_ERROR_AVAIL_INDEX = 1;
/** A head that is no descriptor. */
export const RING_ERROR_HEAD = 2;
/** A head, or a packed buffer id, that is in flight already. */
export const RING_ERROR_IN_FLIGHT = 3;
/** `next` points past the table. */
export const RING_ERROR_NEXT = 4;
/** More descriptors than the table has: a loop. */
export const RING_ERROR_LOOP = 5;
/** An indirect table of no or of broken descriptors. */
export const RING_ERROR_INDIRECT_LENGTH = 6;
/** INDIRECT was not negotiated. */
export const RING_ERROR_INDIRECT_FEATURE = 7;
/** INDIRECT in an indirect table. */
export const RING_ERROR_INDIRECT_NESTED = 8;
/** INDIRECT together with NEXT; in a packed list also after NEXT. */
export const RING_ERROR_INDIRECT_NEXT = 9;
/** A readable descriptor after a writable one. */
export const RING_ERROR_ORDER = 10;
/** A buffer, or an indirect table, that is not in guest memory. */
export const RING_ERROR_RANGE = 11;
/** More descriptors than CHAIN_DESCRIPTORS. */
export const RING_ERROR_DESCRIPTORS = 12;
/** More than 4 GiB in one chain. */
export const RING_ERROR_BYTES = 13;

// What attachQueue and mapGuest answer; 0: done.
/** The queue is not off, a region holds a queue, or chains are in flight. */
export const ATTACH_BUSY = 1;
/** Not a size that the ring can have. */
export const ATTACH_SIZE = 2;
/** Descriptors, driver area, device area: not aligned. */
export const ATTACH_ALIGN = 3;
/** A part of the ring does not lie in one region of guest memory. */
export const ATTACH_RANGE = 4;
/** Two parts of the ring overlap. */
export const ATTACH_OVERLAP = 5;
/** The position to go on from is impossible. */
export const ATTACH_POSITION = 6;
/** No such queue or region. */
export const ATTACH_UNKNOWN = 7;
/** IN_ORDER where chains land (DEVICE_LANDS): they stand in another line then. */
export const ATTACH_IN_ORDER = 11;
/** No record of what is in flight for this ring: it is packed, in order, or copied. */
export const ATTACH_INFLIGHT = 12;
/** The region overlaps another one, or the engine, or runs past the memory. */
export const MAP_RANGE = 8;
/** Guest address and place are not equal modulo MAP_ALIGN. */
export const MAP_ALIGN_BROKEN = 9;
/** All GUEST_REGIONS are in use. */
export const MAP_FULL = 10;

/** peekChain: nothing more is available, or the queue will break. */
export const PEEK_NONE = 4294967295;
/** peekChain: there is an indirect table to copy first, the only entry of the list. */
export const PEEK_TABLE = 4294967294;
/** Where the lists of peekChain and nextLanded are: {u32 place, u32 length} each. */
export const DEVICE_LIST = 4480;

/** Guest addresses and their places are equal modulo this, so that aligned stays aligned. */
export const MAP_ALIGN = 16;
/** Regions of guest memory. */
export const GUEST_REGIONS = 128;
/** Queues of a device. The engine's queue 0 is the host's own; virtqueue q is its queue q + 1. */
export const VIRTQUEUES = 63;
/** Chains in flight over all queues. */
export const CHAINS = 1024;
/** Requests of an engine that chains leave to the host: its own I/O, flushes, resets. */
export const HOST_REQUESTS = 64;
/** Descriptors of one chain, and segments after regions have cut it. QEMU's limit too. */
export const CHAIN_DESCRIPTORS = 1024;
/** Segments that a chain's own record holds; longer lists take a table. */
export const CHAIN_SEGMENTS = 8;
/** Segment tables: chains in flight with more segments than that. */
export const CHAIN_TABLES = 128;
/** Ranges of one DISCARD or WRITE_ZEROES. */
export const BLK_RANGES = 64;
/** The tag of a request that is a chain's: this and the chain. The host's tags are smaller. */
export const TAG_CHAIN = 0x8000_0000;
