/** Rows that are about tables, clusters and refcounts. */
import { type Expected, marked, opens, type Step } from './expected.ts';
import * as at from './places.ts';

const READ: Step = ['read 0 4k', 'EIO'];
const WRITE: Step = ['write 0 4k', 'EIO'];
/** To a cluster that has no place yet. */
const ALLOCATE: Step = ['write 8M 64k', 'EIO'];
/** The data of the base is there. */
const FIRST: Step = ['read 0 64k', 0x11];
const SECOND: Step = ['read 64k 64k', 0x22];
/** Of the bases that are compressed. */
const PLAIN: Step = ['read 64k 64k', 0x33];

/** By the id of the row. */
export const TABLE_ROWS: Readonly<Record<string, Expected>> = {
  Q63: marked('l1-unaligned', READ, WRITE),
  Q64: opens([READ, WRITE], { finds: 'past-end' }),
  Q65: marked('l1-no-table', WRITE, READ),
  Q66: marked('overlap', READ, WRITE),
  Q67: marked('overlap', ['write 4M 64k', 'EIO']),
  Q68: opens([READ, WRITE], { finds: 'l1-reserved' }),
  Q69: marked('l2-unaligned', READ, WRITE, SECOND),
  Q70: marked('past-end', READ, WRITE, SECOND),
  Q71: marked('past-end', READ, ['read 0 128k', 'EIO'], WRITE, SECOND),
  Q72: marked('l2-unaligned', WRITE, SECOND),
  Q73: marked('overlap', WRITE, SECOND),
  Q74: marked('overlap', WRITE, SECOND),
  Q75: marked('overlap', WRITE, SECOND),
  Q76: marked('overlap', WRITE, SECOND),
  Q77: opens(
    [
      ['write -P 0x77 0 64k', 'done'],
      ['read 64k 64k', 0x77, 0x11],
    ],
    { changes: [at.FIRST_CLUSTER], finds: 'refcount-too-low', note: 'the check reports it' },
  ),
  Q78: marked('l2-copied', WRITE, FIRST),
  Q79: {
    ...marked('refcount-too-low', ALLOCATE, FIRST, SECOND),
    note: 'with the dirty bit it is repaired before the first write',
  },
  Q80: opens([READ, ALLOCATE], {
    finds: 'zero-version-2',
    note: 'no more writes; version 2 has no corrupt bit',
  }),
  Q81: marked('l2-reserved', READ, WRITE),
  Q82: opens([['read 0 64k', 0x33]], {
    finds: 'compressed-copied',
    note: 'a write moves it and lowers each refcount once; the check reports it',
  }),
  Q83: opens([READ, WRITE, PLAIN], { grows: true }),
  Q84: opens([READ, WRITE, PLAIN], { grows: true, finds: 'past-end' }),
  Q85: opens([['read 0 64k', 0x33]], { finds: 'past-end' }),
  Q86: opens([['read 0 64k', 0], PLAIN], { finds: 'refcount-too-low' }),
  Q87: opens([READ, WRITE, PLAIN], { grows: true }),
  Q88: opens([READ, WRITE, ['read 448k 64k', 0x33]], { grows: true }),
  Q89: marked('refcount-block-unaligned', ALLOCATE, FIRST, SECOND),
  Q90: opens(
    [
      ['write 8M 64k', 'done'],
      ['read 8M 64k', 0xcd, 0],
    ],
    {
      changes: [at.REFCOUNT_BLOCK, at.L2_TABLE, at.BEHIND],
      grows: true,
      finds: 'refcount-table-reserved',
      note: 'the bits are masked, and stay',
    },
  ),
  Q91: marked('refcount-block-past-end', ALLOCATE, FIRST, SECOND),
  Q92: marked('refcount-too-low', ALLOCATE, FIRST, SECOND),
  Q93: marked('refcount-too-low', ALLOCATE, FIRST, SECOND),
  Q94: marked('refcount-too-low', ALLOCATE, FIRST, SECOND),
  Q95: {
    ...marked('l2-copied', WRITE, FIRST),
    note: 'COPIED means a refcount of 1, as in Q78; 0xffff stays',
  },
  Q97: marked('refcount-too-low', ALLOCATE, FIRST, SECOND),
  Q101: opens([FIRST], { finds: 'past-end', note: 'no snapshot can be used' }),
  Q102: opens([FIRST], { finds: 'snapshot-l1', note: 'the snapshot cannot be used' }),
  Q103: opens([FIRST], { finds: 'snapshot-l1', note: 'the snapshot cannot be used' }),
  Q105: opens([FIRST], { finds: 'past-end', note: 'the snapshot cannot be used' }),
  Q106: marked('subcluster-both', READ, WRITE),
  Q107: marked('subcluster-no-cluster', READ, WRITE),
  Q111: marked('compressed-data-file', READ, WRITE),
  Q112: marked('data-file-offset', READ, WRITE),
  Q116: opens([['write 0 4k', 'done']], {
    changes: [at.AUTOCLEAR, at.FIRST_DATA],
    finds: 'bitmap-directory',
    note: 'a writer says that no bitmap is kept up to date',
  }),
  Q117: opens([['write 0 4k', 'done']], {
    changes: [at.FIRST_DATA],
    finds: 'leak',
    note: 'bitmaps are ignored',
  }),
  Q118: opens([['read 64k 64k', 'EIO'], FIRST], {
    finds: 'cut-off',
    note: 'zeroes are never made up',
  }),
  Q119: opens([READ, WRITE], { finds: 'cut-off' }),
  Q120: opens([['read 0 64k', 0x11]], { finds: 'refcount-too-low' }),
};
