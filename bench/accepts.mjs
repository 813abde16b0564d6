// Whether a server is there yet.

import { once } from 'node:events';
import { connect } from 'node:net';

/**
 * True once somebody listens on the unix socket.
 * @param {string} socket
 */
export async function accepts(socket) {
  const probe = connect(socket);
  try {
    await once(probe, 'connect');
    return true;
  } catch (error) {
    if (error instanceof Error) return false;
    throw error;
  } finally {
    probe.destroy();
  }
}
