//! Counter-based random numbers: a value depends on its key and its index alone, never on what was drawn before or elsewhere.
//!
//! Invariant: the streams are part of the training contract (a resumed job gives the same results as an uninterrupted one) and never change.

/// Returns the hash of a 64-bit value: SplitMix64's finaliser over `z + golden ratio` (Steele, Lea and Flood, OOPSLA 2014).
pub fn splitmix64(z: u64) -> u64 {
    let z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Stream of random numbers, identified by a key.
#[derive(Debug, Clone)]
pub struct Stream {
    base: u64,
    next: u64,
}

impl Stream {
    /// Creates the stream of a seed and a purpose, at its first number.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut base = splitmix64(seed);
        for byte in purpose.bytes() {
            base = splitmix64(base ^ u64::from(byte));
        }
        Self { base, next: 0 }
    }

    /// Returns the sub-stream of a part, for example of an epoch or an example; it does not depend on what was drawn from `self`.
    pub fn fork(&self, part: u64) -> Self {
        Self {
            base: splitmix64(self.base ^ splitmix64(part)),
            next: 0,
        }
    }

    /// Draws the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let value = splitmix64(self.base.wrapping_add(self.next));
        self.next += 1;
        value
    }

    /// Draws a number that is uniform in [0, 1), with 24 random bits.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Draws a number that is uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Draws an integer that is uniform in 0..n; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of the multiplication is below n / 2^64.
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// Draws a normally distributed number with mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * f64::from(1.0 - self.unit()).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(self.unit());
        (radius * angle.cos()) as f32
    }

    /// Shuffles a slice in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// Permutation of `0..len` without an array: a Feistel network over the next even number of bits, applied again until the value is in range.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    len: u64,
    /// Bits of each half of the network's input.
    half: u32,
    keys: [u64; Self::ROUNDS],
}

impl Permutation {
    const ROUNDS: usize = 6;

    /// Creates the permutation of `0..len` whose keys are the stream's next bits.
    pub fn new(len: u64, stream: &mut Stream) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self {
            len,
            half: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| stream.bits()),
        }
    }

    /// Returns the value at a position; a position of `len` or more maps to itself.
    pub fn at(&self, place: u64) -> u64 {
        if place >= self.len {
            return place;
        }
        // The network permutes less than four times `len` values, so that a few rounds find one in range. Every cycle of a permutation returns to its
        // start, so the loop ends.
        let mut value = self.network(place);
        while value >= self.len {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (splitmix64(key ^ right) & mask));
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_permutation_is_taken_once() {
        for len in [0, 1, 2, 3, 5, 16, 17, 1000, 65_537] {
            let order = Permutation::new(len, &mut Stream::new(3, "order"));
            let mut seen: Vec<u64> = (0..len).map(|place| order.at(place)).collect();
            let in_order = seen.is_sorted();
            assert!(len < 16 || !in_order, "{len}");
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..len), "{len}");
        }
    }

    #[test]
    fn every_value_comes_to_every_place_about_equally_often() {
        let mut counts = [[0_u32; 10]; 10];
        let stream = Stream::new(3, "order");
        for epoch in 0..2000 {
            let order = Permutation::new(10, &mut stream.fork(epoch));
            for place in 0..10 {
                counts[place as usize][order.at(place) as usize] += 1;
            }
        }
        let all = counts.as_flattened();
        assert!(
            all.iter().all(|count| (130..280).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_fork_does_not_depend_on_what_was_drawn() {
        let fresh = Stream::new(7, "order");
        let mut used = fresh.clone();
        used.bits();
        assert_eq!(fresh.fork(3).bits(), used.fork(3).bits());
        assert_ne!(fresh.fork(3).bits(), fresh.fork(4).bits());
        assert_ne!(
            Stream::new(7, "order").bits(),
            Stream::new(7, "dropout").bits()
        );
    }

    #[test]
    fn normals_have_their_moments() {
        let mut stream = Stream::new(1, "normal");
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(stream.normal())).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02);
    }

    #[test]
    fn below_covers_its_range() {
        let mut stream = Stream::new(1, "below");
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[stream.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 120), "{seen:?}");
    }
}
