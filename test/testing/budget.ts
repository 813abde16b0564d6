/** The crash states that one run of the tests looks at, in the engine and in each mutant. */
export const CI_STATES = 1_000_000;
export const CI_SEED = 1;
