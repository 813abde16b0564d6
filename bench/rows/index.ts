import type { Row } from '../row.ts';
import { ENGINE_ROWS } from './engine.ts';
import { MERGE_ROWS } from './merge.ts';
import { OVERLAP_ROWS } from './overlap.ts';
import { QCOW2_ROWS } from './qcow2.ts';
import { RING_ROWS } from './ring.ts';
import { SORT_ROWS } from './sort.ts';
import { TABLE_ROWS } from './tables.ts';
import { VIRTIO_ROWS } from './virtio.ts';
import { ZERO_ROWS } from './zero.ts';

/** All rows, in the order in which they are printed. */
export const ROWS: readonly Row[] = [
  ...ENGINE_ROWS,
  ...SORT_ROWS,
  ...MERGE_ROWS,
  ...OVERLAP_ROWS,
  ...ZERO_ROWS,
  ...TABLE_ROWS,
  ...QCOW2_ROWS,
  ...RING_ROWS,
  ...VIRTIO_ROWS,
];
