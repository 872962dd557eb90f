//! `frameshift bench fleet`: how long the statements take that servers of a fleet run all the time, on a database with as much in it as a large one has.
//!
//! Invariant: only an empty database is filled; every figure is of a use case as the server calls it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::ids::{DatasetId, TaskId, TenantId, VideoId};
use crate::metadata::{
    self, Config, Database, ExampleRecord, ImportStart, ImportTarget, MetadataStore, NewJob,
    NewTask, NewVersion, NewVideo, PageRequest, ServerConfig, TaskUpdate, VersionManifest,
    VideoProbe,
};
use crate::spec::{
    AdapterConfig, ClipSampling, Confusion, Digest, Evaluation, FrameOrder, HyperParameters,
    LabelSet, Precision, RotationPolicy, Sampling, SpatialViews, Split,
};
use crate::tools::show;

/// How long a claim holds: longer than the command runs.
const LEASE: Duration = Duration::from_secs(3600);

/// Arguments of `frameshift bench fleet`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Empty PostgreSQL database to fill, with its password in the URL if it needs one; a file in a temporary folder when absent
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Tenants that share the tasks, videos and jobs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tenants: u32,
    /// Tasks, all together
    #[arg(long, default_value_t = 100_000)]
    pub tasks: u32,
    /// Videos, all together
    #[arg(long, default_value_t = 1_000_000)]
    pub videos: u32,
    /// Jobs that wait, all together
    #[arg(long, default_value_t = 100_000)]
    pub jobs: u32,
    /// Number of times that each use case is measured
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,
    /// Prints JSON lines
    #[arg(long)]
    pub json: bool,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database has records.
    #[error("the database is not empty: only an empty one is filled")]
    NotEmpty,
    /// The URL cannot be used.
    #[error("--database-url: {0}")]
    Url(#[from] metadata::UrlError),
    /// The temporary folder cannot be made.
    #[error("cannot make a temporary folder")]
    Folder(#[source] std::io::Error),
    /// The file cannot be opened.
    #[error("cannot open the database")]
    Open(#[from] metadata::OpenError),
    /// The database failed.
    #[error("the database failed")]
    Metadata(#[from] metadata::Error),
    /// A value of the command's own is refused.
    #[error("cannot make a record: {0}")]
    Record(String),
}

impl Error {
    /// Returns the exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotEmpty | Self::Url(_) => 64,
            Self::Folder(_) | Self::Open(_) | Self::Metadata(_) => 69,
            Self::Record(_) => 70,
        }
    }
}

/// Fills a database and measures.
pub fn run(arguments: &Args) -> BoxFuture<'_, Result<(), Error>> {
    Box::pin(measure(arguments))
}

/// Where the records are.
enum Place {
    File(PathBuf),
    Server(ServerConfig),
}

impl Place {
    async fn open(&self) -> Result<Database, Error> {
        Ok(match self {
            Self::File(path) => Database::open(Config::at(path.clone())).await?,
            Self::Server(server) => Database::connect(server.clone()).await?,
        })
    }
}

async fn measure(arguments: &Args) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(Error::Folder)?;
    let place = match &arguments.database_url {
        None => Place::File(folder.path().join("metadata.sqlite")),
        Some(url) => Place::Server(ServerConfig::at(url)?),
    };
    let database = place.open().await?;
    if !database.is_empty().await? {
        return Err(Error::NotEmpty);
    }
    let begun = Instant::now();
    let fleet = Fleet::fill(&database, arguments).await?;
    database.gather_statistics().await?;
    let figures = Figures {
        is_json: arguments.json,
    };
    figures.once("fill", begun.elapsed());
    fleet.measure(arguments, &figures).await?;
    database.close().await?;

    let begun = Instant::now();
    let database = place.open().await?;
    figures.once("open", begun.elapsed());
    let begun = Instant::now();
    start(&database).await?;
    figures.once("start", begun.elapsed());
    database.close().await?;
    Ok(())
}

