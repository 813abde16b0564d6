/** The raw queues as a device uses them: VirtQueues, or what stands in for it in a test. */
import type { VirtQueues } from './virtqueues.ts';

/** Everything public of VirtQueues. */
export type RawQueues = Pick<VirtQueues, keyof VirtQueues>;
