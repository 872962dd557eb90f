//! The gates about callers: names of another tenant beside names of nobody, and a caller with a good key beside a flood of bad ones.
//!
//! Invariant: what is compared is measured in turns, call by call or run by run, so that whatever else the machine does meets both alike.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::bed::{Bed, lane, latency};
use super::table::median;
use super::{Args, Pair};
use crate::client::{Client, Options};
use crate::proto::v1;
use crate::tenancy::key::Key;
use crate::tools::bench_serve::host::Host;
use crate::tools::bench_serve::load::{self, Pacing};
use crate::tools::bench_serve::material::Tenant;
use crate::tools::bench_serve::{Arrivals, Error, during};

/// Pairs of calls of each method.
const CALLS: usize = 2000;
/// What a caller cannot tell from noise: this share of a call, or this many seconds.
const SHARE: f64 = 0.05;
const SECONDS: f64 = 20e-6;
/// Bad credentials a second.
const BAD_PER_S: u32 = 1000;
/// Connections with bad credentials, each with another one.
const BAD: usize = 16;

/// Names of things.
#[derive(Debug, Clone)]
struct Names {
    video: String,
    upload: String,
    dataset: String,
    task: String,
    job: String,
}

type Call = fn(Client, Names) -> BoxFuture<'static, Option<Status>>;

/// A list of calls, each with its method's name.
macro_rules! calls {
    ($($method:literal: $service:ident.$call:ident($names:ident) = $request:expr;)*) => {
        &[$(($method, |client, $names| {
            Box::pin(async move { client.$service().$call($request).await.err() })
        })),*]
    };
}

/// Every method that names a thing which may be another tenant's.
const CALLS_BY_NAME: &[(&str, Call)] = calls! {
    "GetVideo": videos.get_video(names) = v1::GetVideoRequest { name: names.video };
    "DeleteVideo": videos.delete_video(names) = v1::DeleteVideoRequest { name: names.video, ..Default::default() };
    "GetUpload": videos.get_upload(names) = v1::GetUploadRequest { name: names.upload };
    "DeleteUpload": videos.delete_upload(names) = v1::DeleteUploadRequest { name: names.upload };
    "GetDataset": datasets.get_dataset(names) = v1::GetDatasetRequest { name: names.dataset };
    "CheckDataset": datasets.check_dataset(names) = v1::CheckDatasetRequest { name: names.dataset };
    "DeleteDataset": datasets.delete_dataset(names) = v1::DeleteDatasetRequest { name: names.dataset };
    "ListExamples": datasets.list_examples(names) = v1::ListExamplesRequest { name: names.dataset, ..Default::default() };
    "ListLabelCounts": datasets.list_label_counts(names) = v1::ListLabelCountsRequest { name: names.dataset, ..Default::default() };
    "RemoveExamples": datasets.remove_examples(names) = v1::RemoveExamplesRequest { name: names.dataset, videos: vec![names.video] };
    "AddExamples": datasets.add_examples(names) = v1::AddExamplesRequest {
        name: names.dataset,
        examples: vec![v1::Example { video: names.video, label: "a".into(), split: v1::Split::Train.into(), ..Default::default() }],
    };
    "GetTask": tasks.get_task(names) = v1::GetTaskRequest { name: names.task };
    "DeleteTask": tasks.delete_task(names) = v1::DeleteTaskRequest { name: names.task, ..Default::default() };
    "ListAdapterVersions": tasks.list_adapter_versions(names) = v1::ListAdapterVersionsRequest { parent: names.task, ..Default::default() };
    "GetAdapterVersion": tasks.get_adapter_version(names) = v1::GetAdapterVersionRequest { name: format!("{}/versions/1", names.task) };
    "ExportAdapterVersion": tasks.export_adapter_version(names) = v1::ExportAdapterVersionRequest {
        name: format!("{}/versions/1", names.task), ..Default::default()
    };
    "SubmitJob": fine_tuning.submit_job(names) = v1::SubmitJobRequest { task: names.task, dataset: names.dataset, ..Default::default() };
    "GetJob": fine_tuning.get_job(names) = v1::GetJobRequest { name: names.job };
    "CancelJob": fine_tuning.cancel_job(names) = v1::CancelJobRequest { name: names.job };
    "PauseJob": fine_tuning.pause_job(names) = v1::PauseJobRequest { name: names.job };
    "ResumeJob": fine_tuning.resume_job(names) = v1::ResumeJobRequest { name: names.job };
    "WatchJob": fine_tuning.watch_job(names) = v1::WatchJobRequest { name: names.job, ..Default::default() };
    "Classify": classification.classify(names) = v1::ClassifyRequest {
        task: names.task, source: Some(v1::classify_request::Source::Video(names.video)), ..Default::default()
    };
    "Embed": classification.embed(names) = v1::EmbedRequest {
        source: Some(v1::embed_request::Source::Video(names.video)), ..Default::default()
    };
};

