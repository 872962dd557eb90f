//! The events of watched jobs: one reader for all who watch a job, and how many may watch.
//!
//! Invariant: what a watched job costs depends on its own events alone, not on who watches it or on what other jobs do; whether other processes have
//! written some is one question for all jobs that are watched; whoever falls behind the shared buffer reads the records itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::Error;
use super::hints::Hints;
use crate::ids::{JobId, TenantId};
use crate::metadata::{self, Event, EventRecord, Jobs, Result};

/// Events that are read at a time.
const EVENTS: u32 = 256;
/// Jobs that one question is about.
const JOBS: usize = 1000;
/// Time after which a reader looks by itself: for what no question told it.
const LOOK: Duration = Duration::from_secs(60);
/// Events that a feed keeps for those who are a little behind.
const KEPT: usize = 512;

/// The feeds of one process.
#[derive(Debug)]
pub(super) struct Feeds {
    hints: Arc<Hints>,
    poll: Duration,
    limit: usize,
    /// Held for a look-up only, never across an await.
    open: Mutex<Open>,
    watchers: Mutex<HashMap<TenantId, usize>>,
}

/// The feeds that there are, and whether somebody asks for all of them what is new.
#[derive(Debug, Default)]
struct Open {
    feeds: HashMap<JobId, Weak<Feed>>,
    is_polled: bool,
}

/// The newest events of a job, for as long as somebody watches it.
#[derive(Debug)]
struct Feed {
    tenant: TenantId,
    news: Arc<News>,
    /// Has the reader look.
    wake: Arc<Notify>,
    _reader: AbortOnDropHandle<()>,
}

/// What the reader and the watchers of a job share.
#[derive(Debug)]
struct News {
    page: Mutex<Page>,
    /// Changes with the page.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Page {
    events: VecDeque<EventRecord>,
    /// Sequence number of the last event that was read.
    last: u64,
    has_ended: bool,
}

/// What a page has for a watcher that has read up to an event.
enum Unread {
    Events(VecDeque<EventRecord>),
    /// The watcher is behind what is kept, which begins with this number.
    Behind(u64),
    Nothing,
    Ended,
}

/// A watcher's place among those that its tenant may have.
#[derive(Debug)]
struct Place {
    feeds: Arc<Feeds>,
    tenant: TenantId,
}

/// Follows the events of one job.
pub(super) struct Watcher {
    jobs: Arc<dyn Jobs>,
    place: Place,
    job: JobId,
    after: u64,
    buffer: VecDeque<EventRecord>,
    feed: Option<(Arc<Feed>, watch::Receiver<u64>)>,
    /// Number of the newest event that is known to exist: a caller may name any number.
    last: u64,
    has_ended: bool,
    /// Whether nothing follows what is in the buffer.
    is_all: bool,
}

impl Feeds {
    /// Feeds that look for events of other processes every `poll`, and at most `limit` watchers of a tenant.
    pub(super) fn new(hints: Arc<Hints>, poll: Duration, limit: usize) -> Self {
        Self {
            hints,
            poll,
            limit,
            open: Mutex::default(),
            watchers: Mutex::new(HashMap::new()),
        }
    }

    fn enter(self: &Arc<Self>, tenant: &TenantId) -> std::result::Result<Place, Error> {
        let mut watchers = lock(&self.watchers);
        let count = watchers.entry(tenant.clone()).or_default();
        if *count >= self.limit {
            return Err(Error::TooManyWatchers { limit: self.limit });
        }
        *count += 1;
        Ok(Place {
            feeds: Arc::clone(self),
            tenant: tenant.clone(),
        })
    }

