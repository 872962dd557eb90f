//! `frameshift train` with recipes and options beside them, shapes that the server completes, and versions of two tasks compared.

use frameshift::config::Backbone;
use frameshift::proto::v1;
use serde_json::Value;

use crate::reports::command::ask;
use crate::server::{TestServer, create_dataset, new_task, serving, submit, trained, until};

/// What a job would be with these options: the task and the job of `--dry-run`.
async fn dry(server: &TestServer, options: &[&str]) -> (Value, Value) {
    let words = [
        "train",
        "--task",
        "new",
        "--dataset",
        "shades",
        "--dry-run",
        "--json",
    ];
    let words = [&words[..], options].concat();
    let mut told = ask(server, &words).await.ends(0).json();
    let mut told = told.remove(0);
    (told["task"].take(), told["job"].take())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_every_recipe_with_every_option_that_stands_in_place_of_its_own() {
    let server = TestServer::start_with(|config| config.backbone = Backbone::Builtin).await;
    let client = server.client("default").await;
    create_dataset(&client, "shades").await;
    let options: [&[&str]; 12] = [
        &[],
        &["--mirror", "off"],
        &["--mirror", "auto"],
        &["--horizontal-flip"],
        &["--min-crop-area", "0.5"],
        &["--short-side-scale", "1.2"],
        &["--warmup-share", "0.1"],
        &["--warmup-epochs", "1"],
        &["--learning-rate", "1e-4"],
        &["--base-learning-rate", "1e-4"],
        &["--epochs", "1"],
        &["--sampling-rate", "0"],
    ];
    for preset in ["auto", "k400-12x384", "ssv2-24x384"] {
        for given in options {
            dry(&server, &[&["--preset", preset][..], given].concat()).await;
        }
    }
    let k400 = async |given: &[&str]| {
        let (_, job) = dry(&server, &[&["--preset", "k400-12x384"][..], given].concat()).await;
        let own = &job["hyper_parameters"];
        serde_json::json!([own["mirror"], own["horizontal_flip"]])
    };
    let shown = serde_json::json!([["on", true], ["off", false], ["auto", null]]);
    assert_eq!(k400(&[]).await, shown[0]);
    assert_eq!(k400(&["--mirror", "off"]).await, shown[1]);
    assert_eq!(k400(&["--mirror", "auto"]).await, shown[2]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_width_that_is_not_given_is_half_of_the_backbones() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    create_dataset(&client, "shades").await;
    let half = (server.wiring.backbone.config().width / 2) as u32;
    let mut request = new_task("own");
    let adapter = request.task.as_mut().unwrap().adapter.as_mut().unwrap();
    adapter.adapter_width = 0;
    let task = client.tasks().create_task(request.clone()).await.unwrap();
    assert_eq!(task.into_inner().adapter.unwrap().adapter_width, half);
    // A job that is not submitted shows the task that is not created, and no task of one that is there.
    let asked = |task: &str, new_task| v1::SubmitJobRequest {
        task: format!("tasks/{task}"),
        dataset: "datasets/shades".into(),
        validate_only: true,
        new_task,
        ..Default::default()
    };
    let preview = client
        .fine_tuning()
        .submit_job(asked("new", request.task))
        .await;
    let shown = preview.unwrap().into_inner().new_task.expect("the task");
    assert_eq!(
        (shown.name.as_str(), shown.adapter.unwrap().adapter_width),
        ("tasks/new", half)
    );
    assert_eq!(shown.sampling.unwrap().num_spatial_views, 1);
    let preview = client.fine_tuning().submit_job(asked("own", None)).await;
    assert_eq!(preview.unwrap().into_inner().new_task, None);
    // The command leaves the choice to the server.
    let (task, _) = dry(&server, &["--num-frames", "2"]).await;
    assert_eq!(task["adapter"]["adapter_width"], half);
    assert_eq!(task["name"], "tasks/new");
    let created = ["tasks", "create", "made", "--json"];
    let created = ask(&server, &created).await.ends(0).json();
    assert_eq!(created[0]["adapter"]["adapter_width"], half);
    let zero = ["tasks", "create", "zero", "--adapter-width", "0"];
    ask(&server, &zero).await.ends(64);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_two_tasks_are_compared_on_the_same_clips() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    trained(&client, "shades").await;
    serving(&client, "shades").await;
    let mut probe = new_task("probe");
    probe.task.as_mut().unwrap().adapter = Some(v1::AdapterConfig::default());
    client.tasks().create_task(probe).await.unwrap();
    submit(&client, "probe", "shades").await;
    until(|| async {
        let name = "tasks/probe/versions/1".into();
        let request = v1::GetAdapterVersionRequest { name };
        client.tasks().get_adapter_version(request).await.is_ok()
    })
    .await;
    let compare = [
        "evaluate",
        "--dataset",
        "shades",
        "--split",
        "val",
        "--compare",
    ];
    let ran = async |words: &[&str]| ask(&server, &[&compare[..], words].concat()).await;
    let versions = ["tasks/shades/versions/1", "tasks/probe/versions/1"];
    for words in [
        &["shades@1", "probe@1", "--json"][..],
        &[versions[0], versions[1], "--json"],
        &["1", "probe@1", "--task", "shades", "--json"],
    ] {
        let told = ran(words).await.ends(0).json().remove(0);
        assert_eq!(told["type"], "comparison");
        assert_eq!(told["versions"], serde_json::json!(versions));
        assert_eq!(told["clips"], 2);
        assert_eq!(told["left_out"], 0);
    }
    let text = ran(&["shades@1", "probe@1"]).await.ends(0).out;
    let named = versions
        .iter()
        .all(|name| text.contains(&format!("{name} ")));
    assert!(
        named && text.contains("2 clips: ") && text.contains("McNemar"),
        "{text}"
    );
    let text = ran(&["1", "1", "--task", "probe"]).await.ends(0).out;
    assert!(
        text.contains("version 1 on 0") || text.contains("version 1 on 1"),
        "{text}"
    );
    let refused = ran(&["shades@1", "1"]).await.ends(64);
    assert!(refused.err.contains("TASK@1"), "{refused:?}");
    ran(&["shades@1", "none@1"]).await.ends(1);
    ask(&server, &["evaluate", "--dataset", "shades"])
        .await
        .ends(64);
    server.stop().await;
}
