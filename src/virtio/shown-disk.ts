/** What a guest has seen of its disk and relies on: a state goes on with such a disk only. */
import { VIRTIO_BLK_F_RO } from '../abi/virtio-blk.ts';
import { invalid, show } from '../arguments.ts';
import { type ConfigValues, shownCapacity } from './config-space.ts';
import { hasFeature } from './features.ts';

/** What a guest sees of a disk that cannot change beneath it. */
export interface ShownDisk {
  /** Whole blocks only. */
  readonly capacityBytes: number;
  readonly blockSizeBytes: number;
  readonly readOnly: boolean;
  readonly serial: string;
}

const FACTS = ['capacityBytes', 'blockSizeBytes', 'readOnly', 'serial'] as const;

/** What a device shows: the configuration space, the feature RO, the answer to GET_ID. */
export function shownDisk(values: ConfigValues, offered: bigint, id: Uint8Array): ShownDisk {
  return {
    capacityBytes: shownCapacity(values),
    blockSizeBytes: values.blockSizeBytes,
    readOnly: hasFeature(offered, VIRTIO_BLK_F_RO),
    serial: new TextDecoder('utf-8', { ignoreBOM: true }).decode(id),
  };
}

/**
 * Refuses a disk that is not as it was.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, with all that differs
 */
export function refuseOther(was: ShownDisk, is: ShownDisk): void {
  const differences = FACTS.filter((fact) => was[fact] !== is[fact]).map(
    (fact) => `${fact} was ${show(was[fact])} and is ${show(is[fact])}`,
  );
  if (differences.length === 0) return;
  throw invalid(
    `the state is of another disk: ${differences.join(', ')}; ` +
      'attach one that is to the guest as the saved one was',
  );
}
