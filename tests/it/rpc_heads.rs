//! Heads over the API: a task of each is created, trained, served beside the others, exported, imported and embedded.

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::rpc_versions::{exported, import, into_task};
use crate::server::{
    TestServer, classify, create_dataset, events, new_task, refused, serving, submit,
};

/// Heads of which each task has one, with and without adapters.
const TASKS: [(&str, v1::Head, bool); 5] = [
    ("mean", v1::Head::Mean, true),
    ("frames", v1::Head::Frames, false),
    ("conv", v1::Head::Conv, false),
    ("attention", v1::Head::Attention, false),
    ("frames-adapted", v1::Head::Frames, true),
];

fn request(task: &str, head: v1::Head, has_sites: bool) -> v1::CreateTaskRequest {
    let mut request = new_task(task);
    if let Some(task) = &mut request.task {
        task.head = head.into();
        if let Some(adapter) = task.adapter.as_mut().filter(|_| !has_sites) {
            adapter.adapter_pre_mlp = false;
        }
    }
    request
}

async fn version(client: &Client, name: &str) -> v1::AdapterVersion {
    let request = v1::GetAdapterVersionRequest { name: name.into() };
    let version = client.tasks().get_adapter_version(request).await;
    version.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_each_head_trains_serves_beside_the_others_and_goes_out_and_in() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = create_dataset(&client, "shades").await;
    let classes = 2;
    let width = server.wiring.backbone.config().width;
    for (name, head, has_sites) in TASKS {
        let create = request(name, head, has_sites);
        let task = client.tasks().create_task(create).await.unwrap();
        assert_eq!(task.into_inner().head(), head);
        let job = submit(&client, name, "shades").await;
        events(&client, &job.name, 0).await;
        let own = version(&client, &serving(&client, name).await).await;
        assert_eq!(own.head(), head, "{name}");
        if name == "frames" {
            // Two frames a clip.
            assert_eq!(own.parameters as usize, classes * 2 * width + classes);
        }
    }
    // In one batch, each has the scores that it has alone.
    let video = &videos[0].name;
    let mut together = classify("", video);
    together.task = String::new();
    together.tasks = TASKS.map(|(name, ..)| format!("tasks/{name}")).to_vec();
    let together = client.classification().classify(together).await.unwrap();
    let together = together.into_inner().results;
    for ((name, ..), beside) in TASKS.iter().zip(&together) {
        let alone = client
            .classification()
            .classify(classify(name, video))
            .await;
        let alone = alone.unwrap().into_inner();
        assert_eq!(beside.predictions, alone.predictions, "{name}");
        assert_eq!(alone.predictions.len(), classes, "{name}");
    }
    // Out and into a task that is made of the file: with the same digest, head and scores.
    for (name, head, _) in TASKS {
        let format = match name {
            "frames" => v1::ExportFormat::Pytorch,
            _ => v1::ExportFormat::Safetensors,
        };
        let own = serving(&client, name).await;
        let (sent, bytes) = exported(&client, &own, format).await.unwrap();
        assert_eq!(sent.head(), head);
        let copy = format!("{name}-copy");
        let header = v1::ImportAdapterVersionHeader {
            create_task: true,
            ..into_task(&copy)
        };
        let back = import(&client, header, &bytes).await.unwrap();
        assert_eq!((back.head(), &back.sha256), (head, &sent.sha256), "{name}");
        serving(&client, &copy).await;
        let scores = async |task: &str| {
            let answer = client
                .classification()
                .classify(classify(task, video))
                .await;
            answer.unwrap().into_inner().predictions
        };
        assert_eq!(scores(&copy).await, scores(name).await, "{name}");
        let request = v1::EmbedRequest {
            task: format!("tasks/{copy}"),
            source: Some(v1::embed_request::Source::Video(video.clone())),
            ..Default::default()
        };
        let embedded = client.classification().embed(request).await.unwrap();
        let features = embedded.into_inner().features.expect("features");
        assert_eq!(features.shape, [width as u32], "{name}");
    }
    // Into a task of another head it does not go.
    let (_, bytes) = exported(
        &client,
        "tasks/frames/versions/1",
        v1::ExportFormat::Safetensors,
    )
    .await
    .unwrap();
    let result = import(&client, into_task("conv"), &bytes).await;
    let status = result.as_ref().expect_err("another head").clone();
    refused(result, Code::InvalidArgument, "INVALID_FIELD");
    let expected = "the file has no adapters and a head on 2 frames in order, the task no adapters and a head on a convolution over the frames";
    assert!(status.message().contains(expected), "{}", status.message());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_chooses_its_head_shows_what_it_compared_and_serves_the_best() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = create_dataset(&client, "shades").await;
    let create = request("auto", v1::Head::Auto, true);
    let task = client.tasks().create_task(create).await.unwrap();
    assert_eq!(task.into_inner().head(), v1::Head::Auto);
    let job = submit(&client, "auto", "shades").await;
    let told = events(&client, &job.name, 0).await;
    let compared: Vec<v1::job_event::ComparedHead> = told
        .into_iter()
        .filter_map(|event| match event.event {
            Some(v1::job_event::Event::Comparison(own)) => Some(own.heads),
            _ => None,
        })
        .flatten()
        .collect();
    let heads: Vec<(v1::Head, bool)> = compared
        .iter()
        .map(|own| (own.head(), own.has_adapters))
        .collect();
    let expected = [
        (v1::Head::Mean, false),
        (v1::Head::Frames, false),
        (v1::Head::Conv, false),
        (v1::Head::Attention, false),
        (v1::Head::Mean, true),
    ];
    assert_eq!(heads, expected);
    let published: Vec<_> = compared.iter().filter(|own| own.published).collect();
    let [best] = published[..] else {
        panic!("one is published: {compared:?}")
    };
    assert!(compared.iter().all(|own| own.top1 <= best.top1));
    let own = version(&client, &serving(&client, "auto").await).await;
    assert_eq!((own.head(), own.parameters), (best.head(), best.parameters));
    let measured = own.evaluation.expect("metrics");
    assert_eq!((measured.top1, measured.loss), (best.top1, best.loss));
    let answer = classify("auto", &videos[0].name);
    let answer = client.classification().classify(answer).await.unwrap();
    assert_eq!(answer.into_inner().predictions.len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_exist_is_refused_with_its_field() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let mut create = request("other", v1::Head::Mean, true);
    create.task.as_mut().expect("a task").head = 99;
    let status = client.tasks().create_task(create).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a field").field_violations;
    assert_eq!(violations[0].field, "task.head");
    server.stop().await;
}
