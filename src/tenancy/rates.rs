//! Limits of a second: token buckets of the tenants that have any, and the shares of their limits that this process may grant.
//!
//! Invariant: over a longer time a tenant gets no more from this process than its share of the limit; a request that is granted is granted whole, and what
//! it takes beyond the tokens that are left is paid back before the next one. Memory is bounded by the number of tenants with limits.

mod share;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::TenantId;
use crate::metadata::{Amounts, FleetDemand, Rates, TenantDemand};
use crate::spec::{Rate, RateExceeded};

/// Shortest time after which a caller is told to try again.
const SOON: Duration = Duration::from_millis(1);

/// Whether a caller asks for the first time, or again for what it waits for, which is no further demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    First,
    Again,
}

/// Buckets of all tenants with limits.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    tenants: HashMap<TenantId, [Bucket; 2]>,
}

/// Tokens of one limit.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tokens that are left; negative while the last request is paid back.
    tokens: f64,
    /// Time up to which tokens were added; `None` before the first request.
    since: Option<Instant>,
    /// Tokens of a second that this process may grant; `None` while nothing was heard of others, when all may be granted.
    share: Option<f64>,
    /// What was asked for in this window, granted or not.
    asked: u64,
}

impl Bucket {
    const NEW: Self = Self {
        tokens: 0.0,
        since: None,
        share: None,
        asked: 0,
    };

    /// Takes tokens. Returns the time until there are some again when there are none.
    fn take(&mut self, limit: u64, amount: u64, now: Instant) -> Result<(), Duration> {
        let speed = self.share.unwrap_or(limit as f64).min(limit as f64);
        // A second's worth may come at once; less than one token would grant nothing ever.
        let most = speed.max(1.0);
        self.tokens = match self.since.replace(now) {
            Some(since) => {
                let time = now.saturating_duration_since(since).as_secs_f64();
                (self.tokens + speed * time).min(most)
            }
            None => most,
        };
        if self.tokens < 1.0 - 1e-9 {
            let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / speed);
            return Err(wait.unwrap_or(Duration::MAX).max(SOON));
        }
        self.tokens -= amount as f64;
        Ok(())
    }
}

impl Buckets {
    /// Takes an amount from a tenant's limit, if it has one.
    pub(super) fn take(
        &mut self,
        tenant: &TenantId,
        rates: Rates,
        (rate, amount, asks): (Rate, u64, Asks),
        now: Instant,
    ) -> Result<(), RateExceeded> {
        let Some(limit) = rates.get(rate) else {
            return Ok(());
        };
        let exceeded = |wait| RateExceeded { rate, limit, wait };
        if limit == 0 {
            return Err(exceeded(None));
        }
        let buckets = match self.tenants.get_mut(tenant) {
            Some(buckets) => buckets,
            None => self
                .tenants
                .entry(tenant.clone())
                .or_insert([Bucket::NEW; 2]),
        };
        let bucket = &mut buckets[place(rate)];
        if asks == Asks::First {
            bucket.asked = bucket.asked.saturating_add(amount);
        }
        let taken = bucket.take(limit, amount, now);
        taken.map_err(|wait| exceeded(Some(wait)))
    }

    /// Gives back what was taken and not used. A bucket never gets fuller thereby than a second's worth.
    pub(super) fn give_back(&mut self, tenant: &TenantId, (rate, amount): (Rate, u64)) {
        if let Some(buckets) = self.tenants.get_mut(tenant) {
            buckets[place(rate)].tokens += amount as f64;
        }
    }

    /// What this process grants a tenant in a second.
    pub(super) fn granted(&self, tenant: &TenantId, rates: Rates) -> Rates {
        let share = |rate| {
            let share = self.tenants.get(tenant)?[place(rate)].share?;
            // A share is no more than the limit, which is a whole number.
            Some(share.round() as u64)
        };
        let granted = |rate| rates.get(rate).map(|limit| share(rate).unwrap_or(limit));
        Rates {
            clip_frames: granted(Rate::ClipFrames),
            requests: granted(Rate::Requests),
        }
    }

    /// Forgets tenants that have no limit any more.
    pub(super) fn keep(&mut self, has_limits: impl Fn(&TenantId) -> bool) {
        self.tenants.retain(|tenant, _| has_limits(tenant));
    }

