/** A server over a fake device on a socket of its own, for one test. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { Device } from '../../src/device.ts';
import type { DeviceExport } from '../../src/nbd/options.ts';
import { type DeviceServer, type NbdServerOptions, serveNbd } from '../../src/nbd/server.ts';
import { request, TestClient } from './client.ts';
import { FakeDevice, type FakeDeviceOptions } from './fake-device.ts';
import { pattern, WRITE } from './wire.ts';

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

/**
 * A device of 4 slots that holds what it gets (mode `held`, 4 MiB) holds back the rest, and all is
 * answered in order when it goes on.
 */
export async function expectBackPressure({ device }: Serving, client: TestClient): Promise<void> {
  const count = 300;
  for (let cookie = 0; cookie < count; cookie++) {
    client.send(request({ type: WRITE, offset: cookie * 4096, data: pattern(4096), cookie }));
  }
  await until(() => device.open === 4);
  await settle();
  expect(device.log).toHaveLength(4);
  device.mode = 'later';
  device.release();
  for (let cookie = 0; cookie < count; cookie++) {
    expect(await client.reply()).toMatchObject({ cookie: BigInt(cookie), error: 0 });
  }
}

/** Time for everything that is under way on this machine to happen. */
export function settle(ms = 50): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
