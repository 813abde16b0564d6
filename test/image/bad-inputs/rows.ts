/**
 * Damaged qcow2 images: each row is a good image (bases.ts) and what is changed in it. What a
 * correct engine must do with it is the title; the tests say how far they go.
 */
import { deflateRawSync } from 'node:zlib';

import * as q from '../../../src/abi/qcow2.ts';
import type { BaseName } from './bases.ts';
import type { PokedImage } from './poked-image.ts';

/** One damaged image. */
export interface BadInput {
  readonly id: string;
  readonly base: BaseName;
  /** What a correct engine must do. */
  readonly title: string;
  readonly poke: (image: PokedImage) => void;
}

const F4 = 0xffff_ffff;
const F8 = 0xffff_ffff_ffff_ffffn;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const MIB = 1024 * 1024;
const CLUSTER = 65536;
/** The host offset of a compressed cluster in an image with 64 KiB clusters. */
const COMPRESSED_OFFSET = (1n << 54n) - 1n;
/** The extensions of the bases begin here. */
const EXTENSIONS = 112;
/** A type of extension that nobody knows. */
const UNKNOWN = 0x12345678;
/** Fields in the bitmaps extension. */
const BITMAPS_DIRECTORY_SIZE = 8;
const BITMAPS_DIRECTORY_OFFSET = 16;

const compressedOffset = (image: PokedImage): number =>
  Number(image.u64(image.l2) & COMPRESSED_OFFSET);

/** An L1 entry, or the first L2 entry, that names this place. */
const pointTo = (offset: number): bigint => COPIED | BigInt(offset);

function extension(type: number, length: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32BE(type, 0);
  bytes.writeUInt32BE(length, 4);
  return bytes;
}

function deflated(bytes: Uint8Array): Buffer {
  return deflateRawSync(bytes, { level: 9, windowBits: 12 });
}

/** A stream that inflates to 64 MiB, at the end of the file. */
function addBomb(image: PokedImage): void {
  const stream = deflated(new Uint8Array(64 * MIB));
  const end = Math.ceil(image.bytes.length / CLUSTER) * CLUSTER;
  image.truncate(end + Math.ceil(stream.length / CLUSTER) * CLUSTER);
  image.put(end, stream);
  const sectors = Math.min(Math.ceil(stream.length / 512) - 1, 0xff);
  image.put64(image.l2, COMPRESSED | (BigInt(sectors) << 54n) | BigInt(end));
}

