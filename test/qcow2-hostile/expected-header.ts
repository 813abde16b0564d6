/** Rows that are about the header, its extensions, and the files that it names. */
import { type Expected, opens, readersOnly, refused } from './expected.ts';
import { AUTOCLEAR, DIRTY, FIRST_DATA } from './places.ts';

const IMAGE = 'ERR_SLUICE_IMAGE';
const UNSUPPORTED = 'ERR_SLUICE_UNSUPPORTED';
const CORRUPT = 'ERR_SLUICE_CORRUPT';
const FILE_REFUSED = 'ERR_SLUICE_FILE_REFUSED';

/** By the id of the row. */
export const HEADER_ROWS: Readonly<Record<string, Expected>> = {
  Q01: refused(IMAGE, /offset 0: this is not a qcow2 image; name the format that it has/),
  Q02: refused(IMAGE, /offset 0: the file has 71 bytes and ends inside it/),
  Q03: refused(IMAGE, /the file has 80 bytes and ends inside its first cluster/),
  Q04: refused(IMAGE, /this is not a qcow2 image/),
  Q05: refused(UNSUPPORTED, /offset 4: version 1; this release reads versions 2 and 3/),
  Q06: refused(UNSUPPORTED, /offset 4: version 4; this release reads versions 2 and 3/),
  Q07: refused(IMAGE, /offset 20: the cluster size is 2\^8; it must be 2\^9 to 2\^21/),
  Q08: refused(IMAGE, /offset 20: the cluster size is 2\^22; it must be/),
  Q09: refused(IMAGE, /offset 20: the cluster size is 2\^64; it must be/),
  Q10: refused(IMAGE, /offset 20: the cluster size is 2\^4294967295; it must be/),
  Q11: refused(IMAGE, /offset 24: the size of the disk is 0xffffffffffffffff; nothing past/),
  Q12: refused(IMAGE, /offset 24: the size of the disk is 0x8000000000000000; nothing past/),
  Q13: refused(IMAGE, /offset 36: the L1 table has 1 entries; the disk needs 2097152/),
  Q14: opens([['read 0 512', 'out of range']]),
  Q15: opens(
    [
      ['read 0 512', 0x11],
      ['read 67107840 512', 0],
      ['read 67108352 511', 'out of range'],
    ],
    { note: 'the size is rounded down to 67108352, as `qemu-img info` says it' },
  ),
  Q16: refused(UNSUPPORTED, /offset 32: encryption method 3; this release knows/),
  Q17: refused(IMAGE, /offset 32: encryption method 2, without a LUKS header/),
  Q18: refused('ERR_SLUICE_KEY', /is encrypted \(AES-CBC\): no passphrase was given/),
  Q19: refused(IMAGE, /offset 36: the L1 table has 34359738360 bytes, more than 33554432/),
  Q20: refused(IMAGE, /offset 36: the L1 table has 33554440 bytes, more than 33554432/),
  Q21: refused(IMAGE, /offset 36: the L1 table has 0 entries; the disk needs 1/),
  Q22: refused(IMAGE, /offset 40: .* L1 table is 0x30200; it must be a multiple of the cluster/),
  Q23: refused(IMAGE, /offset 40: .* L1 table is 0xffffffffffff0000; nothing past/),
  Q24: refused(CORRUPT, /the L1 table at 0x40000000 .* passes the end of the file.*repair/),
  Q25: readersOnly(CORRUPT, /the L1 table at 0x0 .* overlaps the header.*repair/, [
    ['read 0 4k', 'EIO'],
  ]),
  Q26: refused(IMAGE, /offset 48: .* refcount table is 0x10008; it must be a multiple/),
  Q27: refused(IMAGE, /offset 48: .* refcount table is 0xffffffffffff0000; nothing past/),
  Q28: refused(CORRUPT, /there is no refcount table; check and repair/),
  Q29: refused(IMAGE, /offset 56: the refcount table has 8454144 bytes, more than 8388608/),
  Q30: refused(IMAGE, /offset 56: the refcount table has 281474976645120 bytes, more than/),
  Q31: readersOnly(CORRUPT, /the refcount table at 0x0 .* overlaps the header.*repair/, [
    ['read 0 64k', 0x11],
  ]),
  Q32: refused(IMAGE, /offset 96: refcounts have 2\^7 bits; they have at most 2\^6/),
  Q33: refused(IMAGE, /offset 96: refcounts have 2\^4294967295 bits/),
  Q34: refused(IMAGE, /offset 100: its length is 103; it must be a multiple of 8/),
  Q35: refused(IMAGE, /offset 100: its length is 65537; it must be/),
  Q36: refused(IMAGE, /offset 100: its length is 4294967295; it must be/),
  Q37: refused(UNSUPPORTED, /offset 72: the image uses features .* not know: .*bit 10/),
  Q38: refused(UNSUPPORTED, /offset 72: the image uses features .* not know: .*bit 63/),
  Q39: opens([['read 0 4k', 0x11]], {
    changes: [DIRTY],
    note: 'a writer repairs the refcounts first, and clears the bit; a reader changes nothing',
  }),
  Q40: readersOnly(CORRUPT, /the image is marked corrupt; open it read-only, or check and/, [
    ['read 0 4k', 0x11],
  ]),
  Q41: opens([['write 0 4k', 'done']], { changes: [FIRST_DATA], note: 'the bits stay' }),
  Q42: opens([['write 0 4k', 'done']], {
    changes: [AUTOCLEAR, FIRST_DATA],
    note: 'a writer clears the bits when it opens the image; a reader changes nothing',
  }),
  Q43: refused(IMAGE, /offset 104: compression type 0, while its feature bit is set/),
  Q44: refused(IMAGE, /offset 104: compression type 1, while its feature bit is clear/),
  Q45: refused(UNSUPPORTED, /offset 104: compression type 7; this release knows/),
  Q46: refused(FILE_REFUSED, /it does not name its data file/),
  Q47: refused(IMAGE, /offset 72: extension 0xffffffff has 305419896 bytes, where 65456 are left/),
  Q48: refused(IMAGE, /offset 16: the backing file's name has 1024 bytes; at most 1023/),
  Q49: refused(IMAGE, /offset 16: the backing file's name has 4294967295 bytes; at most 1023/),
  Q50: refused(IMAGE, /offset 8: the backing file's name is at 0x10001; it must lie between/),
  Q51: refused(IMAGE, /offset 8: the backing file's name is at 0xffffffffffffffff; it must/),
  Q52: refused(IMAGE, /offset 8: the backing file's name is at 0x10; it must lie between/),
  Q53: refused(FILE_REFUSED, /it is in the chain already, as .*: a loop/),
  Q54: refused(FILE_REFUSED, /backing file "json:.* begins with a protocol, .*pass it yourself/),
  Q55: refused(FILE_REFUSED, /backing file "nbd:.* begins with a protocol, .*pass it yourself/),
  Q56: refused(IMAGE, /the backing file's name of 8 bytes has a NUL at its byte 4/),
  Q57: refused(FILE_REFUSED, /the backing file "nope.raw" .* cannot be found/),
  Q58: refused(IMAGE, /offset 112: extension 0x12345678 has 2147483647 bytes, where 65416/),
  Q59: refused(IMAGE, /offset 112: extension 0x12345678 has 65417 bytes, where 65416 are left/),
  Q60: opens(
    [
      ['read 0 4k', 0x11],
      ['write 0 4k', 'done'],
    ],
    { changes: [FIRST_DATA], note: 'the extensions stay' },
  ),
  Q61: refused(IMAGE, /extension/),
  Q62: refused(FILE_REFUSED, /its format is "vmdk"; pass backingFormat/),
  Q96: readersOnly(CORRUPT, /the refcount table at 0x30000 .* overlaps the L1 table.*repair/, [
    ['read 0 64k', 'EIO'],
  ]),
  Q98: refused(IMAGE, /offset 60: there are 4294967295 snapshots, more than 65536/),
  Q99: refused(IMAGE, /offset 60: there are 65537 snapshots, more than 65536/),
  Q100: refused(IMAGE, /offset 64: .* snapshot table is 0x80001; it must be a multiple/),
  Q104: refused(IMAGE, /entry 0 has 4294967295 bytes of extra data; at most 1024/),
  Q108: refused(IMAGE, /offset 20: clusters have 2\^13 bytes; extended L2 entries need 2\^14/),
  Q109: refused(
    FILE_REFUSED,
    /data file "\/etc\/passwd" .* in (none of the folders|no folder) that/,
  ),
  Q110: refused(FILE_REFUSED, /data file "json:.* begins with a protocol, .*pass it yourself/),
  Q113: refused(IMAGE, /the offset of the bitmap directory is 0x123456; it must be a multiple/),
  Q114: refused(IMAGE, /size of the bitmap directory is 0xffffffffffffffff; nothing past/),
  Q115: refused(IMAGE, /there are 0 bitmaps; it must be 1 to 65535/),
};
