/**
 * The contents that a power cut may leave, one after the other.
 *
 * Where they are few enough for the limit, all of them come, and each once: every sector that is
 * not certain holds any of its survivors, whatever the others hold. Where they are not, the telling
 * ones come first: nothing, then more and more in completion order; all but one write, and one
 * write alone; torn writes; then samples.
 */
import type { Cut, VolatileWrite } from './cut.ts';
import { Random } from './random.ts';
import type { SectorImage } from './sector-image.ts';
import { SECTOR_BYTES } from './simulated-disk-options.ts';
import type { SectorValues } from './simulated-disk-sectors.ts';

/** One of the contents, and how it came about. */
export interface CutOutcome {
  /** A phrase for a person. */
  readonly name: string;
  /** What the sectors hold that are not certain. */
  readonly values: SectorValues;
}

/** The same, and how long the disk is. */
export interface SizedOutcome extends CutOutcome {
  /** Sectors behind it are gone, whatever they hold. */
  readonly sizeBytes: number;
}

interface Named {
  readonly name: string;
  readonly cut: Cut;
}

/** A sample may repeat an earlier outcome; this often for each one that is still wanted. */
const TRIES = 8;

/** One outcome, drawn from the seed. */
export function sampleCut(image: SectorImage, seed: number, torn: boolean): CutOutcome {
  const sectors = uncertain(image, image.sectors);
  const writes = image.volatileWrites();
  return outcomeOf(image, sectors, writes, sampleOf(writes, seed, torn));
}

/**
 * Outcomes for each of the sizes that the disk may have, at most `limit`; returns true when these
 * were all that there are.
 */
export function* enumerateCuts(
  image: SectorImage,
  sizes: readonly number[],
  limit: number,
  seed: number,
  torn: boolean,
): Generator<SizedOutcome, boolean, void> {
  let all = sizes.length <= limit;
  for (const [index, sizeBytes] of sizes.slice(0, limit).entries()) {
    const share = Math.max(1, Math.floor((limit + index) / sizes.length));
    const outcomes = outcomesOf(image, sizeBytes / SECTOR_BYTES, share, seed, torn);
    const after = sizes.length > 1 ? `, ${sizeBytes} bytes long` : '';
    let next = outcomes.next();
    for (; next.done !== true; next = outcomes.next()) {
      const { name, values } = next.value;
      yield { name: name + after, values, sizeBytes };
    }
    all &&= next.value;
  }
  return all;
}

/** Outcomes for the sectors before `end`. */
function* outcomesOf(
  image: SectorImage,
  end: number,
  limit: number,
  seed: number,
  torn: boolean,
): Generator<CutOutcome, boolean, void> {
  const sectors = uncertain(image, end);
  const writes = image.volatileWrites();
  if (torn && combinationsOf(image, sectors) <= limit) return yield* combinations(image, sectors);
  const all = !torn && writes.length <= 20 && 2 ** writes.length <= limit;
  const seen = new Set<string>();
  for (const named of all ? subsets(writes) : candidates(writes, limit, seed, torn)) {
    if (seen.size >= limit) return false;
    const outcome = outcomeOf(image, sectors, writes, named);
    const key = [...outcome.values.values()].join();
    if (seen.has(key)) continue;
    seen.add(key);
    yield outcome;
  }
  return all;
}

/** The sectors before `end` of which a power cut may leave more than one content. */
function uncertain(image: SectorImage, end: number): number[] {
  const values: number[] = [];
  const all = Array.from({ length: end }, (_, sector) => sector);
  return all.filter((sector) => image.survivorsInto(sector, values) > 1);
}

function combinationsOf(image: SectorImage, sectors: readonly number[]): number {
  return sectors.reduce((product, sector) => product * image.survivors(sector).size, 1);
}

/** Counts through the survivors as an odometer does, the stable values first. */
function* combinations(
  image: SectorImage,
  sectors: readonly number[],
): Generator<CutOutcome, true, void> {
  const wheels = sectors.map((sector) => ({ sector, values: [...image.survivors(sector)] }));
  const total = combinationsOf(image, sectors);
  for (let index = 0; index < total; index++) {
    let left = index;
    const values = new Map<number, number>();
    for (const { sector, values: survivors } of wheels) {
      values.set(sector, survivors[left % survivors.length] ?? 0);
      left = Math.floor(left / survivors.length);
    }
    const name = index === 0 ? 'what is stable' : `combination ${index + 1} of ${total}`;
    yield { name, values };
  }
  return true;
}

/** Every subset of the writes, each whole. */
function* subsets(writes: readonly VolatileWrite[]): Generator<Named, void, void> {
  for (let mask = 0; mask < 2 ** writes.length; mask++) {
    yield subsetOf(writes.filter((_, bit) => ((mask >> bit) & 1) === 1));
  }
}

function* candidates(
  writes: readonly VolatileWrite[],
  limit: number,
  seed: number,
  torn: boolean,
): Generator<Named, void, void> {
  // Each kind takes a quarter at most, so that the last one has its share.
  const share = Math.max(1, Math.floor(limit / 4));
  for (const count of spread(writes.length + 1, share)) {
    const name = count === 0 ? 'what is stable' : `the first ${count} of ${writes.length} writes`;
    yield { name, cut: { kind: 'prefix', writes: count } };
  }
  for (const index of spread(writes.length, Math.floor(share / 2))) {
    yield subsetOf(writes.filter((_, other) => other !== index));
    yield subsetOf(writes.slice(index, index + 1));
  }
  if (torn) {
    const places = writes.flatMap(({ sectors }, index) =>
      sectors.slice(1).map((_, torn) => ({ writes: index, sectors: torn + 1 })),
    );
    for (const at of spread(places.length, share)) {
      const place = places[at];
      if (place === undefined) continue;
      const name = `the first ${place.writes} writes, and ${place.sectors} sectors of the next`;
      yield { name, cut: { kind: 'torn', ...place } };
    }
  }
  const random = new Random(seed);
  for (let tries = TRIES * limit; tries > 0; tries--) yield sampleOf(writes, random.next(), torn);
}

function sampleOf(writes: readonly VolatileWrite[], seed: number, torn: boolean): Named {
  if (torn) return { name: `sample ${seed}`, cut: { kind: 'sample', seed } };
  const random = new Random(seed);
  return subsetOf(writes.filter(() => random.chance(0.5)));
}

function subsetOf(writes: readonly VolatileWrite[]): Named {
  const numbers = writes.map(({ write }) => write);
  const name = numbers.length === 0 ? 'what is stable' : `the writes ${numbers.join(', ')}`;
  return { name, cut: { kind: 'subset', writes: new Set(numbers) } };
}

/** Numbers below `count`, at most `most`, from the first to the last and evenly between. */
function spread(count: number, most: number): number[] {
  const length = Math.min(count, most);
  const step = length > 1 ? (count - 1) / (length - 1) : 0;
  return Array.from({ length }, (_, index) => Math.round(index * step));
}

function outcomeOf(
  image: SectorImage,
  sectors: readonly number[],
  writes: readonly VolatileWrite[],
  { name, cut }: Named,
): CutOutcome {
  const left = image.leftBy(cut, writes);
  const values = new Map<number, number>();
  let next = 0;
  for (const sector of sectors) {
    // A sample draws for every sector, from the first on.
    while (next < sector) left(next++);
    values.set(sector, left(next++));
  }
  return { name, values };
}
