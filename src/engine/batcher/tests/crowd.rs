//! Several tenants with one caller each, who asks again soon after the answer, beside a flood, on a device whose time is counted.

use std::time::Duration;

use super::super::{Batcher, Limits, Pace, Queued, Sharing};
use crate::fair::{Class, Weight};
use crate::ids::TenantId;

/// Seconds of a clip of eight frames, of a batch besides, and from an answer to the caller's next request.
const CLIP: f64 = 0.0065;
const BATCH: f64 = 0.0005;
const THINK: f64 = 0.002;
/// Clips a second of the flood, several times what the device does, and how many of them may wait.
const FLOOD: f64 = 1000.0;
const HELD: usize = 224;
const TIME: f64 = 60.0;

/// A clip of a tenant, who may ask for little; tenant 0 is the flood.
#[derive(Debug)]
struct Clip(usize, bool);

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
        self.1
    }
}

/// What a minute of a device gave a tenant.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    clips: usize,
    last: f64,
    /// Longest time without an answer, in seconds.
    gap: f64,
}

/// A minute of a device with so many tenants beside a flood.
fn run(others: usize) -> Vec<Given> {
    let tenants: Vec<TenantId> = (0..=others)
        .map(|number| format!("t{number}").parse().unwrap())
        .collect();
    let mut batcher = Batcher::new();
    let mut pace = Pace::new(Duration::from_millis(100));
    let mut sharing = Sharing::default();
    let mut given = vec![Given::default(); tenants.len()];
    // When each caller asks next, and the flood.
    let mut asks: Vec<f64> = (0..=others).map(|own| 0.0017 * own as f64).collect();
    let mut now = 0.0;
    while now < TIME {
        let at = Duration::from_secs_f64(now);
        for (own, tenant) in tenants.iter().enumerate() {
            while asks[own] <= now {
                let is_flood = own == 0;
                asks[own] = if is_flood {
                    asks[own] + 1.0 / FLOOD
                } else {
                    f64::INFINITY
                };
                if is_flood && batcher.lane(Class::Interactive).len_of(tenant) >= HELD {
                    continue;
                }
                let asking = (tenant, Weight::ONE);
                sharing.asked(asking, Class::Interactive, 8, at);
                let clip = Clip(own, sharing.is_light(tenant, &pace, at));
                batcher.push(asking, Class::Interactive, clip);
            }
        }
        let limits = Limits {
            clips: 16,
            frames: sharing.limit(&pace, at).min(256),
        };
        let batch = batcher.form(limits, |_| true).batch;
        if batch.is_empty() {
            now = asks.iter().copied().fold(f64::INFINITY, f64::min);
            continue;
        }
        let took = BATCH + CLIP * batch.len() as f64;
        now += took;
        pace.ran(8 * batch.len(), Duration::from_secs_f64(took));
        for Clip(own, _) in batch {
            let had = &mut given[own];
            had.gap = had.gap.max(now - had.last);
            had.last = now;
            had.clips += 1;
            if own > 0 {
                asks[own] = now + THINK;
            }
        }
    }
    for had in &mut given {
        had.gap = had.gap.max(now - had.last);
    }
    given
}

#[test]
fn callers_who_ask_again_after_each_answer_leave_a_flood_its_share() {
    for others in [1, 2, 8] {
        let given = run(others);
        let all: usize = given.iter().map(|own| own.clips).sum();
        // Each of the others has one clip under way, so it may have less than an equal part, and the flood has the rest.
        let part = all as f64 / given.len() as f64;
        for (own, had) in given.iter().enumerate() {
            let least = 0.7 * part;
            assert!(had.clips as f64 >= least, "{others}, {own}: {given:?}");
            assert!(had.gap <= 1.0, "{others}, {own}: {given:?}");
        }
        assert!(all as f64 >= 0.9 * TIME / CLIP, "{others}: {all}");
    }
}
