/**
 * The virtio-blk device, whatever the transport. VIRTIO 1.3, 2, 3 and 5.2.
 *
 *     0 ─ ACKNOWLEDGE ─ DRIVER ─ FEATURES_OK ─ DRIVER_OK ─▶ running      (writeStatus)
 *                                     │                        │
 *                      refused: the bit does not stand    NEEDS_RESET    (#fail)
 *     any ─ status 0 ─▶ resetting ─▶ 0                                   (reset)
 *
 * D1  Bits of the status stand until a reset; NEEDS_RESET is the device's own. A legacy driver goes
 *     from DRIVER to DRIVER_OK.
 * D2  No buffer is taken before DRIVER_OK, while the device is paused, or while the write cache is
 *     on its way off (write-cache.ts, J2).
 * D3  A reset ends every queue. After it nothing of the guest's memory is touched, and there is no
 *     interrupt from the first moment on. While it waits for I/O that is in flight the status reads
 *     as before, and everything that is written is ignored. With nothing in flight it is over
 *     before the write of the status returns, for drivers that do not wait.
 * D4  The write cache starts as the disk's was found. With CONFIG_WCE and without FLUSH it
 *     starts off, 5.2.5.2; with neither it is turned off at DRIVER_OK, as the driver has no flush.
 *     Otherwise only the driver changes it, and a reset.
 * D5  A fault of a queue, or of the driver, sets NEEDS_RESET, is told to the driver when it has
 *     said DRIVER_OK (2.1.2), and to the owner. Queues without a fault go on.
 */
import { VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_ID_BLOCK } from '../abi/virtio-blk.ts';
import {
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
} from '../abi/virtio-ring.ts';
import { ConfigSpace, isWritebackByte } from './config-space.ts';
import { brokenQueue, busy, closed, needsReset, tell } from './faults.ts';
import { hasFeature } from './features.ts';
import { Interrupts } from './interrupts.ts';
import { Mmio } from './mmio.ts';
import { canFlush, isOffAtFirst, Negotiation, requestSettings } from './negotiation.ts';
import { Pci } from './pci.ts';
import { QueueRegisters } from './queue-registers.ts';
import type { RawQueues } from './raw-queues.ts';
import { type ShownDisk, shownDisk } from './shown-disk.ts';
import { formatState, parseState, type VirtioBlkState } from './state.ts';
import { DRIVER_STATUS_BITS, type InterruptKind, type VirtioDevice } from './transport.ts';
import type { VirtioBlkParts } from './virtio-blk-types.ts';
import type { QueueFault } from './virtqueue-types.ts';
import { WriteCache } from './write-cache.ts';

const STATUS_MASK = 0xff;
const QUEUE_MASK = 0xffff;

/** A virtio-blk device on a disk. Made by `createVirtioBlk`. */
export class VirtioBlk implements VirtioDevice, AsyncDisposable {
  readonly deviceId = VIRTIO_ID_BLOCK;
  /** The raw queues, for transports that negotiate by themselves. */
  readonly queues: RawQueues;
  readonly registers: QueueRegisters;
  /** The register face for emulators. VIRTIO 1.3, 4.2. */
  readonly mmio: Mmio;
  /** The one for emulators with a PCI bus, for modern drivers. VIRTIO 1.3, 4.1. */
  readonly pci: Pci;

