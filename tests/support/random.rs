//! Random numbers that can be had again: a failed run prints its seed, and `WALDEN_TEST_SEED` replays it.

/// SplitMix64: every seed, also 0, gives a good sequence.
pub struct Random(u64);

impl Random {
    pub fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// A new seed on every run unless `WALDEN_TEST_SEED` gives one; printed, and so shown by the test runner on failure.
    pub fn announced() -> Random {
        let seed = match std::env::var("WALDEN_TEST_SEED") {
            Ok(seed) => seed.parse().expect("WALDEN_TEST_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        println!("to replay: WALDEN_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// How often something is to happen: so many times in the ordinary run, more with `WALDEN_TEST_TIMES=4`.
pub fn times(ordinary: usize) -> usize {
    ordinary * std::env::var("WALDEN_TEST_TIMES").map_or(1, |times| times.parse::<usize>().unwrap())
}
