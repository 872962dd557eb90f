//! What this process knows of tenants and keeps for them: their terms, their limits of a second, their counts.
//!
//! Invariant: a call is decided from memory, without a query; the terms are true by the change feed, and stay as they were while the database is away. A
//! tenant that nobody created has the usual terms.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::calls::{Calls, TooManyCalls, Underway};
use super::meter::Meter;
use super::rates::{Asks, Buckets};
use crate::fair::{Weight, Weights};
use crate::ids::{TaskId, TenantId};
use crate::metadata::{
    self, AccessChange, AtOnce, Cursor, MetadataStore, Rates, TenantState, Terms,
};
use crate::shutdown::Signal;
use crate::spec::{Rate, RateExceeded};

/// Tenants or changes that are read at once.
const PAGE: u32 = 1000;
/// Time between two batches of counts, and length of the windows after which processes hear what tenants asked of the others.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Why a tenant's call is refused before anything is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The tenant is being erased, or was.
    #[error("the tenant was erased")]
    Erased,
    /// The tenant is suspended.
    #[error("the caller's tenant is suspended")]
    Suspended,
    /// The tenant has used what it may in a second.
    #[error(transparent)]
    Rate(#[from] RateExceeded),
    /// The tenant has as many calls under way as it may have.
    #[error(transparent)]
    Calls(#[from] TooManyCalls),
}

/// The tenants. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Tenants(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metadata: Arc<dyn MetadataStore>,
    /// Terms of tenants that were created or erased. Plain locks, because they are held for look-ups in memory and never across an await.
    known: RwLock<HashMap<TenantId, Terms>>,
    buckets: Mutex<Buckets>,
    calls: Calls,
    /// What tenants without limits of their own may have at once.
    defaults: OnceLock<AtOnce>,
    meter: Meter,
    hint: Notify,
    poll: Duration,
}

/// What a process does to forget what it keeps of tenants that are erased, all at once: a walk over what is kept costs the same for one as for many.
pub type Forget = Box<dyn Fn(HashSet<TenantId>) -> BoxFuture<'static, ()> + Send + Sync>;

impl Tenants {
    /// Tenants on record in `metadata`, of which none is known before [`Tenants::load`]; the change feed is read every `poll`.
    pub fn new(metadata: Arc<dyn MetadataStore>, meter: Meter, poll: Duration) -> Self {
        Self(Arc::new(Inner {
            metadata,
            known: RwLock::default(),
            buckets: Mutex::default(),
            calls: Calls::default(),
            defaults: OnceLock::new(),
            meter,
            hint: Notify::new(),
            poll,
        }))
    }

    /// The same tenants, which may have so much under way at once on this server where they have no limits of their own. Later calls change nothing.
    #[must_use]
    pub fn with_defaults(self, defaults: AtOnce) -> Self {
        let _ = self.0.defaults.set(defaults);
        self
    }

    /// Reads the terms of all tenants.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn load(&self) -> metadata::Result<()> {
        let mut known = HashMap::new();
        let mut after: Option<TenantId> = None;
        loop {
            let page = self.0.metadata.list_terms(after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            after = page.last().map(|(tenant, _)| tenant.clone());
            known.extend(page);
            if is_last {
                break;
            }
        }
        let mut own = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        *own = known;
        Ok(())
    }

    /// The terms of a tenant.
    pub fn terms(&self, tenant: &TenantId) -> Terms {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(tenant).copied().unwrap_or_default()
    }

    /// What a tenant may have under way at once on this server; `None` where only the components' own limits apply.
    pub fn at_once(&self, tenant: &TenantId) -> AtOnce {
        let defaults = self.0.defaults.get().copied().unwrap_or_default();
        self.terms(tenant).at_once.or(defaults)
    }

