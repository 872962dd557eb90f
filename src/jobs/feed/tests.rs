//! What watching costs, on a real database whose reads are counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::ids::{RequestId, VideoId};
use crate::metadata::{
    Config, Database, Datasets, ExampleRecord, JobRecord, JobUpdate, Lease, NewJob, NewTask,
    NewVideo, Page as Listed, PageRequest, Tasks, VideoProbe, Videos, Workers,
};
use crate::spec::{AdapterConfig, ClipSampling, Digest, HyperParameters, JobState, Split};

/// Passes reads on and counts them.
struct Counting {
    below: Database,
    reads: AtomicUsize,
    /// Questions for the newest events of all jobs that are watched.
    questions: AtomicUsize,
}

impl Counting {
    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Jobs for Counting {
    async fn submit_job(
        &self,
        tenant: &TenantId,
        job: NewJob,
        request: Option<RequestId>,
    ) -> Result<JobRecord> {
        self.below.submit_job(tenant, job, request).await
    }

    async fn get_job(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.below.get_job(tenant, job).await
    }

    async fn requested_job(&self, tenant: &TenantId, request: RequestId) -> Result<Option<JobId>> {
        self.below.requested_job(tenant, request).await
    }

    async fn list_jobs(&self, tenant: &TenantId, page: &PageRequest) -> Result<Listed<JobRecord>> {
        self.below.list_jobs(tenant, page).await
    }

    async fn cancel_job(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord> {
        self.below.cancel_job(tenant, job).await
    }

    async fn pause_job(&self, tenant: &TenantId, job: JobId, is_paused: bool) -> Result<JobRecord> {
        self.below.pause_job(tenant, job, is_paused).await
    }

    async fn list_events(
        &self,
        tenant: &TenantId,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.below.list_events(tenant, job, after, limit).await
    }

    async fn newest_events(&self, jobs: &[(TenantId, JobId)]) -> Result<Vec<(JobId, u64)>> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.below.newest_events(jobs).await
    }
}

/// A database with a task and a data set, and feeds over it that look by themselves only after an hour.
struct Setting {
    jobs: Arc<Counting>,
    hints: Arc<Hints>,
    feeds: Arc<Feeds>,
    tenant: TenantId,
    _directory: tempfile::TempDir,
}

impl Setting {
    async fn new(limit: usize) -> Self {
        Self::polling(limit, Duration::from_secs(3600)).await
    }

    /// As [`Self::new`], with feeds that ask by themselves.
    async fn polling(limit: usize, poll: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("records.sqlite");
        let below = Database::open(Config::at(path)).await.expect("a database");
        let tenant: TenantId = "a".parse().expect("a tenant");
        below
            .create_task(&tenant, task(), None)
            .await
            .expect("a task");
        let dataset = "d".parse().expect("an id");
        below
            .create_dataset(&tenant, &dataset, "".into(), None)
            .await
            .expect("a data set");
        let video = below
            .record_video(&tenant, "", video(), None)
            .await
            .expect("a video");
        let example = ExampleRecord {
            video: video.id,
            labels: "left".into(),
            split: Split::Train,
        };
        below
            .add_examples(&tenant, &dataset, &[example])
            .await
            .expect("added");
        let hints = Arc::new(Hints::new());
        let feeds = Feeds::new(Arc::clone(&hints), poll, limit);
        Self {
            jobs: Arc::new(Counting {
                below,
                reads: AtomicUsize::new(0),
                questions: AtomicUsize::new(0),
            }),
            hints,
            feeds: Arc::new(feeds),
            tenant,
            _directory: directory,
        }
    }

    /// A job that a worker has.
    async fn job(&self) -> Lease {
        let job = NewJob {
            task: "t".parse().expect("an id"),
            dataset: "d".parse().expect("an id"),
            dataset_version: None,
            hyper_parameters: HyperParameters::default(),
            allow_label_change: false,
            priority: 0,
            clip_frames: 1000,
            warning: None,
            limit: 100,
        };
        let jobs = &self.jobs.below;
        jobs.submit_job(&self.tenant, job, None)
            .await
            .expect("submitted");
        let claim = jobs.claim_job("worker", Duration::from_secs(3600)).await;
        claim.expect("asked").expect("a job").lease
    }

