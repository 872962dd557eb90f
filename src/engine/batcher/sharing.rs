//! Tracks whether several tenants or classes of requests share the device at present, so that batches have to leave room for others, and whether one of
//! them asks for so little that it should hardly notice the others: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O; bounded: at most [`TENANTS`] tenants are looked at. What a tenant asks for is judged by its frames beside
//! those of the others and what the device can do, so that frames which never run raise no share; never by what of it waits, which depends on the size of the batches that the judgement decides.

use std::collections::HashMap;
use std::time::Duration;

use super::Pace;
use crate::fair::{Class, Weight};
use crate::ids::TenantId;

/// Time after its last request in which a tenant's next request is expected.
const WINDOW: Duration = Duration::from_secs(60);

/// Time after its last request in which a tenant that asks for little is cared for.
const QUIET: Duration = Duration::from_secs(10);
/// Most tenants that are looked at.
const TENANTS: usize = 256;
/// Time after which a request counts for less than half of a new one (1 / e).
const MEMORY: Duration = Duration::from_secs(5);
/// Part of its fair share up to which a tenant asks for little.
const LITTLE: f64 = 0.7;
/// Standard deviations of the number of a tenant's requests by which it has to be below that part: few requests say little about what it asks for.
const SURE: f64 = 2.0;
/// Part of the time of a batch that one takes while a tenant who asks for little shares the device with others: it waits for the running batch and is in the
/// next one, where it would be answered after its own clips alone.
const LIGHT: f64 = 1.0 / 8.0;

/// The tenant and class of the last request, and the time when these last changed. Times count from any common origin.
#[derive(Debug, Default)]
pub(in crate::engine) struct Sharing {
    last: Option<(TenantId, Class)>,
    changed: Option<Duration>,
    /// Tenants with interactive requests.
    lately: HashMap<TenantId, Lately>,
    /// The requests of the batch class, which count as those of one tenant.
    batch: Option<Lately>,
}

/// What a tenant asked for lately.
#[derive(Debug, Clone, Copy)]
struct Lately {
    weight: Weight,
    /// Frames that were asked for; the older ones count for less.
    frames: f64,
    /// Number of requests, in the same way.
    requests: f64,
    asked: Duration,
}

impl Lately {
    fn new(weight: Weight, now: Duration) -> Self {
        Self {
            weight,
            frames: 0.0,
            requests: 0.0,
            asked: now,
        }
    }

    fn add(&mut self, weight: Weight, frames: u64, now: Duration) {
        let kept = self.kept(now);
        self.weight = weight;
        self.frames = self.frames * kept + frames as f64;
        self.requests = self.requests * kept + 1.0;
        self.asked = now;
    }

    /// Part of what was asked for that still counts at the time `now`.
    fn kept(&self, now: Duration) -> f64 {
        let since = now.saturating_sub(self.asked);
        (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }

    fn is_near(&self, now: Duration) -> bool {
        now.saturating_sub(self.asked) < QUIET
    }

    /// Whether the tenant asks, with some certainty, for less than its part of its fair share, which is `level` for a weight of 1.
    fn is_light(&self, now: Duration, level: f64) -> bool {
        let kept = self.kept(now);
        let most = self.frames * kept * (1.0 + SURE / (self.requests * kept).sqrt());
        self.is_near(now) && most < LITTLE * level * f64::from(self.weight.get())
    }
}

/// The max-min fair share of a tenant of weight 1 where the device can do `room` frames: whoever asks for less than its share leaves the rest to the others. It
/// is the most that somebody asks for where there is room for all.
fn level<'a>(asking: impl Iterator<Item = &'a Lately>, room: f64, now: Duration) -> f64 {
    let near = asking.filter(|own| own.is_near(now));
    let asked = near.map(|own| (own.frames * own.kept(now), f64::from(own.weight.get())));
    let mut asked: Vec<(f64, f64)> = asked.collect();
    asked.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    let mut weights: f64 = asked.iter().map(|(_, weight)| weight).sum();
    let (mut room, mut level) = (room, 0.0);
    for (frames, weight) in asked {
        level = f64::min(frames / weight, room / weights);
        room -= level * weight;
        weights -= weight;
    }
    level
}

impl Sharing {
    /// Records a tenant's request of so many frames at the time `now`.
    pub(in crate::engine) fn asked(
        &mut self,
        (tenant, weight): (&TenantId, Weight),
        class: Class,
        frames: u64,
        now: Duration,
    ) {
        match class {
            Class::Interactive => self.look((tenant, weight), frames, now),
            Class::Batch => {
                let begin = Lately::new(Weight::ONE, now);
                let own = self.batch.get_or_insert(begin);
                own.add(Weight::ONE, frames, now);
            }
        }
        let is_same = |(own, last): &(TenantId, Class)| own == tenant && *last == class;
        if self.last.as_ref().is_some_and(is_same) {
            return;
        }
        if self.last.replace((tenant.clone(), class)).is_some() {
            self.changed = Some(now);
        }
    }

