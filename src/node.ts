/**
 * `sluice/node`: disks in files and on block devices, the servers that share them, and the work of
 * qemu-img on images.
 */
import { SluiceError } from './errors.ts';
import { checkDisk, invalid, show } from './arguments.ts';
import type { Disk } from './disk.ts';
import {
  type DeviceServer,
  type NbdExportOptions,
  type NbdServer,
  type NbdServerOptions,
  serveNbd as serveDevice,
} from './nbd/server.ts';

export * from './index.ts';
export type { DiskSyncEvent } from './backend/sync-channel.ts';
export type { BackingFormat, NamedFilePolicy } from './image/chain.ts';
export type { ImageFormat, ReadOnlyFormat, SourceFormat } from './image/format.ts';
export type { EncryptionOptions } from './image/qcow2/encryption.ts';
export type {
  NbdExportOptions,
  NbdServer,
  NbdServerEvents,
  NbdServerOptions,
  NbdTlsOptions,
} from './nbd/server.ts';
export type { NbdDisconnectEvent, NbdRequestEvent } from './nbd/stats/channels.ts';
export type { NbdCommand } from './nbd/commands.ts';
export type { NbdErrorName } from './nbd/stats/counts.ts';
export { toPrometheus } from './nbd/stats/prometheus.ts';
export type * from './nbd/stats/types.ts';
export { readPskFile } from './nbd/psk-file.ts';
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

/** One of several disks that a server offers. */
export interface NbdExport extends NbdExportOptions {
  readonly disk: Disk;
}

/**
 * Serves a disk over NBD (fixed newstyle), or a list of exports, each under a name of its own:
 * clients choose by name, and who asks for the name '' gets the export that is named so, or the
 * first. Closing a disk first ends its exports: its clients get the replies to what they have sent,
 * and the others stay. The server closes with its last export.
 * @throws SluiceError ERR_SLUICE_CLOSED, ERR_SLUICE_INVALID_ARGUMENT; the system's error when the
 *   socket cannot be bound
 */
export async function serveNbd(
  served: Disk | readonly NbdExport[],
  options: NbdServerOptions = {},
): Promise<NbdServer> {
  if (!isList(served)) {
    checkOpenDisk(served, 'serveNbd');
    return attached([served], await serveDevice(served.device, options));
  }
  const exports = served.map((one, index) => {
    const what = `exports[${index}]`;
    if (typeof one !== 'object' || one === null) {
      throw invalid(`${what} must be an object, not ${show(one)}`);
    }
    const { disk, ...own } = one;
    checkOpenDisk(disk, what);
    return { device: disk.device, ...own };
  });
  const disks = new Set(served.map(({ disk }) => disk));
  return attached(disks, await serveDevice(exports, options));
}

function checkOpenDisk(disk: Disk, whose: string): void {
  checkDisk(disk, whose);
  if (disk.closed) throw new SluiceError('ERR_SLUICE_CLOSED', 'the disk is closed; open it again');
}

function isList(served: Disk | readonly NbdExport[]): served is readonly NbdExport[] {
  return Array.isArray(served);
}

/** Closing a disk ends its exports first, as long as the server is there. */
function attached(disks: Iterable<Disk>, server: DeviceServer): NbdServer {
  for (const disk of disks) {
    const detach = disk.attach({ close: () => server.withdraw(disk.device) });
    void server.closed.finally(detach);
  }
  return server;
}