/// Reads what a server reads at its start: every serving version, and what is to be proved.
async fn start(store: &dyn MetadataStore) -> Result<(), Error> {
    /// Tasks that a server compares at once.
    const PAGE: u32 = 1000;
    let mut after: Option<(TenantId, TaskId)> = None;
    loop {
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

/// Prints what was measured.
struct Figures {
    is_json: bool,
}

impl Figures {
    /// Something that was done once.
    fn once(&self, what: &str, took: Duration) {
        self.print(what, &[took]);
    }

    fn print(&self, what: &str, times: &[Duration]) {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let place = (sorted.len() as f64 * share) as usize;
            let time = sorted.get(place.min(sorted.len().saturating_sub(1)));
            time.copied().unwrap_or_default().as_secs_f64() * 1e3
        };
        let (median, high, most) = (at(0.5), at(0.99), at(1.0));
        let count = sorted.len();
        if self.is_json {
            return show(serde_json::json!({
                "what": what, "count": count, "p50_ms": median, "p99_ms": high, "max_ms": most,
            }));
        }
        show(format!(
            "{what:<16} {count:>6} ×   p50 {median:>9.3} ms   p99 {high:>9.3} ms   max {most:>9.3} ms"
        ));
    }

    /// Measures a use case many times.
    async fn many<F: Future<Output = Result<(), Error>>>(
        &self,
        what: &str,
        rounds: u32,
        mut call: impl FnMut(u32) -> F,
    ) -> Result<(), Error> {
        let mut times = Vec::new();
        for round in 0..rounds {
            let begun = Instant::now();
            call(round).await?;
            times.push(begun.elapsed());
        }
        self.print(what, &times);
        Ok(())
    }
}

/// The backbone of all versions.
const BACKBONE: Digest = Digest([7; 32]);

/// A filled database.
struct Fleet {
    store: Arc<dyn MetadataStore>,
    tenants: Vec<TenantId>,
}

fn record<T, E: std::fmt::Display>(made: Result<T, E>) -> Result<T, Error> {
    made.map_err(|error| Error::Record(error.to_string()))
}

fn task(id: TaskId) -> NewTask {
    NewTask {
        id,
        display_name: "a task to measure with".into(),
        adapter: AdapterConfig {
            adapter_width: 48,
            adapter_pre_mlp: true,
            ..AdapterConfig::LINEAR_PROBE
        },
        sampling: sampling(),
        auto_serve: true,
        auto_head: false,
    }
}

fn sampling() -> ClipSampling {
    ClipSampling {
        num_frames: std::num::NonZeroU16::MIN,
        sampling: Sampling::Uniform,
        temporal_views: std::num::NonZeroU8::MIN,
        spatial_views: SpatialViews::Center,
        rotation: RotationPolicy::Display,
        order: FrameOrder::Display,
    }
}

fn probe() -> VideoProbe {
    VideoProbe {
        container: "mov".into(),
        codec: "h264".into(),
        width: 320,
        height: 240,
        frames: 100,
        duration_micros: 4_000_000,
        frame_rate: 25.0,
        rotation_degrees: 0,
        mirrored: false,
        reference_frames: None,
        warnings: Vec::new(),
    }
}

fn manifest(labels: LabelSet) -> Result<VersionManifest, Error> {
    let confusion = Confusion::from_rows(&[1, 0, 0, 1]);
    let confusion = confusion.ok_or_else(|| Error::Record("no confusion matrix".into()))?;
    Ok(VersionManifest {
        labels,
        adapter: task(record("t".parse())?).adapter,
        sampling: sampling(),
        backbone_digest: BACKBONE,
        tensors_sha256: Digest([2; 32]),
        parameters: 1_000_000,
        precision: Precision::F32,
        job: String::new(),
        dataset_digest: Digest([0; 32]),
        parent: None,
        calibration: None,
        evaluation: Evaluation {
            examples: 2,
            top1: 1.0,
            top5: 1.0,
            loss: 0.1,
            confusion,
            problem: None,
        },
    })
}

impl Fleet {
    async fn fill(database: &Database, arguments: &Args) -> Result<Self, Error> {
        let store: Arc<dyn MetadataStore> = Arc::new(database.clone());
        let share = |all: u32| all.div_ceil(arguments.tenants) as usize;
        let mut tenants = Vec::new();
        for number in 0..arguments.tenants {
            let tenant: TenantId = record(format!("bench-{number}").parse())?;
            let first: TaskId = record("t0".parse())?;
            serve(store.as_ref(), &tenant, &first).await?;
            let tasks = (1..share(arguments.tasks)).map(|own| format!("t{own}").parse());
            let tasks: Vec<TaskId> = record(tasks.collect())?;
            database.copy_task(&tenant, &first, &tasks).await?;
            let (video, job) = submit(store.as_ref(), &tenant, &first).await?;
            let videos = (1..share(arguments.videos)).map(|_| VideoId::generate());
            let videos: Vec<VideoId> = videos.collect();
            database.copy_video(&tenant, video, &videos).await?;
            let jobs = (1..share(arguments.jobs)).map(|_| crate::ids::JobId::generate());
            let jobs: Vec<_> = jobs.collect();
            database.copy_job(&tenant, job, &jobs).await?;
            tenants.push(tenant);
        }
        Ok(Self { store, tenants })
    }

    async fn measure(&self, arguments: &Args, figures: &Figures) -> Result<(), Error> {
        let rounds = arguments.rounds;
        let tenant = |round: u32| &self.tenants[round as usize % self.tenants.len()];
        let page = PageRequest::new(100, "")?;
        let page = &page;
        let store = &self.store;
        figures
            .many("list tasks", rounds, async |round| {
                Ok(store.list_tasks(tenant(round), page).await.map(drop)?)
            })
            .await?;
        figures
            .many("list videos", rounds, async |round| {
                Ok(store.list_videos(tenant(round), page).await.map(drop)?)
            })
            .await?;
        figures
            .many("list jobs", rounds, async |round| {
                Ok(store.list_jobs(tenant(round), page).await.map(drop)?)
            })
            .await?;
        self.feed(rounds, figures).await?;
        figures
            .many("pending", rounds, async |_| {
                Ok(store.pending_tasks().await.map(drop)?)
            })
            .await?;
        let claims = rounds.min(arguments.jobs / 2);
        figures
            .many("claim", claims, async |_| {
                match store.claim_job("bench", LEASE).await? {
                    Some(_) => Ok(()),
                    None => Err(Error::Record("no job waits".into())),
                }
            })
            .await?;
        figures
            .many("look for lost", rounds, async |_| {
                Ok(store.release_lost_jobs(&[]).await.map(drop)?)
            })
            .await
    }

    /// Polls the feed of changes, with a change each time and with none.
    async fn feed(&self, rounds: u32, figures: &Figures) -> Result<(), Error> {
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
        figures.print("poll, a change", &busy);
        figures.print("poll, none", &quiet);
        Ok(())
    }
}

/// Makes a task whose version serves.
async fn serve(store: &dyn MetadataStore, tenant: &TenantId, id: &TaskId) -> Result<(), Error> {
    store.create_task(tenant, task(id.clone()), None).await?;
    let labels = record(LabelSet::new(vec!["left".into(), "right".into()]))?;
    let target = ImportTarget {
        task: id.clone(),
        create: None,
        etag: None,
        request: None,
        sha256: Digest([3; 32]),
        labels: Some(labels.clone()),
    };
    let ImportStart::Number(version) = store.reserve_import(tenant, &target).await? else {
        return Err(Error::Record("a version is there already".into()));
    };
    let new = NewVersion {
        version,
        manifest: manifest(labels)?,
        sha256: Digest([3; 32]),
        size_bytes: 14 << 20,
    };
    store.import_version(tenant, &target, new).await?;
    store.move_serving(tenant, id, version).await?;
    Ok(())
}

/// Makes a video, and a job that waits.
async fn submit(
    store: &dyn MetadataStore,
    tenant: &TenantId,
    id: &TaskId,
) -> Result<(VideoId, crate::ids::JobId), Error> {
    let video = NewVideo {
        id: VideoId::generate(),
        size_bytes: 2 << 20,
        sha256: Digest([4; 32]),
        probe: probe(),
    };
    let video = store.record_video(tenant, "clip.mp4", video, None).await?;
    let dataset: DatasetId = record("measured".parse())?;
    store.create_dataset(tenant, &dataset, "", None).await?;
    let example = ExampleRecord {
        video: video.id,
        label: "left".into(),
        split: Split::Train,
    };
    store.add_examples(tenant, &dataset, &[example]).await?;
    let job = NewJob {
        task: id.clone(),
        dataset,
        dataset_version: None,
        hyper_parameters: HyperParameters::default(),
        allow_label_change: false,
        priority: 0,
        clip_frames: 20_000,
        warning: None,
        limit: u32::MAX,
    };
    let job = store.submit_job(tenant, job, None).await?;
    Ok((video.id, job.id))
}
