/** Syncs of files, for whoever subscribes to `sluice:disk:sync`: node:diagnostics_channel. */
import { channel } from 'node:diagnostics_channel';

/** Of `sluice:disk:sync`: the host has answered a sync. */
export interface DiskSyncEvent {
  /** The file, as it was opened. */
  readonly path: string;
  readonly seconds: number;
  /** The system's number of the error, 0: none. */
  readonly errno: number;
}

const syncChannel = channel('sluice:disk:sync');

/** `settle`, and a word to whoever listens. */
export function announced(path: string, settle: (errno: number) => void): (errno: number) => void {
  if (!syncChannel.hasSubscribers) return settle;
  const beganAtMs = performance.now();
  return (errno) => {
    const event: DiskSyncEvent = { path, seconds: (performance.now() - beganAtMs) / 1000, errno };
    syncChannel.publish(event);
    settle(errno);
  };
}