    fn look(&mut self, (tenant, weight): (&TenantId, Weight), frames: u64, now: Duration) {
        let is_known = self.lately.contains_key(tenant);
        if !is_known && self.lately.len() >= TENANTS {
            self.lately.retain(|_, own| own.is_near(now));
            if self.lately.len() >= TENANTS {
                return;
            }
        }
        let begin = Lately::new(weight, now);
        let own = self.lately.entry(tenant.clone()).or_insert(begin);
        own.add(weight, frames, now);
    }

    /// Returns whether a tenant asked lately, beside others, for clearly less than its fair share of the device: it waits for the batches of others alone,
    /// however long these are.
    pub(in crate::engine) fn has_light(&self, pace: &Pace, now: Duration) -> bool {
        let asking = self.lately.values().chain(&self.batch);
        let level = level(asking, pace.frames_in(MEMORY), now);
        self.lately.values().any(|own| own.is_light(now, level))
    }

    /// Returns whether a tenant asked lately for clearly less than its fair share among the interactive tenants.
    pub(in crate::engine) fn is_light(
        &self,
        tenant: &TenantId,
        pace: &Pace,
        now: Duration,
    ) -> bool {
        let level = || level(self.lately.values(), pace.frames_in(MEMORY), now);
        let own = self.lately.get(tenant);
        own.is_some_and(|own| own.is_light(now, level()))
    }

    /// Returns whether more than one tenant, or one tenant in both classes, sent requests within the last minute.
    pub(in crate::engine) fn is_shared(&self, now: Duration) -> bool {
        self.changed
            .is_some_and(|changed| now.saturating_sub(changed) < WINDOW)
    }

