/** The work of qemu-img: what the package exports as `image`. */
export { check, type CheckImageOptions, type ImageCheck } from './check.ts';
export type { ImageOptions } from './image-at.ts';
export {
  type BitmapInfo,
  chainInfo,
  type ChainInfoOptions,
  type ImageInfo,
  info,
  type Qcow2Info,
  type SnapshotInfo,
} from './info.ts';
export { map, type MapExtent, type MapOptions } from './map.ts';
