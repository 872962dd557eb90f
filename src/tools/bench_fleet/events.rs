//! How many events of jobs many writers make durable, with hints to other processes after each and with none.
//!
//! Invariant: both are measured in turns on the same jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use serde_json::json;

use super::figures::{Figures, Goal};
use super::fill::record;
use super::{Args, Error};
use crate::metadata::{Claim, Database, Event, JobUpdate, MetadataStore, Topic};

/// Writers at a time.
const WRITERS: u32 = 32;
/// How long a claim holds: longer than the command runs.
const LEASE: Duration = Duration::from_secs(3600);
/// Turns of each kind.
const TURNS: u32 = 4;

/// Writes events for a while. Returns how many transactions were committed a second.
async fn turn(
    database: &Database,
    claims: &[Claim],
    has_hints: bool,
    span: Duration,
) -> Result<f64, Error> {
    let hints = has_hints.then(|| {
        let database = database.clone();
        tokio::spawn(async move { database.exchange_hints().await })
    });
    let store: Arc<dyn MetadataStore> = Arc::new(database.clone());
    let begun = Instant::now();
    let writers = claims.iter().map(|claim| {
        let store = Arc::clone(&store);
        async move {
            let event = Event::Message {
                text: "measured".into(),
                warning: false,
            };
            let mut commits = 0u64;
            while begun.elapsed() < span {
                let events = std::slice::from_ref(&event);
                let (state, update) = (claim.job.state, JobUpdate::default());
                store
                    .append_events(&claim.lease, state, events, update)
                    .await?;
                if has_hints {
                    store.tell(Topic::Jobs);
                }
                commits += 1;
            }
            Ok::<_, Error>(commits)
        }
    });
    let commits: u64 = try_join_all(writers).await?.iter().sum();
    let took = begun.elapsed().as_secs_f64();
    if let Some(hints) = hints {
        hints.abort();
    }
    Ok(commits as f64 / took)
}

/// Measures.
///
/// # Errors
/// When the database fails, or has too few jobs that wait.
pub(super) async fn measure(
    database: &Database,
    arguments: &Args,
    figures: &mut Figures,
) -> Result<(), Error> {
    let name = "commits of events with hints / without";
    let store: &dyn MetadataStore = database;
    let mut claims = Vec::new();
    for _ in 0..WRITERS {
        if let Some(claim) = store.claim_job("bench", LEASE).await? {
            claims.push(claim);
        }
    }
    if claims.is_empty() {
        figures.skip(name, "no job waits");
        return Ok(());
    }
    let span = Duration::from_secs_f64(arguments.seconds);
    let (mut with, mut without) = (0.0, 0.0);
    for round in 0..TURNS {
        for has_hints in [round % 2 == 0, round % 2 != 0] {
            let rate = turn(database, &claims, has_hints, span).await?;
            *(if has_hints { &mut with } else { &mut without }) += rate / f64::from(TURNS);
        }
    }
    let ratio: f64 = record(if without > 0.0 {
        Ok(with / without)
    } else {
        Err("no commit")
    })?;
    let more = json!({ "with_per_s": with, "without_per_s": without, "writers": claims.len() });
    figures.tell(name, (ratio, ""), Goal::AtLeast(0.95), more);
    Ok(())
}
