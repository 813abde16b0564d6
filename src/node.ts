/**
 * `sluice/node`: disks in files and on block devices, the servers that share them, and the work of
 * qemu-img on images.
 */
import { checkDisk } from './arguments.ts';
import type { Disk } from './disk.ts';
import { type NbdServer, type NbdServerOptions, serveNbd as serveDevice } from './nbd/server.ts';

export * from './index.ts';
export type { DiskSyncEvent } from './backend/sync-channel.ts';
export type { BackingFormat, NamedFilePolicy } from './image/chain.ts';
export type { ImageFormat, ReadOnlyFormat, SourceFormat } from './image/format.ts';
export type { EncryptionOptions } from './image/qcow2/encryption.ts';
export type { NbdServer, NbdServerEvents, NbdServerOptions } from './nbd/server.ts';
export type { NbdDisconnectEvent, NbdRequestEvent } from './nbd/stats/channels.ts';
export type { NbdCommand, NbdErrorName } from './nbd/stats/counts.ts';
export { toPrometheus } from './nbd/stats/prometheus.ts';
export type * from './nbd/stats/types.ts';
export { openDisk, type OpenOptions } from './open-disk.ts';
export { FileTrace } from './trace/file-trace.ts';
export {
  serveVhostUser,
  type VhostUserEvents,
  type VhostUserOptions,
  type VhostUserServer,
} from './vhost-user/server.ts';
/** The work of qemu-img. */
export * as image from './verbs/index.ts';

/**
 * Serves a disk over NBD (fixed newstyle). Closing the disk closes the server first.
 * @throws the system's error when the socket cannot be bound
 */
export async function serveNbd(disk: Disk, options: NbdServerOptions = {}): Promise<NbdServer> {
  checkDisk(disk, 'serveNbd');
  const server = await serveDevice(disk.device, options);
  const detach = disk.attach(server);
  void server.closed.finally(detach);
  return server;
}