/// Of every method that takes a name, the difference of medians between another tenant's names and nobody's, over what cannot be told from noise; the
/// largest counts.
pub(super) async fn foreign_names(bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    let foreign = theirs(bed).await?;
    let missing = Names {
        video: "videos/00000000-0000-7000-8000-000000000001".into(),
        upload: "uploads/00000000-0000-7000-8000-000000000002".into(),
        dataset: "datasets/bench-nothing".into(),
        task: "tasks/bench-nothing".into(),
        job: "jobs/00000000-0000-7000-8000-000000000003".into(),
    };
    let client = bed.other.client()?.clone();
    let mut worst = 0.0;
    for (method, call) in CALLS_BY_NAME {
        let mut seconds = [Vec::new(), Vec::new()];
        for number in 0..CALLS {
            // Which of the two comes first changes, since the first of a pair may find colder caches.
            let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                let names = if which == 0 { &foreign } else { &missing };
                let begun = Instant::now();
                let status = call(client.clone(), names.clone()).await;
                seconds[which].push(begun.elapsed().as_secs_f64());
                if status.as_ref().map(Status::code) != Some(Code::NotFound) {
                    return Err(Error::Incomplete {
                        what: "NOT_FOUND for a name of another tenant",
                    });
                }
            }
        }
        let medians = seconds.map(|seconds| median(&seconds).unwrap_or(f64::NAN));
        let allowed = (SHARE * medians[1]).max(SECONDS);
        let share = (medians[0] - medians[1]).abs() / allowed;
        eprintln!(
            "  {method}: another's {:.1} µs, nobody's {:.1} µs",
            medians[0] * 1e6,
            medians[1] * 1e6
        );
        worst = f64::max(worst, share);
    }
    Ok(vec![Pair {
        a: worst,
        b: 1.0,
        errors: 0,
    }])
}

