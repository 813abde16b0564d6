/** The shapes of the raw device side (virtqueues.ts). */

/** A part of guest memory that lies in one piece in the memory of the disk. */
export interface GuestRegion {
  /** The first guest address of it. */
  readonly guestAddress: bigint;
  /** Up to 2^32. */
  readonly sizeBytes: number;
  /** Where it lies in the memory, in bytes; equal to `guestAddress` modulo 16. */
  readonly address: number;
}

/** Where the device goes on in a ring. */
export interface RingPosition {
  /**
   * Split: index of the next available entry, as in `avail.idx`. Packed: offset of the next
   * descriptor, with the wrap counter in bit 15.
   */
  readonly nextAvail: number;
  /** The same of the next used entry. */
  readonly nextUsed: number;
}

/** A record of what is in flight (INFLIGHT_* of abi/virtio-device.ts). */
export interface InflightRecord {
  /** Where it lies in the memory, on a boundary of 8 bytes. */
  readonly address: number;
  /** Chains of the last process that are to be taken first; their heads lie behind the states. */
  readonly resubmits: number;
  /** More than every counter in it. */
  readonly counter: bigint;
}

/** A ring as the driver has set it up and negotiated it. VIRTIO 1.3, 2.7 and 2.8. */
export interface QueueConfig {
  /** Entries: up to 32,768; of a split ring a power of two. */
  readonly size: number;
  /** Guest address of the descriptor table or ring. */
  readonly desc: bigint;
  /** Of the driver area: available ring, or driver event suppression. */
  readonly driver: bigint;
  /** Of the device area: used ring, or device event suppression. */
  readonly device: bigint;
  /** VIRTIO_F_RING_PACKED. */
  readonly packed: boolean;
  /** VIRTIO_F_INDIRECT_DESC. */
  readonly indirect: boolean;
  /** VIRTIO_F_EVENT_IDX. */
  readonly eventIdx: boolean;
  /** VIRTIO_F_IN_ORDER. */
  readonly inOrder: boolean;
  /** VIRTIO_F_NOTIFY_ON_EMPTY (legacy). Default false. */
  readonly notifyOnEmpty?: boolean | undefined;
  /** Where to go on, as `detach` gave it; default: the start of a new ring. */
  readonly position?: RingPosition | undefined;
  /**
   * Split, without `inOrder`: kept for the next process. What is to be taken first counts as taken
   * in `position`.
   */
  readonly inflight?: InflightRecord | undefined;
}

/** What an I/O error does to a request. */
export type ErrorPolicy =
  /** The guest is told. */
  | 'report'
  /** The request stays as it is until `resume`. */
  | 'stop'
  /** The guest is told that it went well. */
  | 'ignore';

/** What the virtio-blk device knows about requests. VIRTIO 1.3, 5.2. */
export interface DeviceSettings {
  /** Neither VERSION_1 nor ANY_LAYOUT: header and status have a descriptor each (5.2.6.4). */
  readonly fixedFraming: boolean;
  /** VIRTIO_BLK_F_BARRIER was negotiated. */
  readonly barrier: boolean;
  /** VIRTIO_BLK_F_DISCARD was negotiated. */
  readonly discard: boolean;
  /** VIRTIO_BLK_F_WRITE_ZEROES was negotiated. */
  readonly writeZeroes: boolean;
  /** Sectors of 512 bytes of a logical block, a power of two. */
  readonly blockSectors: number;
  /** Limits as in the configuration space: sectors of a range, ranges of a request. */
  readonly discardSectors: number;
  readonly discardSegments: number;
  readonly zeroesSectors: number;
  readonly zeroesSegments: number;
  /** The answer to GET_ID: at most 20 bytes, filled up with NUL. */
  readonly id: Uint8Array;
  readonly readError: ErrorPolicy;
  /** Of writes that a flush makes stable. `enospc`: stop when there is no space, else report. */
  readonly writeError: ErrorPolicy | 'enospc';
}

/** `off`: not attached. `broken`: the driver has broken a rule. `dead`: being reset. */
export type QueueState = 'off' | 'on' | 'paused' | 'broken' | 'dead';

/** A queue that was stopped because the driver has broken a rule of its ring. */
export interface QueueFault {
  readonly queue: number;
  /** RING_ERROR_* of abi/virtio-device.ts. */
  readonly error: number;
  /** What is wrong, in words. */
  readonly reason: string;
  /** Head (split) or slot (packed) of the chain, and the descriptor in it. */
  readonly head: number;
  readonly descriptor: number;
}

/** A request that an error policy has stopped. */
export interface HeldRequest {
  /** Requests that are stopped now. */
  readonly held: number;
  /** Byte offset on the disk of the last one. */
  readonly offset: number;
  /** What the host has reported for it. */
  readonly errno: number;
}

/** Who is told what. Called from inside `kick`, outside of the engine: may call anything. */
export interface QueueEvents {
  /** The guest wants an interrupt for used entries of this queue. */
  onInterrupt(queue: number): void;
  /** A queue was stopped. What is in flight of it goes on, and so do the others. */
  onBroken(fault: QueueFault): void;
  /** A request was stopped; `resume` sends it again. */
  onHeld(stop: HeldRequest): void;
  /** Guest memory cannot be reached, or not be watched, any more: nothing more is taken. */
  onFailure(error: unknown): void;
}