    /// The feed of a job, which begins after `after` when nobody else watches the job.
    fn feed(
        self: &Arc<Self>,
        jobs: &Arc<dyn Jobs>,
        tenant: &TenantId,
        (job, after): (JobId, u64),
    ) -> Arc<Feed> {
        let mut open = lock(&self.open);
        if let Some(feed) = open.feeds.get(&job).and_then(Weak::upgrade) {
            return feed;
        }
        open.feeds.retain(|_, feed| feed.strong_count() > 0);
        let news = Arc::new(News {
            page: Mutex::new(Page {
                last: after,
                ..Page::default()
            }),
            changes: watch::channel(0).0,
        });
        let wake = self.hints.events_of(job);
        let reader = Reader {
            jobs: Arc::clone(jobs),
            tenant: tenant.clone(),
            job,
            wake: Arc::clone(&wake),
            news: Arc::clone(&news),
        };
        let feed = Arc::new(Feed {
            tenant: tenant.clone(),
            news,
            wake,
            _reader: AbortOnDropHandle::new(tokio::spawn(reader.run(after))),
        });
        open.feeds.insert(job, Arc::downgrade(&feed));
        if !std::mem::replace(&mut open.is_polled, true) {
            tokio::spawn(ask(Arc::downgrade(self), Arc::clone(jobs), self.poll));
        }
        feed
    }

    /// The jobs that are watched, each with the last event that was read of it; nobody asks any more when there are none.
    fn watched(&self) -> Vec<(JobId, Arc<Feed>, u64)> {
        let mut open = lock(&self.open);
        let feeds = open.feeds.iter();
        let watched = feeds.filter_map(|(job, feed)| {
            let feed = feed.upgrade()?;
            let last = lock(&feed.news.page).last;
            Some((*job, feed, last))
        });
        let watched: Vec<_> = watched.collect();
        open.is_polled = !watched.is_empty();
        watched
    }
}

/// Asks again and again which of the jobs that are watched have events of other processes, and wakes the readers of those, until none is watched.
async fn ask(feeds: Weak<Feeds>, jobs: Arc<dyn Jobs>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(feeds) = feeds.upgrade() else {
            return;
        };
        let watched = feeds.watched();
        drop(feeds);
        if watched.is_empty() {
            return;
        }
        for some in watched.chunks(JOBS) {
            let asked: Vec<_> = (some.iter())
                .map(|(job, feed, _)| (feed.tenant.clone(), *job))
                .collect();
            let newest: HashMap<JobId, u64> = match jobs.newest_events(&asked).await {
                Ok(newest) => newest.into_iter().collect(),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot ask for new events of jobs");
                    continue;
                }
            };
            for (job, feed, last) in some {
                // The reader of one that is gone finds that out by itself.
                if newest.get(job).is_none_or(|newest| newest > last) {
                    feed.wake.notify_one();
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut watchers = lock(&self.feeds.watchers);
        if let Some(count) = watchers.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                watchers.remove(&self.tenant);
            }
        }
    }
}

/// Reads the events of one job for all who watch it.
struct Reader {
    jobs: Arc<dyn Jobs>,
    tenant: TenantId,
    job: JobId,
    wake: Arc<Notify>,
    news: Arc<News>,
}

impl Reader {
    async fn run(self, mut last: u64) {
        // A job that ended before anybody listened has no more events to tell so.
        let mut has_ended = match self.jobs.get_job(&self.tenant, self.job).await {
            Ok(job) => job.state.is_final(),
            Err(error) => is_gone(&error),
        };
        loop {
            let read = self.jobs.list_events(&self.tenant, self.job, last, EVENTS);
            let events = match read.await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(job = %self.job, error = &error as &dyn std::error::Error, "cannot read a job's events");
                    has_ended |= is_gone(&error);
                    Vec::new()
                }
            };
            let is_empty = events.is_empty();
            let is_all = events.len() < EVENTS as usize;
            last = events.last().map_or(last, |event| event.sequence);
            let ends_here = events.iter().any(is_end);
            self.news.add(events, ends_here || (has_ended && is_empty));
            if ends_here || (has_ended && is_empty) {
                return;
            }
            if is_all && !has_ended {
                // A timeout is not an error: it is when the database is asked without being told to.
                let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
            }
        }
    }
}

