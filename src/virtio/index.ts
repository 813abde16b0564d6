/** The virtio-blk device, and the raw virtqueues beneath it. */
export { createVirtioBlk } from './create-virtio-blk.ts';
export type { FeatureSwitches } from './features.ts';
export type { InterruptEvents } from './interrupts.ts';
export type { Mmio, MmioRegisters } from './mmio.ts';
export type { QueueArea, QueueRegisters, QueueSettings } from './queue-registers.ts';
export type { RawQueues } from './raw-queues.ts';
export type { VirtioBlkQueueState, VirtioBlkState } from './state.ts';
export { type InterruptKind, ISR_CONFIG, ISR_USED, type VirtioDevice } from './transport.ts';
export type { VirtioBlk } from './virtio-blk.ts';
export type { FlatRam, VirtioBlkOptions } from './virtio-blk-options.ts';
export type { VirtioBlkEvents } from './virtio-blk-types.ts';
export { VirtQueues } from './virtqueues.ts';
export type * from './virtqueue-types.ts';