/** All of them, in the order of their ids. */
export const BAD_INPUTS: readonly BadInput[] = [
  {
    id: 'Q01',
    base: 'v3',
    title: 'open fails: not qcow2',
    poke: (i) => i.put32(q.HEADER_MAGIC, 0x51464900),
  },
  {
    id: 'Q02',
    base: 'v3',
    title: 'open fails: file shorter than the header',
    poke: (i) => i.truncate(71),
  },
  {
    id: 'Q03',
    base: 'v3',
    title: 'open fails: v3 header cut at 80 bytes',
    poke: (i) => i.truncate(80),
  },
  {
    id: 'Q04',
    base: 'v3',
    title: 'open fails: empty file',
    poke: (i) => i.truncate(0),
  },
  {
    id: 'Q05',
    base: 'v3',
    title: 'open fails: version 1',
    poke: (i) => i.put32(q.HEADER_VERSION, 1),
  },
  {
    id: 'Q06',
    base: 'v3',
    title: 'open fails: version 4',
    poke: (i) => i.put32(q.HEADER_VERSION, 4),
  },
  {
    id: 'Q07',
    base: 'v3',
    title: 'open fails: cluster_bits 8',
    poke: (i) => i.put32(q.HEADER_CLUSTER_BITS, 8),
  },
  {
    id: 'Q08',
    base: 'v3',
    title: 'open fails: cluster_bits 22',
    poke: (i) => i.put32(q.HEADER_CLUSTER_BITS, 22),
  },
  {
    id: 'Q09',
    base: 'v3',
    title: 'open fails: cluster_bits 64 (shift overflow)',
    poke: (i) => i.put32(q.HEADER_CLUSTER_BITS, 64),
  },
  {
    id: 'Q10',
    base: 'v3',
    title: 'open fails: cluster_bits 0xffffffff',
    poke: (i) => i.put32(q.HEADER_CLUSTER_BITS, F4),
  },
  {
    id: 'Q11',
    base: 'v3',
    title: 'open fails: virtual size 2^64-1',
    poke: (i) => i.put64(q.HEADER_SIZE, F8),
  },
  {
    id: 'Q12',
    base: 'v3',
    title: 'open fails: virtual size 2^63',
    poke: (i) => i.put64(q.HEADER_SIZE, 1n << 63n),
  },
  {
    id: 'Q13',
    base: 'v3',
    title: 'open fails: l1_size too small for size (size raised to 1 PiB)',
    poke: (i) => i.put64(q.HEADER_SIZE, 1n << 50n),
  },
  {
    id: 'Q14',
    base: 'v3',
    title: 'size 0 is legal: open, no reads possible',
    poke: (i) => i.put64(q.HEADER_SIZE, 0n),
  },
  {
    id: 'Q15',
    base: 'v3',
    title: 'size not a multiple of 512: open as qemu does (rounded down), never reads past',
    poke: (i) => i.put64(q.HEADER_SIZE, BigInt(64 * MIB - 1)),
  },
  {
    id: 'Q16',
    base: 'v3',
    title: 'open fails: crypt_method 3',
    poke: (i) => i.put32(q.HEADER_CRYPT_METHOD, 3),
  },
  {
    id: 'Q17',
    base: 'v3',
    title:
      'open fails: crypt_method 2 without LUKS extension. qemu-img 7.2.22 info dies with ' +
      'SIGSEGV here: do not crash',
    poke: (i) => i.put32(q.HEADER_CRYPT_METHOD, 2),
  },
  {
    id: 'Q18',
    base: 'v3',
    title: 'open fails: crypt_method 1 (AES) refused',
    poke: (i) => i.put32(q.HEADER_CRYPT_METHOD, 1),
  },
  {
    id: 'Q19',
    base: 'v3',
    title: 'open fails: l1_size 0xffffffff',
    poke: (i) => i.put32(q.HEADER_L1_SIZE, F4),
  },
  {
    id: 'Q20',
    base: 'v3',
    title: 'open fails: l1_size over 32 MiB table',
    poke: (i) => i.put32(q.HEADER_L1_SIZE, (32 * MIB) / 8 + 1),
  },
  {
    id: 'Q21',
    base: 'v3',
    title: 'open fails: l1_size 0 with size > 0',
    poke: (i) => i.put32(q.HEADER_L1_SIZE, 0),
  },
  {
    id: 'Q22',
    base: 'v3',
    title: 'open fails: l1_table_offset not cluster aligned',
    poke: (i) => i.put64(q.HEADER_L1_TABLE_OFFSET, 0x30200n),
  },
  {
    id: 'Q23',
    base: 'v3',
    title: 'open fails: l1_table_offset near 2^64',
    poke: (i) => i.put64(q.HEADER_L1_TABLE_OFFSET, 0xffffffffffff0000n),
  },
  {
    id: 'Q24',
    base: 'v3',
    title:
      'L1 past end of file: refuse, or report corruption. QEMU reads zeroes silently (old ' +
      'data is lost to the reader): a strict open must fail, a repair may go on',
    poke: (i) => i.put64(q.HEADER_L1_TABLE_OFFSET, 0x40000000n),
  },
  {
    id: 'Q25',
    base: 'v3',
    title: 'L1 table on the header cluster: writes refused; image corrupt',
    poke: (i) => i.put64(q.HEADER_L1_TABLE_OFFSET, 0n),
  },
  {
    id: 'Q26',
    base: 'v3',
    title: 'open fails: refcount_table_offset unaligned',
    poke: (i) => i.put64(q.HEADER_REFCOUNT_TABLE_OFFSET, 0x10008n),
  },
  {
    id: 'Q27',
    base: 'v3',
    title: 'open fails: refcount_table_offset near 2^64',
    poke: (i) => i.put64(q.HEADER_REFCOUNT_TABLE_OFFSET, 0xffffffffffff0000n),
  },
  {
    id: 'Q28',
    base: 'v3',
    title: 'open fails: refcount_table_clusters 0',
    poke: (i) => i.put32(q.HEADER_REFCOUNT_TABLE_CLUSTERS, 0),
  },
  {
    id: 'Q29',
    base: 'v3',
    title: 'open fails: refcount_table_clusters over 8 MiB',
    poke: (i) => i.put32(q.HEADER_REFCOUNT_TABLE_CLUSTERS, (8 * MIB) / CLUSTER + 1),
  },
  {
    id: 'Q30',
    base: 'v3',
    title: 'open fails: refcount_table_clusters 0xffffffff',
    poke: (i) => i.put32(q.HEADER_REFCOUNT_TABLE_CLUSTERS, F4),
  },
  {
    id: 'Q31',
    base: 'v3',
    title: 'refcount table at offset 0: corrupt, no write',
    poke: (i) => i.put64(q.HEADER_REFCOUNT_TABLE_OFFSET, 0n),
  },
  {
    id: 'Q32',
    base: 'v3',
    title: 'open fails: refcount_order 7',
    poke: (i) => i.put32(q.HEADER_REFCOUNT_ORDER, 7),
  },
  {
    id: 'Q33',
    base: 'v3',
    title: 'open fails: refcount_order 0xffffffff',
    poke: (i) => i.put32(q.HEADER_REFCOUNT_ORDER, F4),
  },
  {
    id: 'Q34',
    base: 'v3',
    title: 'open fails: header_length 103',
    poke: (i) => i.put32(q.HEADER_LENGTH, 103),
  },
  {
    id: 'Q35',
    base: 'v3',
    title: 'open fails: header_length > cluster',
    poke: (i) => i.put32(q.HEADER_LENGTH, 65537),
  },
  {
    id: 'Q36',
    base: 'v3',
    title: 'open fails: header_length 0xffffffff',
    poke: (i) => i.put32(q.HEADER_LENGTH, F4),
  },
  {
    id: 'Q37',
    base: 'v3',
    title: 'open fails: unknown incompatible bit 10, named in the message',
    poke: (i) => i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 1n << 10n),
  },
  {
    id: 'Q38',
    base: 'v3',
    title: 'open fails: unknown incompatible bit 63',
    poke: (i) => i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 1n << 63n),
  },
  {
    id: 'Q39',
    base: 'v3',
    title: 'dirty bit: repair or open read-only; refcounts not trusted',
    poke: (i) => i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 1n),
  },
  {
    id: 'Q40',
    base: 'v3',
    title: 'corrupt bit: write open fails, read-only open allowed',
    poke: (i) => i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 2n),
  },
  {
    id: 'Q41',
    base: 'v3',
    title: 'unknown compatible bits: ignored, kept',
    poke: (i) => i.put64(q.HEADER_COMPATIBLE_FEATURES, 1n << 40n),
  },
  {
    id: 'Q42',
    base: 'v3',
    title: 'unknown autoclear bits: cleared on first write open',
    poke: (i) => i.put64(q.HEADER_AUTOCLEAR_FEATURES, 1n << 40n),
  },
  {
    id: 'Q43',
    base: 'v3',
    title: 'open fails: compression-type bit set, type 0',
    poke: (i) => i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 8n),
  },
  {
    id: 'Q44',
    base: 'v3',
    title: 'open fails: compression type 1 without the bit',
    poke: (i) => i.put8(q.HEADER_COMPRESSION_TYPE, 1),
  },
  {
    id: 'Q45',
    base: 'v3',
    title: 'open fails: compression type 7 with the bit',
    poke: (i) => {
      i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 8n);
      i.put8(q.HEADER_COMPRESSION_TYPE, 7);
    },
  },
  {
    id: 'Q46',
    base: 'v3',
    title: 'open fails: external-data-file bit with no data file name',
    poke: (i) => i.put64(q.HEADER_INCOMPATIBLE_FEATURES, 4n),
  },
  {
    id: 'Q47',
    base: 'v2',
    title: 'v2 image with an absurd extension where v3 has feature bits: open fails, bounded',
    poke: (i) => i.put64(72, 0xffffffff12345678n),
  },
  {
    id: 'Q48',
    base: 'back',
    title: 'open fails: backing name 1024 bytes',
    poke: (i) => i.put32(q.HEADER_BACKING_FILE_SIZE, 1024),
  },
  {
    id: 'Q49',
    base: 'back',
    title: 'open fails: backing name size 0xffffffff',
    poke: (i) => i.put32(q.HEADER_BACKING_FILE_SIZE, F4),
  },
  {
    id: 'Q50',
    base: 'back',
    title: 'open fails: backing_file_offset past the first cluster',
    poke: (i) => i.put64(q.HEADER_BACKING_FILE_OFFSET, 0x10001n),
  },
  {
    id: 'Q51',
    base: 'back',
    title: 'open fails: backing_file_offset 2^64-1',
    poke: (i) => i.put64(q.HEADER_BACKING_FILE_OFFSET, F8),
  },
  {
    id: 'Q52',
    base: 'back',
    title:
      'backing_file_offset inside the fixed header: refuse (cloud-hypervisor does since ' +
      '2026-06; QEMU opens it with a name made of header bytes)',
    poke: (i) => i.put64(q.HEADER_BACKING_FILE_OFFSET, 16n),
  },
  {
    id: 'Q53',
    base: 'back',
    title:
      'backing name = the image itself: refuse with a loop error. (QEMU opens: as raw it ' +
      'reads the file through itself)',
    poke: (i) => i.nameBacking('case.qcow2'),
  },
  {
    id: 'Q54',
    base: 'back',
    title: 'backing name json:{...null-co}: never follow a protocol from the image unless asked',
    poke: (i) => i.nameBacking('json:{"driver":"null-co","size":1048576}'),
  },
  {
    id: 'Q55',
    base: 'back',
    title: 'backing name nbd://127.0.0.1:1: no network without asking',
    poke: (i) => i.nameBacking('nbd://127.0.0.1:1/x'),
  },
  {
    id: 'Q56',
    base: 'back',
    title: 'backing name with NUL inside: refuse',
    poke: (i) => i.put8(i.at(q.HEADER_BACKING_FILE_OFFSET) + 4, 0),
  },
  {
    id: 'Q57',
    base: 'back',
    title: 'backing file is absent: open fails, clear message',
    poke: (i) => i.put(i.at(q.HEADER_BACKING_FILE_OFFSET), 'nope.raw'),
  },
  {
    id: 'Q58',
    base: 'v3',
    title: 'open fails: header extension length 0x7fffffff',
    poke: (i) => i.put(EXTENSIONS, extension(UNKNOWN, 0x7fffffff)),
  },
  {
    id: 'Q59',
    base: 'v3',
    title: 'open fails: extension runs past the first cluster by a byte',
    poke: (i) => i.put(EXTENSIONS, extension(UNKNOWN, CLUSTER - EXTENSIONS - 8 + 1)),
  },
  {
    id: 'Q60',
    base: 'v3',
    title: 'no end marker: bounded by the cluster, opens or fails, no over-read',
    poke: (i) => {
      for (let at = EXTENSIONS; at < CLUSTER / 2; at += 8) i.put(at, extension(UNKNOWN, 8));
    },
  },
  {
    id: 'Q61',
    base: 'back',
    title: 'backing format name longer than 15 bytes: open fails',
    poke: (i) => {
      i.put(EXTENSIONS, extension(q.EXTENSION_BACKING_FORMAT, 64));
      i.put(EXTENSIONS + 8, 'A'.repeat(64));
    },
  },
  {
    id: 'Q62',
    base: 'back',
    title: 'backing format "vmdk" while the file is raw: open fails, no probing fallback',
    poke: (i) => {
      i.put(EXTENSIONS, extension(q.EXTENSION_BACKING_FORMAT, 4));
      i.put(EXTENSIONS + 8, 'vmdk\0\0\0\0');
    },
  },
  {
    id: 'Q63',
    base: 'v3',
    title: 'L2 table unaligned: EIO and corrupt bit',
    poke: (i) => i.put64(i.l1, pointTo(0x40200)),
  },
  {
    id: 'Q64',
    base: 'v3',
    title:
      'L2 table past end of file: read gives EIO (QEMU: zeroes); write refused, no fresh ' +
      'L2 put on top',
    poke: (i) => i.put64(i.l1, pointTo(0x7fff0000)),
  },
  {
    id: 'Q65',
    base: 'v3',
    title:
      'L2 offset 0 with COPIED, then a write: refuse with EIO + corrupt bit. qemu-io ' +
      '7.2.22 aborts on an assertion (SIGABRT) here: do not crash',
    poke: (i) => i.put64(i.l1, pointTo(0)),
  },
  {
    id: 'Q66',
    base: 'v3',
    title: 'L2 table = the L1 table: read EIO (QEMU serves it); write refused, corrupt bit',
    poke: (i) => i.put64(i.l1, pointTo(i.l1)),
  },
  {
    id: 'Q67',
    base: 'v3',
    title: 'L2 table = refcount block: write refused, corrupt bit',
    poke: (i) => i.put64(i.l1, pointTo(i.refcountBlock)),
  },
  {
    id: 'Q68',
    base: 'v3',
    title:
      'reserved bits of an L1 entry (0-8, 56-62): EIO, check reports (QEMU ignores them ' +
      'on read)',
    poke: (i) => i.put64(i.l1, i.u64(i.l1) | 0x7f000000000001ffn),
  },
  {
    id: 'Q69',
    base: 'v3',
    title: 'data cluster unaligned: EIO, corrupt bit',
    poke: (i) => i.put64(i.l2, pointTo(0x50200)),
  },
  {
    id: 'Q70',
    base: 'v3',
    title:
      'data cluster past end of file: EIO, or zeroes if documented; never other bytes; ' +
      'check reports',
    poke: (i) => i.put64(i.l2, pointTo(0x7fff0000)),
  },
  {
    id: 'Q71',
    base: 'v3',
    title: 'data cluster offset 2^56-64k: as Q70; no overflow in offset sums',
    poke: (i) => i.put64(i.l2, COPIED | 0x00ffffffffff0000n),
  },
  {
    id: 'Q72',
    base: 'v3',
    title: 'data cluster = header: write must be refused',
    poke: (i) => i.put64(i.l2, pointTo(0x200)),
  },
  {
    id: 'Q73',
    base: 'v3',
    title: 'data cluster = active L1: write refused, corrupt bit',
    poke: (i) => i.put64(i.l2, pointTo(i.l1)),
  },
  {
    id: 'Q74',
    base: 'v3',
    title: 'data cluster = its own L2 table: write refused, corrupt bit',
    poke: (i) => i.put64(i.l2, pointTo(i.l2)),
  },
  {
    id: 'Q75',
    base: 'v3',
    title: 'data cluster = refcount table: write refused, corrupt bit',
    poke: (i) => i.put64(i.l2, pointTo(i.refcountTable)),
  },
  {
    id: 'Q76',
    base: 'v3',
    title: 'data cluster = refcount block: write refused, corrupt bit',
    poke: (i) => i.put64(i.l2, pointTo(i.refcountBlock)),
  },
  {
    id: 'Q77',
    base: 'v3',
    title:
      'two guest clusters share a host cluster, both COPIED, refcount 1: QEMU lets the ' +
      'write through and silently changes the other guest cluster. Detect when the second ' +
      'mapping is met if an in-memory owner map is on; check must report it',
    poke: (i) => i.put64(i.l2 + 8, i.u64(i.l2)),
  },
  {
    id: 'Q78',
    base: 'v3',
    title:
      'COPIED flag while refcount is 2: the write copies, or is refused and reported ' +
      '(QEMU writes in place)',
    poke: (i) => i.put16(i.refcountBlock + 2 * 5, 2),
  },
  {
    id: 'Q79',
    base: 'v3',
    title:
      'refcount 0 for a cluster in use: QEMU hands it out again (the guest data at 0 is ' +
      'overwritten: pattern check fails). An engine with an owner check must refuse; at ' +
      'the least check reports it and dirty/repair mode fixes it first',
    poke: (i) => i.put16(i.refcountBlock + 2 * 5, 0),
  },
  {
    id: 'Q80',
    base: 'v2',
    title: 'zero flag in a v2 image: EIO, corrupt',
    poke: (i) => i.put64(i.l2, i.u64(i.l2) | 1n),
  },
  {
    id: 'Q81',
    base: 'v3',
    title: 'zero flag plus reserved low bits: EIO or masked, one way, documented; check reports',
    poke: (i) => i.put64(i.l2, i.u64(i.l2) | 0xfen),
  },
  {
    id: 'Q82',
    base: 'zlib',
    title:
      'compressed + COPIED: read as compressed or EIO; a write allocates anew and lowers ' +
      'each refcount once; check reports',
    poke: (i) => i.put64(i.l2, i.u64(i.l2) | COPIED),
  },
  {
    id: 'Q83',
    base: 'zlib',
    title: 'compressed stream garbage: EIO, no partial data',
    poke: (i) => i.put(compressedOffset(i), Buffer.alloc(64, 0xff)),
  },
  {
    id: 'Q84',
    base: 'zlib',
    title: 'compressed offset past end of file: EIO',
    poke: (i) => i.put64(i.l2, COMPRESSED | 0x3fffff0000n),
  },
  {
    id: 'Q85',
    base: 'zlib',
    title: 'compressed sector count at maximum: works; reads stop at end of file, rest padded',
    poke: (i) => i.put64(i.l2, i.u64(i.l2) | (0xffn << 54n)),
  },
  {
    id: 'Q86',
    base: 'zlib',
    title:
      'deflate stream that inflates to 64 MiB: output limited to one cluster, the rest ' +
      'dropped (QEMU reads the first cluster and says OK); memory bounded',
    poke: (i) => addBomb(i),
  },
  {
    id: 'Q87',
    base: 'zlib',
    title: 'deflate stream that ends short of a cluster: EIO, no partial data',
    poke: (i) => {
      const stream = deflated(Buffer.alloc(100, 'A'));
      i.put(compressedOffset(i), Buffer.concat([stream, Buffer.alloc(64)]));
    },
  },
  {
    id: 'Q88',
    base: 'zstd',
    title: 'zstd frame garbage: EIO',
    poke: (i) => i.put(compressedOffset(i), Buffer.alloc(64, 0xff)),
  },
  {
    id: 'Q89',
    base: 'v3',
    title: 'refcount block offset unaligned: allocation fails with EIO, corrupt bit; reads go on',
    poke: (i) => i.put64(i.refcountTable, i.u64(i.refcountTable) | 0x200n),
  },
  {
    id: 'Q90',
    base: 'v3',
    title: 'refcount table entry with reserved bits: refused or masked, reported by check',
    poke: (i) => i.put64(i.refcountTable, i.u64(i.refcountTable) | 0x1ffn),
  },
  {
    id: 'Q91',
    base: 'v3',
    title:
      'refcount block past end of file: no cluster in use is handed out; write fails, ' +
      'corrupt bit',
    poke: (i) => i.put64(i.refcountTable, 0x7fff0000n),
  },
  {
    id: 'Q92',
    base: 'v3',
    title: 'first refcount block missing (entry 0): as Q91',
    poke: (i) => i.put64(i.refcountTable, 0n),
  },
  {
    id: 'Q93',
    base: 'v3',
    title: 'refcount block = header: as Q91',
    poke: (i) => i.put(i.refcountTable, Buffer.alloc(16)),
  },
  {
    id: 'Q94',
    base: 'v3',
    title:
      'all refcounts 0: allocator must never return header or metadata; write fails, ' +
      'corrupt bit',
    poke: (i) => i.put(i.refcountBlock, Buffer.alloc(CLUSTER)),
  },
  {
    id: 'Q95',
    base: 'v3',
    title:
      'refcount at its maximum 0xffff: in-place write allowed; raising it further fails, ' +
      'no wrap to 0',
    poke: (i) => i.put16(i.refcountBlock + 2 * 5, 0xffff),
  },
  {
    id: 'Q96',
    base: 'v3',
    title: 'refcount table placed over L1: write fails with EIO, L1 bytes unchanged',
    poke: (i) => i.put64(q.HEADER_REFCOUNT_TABLE_OFFSET, BigInt(i.l1)),
  },
  {
    id: 'Q97',
    base: 'rc1',
    title: '1-bit refcounts all free: as Q94',
    poke: (i) => i.put8(i.refcountBlock, 0),
  },
  {
    id: 'Q98',
    base: 'snap',
    title: 'nb_snapshots 0xffffffff: open fails',
    poke: (i) => i.put32(q.HEADER_NB_SNAPSHOTS, F4),
  },
  {
    id: 'Q99',
    base: 'snap',
    title: 'nb_snapshots 65537: open fails',
    poke: (i) => i.put32(q.HEADER_NB_SNAPSHOTS, 65537),
  },
  {
    id: 'Q100',
    base: 'snap',
    title: 'snapshots_offset unaligned: open fails',
    poke: (i) => i.put64(q.HEADER_SNAPSHOTS_OFFSET, i.u64(q.HEADER_SNAPSHOTS_OFFSET) + 1n),
  },
  {
    id: 'Q101',
    base: 'snap',
    title:
      'snapshot table past end of file: open fails, or active disk readable and snapshots ' +
      'refused; check reports',
    poke: (i) => i.put64(q.HEADER_SNAPSHOTS_OFFSET, 0x7fff0000n),
  },
  {
    id: 'Q102',
    base: 'snap',
    title:
      'snapshot L1 size 0x10000000: active disk works, snapshot operations refused, check ' +
      'reports',
    poke: (i) => i.put32(i.at(q.HEADER_SNAPSHOTS_OFFSET) + q.SNAPSHOT_L1_SIZE, 0x10000000),
  },
  {
    id: 'Q103',
    base: 'snap',
    title: 'snapshot L1 unaligned: as Q102',
    poke: (i) => i.put64(i.at(q.HEADER_SNAPSHOTS_OFFSET) + q.SNAPSHOT_L1_OFFSET, 0x400200n),
  },
  {
    id: 'Q104',
    base: 'snap',
    title: 'snapshot extra_data_size 0xffffffff: open fails; at most 1024 read',
    poke: (i) => i.put32(i.at(q.HEADER_SNAPSHOTS_OFFSET) + q.SNAPSHOT_EXTRA_SIZE, F4),
  },
  {
    id: 'Q105',
    base: 'snap',
    title: 'snapshot id/name sizes 0xffff: bounded by the table limit; QEMU opens, check reports',
    poke: (i) => i.put32(i.at(q.HEADER_SNAPSHOTS_OFFSET) + q.SNAPSHOT_ID_SIZE, F4),
  },
  {
    id: 'Q106',
    base: 'extl2',
    title: 'subcluster both allocated and zero: EIO, corrupt bit',
    poke: (i) => i.put64(i.l2 + 8, F8),
  },
  {
    id: 'Q107',
    base: 'extl2',
    title: 'allocated subclusters without a host cluster: EIO, corrupt bit',
    poke: (i) => i.put64(i.l2, 0n),
  },
  {
    id: 'Q108',
    base: 'extl2',
    title: 'extended L2 with clusters under 16 KiB: open fails',
    poke: (i) => i.put32(q.HEADER_CLUSTER_BITS, 13),
  },
  {
    id: 'Q109',
    base: 'data',
    title:
      'data file name replaced by an absolute path outside the image folder: must not be ' +
      'opened unless the caller allowed that very file. QEMU opens it (read back its ' +
      'bytes; with /etc/passwd too)',
    poke: (i) => {
      const at = i.extension(q.EXTENSION_DATA_FILE);
      i.put32(at - 4, 11);
      i.put(at, '/etc/passwd');
    },
  },
  {
    id: 'Q110',
    base: 'data',
    title:
      'data file name json:{...}: taken as a plain name or refused; never parsed ' +
      '(CVE-2024-4467 class)',
    poke: (i) => {
      const at = i.extension(q.EXTENSION_DATA_FILE);
      i.put32(at - 4, 12);
      i.put(at, 'json:{"a":1}\0\0\0\0');
    },
  },
  {
    id: 'Q111',
    base: 'data',
    title: 'compressed cluster in an image with an external data file: EIO, corrupt bit',
    poke: (i) => i.put64(i.l2, COMPRESSED | 0x50000n),
  },
  {
    id: 'Q112',
    base: 'data',
    title: 'data_file_raw set and host offset differs from guest offset: EIO, corrupt bit',
    poke: (i) => {
      i.put64(q.HEADER_AUTOCLEAR_FEATURES, 2n);
      i.put64(i.l2, pointTo(0x20000));
    },
  },
  {
    id: 'Q113',
    base: 'bm',
    title: 'bitmap directory offset unaligned: open fails, or bitmaps dropped with a warning',
    poke: (i) => i.put64(i.extension(q.EXTENSION_BITMAPS) + BITMAPS_DIRECTORY_OFFSET, 0x123456n),
  },
  {
    id: 'Q114',
    base: 'bm',
    title: 'bitmap directory size 2^64-1: as Q113, no allocation',
    poke: (i) => i.put64(i.extension(q.EXTENSION_BITMAPS) + BITMAPS_DIRECTORY_SIZE, F8),
  },
  {
    id: 'Q115',
    base: 'bm',
    title: 'nb_bitmaps 0: as Q113',
    poke: (i) => i.put32(i.extension(q.EXTENSION_BITMAPS), 0),
  },
  {
    id: 'Q116',
    base: 'bm',
    title: 'bitmap table entry past end of file: disk works, bitmap unusable',
    poke: (i) =>
      i.put64(i.at(i.extension(q.EXTENSION_BITMAPS) + BITMAPS_DIRECTORY_OFFSET), 0x7fff0000n),
  },
  {
    id: 'Q117',
    base: 'bm',
    title: 'autoclear bit cleared by a foreign writer: bitmaps ignored with a warning, disk works',
    poke: (i) => i.put64(q.HEADER_AUTOCLEAR_FEATURES, 0n),
  },
  {
    id: 'Q118',
    base: 'v3',
    title:
      'file cut in the last data cluster: QEMU reads the missing tail as zeroes without ' +
      'an error; a correct engine returns EIO for a mapped cluster past end of file, or ' +
      'documents zeroes; check should report it (QEMU check says clean)',
    poke: (i) => i.truncate(0x60000 + 1000),
  },
  {
    id: 'Q119',
    base: 'v3',
    title: 'file cut inside the L2 table: QEMU reads zeroes as "unallocated"; refuse with EIO',
    poke: (i) => i.truncate(0x40000 + 4096),
  },
  {
    id: 'Q120',
    base: 'small',
    title:
      'two L1 entries share an L2 with COPIED (512-byte clusters): bounded reads, check ' +
      'reports 65 corruptions',
    poke: (i) => i.put64(i.l1 + 8, i.u64(i.l1)),
  },
];
