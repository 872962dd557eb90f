//! Every RPC that names something, called on things of another tenant.

mod naming;

use std::collections::{BTreeSet, HashMap};

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::{Code, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use crate::server::{classify, clip, create_dataset, create_task, new_task, trained, until};

/// Gives the caller of [`reach`] the things of its own that some calls name beside another's.
pub(super) async fn prepare(client: &Client) {
    trained(client, "shade").await;
    create_task(client, "mine").await;
    create_dataset(client, "mine").await;
}

// One call a line or two, of every RPC that names something.
#[allow(clippy::too_many_lines)]
/// Every RPC that names something, called by `client` on things of another tenant. Returns what each answered.
pub(super) async fn reach(
    client: &Client,
    theirs: &Theirs,
) -> Vec<(&'static str, Result<(), Status>)> {
    let mut answers = Vec::new();
    macro_rules! call {
        ($service:ident.$method:ident, $request:expr) => {
            let answer = client.$service().$method($request).await;
            answers.push((stringify!($method), answer.map(drop)));
        };
    }
    let name = || theirs.video.clone();
    call!(videos.get_video, v1::GetVideoRequest { name: name() });
    for force in [false, true] {
        call!(
            videos.delete_video,
            v1::DeleteVideoRequest {
                name: name(),
                force
            }
        );
    }
    let name = || theirs.upload.clone();
    call!(videos.get_upload, v1::GetUploadRequest { name: name() });
    call!(
        videos.delete_upload,
        v1::DeleteUploadRequest { name: name() }
    );
    let header = v1::WriteUploadRequest {
        payload: Some(v1::write_upload_request::Payload::Header(
            v1::WriteUploadHeader {
                name: name(),
                offset: 0,
            },
        )),
    };
    call!(videos.write_upload, futures::stream::iter([header]));

    let name = || format!("datasets/{}", theirs.named);
    call!(datasets.get_dataset, v1::GetDatasetRequest { name: name() });
    call!(
        datasets.check_dataset,
        v1::CheckDatasetRequest { name: name() }
    );
    call!(
        datasets.delete_dataset,
        v1::DeleteDatasetRequest { name: name() }
    );
    let version = || format!("{}/versions/1", name());
    call!(
        datasets.create_dataset_version,
        v1::CreateDatasetVersionRequest {
            name: name(),
            ..Default::default()
        }
    );
    call!(
        datasets.list_dataset_versions,
        v1::ListDatasetVersionsRequest {
            name: name(),
            ..Default::default()
        }
    );
    call!(
        datasets.delete_dataset_version,
        v1::DeleteDatasetVersionRequest { name: version() }
    );
    call!(
        datasets.list_dataset_changes,
        v1::ListDatasetChangesRequest {
            from: version(),
            to: name(),
            ..Default::default()
        }
    );
    let request = v1::ListExamplesRequest {
        name: name(),
        ..Default::default()
    };
    call!(datasets.list_examples, request);
    let request = v1::ListLabelCountsRequest {
        name: name(),
        ..Default::default()
    };
    call!(datasets.list_label_counts, request);
    let videos = vec![theirs.video.clone()];
    call!(
        datasets.remove_examples,
        v1::RemoveExamplesRequest {
            name: name(),
            videos
        }
    );
    let examples = vec![v1::Example {
        video: theirs.video.clone(),
        label: "mine".into(),
        split: v1::Split::Train.into(),
        ..Default::default()
    }];
    let add = |name: &str| v1::AddExamplesRequest {
        name: name.into(),
        examples: examples.clone(),
    };
    call!(
        datasets.add_examples,
        add(&format!("datasets/{}", theirs.named))
    );
    call!(datasets.add_examples, add("datasets/mine"));

    let name = || format!("tasks/{}", theirs.named);
    let version = || format!("tasks/{}/versions/1", theirs.named);
    let evaluate = |version: String, dataset: &str| v1::EvaluateVersionRequest {
        version,
        dataset: dataset.into(),
        split: v1::Split::Test.into(),
        ..Default::default()
    };
    call!(tasks.evaluate_version, evaluate(version(), "datasets/mine"));
    let theirs_too = format!("datasets/{}", theirs.named);
    call!(
        tasks.evaluate_version,
        evaluate("tasks/shade/versions/1".into(), &theirs_too)
    );
    call!(tasks.get_task, v1::GetTaskRequest { name: name() });
    let task = v1::Task {
        name: name(),
        display_name: "x".into(),
        ..Default::default()
    };
    call!(
        tasks.update_task,
        v1::UpdateTaskRequest {
            task: Some(task),
            update_mask: None
        }
    );
    call!(
        tasks.delete_task,
        v1::DeleteTaskRequest {
            name: name(),
            etag: String::new()
        }
    );
    let request = v1::ListAdapterVersionsRequest {
        parent: name(),
        ..Default::default()
    };
    call!(tasks.list_adapter_versions, request);
    call!(
        tasks.get_adapter_version,
        v1::GetAdapterVersionRequest { name: version() }
    );
    call!(
        tasks.export_adapter_version,
        v1::ExportAdapterVersionRequest {
            name: version(),
            ..Default::default()
        }
    );
    let header = v1::ImportAdapterVersionRequest {
        payload: Some(v1::import_adapter_version_request::Payload::Header(
            v1::ImportAdapterVersionHeader {
                parent: name(),
                ..Default::default()
            },
        )),
    };
    call!(
        tasks.import_adapter_version,
        futures::stream::iter([header])
    );
    let etag = theirs.etag.clone();
    call!(
        tasks.set_serving,
        v1::SetServingRequest {
            name: name(),
            version: version(),
            etag,
            ..Default::default()
        }
    );

    let pin = v1::PinTaskRequest {
        name: name(),
        unpin: false,
    };
    call!(tasks.pin_task, pin);

    let submit = |task: &str, dataset: &str| v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: format!("datasets/{dataset}"),
        ..Default::default()
    };
    call!(fine_tuning.submit_job, submit(&theirs.named, "mine"));
    call!(fine_tuning.submit_job, submit("mine", &theirs.named));
    let name = || theirs.job.clone();
    call!(fine_tuning.get_job, v1::GetJobRequest { name: name() });
    call!(
        fine_tuning.cancel_job,
        v1::CancelJobRequest { name: name() }
    );
    call!(fine_tuning.pause_job, v1::PauseJobRequest { name: name() });
    call!(
        fine_tuning.resume_job,
        v1::ResumeJobRequest { name: name() }
    );
    call!(
        fine_tuning.watch_job,
        v1::WatchJobRequest {
            name: name(),
            after_sequence: 0
        }
    );

    let name = || theirs.sweep.clone();
    call!(fine_tuning.get_sweep, v1::GetSweepRequest { name: name() });
    call!(
        fine_tuning.cancel_sweep,
        v1::CancelSweepRequest { name: name() }
    );
    let sweep = new_sweep("mine-too", &theirs.named);
    call!(fine_tuning.submit_sweep, sweep);

    call!(
        classification.classify,
        classify(&theirs.named, &theirs.video)
    );
    let content = v1::ClassifyRequest {
        source: Some(v1::classify_request::Source::Content(clip(1))),
        ..classify(&theirs.named, "")
    };
    call!(classification.classify, content);
    call!(classification.classify, classify("shade", &theirs.video));
    let header = v1::ClassifyUploadRequest {
        payload: Some(v1::classify_upload_request::Payload::Header(
            v1::ClassifyUploadHeader {
                task: format!("tasks/{}", theirs.named),
                ..Default::default()
            },
        )),
    };
    call!(
        classification.classify_upload,
        futures::stream::iter([header])
    );
    for tasks in [vec![&theirs.named], vec![&theirs.named, &"never".into()]] {
        let request = v1::ClassifyRequest {
            task: String::new(),
            tasks: tasks.iter().map(|task| format!("tasks/{task}")).collect(),
            ..classify("", "videos/00000000-0000-7000-8000-000000000001")
        };
        let answer = client.classification().classify(request).await;
        let results = answer.map(|answer| answer.into_inner().results);
        answers.push(("classify", results.and_then(refused)));
    }
    let embed = |task: &str, version: &str, source| v1::EmbedRequest {
        task: task.into(),
        version: version.into(),
        source: Some(source),
        options: None,
    };
    let video = || v1::embed_request::Source::Video(theirs.video.clone());
    let content = || v1::embed_request::Source::Content(clip(1));
    let (task, version) = (
        format!("tasks/{}", theirs.named),
        format!("tasks/{}/versions/1", theirs.named),
    );
    for request in [
        embed("", "", video()),
        embed("tasks/shade", "", video()),
        embed(&task, "", content()),
        embed("", &version, content()),
        embed(&task, &version, content()),
    ] {
        call!(classification.embed, request);
    }
    let header = v1::EmbedUploadRequest {
        payload: Some(v1::embed_upload_request::Payload::Header(
            v1::EmbedUploadHeader {
                version,
                ..Default::default()
            },
        )),
    };
    call!(classification.embed_upload, futures::stream::iter([header]));
    for (task, video) in [
        (&theirs.named, &theirs.video),
        (&"shade".into(), &theirs.video),
    ] {
        let request = v1::ClassifyWindowsRequest {
            task: format!("tasks/{task}"),
            source: Some(v1::classify_windows_request::Source::Video(video.clone())),
            windows: Some(v1::WindowOptions {
                frame_step: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = client.classification().classify_windows(request).await;
        answers.push(("classify_windows", first(answer).await));
    }
    let header = v1::ClassifyWindowsUploadRequest {
        payload: Some(v1::classify_windows_upload_request::Payload::Header(
            v1::ClassifyWindowsUploadHeader {
                task: format!("tasks/{}", theirs.named),
                ..Default::default()
            },
        )),
    };
    let header = futures::stream::iter([header]);
    let answer = client
        .classification()
        .classify_windows_upload(header)
        .await;
    answers.push(("classify_windows_upload", first(answer).await));
    let header = v1::ClassifyFramesRequest {
        payload: Some(v1::classify_frames_request::Payload::Header(
            v1::ClassifyFramesHeader {
                task: format!("tasks/{}", theirs.named),
                format: Some(v1::classify_frames_header::Format::Jpeg(Default::default())),
                pace: Some(v1::classify_frames_header::Pace::Frames(v1::FramePace {
                    step: 1,
                    stride: 1,
                })),
                ..Default::default()
            },
        )),
    };
    let frames = futures::stream::iter([header]);
    let answer = client.classification().classify_frames(frames).await;
    answers.push(("classify_frames", first(answer).await));
    let called: BTreeSet<&str> = answers.iter().map(|(method, _)| *method).collect();
    let naming = naming::naming();
    let naming: BTreeSet<&str> = naming.iter().map(String::as_str).collect();
    assert_eq!(
        called, naming,
        "the calls above, and the RPCs that name something"
    );
    answers
}

/// How a stream begins.
async fn first<T>(answer: Result<Response<Streaming<T>>, Status>) -> Result<(), Status> {
    answer?.into_inner().message().await.map(drop)
}

/// The error of the first of several tasks as a call for it alone would have said it, when none of them has scores.
fn refused(results: Vec<v1::TaskPredictions>) -> Result<(), Status> {
    let errors: Option<Vec<_>> = results.into_iter().map(|result| result.error).collect();
    let Some(error) = errors.and_then(|errors| errors.into_iter().next()) else {
        return Ok(());
    };
    let details = ErrorDetails::with_error_info(error.reason, "frameshift", HashMap::new());
    let code = Code::from_i32(error.code);
    Err(Status::with_error_details(code, error.message, details))
}

/// What the other tenant has.
pub(super) struct Theirs {
    /// The id of a task and of a data set.
    pub(super) named: String,
    pub(super) video: String,
    pub(super) upload: String,
    pub(super) job: String,
    pub(super) sweep: String,
    pub(super) etag: String,
}

impl Theirs {
    /// Gives a tenant one thing of each kind.
    pub(super) async fn of(client: &Client) -> Self {
        let videos = trained(client, "theirs").await;
        let upload = v1::CreateUploadRequest::default();
        let upload = client.videos().create_upload(upload).await;
        let jobs = v1::ListJobsRequest::default();
        let jobs = client.fine_tuning().list_jobs(jobs).await;
        let task = v1::GetTaskRequest {
            name: "tasks/theirs".into(),
        };
        let task = client.tasks().get_task(task).await;
        let sweep = new_sweep("tried", "theirs");
        let sweep = client.fine_tuning().submit_sweep(sweep).await;
        let sweep = sweep.unwrap().into_inner().name;
        // What it does beside the calls of others would count as theirs.
        until(async || {
            let request = v1::GetSweepRequest {
                name: sweep.clone(),
            };
            let sweep = client.fine_tuning().get_sweep(request).await;
            sweep.unwrap().into_inner().end_time.is_some()
        })
        .await;
        Self {
            named: "theirs".into(),
            video: videos[0].name.clone(),
            upload: upload.unwrap().into_inner().name,
            job: jobs.unwrap().into_inner().jobs[0].name.clone(),
            sweep,
            etag: task.unwrap().into_inner().etag,
        }
    }

    /// A message without the ids of these things.
    pub(super) fn unnamed(&self, message: &str) -> String {
        [
            &self.named,
            &self.video,
            &self.upload,
            &self.job,
            &self.sweep,
        ]
        .iter()
        .filter_map(|name| name.rsplit('/').next())
        .fold(message.to_owned(), |text, id| text.replace(id, "ID"))
    }
}

/// A sweep of one point and one seed.
fn new_sweep(prefix: &str, dataset: &str) -> v1::SubmitSweepRequest {
    let shape = new_task(prefix).task;
    v1::SubmitSweepRequest {
        task_prefix: prefix.into(),
        dataset: format!("datasets/{dataset}"),
        shapes: shape.into_iter().collect(),
        seeds: vec![1],
        hyper_parameters: Some(v1::HyperParameters {
            epochs: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    }
}
