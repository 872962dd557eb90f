//! An issuer's public keys, fetched by one at a time and kept while the issuer is away.
//!
//! Invariant: callers never cause more than one fetch in [`Timing::unknown`], however many tokens name keys that do not exist; keys that are weak or for
//! something else are not used; a caller that leaves stops no fetch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::time::Instant;

use super::source::Source;
use super::token::{Flaw, Head};
use super::{Issuer, Timing};
use crate::telemetry::metrics::Metrics;
use crate::tenancy::credentials::Refused;

#[cfg(any(feature = "oidc", test))]
mod read;

/// A public key of an issuer.
#[derive(Debug, Clone)]
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Key {
    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// A key whose private half nobody has.
    #[cfg(any(fuzzing, test))]
    pub(super) fn for_fuzzing(algorithm: Algorithm) -> Self {
        use jsonwebtoken::AlgorithmFamily;
        let decoding = match algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_raw_components(&[0xc5; 256], &[1, 0, 1]),
            AlgorithmFamily::Ec => DecodingKey::from_ec_der(&[4; 65]),
            AlgorithmFamily::Ed | AlgorithmFamily::Hmac => DecodingKey::from_ed_der(&[7; 32]),
        };
        Self {
            id: None,
            algorithms: vec![algorithm],
            decoding,
        }
    }
}

/// The keys of a set that can be used.
#[derive(Debug, Default)]
pub(super) struct Set(Vec<Arc<Key>>);

impl Set {
    /// The key that a token names; one that names none means the only key for its algorithm.
    fn find(&self, head: &Head) -> Option<Arc<Key>> {
        let fits = |key: &&Arc<Key>| {
            let is_named = head.key_id.is_none() || key.id == head.key_id;
            is_named && key.algorithms.contains(&head.algorithm)
        };
        let mut fitting = self.0.iter().filter(fits);
        let first = fitting.next()?;
        let is_only = head.key_id.is_some() || fitting.next().is_none();
        is_only.then(|| Arc::clone(first))
    }
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    timing: Timing,
    metrics: Metrics,
    /// A plain mutex, because it is held to clone a pointer and never across an await.
    state: Mutex<State>,
    /// Held by whoever fetches.
    flight: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone)]
struct State {
    /// The keys that were fetched last, and when.
    fetched: Option<(Arc<Set>, Instant)>,
    /// When the last fetch began.
    tried: Option<Instant>,
    /// Whether the last fetch failed.
    is_failing: bool,
}

impl Keys {
    pub(super) fn new(issuer: &Issuer, timing: Timing, metrics: Metrics) -> Self {
        Self {
            source: Source::of(issuer),
            timing,
            metrics,
            state: Mutex::default(),
            flight: tokio::sync::Mutex::default(),
        }
    }

    /// Whether an issuer's keys are fetched in the same way as these.
    pub(super) fn are_of(&self, issuer: &Issuer) -> bool {
        self.source == Source::of(issuer)
    }

    /// The key that a token names.
    pub(super) async fn find(self: &Arc<Self>, head: &Head) -> Result<Arc<Key>, Refused> {
        let mut asked = Instant::now();
        let mut is_second = false;
        loop {
            let state = self.state().clone();
            let fresh = state.fetched.filter(|(_, when)| {
                asked.saturating_duration_since(*when) < self.timing.stale_limit
            });
            let found = fresh.as_ref().and_then(|(set, _)| set.find(head));
            if let Some(key) = found {
                return Ok(key);
            }
            let pause = match fresh {
                Some(_) => self.timing.unknown,
                None => self.timing.retry,
            };
            let is_recent = state
                .tried
                .is_some_and(|tried| asked.saturating_duration_since(tried) < pause);
            // A fetch that is under way may bring the key.
            let is_fetching = self.flight.try_lock().is_err();
            if is_second || (is_recent && !is_fetching) {
                return Err(match fresh {
                    // Perhaps the key is one that the issuer made while it could not be asked.
                    Some(_) if !state.is_failing => Refused::Token(Flaw::Key),
                    Some(_) | None => Refused::IssuerAway,
                });
            }
            if is_fetching {
                drop(self.flight.lock().await);
            } else {
                // On a worker of its own: a caller that leaves would else end the fetch, and nobody could begin another for a while.
                let (this, since) = (Arc::clone(self), asked);
                let fetching = tokio::spawn(async move { this.fetch(since).await });
                let _ = fetching.await;
            }
            is_second = true;
            asked = Instant::now();
        }
    }

    /// Begins to fetch the keys when they are due.
    pub(super) fn refresh_if_due(self: &Arc<Self>) {
        let now = Instant::now();
        let state = self.state().clone();
        let is_old = state
            .fetched
            .is_none_or(|(_, when)| now.saturating_duration_since(when) >= self.timing.refresh);
        let is_recent = state
            .tried
            .is_some_and(|tried| now.saturating_duration_since(tried) < self.timing.unknown);
        if is_old && !is_recent {
            let this = Arc::clone(self);
            tokio::spawn(async move { this.fetch(now).await });
        }
    }

    /// Fetches the keys, unless somebody has begun to since.
    async fn fetch(&self, since: Instant) {
        let _flight = self.flight.lock().await;
        let began = Instant::now();
        {
            let mut state = self.state();
            if state.tried.is_some_and(|tried| tried >= since) {
                return;
            }
            state.tried = Some(began);
        }
        let fetched = self.source.keys().await;
        self.metrics.issuer_keys_fetched(fetched.is_ok());
        let mut state = self.state();
        match fetched {
            Ok(set) => {
                if state.is_failing {
                    tracing::info!(issuer = %self.source.url, "the issuer's keys can be fetched again");
                }
                state.is_failing = false;
                state.fetched = Some((Arc::new(set), began));
            }
            Err(error) => {
                if !state.is_failing {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, issuer = %self.source.url, "the issuer's keys cannot be fetched");
                }
                state.is_failing = true;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Fields are set one after another without a way to fail between them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
