//! Checkpoints with structured mutations: opcodes and numbers of pickles, fields of zip directories, entries of safetensors headers, values of JSON.
//! They load or are refused; none makes the reader panic, use more memory than the file's size explains, or hang.
//!
//! A seed gives the same cases every time. `FRAMESHIFT_FUZZ_CASES` sets their number, `FRAMESHIFT_FUZZ_SEED` the seed.

mod json;
mod pickles;
mod seeds;
mod zips;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use frameshift::model::load::{Overrides, plan};
use seeds::Seed;

use crate::allocation;
use crate::processes::Stopwatch;

/// Number of cases in the test suite.
const CASES: u64 = 2000;
/// Bytes that reading may take in addition to a small multiple of the files.
const BUFFERS: usize = 128 << 20;
const TIMES: usize = 16;
/// Longest time of a case; a slower case is measured again, since other processes use the processor as well.
const MOST_TIME: Duration = Duration::from_secs(2);
const TRIES: usize = 5;

/// A small random number generator (xorshift64*), so that a seed reproduces a case.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from 0 to `n` - 1; 0 when `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.roll() >> 16) as usize % n.max(1)
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Returns a number that is interesting at a boundary, or an arbitrary one.
    pub(crate) fn number(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            7,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 40,
            1 << 60,
            i64::MAX as u64,
            u64::MAX,
        ];
        match self.below(3) {
            0 => self.roll(),
            1 => self.roll() % 4096,
            _ => *self.pick(&EDGES),
        }
    }
}

fn asked(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[derive(Default)]
struct Outcome {
    loaded: u64,
    refused: BTreeMap<&'static str, u64>,
    slowest: Duration,
    largest: usize,
}

#[test]
fn changed_checkpoints_neither_panic_nor_hang_nor_take_what_they_claim() {
    let cases = asked("FRAMESHIFT_FUZZ_CASES", CASES);
    let first = asked("FRAMESHIFT_FUZZ_SEED", 1);
    let seeds = seeds::all();
    assert!(seeds.len() > 3, "no checkpoints to change");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut outcome = Outcome::default();
    for case in 0..cases {
        let mut dice = Dice::new(first.wrapping_add(case));
        let seed = dice.pick(&seeds);
        run(seed, &mut dice, folder.path(), &mut outcome);
    }
    println!(
        "{cases} cases from {} checkpoints: {} loaded, refused {:?}; slowest {:?}, most memory {} KiB over its files",
        seeds.len(),
        outcome.loaded,
        outcome.refused,
        outcome.slowest,
        outcome.largest >> 10,
    );
    let refused: u64 = outcome.refused.values().sum();
    assert_eq!(outcome.loaded + refused, cases);
    assert!(refused > cases / 2, "most changes are noticed");
}

fn run(seed: &Seed, dice: &mut Dice, folder: &Path, outcome: &mut Outcome) {
    let (name, changed) = seed.change(dice);
    let mut total = 0;
    for (other, content) in &seed.files {
        let content = if *other == name { &changed } else { content };
        total += content.len();
        fs::write(folder.join(other), content).expect("a file is written");
    }
    let overrides: Overrides = seed.overrides.parse().expect("overrides");
    let read = || plan(folder, &overrides).and_then(|plan| plan.digest());
    let begin = Stopwatch::begin();
    let (result, peak) = allocation::peak(read);
    let mut took = begin.elapsed();
    for _ in 1..TRIES {
        if took <= MOST_TIME {
            break;
        }
        let begin = Stopwatch::begin();
        drop(read());
        took = took.min(begin.elapsed());
    }
    for other in seed.files.keys() {
        fs::remove_file(folder.join(other)).expect("a file is removed");
    }
    assert!(took <= MOST_TIME, "{}: {took:?}", seed.name);
    let explained = TIMES * total + BUFFERS;
    assert!(
        peak <= explained,
        "{}: {peak} bytes, {explained} are explained",
        seed.name
    );
    outcome.slowest = outcome.slowest.max(took);
    outcome.largest = outcome.largest.max(peak.saturating_sub(total));
    match result {
        Ok(_) => outcome.loaded += 1,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            *outcome.refused.entry(seeds::kind(&error)).or_default() += 1;
        }
    }
}
