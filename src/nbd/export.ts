/**
 * What a server offers under one name: a disk, how clients see it, and who is in transmission.
 *
 *   offered ──withdraw──▶ ending ──▶ ended
 *
 * ending    its clients' requests are finished and answered, nobody new comes
 * ended     nothing of the disk is used any more
 */
import type { Device } from '../device.ts';
import type { MetaContext } from './contexts.ts';
import type { ExportInfo } from './export-info.ts';
import { MAX_PAYLOAD_BYTES } from './limits.ts';
import type { ExportSettings } from './options.ts';
import type { Reception } from './reception.ts';
import type { Turn } from './turn.ts';

/** NBD proto, "Size constraints": what clients assume when nobody says. */
const PREFERRED_BLOCK_BYTES = 4096;

export class Export implements ExportInfo {
  readonly device: Device;
  readonly turn: Turn;
  readonly reception: Reception;
  readonly name: string;
  readonly description: string;
  readonly readOnly: boolean;
  readonly multiConn: boolean;
  readonly preferredBlockBytes: number;
  readonly maxPayloadBytes: number;
  /** Clients in transmission at once; 0: no limit of its own. */
  readonly maxClients: number;
  readonly contexts: readonly MetaContext[];

  /** @param shared by all exports of the device */
  constructor(
    device: Device,
    shared: { readonly turn: Turn; readonly reception: Reception },
    settings: ExportSettings,
    contexts: readonly MetaContext[],
  ) {
    this.contexts = contexts;
    this.device = device;
    this.turn = shared.turn;
    this.reception = shared.reception;
    this.name = settings.name;
    this.description = settings.description;
    this.readOnly = device.readOnly || settings.readOnly;
    this.multiConn = settings.multiConn;
    this.maxClients = settings.maxClients;
    this.preferredBlockBytes = Math.max(PREFERRED_BLOCK_BYTES, device.blockSizeBytes);
    this.maxPayloadBytes = Math.min(MAX_PAYLOAD_BYTES, device.arena.largestBytes);
  }

  /** For each client as it comes: the disk may have been resized. */
  get sizeBytes(): number {
    return this.device.sizeBytes;
  }
}
