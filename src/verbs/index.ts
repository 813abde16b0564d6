/** The work of qemu-img: what the package exports as `image`. */
export { bench, type BenchOptions, type BenchResult } from './bench.ts';
export { compare, type CompareImagesOptions, type Comparison } from './compare.ts';
export { convert, type ConvertOptions } from './convert.ts';
export type { TargetOptions } from './convert-target.ts';
export type { BitmapChoice } from './copy-bitmaps.ts';
export { check, type CheckImageOptions, type ImageCheck } from './check.ts';
export { create, type CreatedImage, type CreateImageOptions } from './create.ts';
export type { ImageOptions } from '../image/image-at.ts';
export type { LayersOptions } from '../image/layers.ts';
export {
  type BitmapInfo,
  chainInfo,
  type ImageInfo,
  info,
  type Qcow2Info,
  type SnapshotInfo,
} from './info.ts';
export { stream, type StreamOptions } from './stream.ts';
export type { VmdkExtentInfo, VmdkInfo } from '../image/vmdk/open.ts';
export { map, type MapExtent, type MapOptions } from './map.ts';
export {
  applySnapshot,
  createSnapshot,
  type CreateSnapshotOptions,
  deleteSnapshot,
  type SnapshotOptions,
  snapshots,
} from './snapshot.ts';
export { amend, type AmendOptions, type AmendProgress, type ImageAmendment } from './amend.ts';
export type { NewQcow2Options, Preallocation } from '../image/qcow2/create-options.ts';
export { type NewSize, resize, type ResizeImageOptions } from './resize.ts';
export { type NewBackingFile, rebase, type RebaseOptions } from './rebase.ts';
export type { RebaseProgress } from './rebase-copy.ts';
export { bitmap, type BitmapAction } from './bitmap.ts';
export { commit, type CommitOptions, type CommitProgress } from './commit.ts';
export { type ImageMeasure, measure, type MeasureOptions } from './measure.ts';
