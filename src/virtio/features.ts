/** Sets of feature bits as bigints (virtio 1.3 §2.2), for set-up code; hot code keeps booleans. */

/** The set holding the given bit numbers. */
export function featureSet(...bits: number[]): bigint {
  return bits.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
}

/** True when a bit number is in the set. */
export function hasFeature(set: bigint, bit: number): boolean {
  return ((set >> BigInt(bit)) & 1n) === 1n;
}
