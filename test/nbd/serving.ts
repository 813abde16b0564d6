/** A server over a fake device on a socket of its own, for one test. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Device } from '../../src/device.ts';
import type { DeviceExport } from '../../src/nbd/options.ts';
import { type DeviceServer, type NbdServerOptions, serveNbd } from '../../src/nbd/server.ts';
import { TestClient } from './client.ts';
import { FakeDevice, type FakeDeviceOptions } from './fake-device.ts';

/** A running server; disposing closes it. */
export interface Serving<D = FakeDevice> extends AsyncDisposable {
  readonly device: D;
  readonly server: DeviceServer;
  readonly path: string;
  /** A client that has just connected. */
  connect(): Promise<TestClient>;
  /** A client in transmission with the default export. */
  go(...options: Uint8Array[]): Promise<TestClient>;
}

/** Serves a new fake device. */
export function serveFake(
  device: FakeDeviceOptions = {},
  options: NbdServerOptions = {},
): Promise<Serving> {
  return serveOn(new FakeDevice(device), options);
}

/** Serves a device of the caller's, or several. */
export async function serveOn<D extends Device | readonly DeviceExport[]>(
  device: D,
  options: NbdServerOptions = {},
): Promise<Serving<D>> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-nbd-'));
  const path = join(folder, 'socket');
  const server = await serveNbd(device, { socket: path, ...options });
  return {
    device,
    server,
    path,
    connect: () => TestClient.connect(path),
    go: (...sent) => TestClient.go(path, ...sent),
    async [Symbol.asyncDispose]() {
      await server.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Waits until something is true. */
export async function until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > deadline)
      throw new Error(`not true after ${timeoutMs} ms: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Time for everything that is under way on this machine to happen. */
export function settle(ms = 50): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
