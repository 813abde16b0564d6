import type { Device } from '../device.ts';
import type { Reception } from './reception.ts';
import type { Session } from './requests.ts';
import type { ByteSocket } from './socket.ts';
import type { Tally } from './stats/tally.ts';
import type { Turn } from './turn.ts';

/** What a connection is made of. */
export interface ConnectionParts {
  readonly device: Device;
  readonly turn: Turn;
  readonly reception: Reception;
  readonly socket: ByteSocket;
  readonly session: Session;
  readonly tally: Tally;
  /** Bytes that came behind the negotiation. */
  readonly early: Uint8Array;
  /** Called once, when every request is executed and nothing of the device is held any more. */
  readonly finished: () => void;
}