    /// Admits a call of a tenant, and counts it. Returns its place among those that are under way, which is to be held to the end of the answer. A suspended tenant is refused where callers have to prove who they are.
    ///
    /// # Errors
    /// When the tenant is not served, has as many calls under way as it may have, or has made as many as it may in a second.
    pub fn admit(&self, tenant: &TenantId, is_proven: bool) -> Result<Underway, Denied> {
        let terms = self.terms(tenant);
        match terms.state {
            TenantState::Erasing => return Err(Denied::Erased),
            TenantState::Suspended if is_proven => return Err(Denied::Suspended),
            TenantState::Suspended | TenantState::Active => {}
        }
        let place = self.0.calls.enter(tenant, self.at_once(tenant).requests)?;
        self.take(tenant, terms.rates, (Rate::Requests, 1, Asks::First))?;
        self.0.meter.request(tenant);
        Ok(place)
    }

    /// Takes clip-frames from what a tenant may have in a second.
    ///
    /// # Errors
    /// When the tenant has used that.
    pub fn charge(&self, tenant: &TenantId, clip_frames: u64) -> Result<(), RateExceeded> {
        self.take_frames(tenant, clip_frames, Asks::First)
    }

    /// Takes clip-frames like [`Tenants::charge`], for a caller that was refused them and waits: it does not count as asked for once more.
    ///
    /// # Errors
    /// When there are still none.
    pub fn charge_again(&self, tenant: &TenantId, clip_frames: u64) -> Result<(), RateExceeded> {
        self.take_frames(tenant, clip_frames, Asks::Again)
    }

    /// Gives back clip-frames that were taken and are not run.
    pub fn give_back(&self, tenant: &TenantId, clip_frames: u64) {
        let taken = (Rate::ClipFrames, clip_frames);
        self.buckets().give_back(tenant, taken);
    }

    fn take_frames(&self, tenant: &TenantId, frames: u64, asks: Asks) -> Result<(), RateExceeded> {
        let rates = self.terms(tenant).rates;
        self.take(tenant, rates, (Rate::ClipFrames, frames, asks))
    }

    fn take(
        &self,
        tenant: &TenantId,
        rates: Rates,
        ask: (Rate, u64, Asks),
    ) -> Result<(), RateExceeded> {
        if rates == Rates::default() {
            return Ok(());
        }
        self.buckets().take(tenant, rates, ask, Instant::now())
    }

    /// What this process grants a tenant in a second, of the limits that the tenant has.
    pub fn granted(&self, tenant: &TenantId) -> Rates {
        let rates = self.terms(tenant).rates;
        self.buckets().granted(tenant, rates)
    }

    /// Counts clip-frames that were answered.
    pub fn answered(&self, tenant: &TenantId, task: Option<&TaskId>, clip_frames: u64) {
        self.0.meter.answered(tenant, task, clip_frames);
    }

    /// Counts time of the device.
    pub fn computed(&self, tenant: &TenantId, task: Option<&TaskId>, time: Duration) {
        self.0.meter.computed(tenant, task, time);
    }

    /// Counts processor time of decoding.
    pub fn decoded(&self, tenant: &TenantId, time: Duration) {
        self.0.meter.decoded(tenant, time);
    }

    /// Counts bytes of the bodies of calls and of answers.
    pub fn transferred(&self, tenant: &TenantId, received: u64, sent: u64) {
        self.0.meter.transferred(tenant, received, sent);
    }

    /// Has the feed read soon, since something has changed.
    pub fn look(&self) {
        self.0.hint.notify_one();
    }

