/**
 * The bytes of one connection as they come in: by way of a window, and the data of a WRITE straight
 * into the arena, or memory of the heap, as soon as nothing else is in front of it.
 */
import type { Device } from '../device.ts';
import { Staging } from './staging.ts';

export class Incoming {
  readonly staging = new Staging();
  /** Large WRITEs are coming: a small window leaves their data to the arena. */
  narrow = false;
  readonly #device: Device;
  /** The part of a payload that has not come yet: where it goes, or how much goes by. */
  #at = 0;
  #left = 0;
  /** Where a payload goes that does not go into the arena. */
  #heap: Uint8Array | undefined;
  /** The last target was that of the payload itself. */
  #direct = false;

  constructor(device: Device) {
    this.#device = device;
  }

  /**
   * Where the next bytes go.
   * @param ofPayload a payload is being received
   */
  target(ofPayload: boolean): Uint8Array {
    this.#direct = ofPayload && this.staging.length === 0;
    if (!this.#direct) return this.staging.window(this.narrow);
    return this.#memory.subarray(this.#at, this.#at + this.#left);
  }

  /** Bytes have come into the last target. */
  received(lengthBytes: number): void {
    if (this.#direct) this.#advance(lengthBytes);
    else this.staging.added(lengthBytes);
  }

  /** Bytes have come into somebody else's target. */
  copied(bytes: Uint8Array): void {
    this.#direct = false;
    this.staging.preset(bytes);
  }

  /** A payload follows: for `receive`, which puts it at an address of the arena, or for `drain`. */
  expect(address: number, lengthBytes: number): void {
    this.#at = address;
    this.#left = lengthBytes;
  }

  /** A payload follows that stays in the heap until `deliver`, or `forget`. */
  expectInHeap(lengthBytes: number): void {
    // Untouched: the system provides its pages as bytes come.
    this.#heap = Buffer.allocUnsafeSlow(lengthBytes);
    this.expect(0, lengthBytes);
  }

  /** Puts the payload that is in the heap at an address of the arena. */
  deliver(address: number): void {
    if (this.#heap !== undefined) this.#device.bytes.set(this.#heap, address);
    this.#heap = undefined;
  }

  /** Nobody wants the payload that is in the heap, if one is. */
  forget(): void {
    this.#heap = undefined;
  }

  /** Takes what is staged of a payload, the rest comes straight to its place; true: all of it. */
  receive(): boolean {
    const { at, bytes } = this.staging;
    const length = Math.min(this.#left, this.staging.length);
    if (length > 0) {
      this.#memory.set(bytes.subarray(at, at + length), this.#at);
      this.staging.consume(length);
      this.#advance(length);
    }
    return this.#left === 0;
  }

  /** Lets what is staged of a payload go by; true: all of it has. */
  drain(): boolean {
    const length = Math.min(this.#left, this.staging.length);
    this.staging.consume(length);
    this.#left -= length;
    return this.#left === 0;
  }

  get #memory(): Uint8Array {
    return this.#heap ?? this.#device.bytes;
  }

  #advance(lengthBytes: number): void {
    this.#at += lengthBytes;
    this.#left -= lengthBytes;
  }
}
