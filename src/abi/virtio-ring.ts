// Virtqueues in guest memory, little-endian. VIRTIO 1.3, 2.7 (split) and 2.8 (packed).
//
//   descriptor  0             8       12      14
//     split     | address     | length| flags | next  |
//     packed    | address     | length| id    | flags |

/** VIRTIO 1.3, 2.7 and 2.8: largest queue size. */
export const QUEUE_SIZE_MAX = 32768;

// A descriptor, 2.7.5 and 2.8.13.
export const DESC_ADDRESS = 0;
export const DESC_LENGTH = 8;
export const SPLIT_DESC_FLAGS = 12;
export const SPLIT_DESC_NEXT = 14;
export const PACKED_DESC_ID = 12;
export const PACKED_DESC_FLAGS = 14;
export const DESC_SIZE = 16;
export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
/** Packed, 2.8.1: equal to the driver's wrap counter when it makes a descriptor available. */
export const VIRTQ_DESC_F_AVAIL = 0x80;
/** Packed, 2.8.1: equal to the device's wrap counter when it has used one. */
export const VIRTQ_DESC_F_USED = 0x8000;

// The available ring, 2.7.6: flags, idx, ring[N] of u16, used_event.
export const AVAIL_FLAGS = 0;
export const AVAIL_IDX = 2;
export const AVAIL_RING = 4;
export const AVAIL_ENTRY_SIZE = 2;
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

// The used ring, 2.7.8: flags, idx, ring[N] of {u32 id, u32 len}, avail_event.
export const USED_FLAGS = 0;
export const USED_IDX = 2;
export const USED_RING = 4;
export const USED_ELEMENT_ID = 0;
export const USED_ELEMENT_LENGTH = 4;
export const USED_ELEMENT_SIZE = 8;
export const VIRTQ_USED_F_NO_NOTIFY = 1;

/** Bytes of the two rings beside their entries: flags, idx and the event field. */
export const RING_EXTRA_BYTES = 6;

// Alignments, 2.7 and 2.8.10.
export const DESC_ALIGN = 16;
export const AVAIL_ALIGN = 2;
export const USED_ALIGN = 4;
export const EVENT_ALIGN = 4;

// Event suppression of the packed ring, 2.8.14: u16 offset (15 bits) and wrap, u16 flags.
export const EVENT_OFFSET = 0;
export const EVENT_FLAGS = 2;
export const EVENT_SIZE = 4;
export const RING_EVENT_FLAGS_ENABLE = 0;
export const RING_EVENT_FLAGS_DISABLE = 1;
export const RING_EVENT_FLAGS_DESC = 2;
/** The wrap counter in positions of the packed ring; the bits below are the offset. */
export const WRAP_BIT = 0x8000;

// Transport-independent feature bits, 6.
export const VIRTIO_F_NOTIFY_ON_EMPTY = 24;
export const VIRTIO_F_ANY_LAYOUT = 27;
export const VIRTIO_F_INDIRECT_DESC = 28;
export const VIRTIO_F_EVENT_IDX = 29;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_ACCESS_PLATFORM = 33;
export const VIRTIO_F_RING_PACKED = 34;
export const VIRTIO_F_IN_ORDER = 35;
export const VIRTIO_F_ORDER_PLATFORM = 36;
export const VIRTIO_F_NOTIFICATION_DATA = 38;
export const VIRTIO_F_RING_RESET = 40;

// The device status byte, 2.1.
export const VIRTIO_CONFIG_S_ACKNOWLEDGE = 1;
export const VIRTIO_CONFIG_S_DRIVER = 2;
export const VIRTIO_CONFIG_S_DRIVER_OK = 4;
export const VIRTIO_CONFIG_S_FEATURES_OK = 8;
export const VIRTIO_CONFIG_S_NEEDS_RESET = 64;
export const VIRTIO_CONFIG_S_FAILED = 128;
