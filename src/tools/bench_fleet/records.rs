//! How long the statements take that servers of a fleet run all the time, on a filled database.
//!
//! Invariant: every figure is of a use case as the server calls it.

use std::time::{Duration, Instant};

use super::figures::{Figures, Goal};
use super::fill::{Fleet, record};
use super::{Args, Error};
use crate::ids::{TaskId, TenantId};
use crate::metadata::{MetadataStore, PageRequest, TaskUpdate};

/// How long a claim holds: longer than the command runs.
const LEASE: Duration = Duration::from_secs(3600);
/// The goal of a page of a listing, in milliseconds.
const LIST: Goal = Goal::AtMost(20.0);
/// The goal of what every server asks again and again, in milliseconds.
const POLL: Goal = Goal::AtMost(5.0);

/// Measures a use case many times.
async fn many<F: Future<Output = Result<(), Error>>>(
    rounds: u32,
    mut call: impl FnMut(u32) -> F,
) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        call(round).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

impl Fleet {
    /// Measures every use case.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn measure(
        &self,
        arguments: &Args,
        figures: &mut Figures,
    ) -> Result<(), Error> {
        let rounds = arguments.rounds;
        let tenant = |round: u32| &self.tenants[round as usize % self.tenants.len()];
        let page = PageRequest::new(100, "")?;
        let page = &page;
        let store = &self.store;
        let times = many(rounds, async |round| {
            Ok(store.list_tasks(tenant(round), page).await.map(drop)?)
        });
        figures.times("list tasks", &times.await?, LIST);
        let times = many(rounds, async |round| {
            Ok(store.list_videos(tenant(round), page).await.map(drop)?)
        });
        figures.times("list videos", &times.await?, LIST);
        let times = many(rounds, async |round| {
            Ok(store.list_jobs(tenant(round), page).await.map(drop)?)
        });
        figures.times("list jobs", &times.await?, LIST);
        self.feed(rounds, figures).await?;
        let times = many(rounds, async |_| {
            Ok(store.pending_tasks().await.map(drop)?)
        });
        figures.times("pending", &times.await?, POLL);
        let claims = rounds.min(arguments.jobs / 2);
        let times = many(claims, async |_| {
            match store.claim_job("bench", LEASE).await? {
                Some(_) => Ok(()),
                None => Err(Error::Record("no job waits".into())),
            }
        });
        figures.times("claim", &times.await?, POLL);
        let times = many(rounds, async |_| {
            Ok(store.release_lost_jobs(&[]).await.map(drop)?)
        });
        figures.times("look for lost", &times.await?, POLL);
        Ok(())
    }

    /// Polls the feed of changes, with a change each time and with none.
    async fn feed(&self, rounds: u32, figures: &mut Figures) -> Result<(), Error> {
        let mut cursor = self.store.changes_since(None, 1000).await?.cursor;
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        let first: TaskId = record("t0".parse())?;
        for round in 0..rounds {
            let tenant = &self.tenants[round as usize % self.tenants.len()];
            let update = TaskUpdate {
                auto_serve: Some(round % 2 == 0),
                ..TaskUpdate::default()
            };
            self.store.update_task(tenant, &first, update, None).await?;
            for times in [&mut busy, &mut quiet] {
                let begun = Instant::now();
                let page = self.store.changes_since(Some(cursor), 1000).await?;
                times.push(begun.elapsed());
                cursor = page.cursor;
            }
        }
        figures.times("poll, a change", &busy, POLL);
        figures.times("poll, none", &quiet, POLL);
        Ok(())
    }
}

/// Reads what a server reads before it serves: what is to be proved, and every serving version where no other server has the records.
///
/// # Errors
/// When the database fails.
pub(super) async fn start(store: &dyn MetadataStore) -> Result<(), Error> {
    /// Tasks that a server compares at once.
    const PAGE: u32 = 1000;
    let mut after: Option<(TenantId, TaskId)> = None;
    while store.is_exclusive() {
        let from = after.as_ref().map(|(tenant, task)| (tenant, task));
        let page = store.serving_versions(from, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        after = page
            .into_iter()
            .last()
            .map(|own| (own.version.tenant, own.version.task));
        if is_last {
            break;
        }
    }
    store.pending_tasks().await?;
    store.changes_since(None, PAGE).await?;
    Ok(())
}
