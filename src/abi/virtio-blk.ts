// virtio-blk. VIRTIO 1.3, 5.2; legacy parts as there.

/** 5.2.1. */
export const VIRTIO_ID_BLOCK = 2;

// Feature bits, 5.2.3.
export const VIRTIO_BLK_F_BARRIER = 0;
export const VIRTIO_BLK_F_SIZE_MAX = 1;
export const VIRTIO_BLK_F_SEG_MAX = 2;
export const VIRTIO_BLK_F_GEOMETRY = 4;
export const VIRTIO_BLK_F_RO = 5;
export const VIRTIO_BLK_F_BLK_SIZE = 6;
export const VIRTIO_BLK_F_SCSI = 7;
export const VIRTIO_BLK_F_FLUSH = 9;
export const VIRTIO_BLK_F_TOPOLOGY = 10;
export const VIRTIO_BLK_F_CONFIG_WCE = 11;
export const VIRTIO_BLK_F_MQ = 12;
export const VIRTIO_BLK_F_DISCARD = 13;
export const VIRTIO_BLK_F_WRITE_ZEROES = 14;
export const VIRTIO_BLK_F_LIFETIME = 15;
export const VIRTIO_BLK_F_SECURE_ERASE = 16;
export const VIRTIO_BLK_F_ZONED = 17;

// Configuration space, 5.2.4.
export const BLK_CONFIG_CAPACITY = 0;
export const BLK_CONFIG_SIZE_MAX = 8;
export const BLK_CONFIG_SEG_MAX = 12;
export const BLK_CONFIG_CYLINDERS = 16;
export const BLK_CONFIG_HEADS = 18;
export const BLK_CONFIG_SECTORS = 19;
export const BLK_CONFIG_BLK_SIZE = 20;
export const BLK_CONFIG_PHYSICAL_BLOCK_EXP = 24;
export const BLK_CONFIG_ALIGNMENT_OFFSET = 25;
export const BLK_CONFIG_MIN_IO_SIZE = 26;
export const BLK_CONFIG_OPT_IO_SIZE = 28;
export const BLK_CONFIG_WRITEBACK = 32;
export const BLK_CONFIG_NUM_QUEUES = 34;
export const BLK_CONFIG_MAX_DISCARD_SECTORS = 36;
export const BLK_CONFIG_MAX_DISCARD_SEG = 40;
export const BLK_CONFIG_DISCARD_SECTOR_ALIGNMENT = 44;
export const BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS = 48;
export const BLK_CONFIG_MAX_WRITE_ZEROES_SEG = 52;
export const BLK_CONFIG_WRITE_ZEROES_MAY_UNMAP = 56;
export const BLK_CONFIG_MAX_SECURE_ERASE_SECTORS = 60;
export const BLK_CONFIG_MAX_SECURE_ERASE_SEG = 64;
export const BLK_CONFIG_SECURE_ERASE_SECTOR_ALIGNMENT = 68;
export const BLK_CONFIG_SIZE = 96;

// The request header, 5.2.6: u32 type, u32 reserved, u64 sector.
export const BLK_HEADER_TYPE = 0;
export const BLK_HEADER_SECTOR = 8;
export const BLK_HEADER_SIZE = 16;

// Request types, 5.2.6.
export const VIRTIO_BLK_T_IN = 0;
export const VIRTIO_BLK_T_OUT = 1;
export const VIRTIO_BLK_T_SCSI_CMD = 2;
export const VIRTIO_BLK_T_SCSI_CMD_OUT = 3;
export const VIRTIO_BLK_T_FLUSH = 4;
export const VIRTIO_BLK_T_FLUSH_OUT = 5;
export const VIRTIO_BLK_T_GET_ID = 8;
export const VIRTIO_BLK_T_GET_LIFETIME = 10;
export const VIRTIO_BLK_T_DISCARD = 11;
export const VIRTIO_BLK_T_WRITE_ZEROES = 13;
export const VIRTIO_BLK_T_SECURE_ERASE = 14;
/** Legacy, 5.2.6.3: a bit beside the type. */
export const VIRTIO_BLK_T_BARRIER = 0x8000_0000;

// Status, 5.2.6.
export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
export const VIRTIO_BLK_S_UNSUPP = 2;

/** Bytes of the answer to GET_ID. */
export const VIRTIO_BLK_ID_BYTES = 20;

// A segment of DISCARD, WRITE_ZEROES and SECURE_ERASE: u64 sector, u32 num_sectors, u32 flags.
export const BLK_RANGE_SECTOR = 0;
export const BLK_RANGE_SECTORS = 8;
export const BLK_RANGE_FLAGS = 12;
export const BLK_RANGE_SIZE = 16;
export const VIRTIO_BLK_RANGE_F_UNMAP = 1;
