/**
 * Builds of the engine: what they export, and those that are inlined in the package, each compiled
 * once, when it is needed.
 */
import { ENGINE_SHARED_WASM_BASE64, ENGINE_WASM_BASE64 } from './engine-wasm.ts';

/** What the module exports (assembly/index.ts). Results may come back signed. */
// A type and not an interface: the loader wants an index signature.
export type EngineExports = {
  regionSize(): number;
  init(base: number): number;
  pump(base: number, now: number): number;
  /** Bytes of the region of a qcow2 mapping, from its configuration (abi/map.ts); 0: too many. */
  measureMap(base: number): number;
  initMap(base: number): void;
  /** Bytes of the virtio device beside the engine's region (abi/virtio-device.ts). */
  deviceSize(queues: number): number;
  initDevice(base: number, queues: number): number;
  mapGuest(
    base: number,
    guestLow: number,
    guestHigh: number,
    sizeLow: number,
    sizeHigh: number,
    address: number,
  ): number;
  unmapGuest(base: number, guestLow: number, guestHigh: number): number;
  attachQueue(base: number, queue: number): number;
  setQueueState(base: number, queue: number, state: number): number;
  detachQueue(base: number, queue: number): number;
  resumeDevice(base: number): void;
  beginPeek(base: number, queue: number): void;
  peekChain(base: number, queue: number, hasTable: number): number;
  listLanded(base: number): number;
  landChain(base: number): void;
  publishLanded(base: number): void;
  findData(address: number, granuleBytes: number, count: number, out: number): void;
};

const ENTRY_POINTS: readonly (keyof EngineExports)[] = [
  'regionSize',
  'init',
  'pump',
  'measureMap',
  'initMap',
  'deviceSize',
  'initDevice',
  'mapGuest',
  'unmapGuest',
  'attachQueue',
  'setQueueState',
  'detachQueue',
  'resumeDevice',
  'beginPeek',
  'peekChain',
  'listLanded',
  'landChain',
  'publishLanded',
  'findData',
];

/** What a module lacks to be an engine: names of exports. */
export function missingExports(module: WebAssembly.Module): string[] {
  const names = WebAssembly.Module.exports(module).map(({ name }) => name);
  return ENTRY_POINTS.filter((name) => !names.includes(name));
}

let inlined: WebAssembly.Module | undefined;
let inlinedShared: WebAssembly.Module | undefined;

/** The release build. */
export function inlinedModule(): WebAssembly.Module {
  inlined ??= compile(ENGINE_WASM_BASE64);
  return inlined;
}

/** The release build for memories that threads share. */
export function inlinedSharedModule(): WebAssembly.Module {
  inlinedShared ??= compile(ENGINE_SHARED_WASM_BASE64);
  return inlinedShared;
}

/** The one that can live in this memory. */
export function inlinedModuleFor(memory: WebAssembly.Memory): WebAssembly.Module {
  return isShared(memory) ? inlinedSharedModule() : inlinedModule();
}

/** Told by name: a browser without shared memory has no SharedArrayBuffer to compare with. */
export function isShared(memory: WebAssembly.Memory): boolean {
  const name: string = memory.buffer[Symbol.toStringTag];
  return name === 'SharedArrayBuffer';
}

function compile(base64: string): WebAssembly.Module {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  // Uint8Array.from takes 5 to 10 times as long.
  for (let at = 0; at < bytes.length; at++) bytes[at] = binary.charCodeAt(at);
  return new WebAssembly.Module(bytes);
}
