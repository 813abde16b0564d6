/** The raw queues as a device uses them: VirtQueues, or what stands in for it in a test. */
import type { VirtQueues } from './virtqueues.ts';

/** What a device needs of VirtQueues. */
export type RawQueues = Pick<VirtQueues, Exclude<keyof VirtQueues, 'abandon'>>;
