//! `frameshift sweep` against a server: the table has every point, and what it says is what the jobs' records say.

use frameshift::proto::v1;
use tonic::Code;

use crate::reports::command::ask;
use crate::server::{TestServer, create_dataset, new_task, refused};

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)]
async fn a_sweep_is_submitted_shown_and_listed_with_the_spread_over_its_seeds() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    create_dataset(&client, "shades").await;
    let words = [
        "sweep",
        "submit",
        "--task-prefix",
        "try",
        "--dataset",
        "shades",
        "--sites-of",
        "none,pre-mlp",
        "--adapter-widths",
        "4",
        "--learning-rates",
        "0.01,0.02",
        "--num-frames",
        "2",
        "--epochs",
        "1",
        "--seeds",
        "3,4",
    ];
    let told = ask(&server, &words).await.ends(0);
    assert!(
        told.out.contains("SUCCEEDED") && told.out.contains("tasks/try-2"),
        "{told:?}"
    );
    // A line of the sweep, one of the table's head, and one of each point.
    assert_eq!(told.out.lines().count(), 2 + 4, "{told:?}");
    let listed = ask(&server, &["sweep", "list", "--json"])
        .await
        .ends(0)
        .json();
    let name = listed[0]["name"].as_str().expect("a name").to_owned();
    let shown = ask(&server, &["sweep", "show", &name, "--json"])
        .await
        .ends(0)
        .json();
    let points = shown[0]["points"].as_array().expect("points");
    assert_eq!(points.len(), 4);
    let sweep = v1::GetSweepRequest { name: name.clone() };
    let sweep = client
        .fine_tuning()
        .get_sweep(sweep)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (sweep.round, sweep.rounds, sweep.jobs, sweep.unfinished_jobs),
        (1, 1, 8, 0)
    );
    for point in &sweep.points {
        assert_eq!((point.succeeded, point.jobs.len()), (2, 2));
        let mut top1 = Vec::new();
        for job in &point.jobs {
            let request = v1::GetJobRequest {
                name: job.name.clone(),
            };
            let record = client
                .fine_tuning()
                .get_job(request)
                .await
                .unwrap()
                .into_inner();
            let result = record.result.expect("a result");
            let hyper = record.hyper_parameters.expect("hyper-parameters");
            assert_eq!(
                (hyper.seed, hyper.learning_rate),
                (Some(job.seed), point.learning_rate)
            );
            assert_eq!((&record.task, &result.version), (&point.task, &job.version));
            top1.push(result.evaluation.expect("metrics").top1);
        }
        let mean = (top1[0] + top1[1]) / 2.0;
        let deviation = ((top1[0] - mean).powi(2) + (top1[1] - mean).powi(2)).sqrt();
        assert!((point.top1 - mean).abs() < 1e-12);
        assert!((point.top1_deviation - deviation).abs() < 1e-12);
        let (least, most) = (top1[0].min(top1[1]), top1[0].max(top1[1]));
        assert_eq!((point.top1_min, point.top1_max), (least, most));
    }
    let task = v1::GetTaskRequest {
        name: "tasks/try-1".into(),
    };
    let task = client.tasks().get_task(task).await.unwrap().into_inner();
    assert_eq!(
        (task.auto_serve, task.serving_version.as_str()),
        (Some(false), "")
    );
    let request = v1::CancelSweepRequest { name };
    let cancelled = client.fine_tuning().cancel_sweep(request).await;
    refused(cancelled, Code::FailedPrecondition, "SWEEP_FINISHED");
    let request = |change: fn(&mut v1::SubmitSweepRequest)| {
        let mut request = v1::SubmitSweepRequest {
            task_prefix: "more".into(),
            dataset: "datasets/shades".into(),
            shapes: new_task("more").task.into_iter().collect(),
            seeds: vec![1],
            ..Default::default()
        };
        change(&mut request);
        request
    };
    for change in [
        (|own| own.shapes.clear()) as fn(&mut v1::SubmitSweepRequest),
        |own| own.seeds.clear(),
        |own| own.halving = 1,
        |own| own.task_prefix = "No Name".into(),
        |own| own.priority = 101,
        |own| own.learning_rates = vec![0.0],
    ] {
        let answer = client.fine_tuning().submit_sweep(request(change)).await;
        refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    }
    server.stop().await;
}