impl News {
    fn add(&self, events: Vec<EventRecord>, has_ended: bool) {
        if events.is_empty() && !has_ended {
            return;
        }
        let mut page = lock(&self.page);
        page.last = events.last().map_or(page.last, |event| event.sequence);
        page.events.extend(events);
        let surplus = page.events.len().saturating_sub(KEPT);
        page.events.drain(..surplus);
        page.has_ended |= has_ended;
        drop(page);
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn find(&self, after: u64) -> Unread {
        let page = lock(&self.page);
        if after >= page.last {
            return if page.has_ended {
                Unread::Ended
            } else {
                Unread::Nothing
            };
        }
        // An empty buffer begins after the last event that was read.
        let first = page
            .events
            .front()
            .map_or(page.last + 1, |event| event.sequence);
        if after + 1 < first {
            return Unread::Behind(first);
        }
        let news = page.events.iter().filter(|event| event.sequence > after);
        Unread::Events(news.cloned().collect())
    }
}

impl Watcher {
    /// A watcher of a job's events after a sequence number.
    pub(super) async fn new(
        jobs: Arc<dyn Jobs>,
        feeds: &Arc<Feeds>,
        tenant: &TenantId,
        job: JobId,
        after: u64,
    ) -> std::result::Result<Self, Error> {
        let place = feeds.enter(tenant)?;
        let record = jobs.get_job(tenant, job).await?;
        Ok(Self {
            jobs,
            place,
            job,
            after,
            buffer: VecDeque::new(),
            feed: None,
            last: record.last_event,
            has_ended: record.state.is_final(),
            is_all: false,
        })
    }

    /// The next event; `None` when the job has ended and all were seen.
    pub(super) async fn next(&mut self) -> Result<Option<EventRecord>> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                self.after = event.sequence;
                return Ok(Some(event));
            }
            let Some((feed, changes)) = &mut self.feed else {
                if !self.replay().await? {
                    return Ok(None);
                }
                continue;
            };
            changes.mark_unchanged();
            match feed.news.find(self.after) {
                Unread::Events(events) => self.buffer = events,
                Unread::Behind(first) => {
                    self.read().await?;
                    if self.buffer.is_empty() {
                        // What is not kept any more cannot be told.
                        self.after = first - 1;
                    }
                }
                Unread::Ended => return Ok(None),
                Unread::Nothing => {
                    // The sender lives as long as the feed.
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// Reads what was written before; joins the feed where that ends. `false` when the job has ended.
    async fn replay(&mut self) -> Result<bool> {
        if self.is_all {
            return Ok(false);
        }
        self.read().await?;
        if self.buffer.len() == EVENTS as usize {
            return Ok(true);
        }
        self.last = self
            .last
            .max(self.buffer.back().map_or(0, |event| event.sequence));
        if self.has_ended || self.buffer.iter().any(is_end) {
            self.is_all = true;
            return Ok(true);
        }
        let feeds = &self.place.feeds;
        let of = (self.job, self.last);
        let feed = feeds.feed(&self.jobs, &self.place.tenant, of);
        let changes = feed.news.changes.subscribe();
        self.feed = Some((feed, changes));
        Ok(true)
    }

    async fn read(&mut self) -> Result<()> {
        let tenant = &self.place.tenant;
        let events = self.jobs.list_events(tenant, self.job, self.after, EVENTS);
        self.buffer = events.await?.into();
        Ok(())
    }
}

fn is_end(event: &EventRecord) -> bool {
    match &event.event {
        Event::State { state, .. } => state.is_final(),
        Event::Step(_) | Event::Evaluation(_) | Event::Comparison(_) | Event::Message { .. } => {
            false
        }
    }
}

fn is_gone(error: &metadata::Error) -> bool {
    matches!(error, metadata::Error::NotFound { .. })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and a page, each whole after every single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
