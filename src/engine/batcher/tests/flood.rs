//! A quiet tenant beside a flood, on a device whose time is counted: every clip takes the same time, and every batch a little more.

use std::time::Duration;

use super::super::{Batcher, Limits, Pace, Queued, Sharing};
use crate::fair::{Class, Weight};
use crate::ids::TenantId;
use crate::rng::Stream;

/// Seconds of a clip of eight frames, and of a batch besides.
const CLIP: f64 = 0.0065;
const BATCH: f64 = 0.0005;
/// What the device does in a second, about.
const PEAK: f64 = 1.0 / CLIP;
/// Clips between admission and answer that the flood may have.
const HELD: usize = 224;
const TIME: f64 = 60.0;

#[derive(Debug)]
struct Clip {
    is_quiet: bool,
    at: f64,
    is_light: bool,
}

impl Queued for Clip {
    fn request(&self) -> u64 {
        0
    }

    fn frames(&self) -> usize {
        8
    }

    fn group(&self) -> u64 {
        0
    }

    fn is_light(&self) -> bool {
        self.is_light
    }
}

/// What a minute of a device gave.
#[derive(Debug, Default)]
struct Found {
    /// Seconds from the arrival of each of the quiet tenant's clips to its answer.
    quiet: Vec<f64>,
    /// Clips of the flood that were answered.
    flood: usize,
    /// Batches of more than two clips while both tenants waited.
    large: usize,
    /// Clips of each batch.
    batches: Vec<usize>,
}

impl Found {
    fn p99(&mut self) -> f64 {
        self.quiet.sort_by(f64::total_cmp);
        self.quiet[self.quiet.len() * 99 / 100]
    }
}

/// A device for a minute.
struct Device {
    batcher: Batcher<Clip>,
    pace: Pace,
    sharing: Sharing,
    quiet: TenantId,
    flood: TenantId,
}

impl Device {
    fn push(&mut self, is_quiet: bool, at: f64) {
        let now = Duration::from_secs_f64(at);
        let tenant = if is_quiet { &self.quiet } else { &self.flood };
        let asks = (tenant, Weight::ONE);
        self.sharing.asked(asks, Class::Interactive, 8, now);
        let is_light = self.sharing.is_light(tenant, &self.pace, now);
        let clip = Clip {
            is_quiet,
            at,
            is_light,
        };
        self.batcher.push(asks, Class::Interactive, clip);
    }

    fn form(&mut self, now: f64) -> Vec<Clip> {
        let paced = self.sharing.limit(&self.pace, Duration::from_secs_f64(now));
        let limits = Limits {
            clips: 16,
            frames: paced.min(256),
        };
        self.batcher.form(limits, |_| true).batch
    }
}

/// A tenant that asks for a fifth of what the device can do, beside one that asks for ten times as much or alone; the device stands still once when it is told to.
fn run(seed: u64, is_flooded: bool, stall: Option<f64>) -> Found {
    let mut random = Stream::new(seed, "flood");
    let mut gap = || -f64::from(random.range(1e-6, 1.0)).ln() / (0.2 * PEAK);
    let mut device = Device {
        batcher: Batcher::new(),
        pace: Pace::new(Duration::from_millis(100)),
        sharing: Sharing::default(),
        quiet: "quiet".parse().unwrap(),
        flood: "flood".parse().unwrap(),
    };
    let (mut now, mut next, mut held) = (0.0, gap(), 0);
    let mut next_of_flood = if is_flooded { 0.0 } else { f64::INFINITY };
    let mut stall = stall;
    let mut found = Found::default();
    while now < TIME {
        while f64::min(next, next_of_flood) <= now {
            if next <= next_of_flood {
                device.push(true, next);
                next += gap();
                continue;
            }
            if held < HELD {
                held += 1;
                device.push(false, next_of_flood);
            }
            next_of_flood += 1.0 / (2.0 * PEAK);
        }
        let lane = device.batcher.lane(Class::Interactive);
        let is_both = is_flooded && lane.len_of(&device.quiet) > 0;
        let batch = device.form(now);
        if batch.is_empty() {
            now = f64::min(next, next_of_flood);
            continue;
        }
        let mut took = BATCH + CLIP * batch.len() as f64;
        if stall.is_some_and(|at| at <= now) {
            stall = None;
            took += 0.3;
        }
        now += took;
        device
            .pace
            .ran(8 * batch.len(), Duration::from_secs_f64(took));
        // The first batches are formed before anything is known.
        if now > 5.0 {
            found.batches.push(batch.len());
            found.large += usize::from(is_both && batch.len() > 2);
        }
        for clip in batch {
            if clip.is_quiet {
                found.quiet.push(now - clip.at);
            } else {
                held -= 1;
                found.flood += 1;
            }
        }
    }
    found
}

#[test]
fn a_quiet_tenant_beside_a_flood_waits_for_one_short_batch() {
    for seed in 0..6 {
        let mut beside = run(seed, true, None);
        let mut alone = run(seed, false, None);
        let ratio = beside.p99() / alone.p99();
        println!("{seed}: p99 beside a flood / alone {ratio:.2}");
        assert_eq!(beside.large, 0, "{seed}: {:?}", beside.batches);
        assert!(ratio <= 1.3, "{seed}: {ratio}");
        // The flood has what the quiet tenant leaves.
        let least = 0.85 * (0.8 * PEAK) * TIME;
        assert!(beside.flood as f64 >= least, "{seed}: {}", beside.flood);
    }
}

#[test]
fn a_device_that_stood_still_once_serves_a_quiet_tenant_as_before() {
    for seed in 0..6 {
        let beside = run(seed, true, Some(20.0));
        assert!(beside.large <= 1, "{seed}: {:?}", beside.batches);
    }
}
