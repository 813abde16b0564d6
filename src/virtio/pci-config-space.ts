/**
 * The configuration space of a virtio-pci device: a type 0 header, and the capabilities that say
 * where in its BAR what is (pci.ts). VIRTIO 1.3, 4.1.2 and 4.1.4.
 *
 *     0x00 header   0x40 common   0x50 notify   0x64 ISR   0x74 device   0x84 PCI access
 *
 * A host whose accesses to this space cannot be seen shows the last one, which has to be there
 * (4.1.4.9), and leaves it without effect: no driver needs it whose processor reaches the BAR.
 */
import { PCI_BAR_BYTES, PCI_COMMON, PCI_DEVICE, PCI_ISR, PCI_NOTIFY } from './pci.ts';

/** Bytes of the space. */
export const PCI_CONFIG_BYTES = 0x100;

const VENDOR = 0x1af4;
/** Non-transitional devices: this and the id of the kind; revision and subsystem, 4.1.2.1. */
const DEVICE_BASE = 0x1040;
const REVISION = 1;
const SUBSYSTEM = 0x40;
/** Mass storage, of no other kind. */
const CLASS = 0x0180;
const COMMAND_IO = 1;
const STATUS_CAPABILITIES = 0x10;
const BAR_IO = 1;
const PIN_A = 1;

const VENDOR_SPECIFIC = 9;
const CAP_COMMON_CFG = 1;
const CAP_NOTIFY_CFG = 2;
const CAP_ISR_CFG = 3;
const CAP_DEVICE_CFG = 4;
const CAP_PCI_CFG = 5;
const CAP_BYTES = 16;
/** With a word of its own behind it: the notify multiplier, or the window to the BAR. */
const CAP_LONG_BYTES = 20;

interface Capability {
  readonly at: number;
  readonly kind: number;
  readonly capBytes: number;
  readonly offset: number;
  readonly lengthBytes: number;
}

const CAPABILITIES: readonly Capability[] = [
  cap(0x40, CAP_COMMON_CFG, CAP_BYTES, PCI_COMMON, 0x40),
  cap(0x50, CAP_NOTIFY_CFG, CAP_LONG_BYTES, PCI_NOTIFY, 4),
  cap(0x64, CAP_ISR_CFG, CAP_BYTES, PCI_ISR, 1),
  cap(0x74, CAP_DEVICE_CFG, CAP_BYTES, PCI_DEVICE, PCI_BAR_BYTES - PCI_DEVICE),
  cap(0x84, CAP_PCI_CFG, CAP_LONG_BYTES, 0, 0),
];

/** The space of a device whose BAR 0 is in I/O space, at `port`. */
export function pciConfigSpace(deviceId: number, port: number): Uint8Array {
  const bytes = new Uint8Array(PCI_CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  const put = (at: number, value: number): void => view.setUint16(at, value, true);
  put(0x00, VENDOR);
  put(0x02, DEVICE_BASE + deviceId);
  put(0x04, COMMAND_IO);
  put(0x06, STATUS_CAPABILITIES);
  put(0x08, REVISION);
  put(0x0a, CLASS);
  put(0x10, port | BAR_IO);
  put(0x2c, VENDOR);
  put(0x2e, SUBSYSTEM);
  bytes[0x34] = CAPABILITIES[0]?.at ?? 0;
  bytes[0x3d] = PIN_A;
  CAPABILITIES.forEach(({ at, kind, capBytes, offset, lengthBytes }, index) => {
    bytes.set([VENDOR_SPECIFIC, CAPABILITIES[index + 1]?.at ?? 0, capBytes, kind], at);
    view.setUint32(at + 8, offset, true);
    view.setUint32(at + 12, lengthBytes, true);
  });
  return bytes;
}

function cap(
  at: number,
  kind: number,
  capBytes: number,
  offset: number,
  lengthBytes: number,
): Capability {
  return { at, kind, capBytes, offset, lengthBytes };
}