    /// What was asked for since the last call, of tenants that asked for something.
    pub(super) fn asked(&mut self) -> Vec<TenantDemand> {
        let mut all = Vec::new();
        for (tenant, buckets) in &mut self.tenants {
            let asked = |rate| buckets[place(rate)].asked;
            let asked = Amounts {
                requests: asked(Rate::Requests),
                clip_frames: asked(Rate::ClipFrames),
                ..Amounts::default()
            };
            buckets.iter_mut().for_each(|bucket| bucket.asked = 0);
            if asked != Amounts::default() {
                let tenant = tenant.clone();
                all.push(TenantDemand { tenant, asked });
            }
        }
        all
    }

    /// Sets the shares by what tenants asked of each process in a window.
    pub(super) fn heard(
        &mut self,
        process: &str,
        fleet: &[FleetDemand],
        window: Duration,
        limits: impl Fn(&TenantId) -> Rates,
    ) {
        let mut tenants: HashMap<&TenantId, Vec<&FleetDemand>> = HashMap::new();
        for heard in fleet {
            tenants.entry(&heard.demand.tenant).or_default().push(heard);
        }
        let known: HashSet<&TenantId> = tenants.keys().copied().collect();
        for (tenant, buckets) in &mut self.tenants {
            if !known.contains(tenant) {
                // Nobody was asked lately: the next window is everybody's.
                buckets.iter_mut().for_each(|bucket| bucket.share = None);
            }
        }
        for (tenant, heard) in tenants {
            let rates = limits(tenant);
            let buckets = self
                .tenants
                .entry(tenant.clone())
                .or_insert([Bucket::NEW; 2]);
            for rate in Rate::ALL {
                let Some(limit) = rates.get(rate) else {
                    continue;
                };
                let (demands, own) = demands(&heard, process, rate, window);
                let share = share::share(limit as f64, &demands, own);
                buckets[place(rate)].share = Some(share);
            }
        }
        self.keep(|tenant| limits(tenant) != Rates::default());
    }
}

/// What was asked of each process in a second, and the place of this one among them.
fn demands(
    heard: &[&FleetDemand],
    process: &str,
    rate: Rate,
    window: Duration,
) -> (Vec<f64>, usize) {
    let of = |heard: &&FleetDemand| {
        let asked = heard.demand.asked;
        let asked = match rate {
            Rate::ClipFrames => asked.clip_frames,
            Rate::Requests => asked.requests,
        };
        asked as f64 / window.as_secs_f64()
    };
    let mut demands: Vec<f64> = heard.iter().map(of).collect();
    let own = heard.iter().position(|heard| heard.process == process);
    let own = own.unwrap_or_else(|| {
        demands.push(0.0);
        demands.len() - 1
    });
    (demands, own)
}

