//! Tenants: equal names coexist, and nothing of one tenant can be seen, named or used by another.

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::{Code, Status};

use crate::server::{
    TestServer, classify, clip, create_dataset, create_task, events, reason, submit, trained,
};

// One call a line or two, of every RPC that names something.
#[allow(clippy::too_many_lines)]
/// Every RPC that names something, called by `client` on things of another tenant. Returns what each answered.
async fn reach(client: &Client, theirs: &Theirs) -> Vec<(&'static str, Result<(), Status>)> {
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
    let header = v1::WriteUploadRequest {
        payload: Some(v1::write_upload_request::Payload::Header(
            v1::WriteUploadHeader {
                name: name(),
                offset: 0,
            },
        )),
    };
    call!(videos.write_upload, futures::stream::iter([header]));

    let name = || "datasets/theirs".to_owned();
    call!(datasets.get_dataset, v1::GetDatasetRequest { name: name() });
    call!(
        datasets.delete_dataset,
        v1::DeleteDatasetRequest { name: name() }
    );
    let request = v1::ListExamplesRequest {
        name: name(),
        ..Default::default()
    };
    call!(datasets.list_examples, request);
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
    }];
    let add = |name: &str| v1::AddExamplesRequest {
        name: name.into(),
        examples: examples.clone(),
    };
    call!(datasets.add_examples, add("datasets/theirs"));
    call!(datasets.add_examples, add("datasets/mine"));

    let name = || "tasks/theirs".to_owned();
    let version = || "tasks/theirs/versions/1".to_owned();
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
    let etag = theirs.etag.clone();
    call!(
        tasks.set_serving,
        v1::SetServingRequest {
            name: name(),
            version: version(),
            etag
        }
    );

    let submit = |task: &str, dataset: &str| v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: format!("datasets/{dataset}"),
        ..Default::default()
    };
    call!(fine_tuning.submit_job, submit("theirs", "mine"));
    call!(fine_tuning.submit_job, submit("mine", "theirs"));
    let name = || theirs.job.clone();
    call!(fine_tuning.get_job, v1::GetJobRequest { name: name() });
    call!(
        fine_tuning.cancel_job,
        v1::CancelJobRequest { name: name() }
    );
    call!(
        fine_tuning.watch_job,
        v1::WatchJobRequest {
            name: name(),
            after_sequence: 0
        }
    );

    call!(classification.classify, classify("theirs", &theirs.video));
    let content = v1::ClassifyRequest {
        source: Some(v1::classify_request::Source::Content(clip(1))),
        ..classify("theirs", "")
    };
    call!(classification.classify, content);
    call!(classification.classify, classify("shade", &theirs.video));
    let header = v1::ClassifyUploadRequest {
        payload: Some(v1::classify_upload_request::Payload::Header(
            v1::ClassifyUploadHeader {
                task: "tasks/theirs".into(),
                options: None,
            },
        )),
    };
    call!(
        classification.classify_upload,
        futures::stream::iter([header])
    );
    answers
}

/// What the other tenant has.
struct Theirs {
    video: String,
    upload: String,
    job: String,
    etag: String,
}

/// What a tenant's own listings show.
async fn listed(client: &Client) -> (usize, usize, usize, usize, usize) {
    let videos = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    let datasets = client
        .datasets()
        .list_datasets(v1::ListDatasetsRequest::default())
        .await;
    let tasks = client
        .tasks()
        .list_tasks(v1::ListTasksRequest::default())
        .await;
    let jobs = client
        .fine_tuning()
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    let resident = client
        .tasks()
        .list_residency(v1::ListResidencyRequest {})
        .await;
    (
        videos.unwrap().into_inner().videos.len(),
        datasets.unwrap().into_inner().datasets.len(),
        tasks.unwrap().into_inner().tasks.len(),
        jobs.unwrap().into_inner().jobs.len(),
        resident.unwrap().into_inner().sets.len(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_tenant_exists_whatever_is_called() {
    let server = TestServer::start().await;
    let (a, b) = (server.client("a").await, server.client("b").await);
    let videos = trained(&a, "theirs").await;
    let upload = a
        .videos()
        .create_upload(v1::CreateUploadRequest::default())
        .await;
    let jobs = a
        .fine_tuning()
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    let request = v1::GetTaskRequest {
        name: "tasks/theirs".into(),
    };
    let theirs = Theirs {
        video: videos[0].name.clone(),
        upload: upload.unwrap().into_inner().name,
        job: jobs.unwrap().into_inner().jobs[0].name.clone(),
        etag: a.tasks().get_task(request).await.unwrap().into_inner().etag,
    };
    assert_eq!(listed(&b).await, (0, 0, 0, 0, 0));
    let before = listed(&a).await;

    trained(&b, "shade").await;
    create_task(&b, "mine").await;
    create_dataset(&b, "mine").await;
    for (method, answer) in reach(&b, &theirs).await {
        let status = answer.expect_err(method);
        assert_eq!(status.code(), Code::NotFound, "{method}: {status:?}");
        assert!(
            reason(&status).ends_with("_NOT_FOUND"),
            "{method}: {status:?}"
        );
    }
    assert_eq!(listed(&a).await, before);
    let answer = a
        .classification()
        .classify(classify("theirs", &theirs.video))
        .await;
    assert_eq!(
        answer.unwrap().into_inner().version,
        "tasks/theirs/versions/1"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_names_of_two_tenants_coexist_and_train_at_once() {
    let server = TestServer::start().await;
    let (a, b) = (server.client("a").await, server.client("b").await);
    create_task(&a, "shade").await;
    create_task(&b, "shade").await;
    let (of_a, of_b) = (
        create_dataset(&a, "set").await,
        create_dataset(&b, "set").await,
    );
    let (job_a, job_b) = (
        submit(&a, "shade", "set").await,
        submit(&b, "shade", "set").await,
    );
    let (events_a, events_b) = tokio::join!(events(&a, &job_a.name, 0), events(&b, &job_b.name, 0));
    assert!(!events_a.is_empty() && !events_b.is_empty());
    for (client, job) in [(&a, &job_a), (&b, &job_b)] {
        let request = v1::GetJobRequest {
            name: job.name.clone(),
        };
        let job = client
            .fine_tuning()
            .get_job(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(job.state(), v1::JobState::Succeeded, "{job:?}");
    }
    assert!(
        of_a.iter()
            .all(|video| of_b.iter().all(|other| other.name != video.name))
    );
    let request = v1::DeleteTaskRequest {
        name: "tasks/shade".into(),
        etag: String::new(),
    };
    a.tasks().delete_task(request).await.unwrap();
    let request = v1::GetTaskRequest {
        name: "tasks/shade".into(),
    };
    assert!(b.tasks().get_task(request).await.is_ok());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_events_replay_from_any_number_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(crate::server::config(folder.path())).await;
    let client = server.client("a").await;
    create_task(&client, "shade").await;
    create_dataset(&client, "set").await;
    let job = submit(&client, "shade", "set").await;
    let live = events(&client, &job.name, 0).await;
    assert!(live.len() > 3);
    assert!(
        live.iter()
            .map(|event| event.sequence)
            .eq(1..=live.len() as u64)
    );
    server.stop().await;

    let server = TestServer::start_on(crate::server::config(folder.path())).await;
    let client = server.client("a").await;
    for after in 0..=live.len() {
        let replayed = events(&client, &job.name, after as u64).await;
        assert_eq!(replayed, live[after..]);
    }
    server.stop().await;
}