  readonly #parts: VirtioBlkParts;
  readonly #config: ConfigSpace;
  readonly #cache: WriteCache;
  readonly #features: Negotiation;
  readonly #interrupts: Interrupts;
  #status = 0;
  #hasNotificationData = false;
  /** The driver has chosen the mode of the write cache. */
  #modeChosen = false;
  #running = false;
  #paused = false;
  #saving = false;
  #resets = 0;
  #isResetting = false;
  #reset: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  constructor(parts: VirtioBlkParts) {
    this.#parts = parts;
    this.#features = new Negotiation(parts.offered, parts.legacy);
    this.#config = new ConfigSpace(parts.values, parts.offered);
    this.#interrupts = new Interrupts(parts.events);
    this.queues = parts.makeQueues({
      onInterrupt: (queue) => this.#interrupt('used', queue),
      onBroken: (fault) => this.#broken(fault),
      onHeld: (stop) => parts.events.onStopped?.(stop),
      onFailure: (error) => this.#fail(error),
    });
    this.#cache = new WriteCache(this.queues, {
      changed: () => this.#cacheChanged(),
      failed: (error) => tell(parts.events.onError, error),
    });
    this.registers = new QueueRegisters(this.queues, parts.values.queueSizeMax, {
      accepts: () => this.#accepts,
      live: () => (this.#isLive ? this.#features.negotiated : undefined),
      failed: (error) => this.#fail(error),
    });
    this.mmio = new Mmio(this);
    this.pci = new Pci(this);
    this.#cacheToInitial(parts.offered);
    this.queues.configure(requestSettings(parts.offered, parts.values, parts.settings));
  }

  get legacy(): boolean {
    return this.#parts.legacy;
  }

  /** The guest's memory, where the device was asked to make it; undefined otherwise. */
  get ram(): Uint8Array | undefined {
    return this.#parts.ram?.();
  }

  /** What is offered; what is negotiated; why FEATURES_OK did not stand the last time. */
  get features(): { offered: bigint; negotiated: bigint; refusal: string | undefined } {
    const { offered, negotiated = 0n, refusal } = this.#features;
    return { offered, negotiated, refusal };
  }

  /** What the guest relies on: `restore` takes states of a disk that is the same. */
  get shownDisk(): ShownDisk {
    return shownDisk(this.#config.values, this.#parts.offered, this.#parts.settings.id);
  }

  /** It is closed, or about to be. */
  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** The write cache as the driver sees it. */
  get wce(): boolean {
    return this.#cache.on;
  }

  get status(): number {
    return this.#status;
  }

  get isr(): number {
    return this.#interrupts.isr;
  }

  get configGeneration(): number {
    return this.#config.generation;
  }

  deviceFeatures(word: number): number {
    return this.#features.offeredWord(word);
  }

  driverFeatures(word: number): number {
    return this.#features.acceptedWord(word);
  }

  writeDriverFeatures(word: number, bits: number): void {
    if (!this.#accepts || this.#features.negotiated !== undefined) return;
    this.#features.accept(word, bits);
    if (this.legacy) this.#cacheToInitial(this.#features.known);
  }

  writeStatus(status: number): void {
    if (!this.#accepts) return;
    if ((status & STATUS_MASK) === 0) return void this.reset();
    let fresh = status & DRIVER_STATUS_BITS & ~this.#status;
    if ((fresh & VIRTIO_CONFIG_S_FEATURES_OK) !== 0 && !this.#featuresOk())
      fresh &= ~VIRTIO_CONFIG_S_FEATURES_OK;
    this.#status |= fresh & ~VIRTIO_CONFIG_S_DRIVER_OK;
    if ((fresh & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) this.#driverOk();
  }

  acknowledge(bits: number): void {
    if (this.#accepts) this.#interrupts.isr &= ~bits;
  }

  readConfig(offset: number, into: Uint8Array): void {
    this.#config.read(offset, into);
  }

  writeConfig(offset: number, bytes: Uint8Array): Promise<boolean> {
    const may = hasFeature(this.#features.known, VIRTIO_BLK_F_CONFIG_WCE);
    if (!this.#accepts || !may || !isWritebackByte(offset, bytes.length)) {
      return Promise.resolve(true);
    }
    this.#modeChosen = true;
    return this.#cache.set(bytes[0] !== 0);
  }

  notify(value: number): void {
    const queue = this.#hasNotificationData ? value & QUEUE_MASK : value;
    if (this.#accepts && this.registers.isAttached(queue)) this.queues.notify(queue);
  }

  resetQueue(queue: number): void {
    if (hasFeature(this.#features.known, VIRTIO_F_RING_RESET)) this.registers.stop(queue);
  }

  /** Resets the device, as the driver does with status 0. Resolves when it is done (D3). */
  reset(): Promise<void> {
    if (this.#isResetting) return this.#reset;
    this.#resets += 1;
    this.#isResetting = true;
    this.#interrupts.isr = 0;
    this.#run();
    const stopping = this.registers.stopAll();
    if (stopping === undefined) this.#toInitial();
    this.#reset = Promise.resolve(stopping?.then(() => this.#toInitial()));
    return this.#reset;
  }

  /** Resolves when no reset is under way: an emulator may hold its processor for so long. */
  settled(): Promise<void> {
    return this.#reset;
  }

  /** Goes on after `save` or `restore`, and sends again what an error has stopped. */
  resume(): void {
    this.#checkOpen();
    this.#paused = this.#saving;
    this.#run();
    this.queues.resume();
  }

  /**
   * Pauses the device, waits until nothing is in flight, and returns its state, which is plain
   * JSON. It stays paused until `resume`, so that the guest's memory can be saved with it. What an
   * error has stopped must be resumed first.
   * @throws SluiceError ERR_SLUICE_BUSY when it is being saved, or the driver resets it meanwhile
   */
  async save(): Promise<VirtioBlkState> {
    this.#checkOpen();
    if (this.#saving) throw busy('it is being saved already; await that');
    if (this.queues.held > 0) throw busy('an error has stopped a request; resume it first');
    this.#saving = true;
    this.#paused = true;
    this.#run();
    try {
      await this.#reset;
      const resets = this.#resets;
      await this.registers.park();
      await this.#cache.settled();
      if (this.#resets !== resets) throw busy('the driver reset it meanwhile; save it again');
      return formatState({
        disk: this.shownDisk,
        accepted: this.#features.accepted,
        status: this.#status,
        isr: this.isr,
        generation: this.configGeneration,
        wce: this.#cache.on,
        queues: this.registers.snapshot(),
        mmio: this.mmio.registers,
        pci: this.pci.registers,
      });
    } finally {
      this.#saving = false;
      if (this.#isLive) this.registers.attach();
    }
  }

  /**
   * Takes over what `save` has returned, on a device with the same features, queues and `shownDisk`
   * that no driver has touched, with the guest's memory in place. It is paused until `resume`. A
   * state that is refused changes nothing.
   * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for a state that is none, or not of such a
   *   device: which value, where; ERR_SLUICE_BUSY for a device that is in use
   */
  async restore(state: unknown): Promise<void> {
    this.#checkOpen();
    if (this.#status !== 0 || !this.#accepts) throw busy('a driver uses it; reset it first');
    const parsed = parseState(state, this);
    this.#paused = true;
    this.#status = parsed.status;
    this.#features.restore(parsed.accepted, parsed.negotiated);
    this.#config.generation = parsed.generation;
    this.#modeChosen = true;
    void this.#cache.set(parsed.wce && canFlush(parsed.negotiated ?? 0n));
    this.#showFeatures();
    if (this.#isLive) this.#configure();
    this.mmio.registers = parsed.mmio;
    this.pci.registers = parsed.pci;
    this.#interrupts.isr = parsed.isr;
    this.registers.restore(parsed.queues);
    await this.#cache.settled();
  }

  /** The capacity of the disk has changed: the driver is told. VIRTIO 1.3, 5.2.4. */
  resized(capacityBytes: number): void {
    if (this.#config.resize(capacityBytes)) this.#interrupt('config');
  }

  /** Ends what is in flight, and lets go of the disk. Closing twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#parts.onClosing?.();
    try {
      await this.reset();
      await this.queues.close();
      await this.#cache.settled();
    } finally {
      await this.#parts.onClose?.();
    }
  }

  get #accepts(): boolean {
    return !this.#isResetting && !this.closed;
  }

  get #isLive(): boolean {
    return (this.#status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  }

  #featuresOk(): boolean {
    if (!this.#features.conclude()) return false;
    this.#showFeatures();
    this.#cacheToInitial(this.#features.known);
    return true;
  }

  #driverOk(): void {
    if (!this.#features.concludeLegacy()) {
      if ((this.#status & VIRTIO_CONFIG_S_NEEDS_RESET) !== 0) return;
      return this.#fail(needsReset('the driver said DRIVER_OK without FEATURES_OK'));
    }
    this.#showFeatures();
    if (!canFlush(this.#features.known)) void this.#cache.set(false);
    this.#configure();
    this.#status |= VIRTIO_CONFIG_S_DRIVER_OK;
    this.registers.attach();
    this.#run();
  }

  #configure(): void {
    const { values, settings } = this.#parts;
    this.queues.configure(requestSettings(this.#features.known, values, settings));
  }

  #showFeatures(): void {
    const { negotiated, offered } = this.#features;
    this.#hasNotificationData = hasFeature(negotiated ?? 0n, VIRTIO_F_NOTIFICATION_DATA);
    this.#config.showFeatures(negotiated ?? offered);
  }

  /** Whether buffers are taken follows from everything else (D2). */
  #run(): void {
    const on = this.#isLive && !this.#paused && this.#accepts && !this.#cache.holds;
    if (on === this.#running) return;
    this.#running = on;
    this.queues.running = on;
  }

  #toInitial(): void {
    this.#isResetting = false;
    this.#status = 0;
    this.#features.reset();
    this.#modeChosen = false;
    this.#paused = this.#saving;
    this.#showFeatures();
    this.#interrupts.isr = 0;
    this.#cacheToInitial(this.#features.offered);
  }

  /** D4. */
  #cacheToInitial(features: bigint): void {
    if (!this.#modeChosen) void this.#cache.set(this.#parts.wce && !isOffAtFirst(features));
  }

  #cacheChanged(): void {
    this.#config.showWriteback(this.#cache.on);
    this.#run();
  }

  #interrupt(kind: InterruptKind, queue?: number): void {
    if (this.#accepts && this.#isLive) this.#interrupts.raise(kind, queue);
  }

  #broken(fault: QueueFault): void {
    this.registers.markBroken(fault.queue);
    this.#fail(brokenQueue(fault));
  }

  /** D5. */
  #fail(error: unknown): void {
    if (this.#accepts) {
      this.#status |= VIRTIO_CONFIG_S_NEEDS_RESET;
      this.#interrupt('config');
    }
    tell(this.#parts.events.onError, error);
  }

  #checkOpen(): void {
    if (this.closed) throw closed();
  }
}