/// Things of another tenant, one of each kind.
async fn theirs(bed: &mut Bed) -> Result<Names, Error> {
    let owner = bed.beside().await?;
    let client = owner.client()?;
    let (Some(video), Some(dataset), Some(task)) = (
        owner.videos.first(),
        owner.datasets.first(),
        owner.tasks.first(),
    ) else {
        return Err(Error::Incomplete {
            what: "things of another tenant",
        });
    };
    let upload = v1::CreateUploadRequest::default();
    let upload = client.videos().create_upload(upload).await;
    let upload = upload.map_err(during("begin an upload"))?.into_inner();
    let job = v1::SubmitJobRequest {
        task: task.clone(),
        dataset: dataset.clone(),
        hyper_parameters: Some(v1::HyperParameters {
            max_steps: Some(1),
            eval_every: Some(0),
            validation_share: Some(0.0),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = client.fine_tuning().submit_job(job).await;
    let job = job.map_err(during("submit a job"))?.into_inner();
    let cancel = v1::CancelJobRequest {
        name: job.name.clone(),
    };
    let cancelled = client.fine_tuning().cancel_job(cancel).await;
    cancelled.map_err(during("cancel a job"))?;
    Ok(Names {
        video: video.clone(),
        upload: upload.name,
        dataset: dataset.clone(),
        task: task.clone(),
        job: job.name,
    })
}

/// p99 of a caller with a good key at half load beside 1,000 bad credentials a second from the same address, and on a quiet server.
pub(super) async fn credential_flood(args: &Args, bed: &mut Bed) -> Result<Vec<Pair>, Error> {
    const HALF: f64 = 0.5;
    let rate = HALF * bed.peak().await?;
    let (host, key) = Host::guarded(bed.split.clone()).await?;
    let outcome = async {
        let client = open(&host, &key).await?;
        let mut tenant = Tenant::of_client(host.address(), client);
        tenant.upload(&bed.clips).await?;
        tenant.import(&bed.sets, 1).await?;
        let pacing = Pacing::Open(Arrivals::Poisson, rate);
        let mut pairs = Vec::new();
        for pair in 0..args.pairs.get() {
            let span = args.span(pair);
            host.place_decoders();
            let flood = Flood::start(&host).await?;
            let with = load::run(vec![lane(&tenant, 1, pacing)], span).await?;
            flood.stop().await?;
            let without = load::run(vec![lane(&tenant, 1, pacing)], span).await?;
            pairs.push(Pair {
                a: latency(&with.all, |times| times.p99)?,
                b: latency(&without.all, |times| times.p99)?,
                errors: with.all.errors + without.all.errors,
            });
        }
        Ok::<_, Error>(pairs)
    };
    let outcome = outcome.await;
    let stopped = host.stop().await;
    let pairs = outcome?;
    stopped?;
    Ok(pairs)
}

async fn open(host: &Host, key: &SecretString) -> Result<Client, Error> {
    let options = Options {
        server: host.address().to_owned(),
        api_key: Some(key.clone()),
        ..Options::default()
    };
    Client::open(&options).await.map_err(during("connect"))
}

/// Bad credentials that come all the time, whether the ones before were answered or not: a server may leave them unread.
struct Flood {
    stop: Arc<AtomicBool>,
    running: Vec<tokio::task::JoinHandle<Tried>>,
    begun: Instant,
}

/// What a connection has tried.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    sent: u64,
    /// Calls that the server refused for their credential.
    refused: u64,
    /// Calls that were given up, or that ended with their connection.
    unanswered: u64,
    let_in: u64,
    /// Calls with any other answer of the server's, and the last of these.
    other: u64,
    code: Option<Code>,
}

impl Tried {
    /// Notes an answer; `None` when none came in time.
    fn note(&mut self, answer: Option<Result<(), Status>>) {
        let Some(answer) = answer else {
            self.unanswered += 1;
            return;
        };
        match answer.map_err(|status| (status.code(), status.source().is_some())) {
            Ok(()) => self.let_in += 1,
            Err((Code::Unauthenticated | Code::ResourceExhausted, false)) => self.refused += 1,
            // Only a failure of the connection has a source.
            Err((_, true)) => self.unanswered += 1,
            Err((code, false)) => {
                self.other += 1;
                self.code = Some(code);
            }
        }
    }

    fn add(&mut self, own: &Self) {
        self.sent += own.sent;
        self.refused += own.refused;
        self.unanswered += own.unanswered;
        self.let_in += own.let_in;
        self.other += own.other;
        self.code = own.code.or(self.code);
    }

    /// Whether the server had so many bad credentials, refused some of them and accepted none.
    fn is_flood(&self, wanted: f64) -> bool {
        let is_refused = self.refused > 0 && self.let_in == 0 && self.other == 0;
        is_refused && self.sent as f64 >= 0.8 * wanted
    }
}

impl Flood {
    async fn start(host: &Host) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for _ in 0..BAD {
            let key = Key::generate().map_err(|_| Error::Incomplete {
                what: "random numbers",
            })?;
            let client = open(host, &key.reveal()).await?;
            running.push(tokio::spawn(flood(client, Arc::clone(&stop))));
        }
        let begun = Instant::now();
        Ok(Self {
            stop,
            running,
            begun,
        })
    }

    /// Ends the flood; one that was weaker than it should be is an error, since its figures would be those of a quiet server.
    async fn stop(self) -> Result<(), Error> {
        self.stop.store(true, Ordering::Relaxed);
        let wanted = self.begun.elapsed().as_secs_f64() * f64::from(BAD_PER_S);
        let mut all = Tried::default();
        for worker in self.running {
            all.add(&worker.await.unwrap_or_default());
        }
        let Tried {
            sent,
            refused,
            unanswered,
            ..
        } = all;
        eprintln!(
            "  {sent} bad credentials sent, {refused} refused, {unanswered} not answered in time"
        );
        if let Some(code) = all.code {
            eprintln!("  {} answered with {code:?}", all.other);
        }
        match all.is_flood(wanted) {
            true => Ok(()),
            false => Err(Error::Incomplete {
                what: "1,000 bad credentials a second, of which some are refused, and none is accepted or answered with anything else",
            }),
        }
    }
}

/// Sends calls with a bad credential over one connection, each at its time.
async fn flood(client: Client, stop: Arc<AtomicBool>) -> Tried {
    /// Time after which a call is given up: it bounds those under way.
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut pace = tokio::time::interval(Duration::from_secs(1) * BAD as u32 / BAD_PER_S);
    let mut calls = JoinSet::new();
    let mut tried = Tried::default();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        while let Some(Ok(answer)) = calls.try_join_next() {
            tried.note(answer);
        }
        let mut videos = client.videos();
        tried.sent += 1;
        calls.spawn(async move {
            let request = v1::ListVideosRequest::default();
            let answer = timeout(PATIENCE, videos.list_videos(request)).await;
            answer.ok().map(|answer| answer.map(drop))
        });
    }
    calls.abort_all();
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(answers: impl IntoIterator<Item = Option<Result<(), Status>>>) -> Tried {
        let mut tried = Tried::default();
        for answer in answers {
            tried.sent += 1;
            tried.note(answer);
        }
        tried
    }

    #[test]
    fn a_flood_is_one_that_the_server_refuses() {
        let refused = || Some(Err(Status::unauthenticated("")));
        let crowded = || Some(Err(Status::resource_exhausted("")));
        let gone = || Some(Err(Status::from_error("a broken connection".into())));
        assert!(tried([refused(), crowded(), gone(), None]).is_flood(4.0));
        assert!(!tried([refused()]).is_flood(2.0), "too few");
        assert!(!tried([gone(), None]).is_flood(2.0), "none was refused");
        assert!(!tried([refused(), Some(Ok(()))]).is_flood(2.0));
        let other = Status::unavailable("the server's own answer");
        assert!(!tried([refused(), Some(Err(other))]).is_flood(2.0));
    }
}