    /// Returns the most frames of the next batch of requests. A tenant that is alone on the device, with requests of one class, gets the full throughput.
    pub(in crate::engine) fn limit(&self, pace: &Pace, now: Duration) -> usize {
        match self.is_shared(now) {
            true if self.has_light(pace, now) => pace.limit_within(LIGHT),
            true => pace.limit(),
            false => usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().expect("a tenant")
    }

    /// The pace of a device that has not run yet.
    fn unknown() -> Pace {
        Pace::new(Duration::from_millis(100))
    }

    /// The pace of a device that does so many frames a second.
    fn pace(frames_per_s: f64) -> Pace {
        let mut pace = unknown();
        for _ in 0..10 {
            pace.ran(64, Duration::from_secs_f64(64.0 / frames_per_s));
        }
        pace
    }

    /// Notes a request of a clip of eight frames.
    fn asks(sharing: &mut Sharing, own: &TenantId, class: Class, at: Duration) {
        sharing.asked((own, Weight::ONE), class, 8, at);
    }

    #[test]
    fn a_device_is_shared_for_a_minute_after_another_tenant_asked() {
        let (flood, quiet) = (tenant("flood"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        assert!(!sharing.is_shared(at(0)));
        for second in 0..100 {
            asks(&mut sharing, &flood, Class::Interactive, at(second));
            assert!(!sharing.is_shared(at(second)));
        }
        asks(&mut sharing, &quiet, Class::Interactive, at(100));
        asks(&mut sharing, &flood, Class::Interactive, at(101));
        for second in 101..161 {
            asks(&mut sharing, &flood, Class::Interactive, at(second));
            assert!(sharing.is_shared(at(second)));
        }
        assert!(!sharing.is_shared(at(161)));
    }

    #[test]
    fn one_tenant_with_both_classes_shares_the_device_with_itself() {
        let tenant = tenant("a");
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        asks(&mut sharing, &tenant, Class::Batch, at(0));
        assert!(!sharing.is_shared(at(1)));
        asks(&mut sharing, &tenant, Class::Interactive, at(2));
        assert!(sharing.is_shared(at(3)));
    }

    #[test]
    fn a_tenant_that_asks_for_much_less_than_the_others_is_light_until_it_is_silent() {
        let (one, other, quiet) = (tenant("one"), tenant("other"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_millis;
        for time in (0..5000).step_by(10) {
            asks(&mut sharing, &one, Class::Interactive, at(time));
            asks(&mut sharing, &other, Class::Interactive, at(time));
            assert!(
                !sharing.has_light(&unknown(), at(time)),
                "both ask for the same"
            );
        }
        asks(&mut sharing, &quiet, Class::Interactive, at(5000));
        assert!(
            sharing.is_light(&quiet, &unknown(), at(5000))
                && !sharing.is_light(&one, &unknown(), at(5000))
        );
        // Others ask on, and this one is silent.
        for time in (5000..16_000).step_by(10) {
            asks(&mut sharing, &one, Class::Interactive, at(time));
            asks(&mut sharing, &other, Class::Interactive, at(time));
        }
        assert!(!sharing.has_light(&unknown(), at(16_000)));
    }

    #[test]
    fn as_many_tenants_as_there_may_be_are_looked_at_and_those_who_left_make_room() {
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        for number in 0..2 * TENANTS {
            let own = tenant(&format!("t{number}"));
            asks(&mut sharing, &own, Class::Interactive, at(20));
        }
        assert_eq!(sharing.lately.len(), TENANTS);
        asks(&mut sharing, &tenant("quiet"), Class::Interactive, at(40));
        assert_eq!(sharing.lately.len(), 1);
    }

    #[test]
    fn what_is_little_follows_from_weights_and_frames() {
        let (small, large) = (tenant("small"), tenant("large"));
        let light = |weight: u32, frames: u64| {
            let weight = Weight::new(weight.try_into().expect("a weight"));
            let mut sharing = Sharing::default();
            for time in (0..30_000).step_by(10) {
                let at = Duration::from_millis(time);
                sharing.asked((&small, weight), Class::Interactive, 8, at);
                sharing.asked((&large, Weight::ONE), Class::Interactive, frames, at);
            }
            // What both ask for is half as much again as the device can do.
            let pace = pace((8 + frames) as f64 * 100.0 / 1.5);
            sharing.is_light(&small, &pace, Duration::from_secs(30))
        };
        assert!(!light(1, 8), "two thirds of what it asks for are its share");
        assert!(
            light(1, 32),
            "a third of the device is little where the other has two"
        );
        assert!(!light(1, 16), "a half is not");
        assert!(light(3, 16), "it is where three quarters are fair");
    }

    #[test]
    fn a_tenant_that_is_alone_waits_for_nobody_and_beside_the_batch_class_for_that() {
        let (one, quiet) = (tenant("one"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_secs;
        asks(&mut sharing, &quiet, Class::Interactive, at(1));
        assert!(
            !sharing.has_light(&unknown(), at(1)) && !sharing.is_light(&quiet, &unknown(), at(1))
        );
        for _ in 0..20 {
            asks(&mut sharing, &one, Class::Batch, at(2));
        }
        assert!(sharing.has_light(&unknown(), at(2)));
        // It goes before interactive tenants, of whom there is no other.
        assert!(!sharing.is_light(&quiet, &unknown(), at(2)));
        assert!(!sharing.has_light(&unknown(), at(12)));
    }

    /// Whether a tenant that asks for a clip of eight frames 20 times a second goes first at the end of a minute. Another one asks for `flood` frames every ten
    /// milliseconds, and `rare` ones for a clip every eight seconds, beside a device that does 1,200 frames a second.
    fn is_light_among(flood: u64, rare: usize) -> bool {
        let (many, quiet) = (tenant("flood"), tenant("quiet"));
        let mut sharing = Sharing::default();
        let at = Duration::from_millis;
        for time in (0..60_000).step_by(10) {
            sharing.asked((&many, Weight::ONE), Class::Interactive, flood, at(time));
            if time % 50 == 0 {
                asks(&mut sharing, &quiet, Class::Interactive, at(time));
            }
            let rare = (0..rare).filter(|own| (time / 10) as usize % 800 == 17 * own % 800);
            for own in rare {
                let own = tenant(&format!("t{own}"));
                asks(&mut sharing, &own, Class::Interactive, at(time));
            }
        }
        sharing.is_light(&quiet, &pace(1200.0), at(60_000))
    }

    #[test]
    fn tenants_who_ask_once_in_a_while_take_the_lead_from_nobody() {
        for rare in [0, 5, 20, 100] {
            assert!(is_light_among(12, rare), "{rare}");
        }
    }

    #[test]
    fn frames_beyond_what_the_device_can_do_raise_no_share() {
        let (many, half) = (tenant("flood"), tenant("half"));
        let mut sharing = Sharing::default();
        for time in (0..20_000).step_by(10) {
            let at = Duration::from_millis(time);
            // Most of these are cancelled before they run.
            sharing.asked((&many, Weight::ONE), Class::Interactive, 10_000, at);
            sharing.asked((&half, Weight::ONE), Class::Interactive, 6, at);
        }
        let now = Duration::from_secs(20);
        assert!(!sharing.is_light(&half, &pace(1200.0), now));
        assert!(is_light_among(10_000, 0));
    }
}