fn place(rate: Rate) -> usize {
    match rate {
        Rate::ClipFrames => 0,
        Rate::Requests => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn tenant() -> TenantId {
        "acme".parse().unwrap()
    }

    fn limits(clip_frames: u64) -> Rates {
        Rates {
            clip_frames: Some(clip_frames),
            requests: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_gets_its_limit_and_is_told_when_there_is_more() {
        let (mut buckets, tenant, limit) = (Buckets::default(), tenant(), limits(100));
        let mut take = |amount| {
            let ask = (Rate::ClipFrames, amount, Asks::First);
            buckets.take(&tenant, limit, ask, Instant::now())
        };
        // A second's worth, and the request that goes beyond it.
        assert_eq!(take(90), Ok(()));
        assert_eq!(take(60), Ok(()));
        let refused = take(1).unwrap_err();
        assert_eq!((refused.rate, refused.limit), (Rate::ClipFrames, 100));
        assert_eq!(refused.wait, Some(Duration::from_millis(510)));
        tokio::time::advance(Duration::from_millis(509)).await;
        assert!(take(1).is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(take(1), Ok(()));
        // An hour of rest is worth a second.
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(take(100), Ok(()));
        assert!(take(1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn over_a_minute_a_tenant_gets_no_more_than_its_limit() {
        let (mut buckets, tenant, limit) = (Buckets::default(), tenant(), limits(1000));
        let mut granted = 0;
        for _ in 0..6000 {
            let ask = (Rate::ClipFrames, 48, Asks::First);
            if buckets.take(&tenant, limit, ask, Instant::now()).is_ok() {
                granted += 48;
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((59_000..=61_048).contains(&granted), "{granted}");
    }

    #[test]
    fn a_limit_of_0_allows_none_and_no_limit_allows_all() {
        let mut buckets = Buckets::default();
        let ask = (Rate::ClipFrames, 1, Asks::First);
        let refused = buckets.take(&tenant(), limits(0), ask, Instant::now());
        assert_eq!(refused.unwrap_err().wait, None);
        for _ in 0..1000 {
            let ask = (Rate::Requests, u64::MAX, Asks::First);
            let free = buckets.take(&tenant(), limits(0), ask, Instant::now());
            assert_eq!(free, Ok(()));
        }
        assert!(buckets.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn asking_again_is_no_further_demand_and_what_is_given_back_can_be_taken() {
        let (mut buckets, own, limit) = (Buckets::default(), tenant(), limits(100));
        let frames = |amount, asks| (Rate::ClipFrames, amount, asks);
        let now = Instant::now();
        let take = |buckets: &mut Buckets, ask| buckets.take(&own, limit, ask, now);
        assert_eq!(take(&mut buckets, frames(100, Asks::First)), Ok(()));
        assert!(take(&mut buckets, frames(60, Asks::First)).is_err());
        for _ in 0..10 {
            assert!(take(&mut buckets, frames(60, Asks::Again)).is_err());
        }
        assert_eq!(buckets.asked()[0].asked.clip_frames, 160);
        buckets.give_back(&own, (Rate::ClipFrames, 100));
        assert_eq!(take(&mut buckets, frames(100, Asks::Again)), Ok(()));
        assert!(take(&mut buckets, frames(1, Asks::Again)).is_err());
        // What was not taken adds to no more than a second's worth.
        buckets.give_back(&own, (Rate::ClipFrames, 1000));
        assert_eq!(take(&mut buckets, frames(100, Asks::Again)), Ok(()));
        assert!(take(&mut buckets, frames(1, Asks::Again)).is_err());
    }

    /// Processes that a tenant floods, each with so many clip-frames a second.
    struct Fleet {
        buckets: Vec<Buckets>,
        asks: Vec<u64>,
    }

    impl Fleet {
        /// Lets a window pass. Returns what was granted in it.
        async fn window(&mut self, limit: u64) -> u64 {
            let mut granted = 0;
            for _ in 0..1000 {
                for (buckets, asks) in self.buckets.iter_mut().zip(&self.asks) {
                    let ask = (Rate::ClipFrames, asks / 100, Asks::First);
                    if *asks > 0
                        && buckets
                            .take(&tenant(), limits(limit), ask, Instant::now())
                            .is_ok()
                    {
                        granted += asks / 100;
                    }
                }
                tokio::time::advance(Duration::from_millis(10)).await;
            }
            let mut fleet = Vec::new();
            for (place, buckets) in self.buckets.iter_mut().enumerate() {
                let process = place.to_string();
                let own = buckets.asked().into_iter();
                fleet.extend(own.map(|demand| FleetDemand {
                    process: process.clone(),
                    demand,
                }));
            }
            for (place, buckets) in self.buckets.iter_mut().enumerate() {
                buckets.heard(&place.to_string(), &fleet, WINDOW, |_| limits(limit));
            }
            granted
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_processes_keep_a_limit_after_two_windows() {
        for asks in [
            [10_000, 10_000, 10_000],
            [20_000, 400, 0],
            [600, 900, 20_000],
        ] {
            let mut fleet = Fleet {
                buckets: (0..3).map(|_| Buckets::default()).collect(),
                asks: asks.to_vec(),
            };
            let limit = 1000;
            // The first window is everybody's.
            assert!(fleet.window(limit).await <= 3 * 12 * limit);
            fleet.window(limit).await;
            for _ in 0..5 {
                let granted = fleet.window(limit).await;
                let allowed = 10 * limit;
                assert!(
                    (allowed * 95 / 100..=allowed * 105 / 100).contains(&granted),
                    "{asks:?}: {granted}"
                );
            }
            // The tenant changes over to another process, and is served there.
            fleet.asks.rotate_left(1);
            fleet.window(limit).await;
            let granted = fleet.window(limit).await;
            assert!(granted >= 9 * limit, "{asks:?}: {granted}");
        }
    }
}