    /// Follows the change feed until the drain; `forget` is called with every tenant that is erased, perhaps several times.
    ///
    /// # Errors
    /// Never: while the database is unavailable, the feed waits for it.
    pub async fn follow(self, forget: Forget, drain: Signal) -> Result<(), Infallible> {
        let mut cursor = None;
        let mut is_up = true;
        loop {
            let caught_up = self.catch_up(&mut cursor, &forget).await;
            match (&caught_up, is_up) {
                (Err(error), true) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, "changes of tenants cannot be read");
                }
                (Ok(()), false) => tracing::info!("changes of tenants can be read again"),
                (Ok(()), true) | (Err(_), false) => {}
            }
            is_up = caught_up.is_ok();
            tokio::select! {
                () = drain.draining() => return Ok(()),
                () = self.0.hint.notified(), if is_up => {}
                () = tokio::time::sleep(self.0.poll) => {}
            }
        }
    }

    async fn catch_up(&self, cursor: &mut Option<Cursor>, forget: &Forget) -> metadata::Result<()> {
        loop {
            let page = self.0.metadata.access_changes(cursor.clone(), PAGE).await?;
            let mut erased = HashSet::new();
            if page.is_gap || cursor.is_none() {
                self.load().await?;
                erased = self.erased();
            }
            for change in &page.changes {
                let AccessChange::Tenant(tenant) = change else {
                    continue;
                };
                let terms = self.read(tenant).await?;
                if terms.is_some_and(|terms| terms.state == TenantState::Erasing) {
                    erased.insert(tenant.clone());
                }
            }
            if !erased.is_empty() {
                forget(erased).await;
            }
            *cursor = Some(page.cursor);
            if page.is_last {
                return Ok(());
            }
        }
    }

    /// Reads the terms of a tenant that this process changed, and has the feed read soon, which knows better when this fails or was overtaken.
    pub(super) async fn refresh(&self, tenant: &TenantId) {
        let _ = self.read(tenant).await;
        self.look();
    }

    async fn read(&self, tenant: &TenantId) -> metadata::Result<Option<Terms>> {
        let terms = self.0.metadata.get_terms(tenant).await?;
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        match terms {
            Some(terms) => known.insert(tenant.clone(), terms),
            None => known.remove(tenant),
        };
        Ok(terms)
    }

    fn erased(&self) -> HashSet<TenantId> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let erased = known
            .iter()
            .filter(|own| own.1.state == TenantState::Erasing);
        erased.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// Brings counts to the records after every window, and once more at the drain.
    ///
    /// # Errors
    /// Never: what cannot be brought now is brought later.
    pub async fn keep_books(self, drain: Signal) -> Result<(), Infallible> {
        let mut ticks = tokio::time::interval(WINDOW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_up = true;
        loop {
            let is_draining = tokio::select! {
                () = drain.draining() => true,
                _ = ticks.tick() => false,
            };
            let closed = self.close_window().await;
            if let (Err(error), true) = (&closed, is_up) {
                let error = error as &dyn std::error::Error;
                tracing::warn!(error, "what tenants used cannot be recorded; it is kept");
            }
            is_up = closed.is_ok();
            if is_draining {
                return Ok(());
            }
        }
    }

    /// Brings counts to the records, and hears what tenants asked of other processes.
    ///
    /// # Errors
    /// When the records cannot be reached; the counts are brought with the next call.
    pub async fn close_window(&self) -> metadata::Result<()> {
        let records = &*self.0.metadata;
        let asked = self.buckets().asked();
        let fleet = match records.is_exclusive() || !self.has_limits() {
            // Nobody else grants anything.
            true => Ok(Vec::new()),
            false => {
                let process = self.0.meter.process();
                records.exchange_demands(process, &asked, WINDOW).await
            }
        };
        self.0.meter.flush(records).await?;
        let fleet = fleet?;
        let limits = |tenant: &TenantId| self.terms(tenant).rates;
        let process = self.0.meter.process();
        self.buckets().heard(process, &fleet, WINDOW, limits);
        Ok(())
    }

    fn has_limits(&self) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().any(|terms| terms.rates != Rates::default())
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        // Every bucket is whole after every single operation.
        self.0
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Weights for Tenants {
    fn of(&self, tenant: &TenantId) -> Weight {
        self.terms(tenant).weight
    }
}