    async fn tell(&self, lease: &Lease, count: usize) {
        self.tell_elsewhere(lease, count).await;
        self.hints.events_written(lease.job);
    }

    /// As [`Self::tell`], in another process.
    async fn tell_elsewhere(&self, lease: &Lease, count: usize) {
        let message = Event::Message {
            warning: false,
            text: "news".into(),
        };
        let events = vec![message; count];
        let update = JobUpdate::default();
        self.jobs
            .below
            .append_events(lease, JobState::Validating, &events, update)
            .await
            .expect("written");
    }

    async fn watch(&self, job: JobId, after: u64) -> std::result::Result<Watcher, Error> {
        let jobs = Arc::clone(&self.jobs) as Arc<dyn Jobs>;
        Watcher::new(jobs, &self.feeds, &self.tenant, job, after).await
    }

    async fn watchers(&self, job: JobId, count: usize) -> Vec<Watcher> {
        let mut watchers = Vec::new();
        for _ in 0..count {
            watchers.push(self.watch(job, 0).await.expect("a place"));
        }
        watchers
    }
}

fn task() -> NewTask {
    NewTask {
        id: "t".parse().expect("an id"),
        display_name: String::new(),
        adapter: AdapterConfig::LINEAR_PROBE,
        sampling: ClipSampling::uniform(4.try_into().expect("not 0")),
        auto_serve: false,
        auto_head: false,
    }
}

fn video() -> NewVideo {
    NewVideo {
        id: VideoId::generate(),
        size_bytes: 1,
        sha256: Digest([1; 32]),
        probe: VideoProbe {
            container: "mov".into(),
            codec: "h264".into(),
            width: 32,
            height: 32,
            frames: 8,
            duration_micros: 1,
            frame_rate: 25.0,
            rotation_degrees: 0,
            mirrored: false,
            reference_frames: None,
            warnings: Vec::new(),
        },
    }
}

/// Reads until every watcher has seen the event of that number.
async fn see(watchers: &mut [Watcher], sequence: u64) {
    for watcher in watchers {
        while watcher.after < sequence {
            let event = watcher.next().await.expect("readable").expect("an event");
            assert_eq!(event.sequence, watcher.after);
        }
    }
}

#[tokio::test]
async fn many_watchers_of_a_job_cost_one_reader_and_other_jobs_cost_nothing() {
    let setting = Setting::new(100).await;
    let (watched, other) = (setting.job().await, setting.job().await);
    let mut watchers = setting.watchers(watched.job, 50).await;
    // QUEUED and VALIDATING are there before.
    see(&mut watchers, 2).await;
    setting.tell(&watched, 1).await;
    see(&mut watchers, 3).await;
    let before = setting.jobs.reads();
    for sequence in 4..24 {
        setting.tell(&watched, 1).await;
        setting.tell(&other, 10).await;
        see(&mut watchers, sequence).await;
    }
    let spent = setting.jobs.reads() - before;
    // One read that finds the event and one that finds no more, whoever watches.
    assert!(
        spent <= 2 * 20 + 2,
        "{spent} reads for 20 events and 50 watchers"
    );
    for _ in 0..100 {
        setting.tell(&other, 1).await;
    }
    let before = setting.jobs.reads();
    setting.tell(&watched, 1).await;
    see(&mut watchers, 24).await;
    assert!(setting.jobs.reads() - before <= 3);
}

#[tokio::test]
async fn all_jobs_that_are_watched_are_one_question_and_quiet_ones_no_more() {
    let setting = Setting::polling(100, Duration::from_millis(20)).await;
    let mut leases = Vec::new();
    let mut watchers = Vec::new();
    for _ in 0..30 {
        let lease = setting.job().await;
        watchers.push(setting.watch(lease.job, 0).await.expect("a place"));
        leases.push(lease);
    }
    see(&mut watchers, 2).await;
    let questions = || setting.jobs.questions.load(Ordering::SeqCst);
    let after = |count: usize| async move {
        while questions() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Every reader has read what was there once several questions change nothing.
    let mut reads = 0;
    while reads != setting.jobs.reads() {
        reads = setting.jobs.reads();
        after(questions() + 5).await;
    }
    after(questions() + 10).await;
    assert_eq!(setting.jobs.reads(), reads, "30 quiet jobs are watched");
    for sequence in 3..6 {
        for lease in &leases[..3] {
            setting.tell_elsewhere(lease, 1).await;
        }
        see(&mut watchers[..3], sequence).await;
    }
    let spent = setting.jobs.reads() - reads;
    assert!(spent <= 3 * 3 * 3, "{spent} reads for nine events");
    // Nobody asks any more when nobody watches, until somebody does again.
    drop(watchers);
    while lock(&setting.feeds.open).is_polled {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let asked = questions();
    let mut again = [setting.watch(leases[0].job, 4).await.expect("a place")];
    see(&mut again, 5).await;
    let told = async {
        after(asked + 1).await;
        setting.tell_elsewhere(&leases[0], 1).await;
    };
    tokio::join!(see(&mut again, 6), told);
}

#[tokio::test]
async fn a_watcher_that_falls_behind_misses_nothing() {
    let setting = Setting::new(100).await;
    let lease = setting.job().await;
    let mut watchers = setting.watchers(lease.job, 2).await;
    see(&mut watchers, 2).await;
    setting.tell(&lease, 1).await;
    see(&mut watchers, 3).await;
    // One of them follows, so that the other's next events leave the buffer.
    for i in 1..=5 {
        setting.tell(&lease, KEPT / 2).await;
        see(&mut watchers[..1], 3 + i * KEPT as u64 / 2).await;
    }
    see(&mut watchers[1..], 3 + 5 * KEPT as u64 / 2).await;
    // Somebody who comes late sees all of it, too.
    see(
        &mut setting.watchers(lease.job, 1).await,
        3 + 5 * KEPT as u64 / 2,
    )
    .await;
}

#[tokio::test]
async fn every_watcher_sees_the_end_and_then_the_streams_end() {
    let setting = Setting::new(100).await;
    let lease = setting.job().await;
    // The first who comes names a number that is not there yet; the others see every event all the same.
    let mut early = setting.watch(lease.job, 1_000_000).await.expect("a place");
    let nothing = tokio::time::timeout(Duration::from_millis(50), early.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    let mut watchers = setting.watchers(lease.job, 3).await;
    see(&mut watchers[..3], 2).await;
    setting.tell(&lease, 1).await;
    see(&mut watchers[..3], 3).await;
    watchers.push(early);
    let jobs = &setting.jobs.below;
    jobs.cancel_job(&setting.tenant, lease.job)
        .await
        .expect("asked");
    let ended = jobs.end_job(&lease, metadata::Ending::Cancelled).await;
    assert_eq!(ended.expect("ended").state, JobState::Cancelled);
    setting.hints.events_written(lease.job);
    see(&mut watchers[..3], 4).await;
    for watcher in &mut watchers {
        assert_eq!(watcher.next().await.expect("readable"), None);
    }
    // Whoever comes after the end sees the same.
    let mut late = setting.watchers(lease.job, 1).await;
    see(&mut late, 4).await;
    assert_eq!(late[0].next().await.expect("readable"), None);
}

#[tokio::test]
async fn a_tenant_has_so_many_watchers_and_places_come_back() {
    let setting = Setting::new(2).await;
    let lease = setting.job().await;
    let mut watchers = setting.watchers(lease.job, 2).await;
    let refused = setting.watch(lease.job, 0).await.err();
    assert!(
        matches!(refused, Some(Error::TooManyWatchers { limit: 2 })),
        "{refused:?}"
    );
    watchers.pop();
    watchers.push(setting.watch(lease.job, 0).await.expect("a place"));
    // A job that is not there takes no place.
    drop(watchers.pop());
    assert!(setting.watch(JobId::generate(), 0).await.is_err());
    setting.watch(lease.job, 0).await.expect("a place");
}

#[test]
fn an_empty_buffer_sends_whoever_is_behind_to_the_records() {
    let news = News {
        page: Mutex::new(Page {
            last: 3,
            ..Page::default()
        }),
        changes: watch::channel(0).0,
    };
    assert!(matches!(news.find(2), Unread::Behind(4)));
    assert!(matches!(news.find(3), Unread::Nothing));
    assert!(matches!(news.find(9), Unread::Nothing));
}
