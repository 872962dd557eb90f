//! Versions as files over the API: what is refused, what is repeated, and whose they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::model::BackboneConfig;
use frameshift::model::exchange::to_torch;
use frameshift::model::load::{Float, Stored, serialize};
use frameshift::proto::v1;
use futures::stream;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::server::{TestServer, create_task, refused, serving, trained};

/// Imports a file.
pub(crate) async fn import(
    client: &Client,
    header: v1::ImportAdapterVersionHeader,
    bytes: &Bytes,
) -> Result<v1::AdapterVersion, Status> {
    use v1::import_adapter_version_request::Payload;
    let chunks = bytes
        .chunks(1 << 20)
        .map(|chunk| Payload::Chunk(bytes.slice_ref(chunk)));
    let messages: Vec<_> = std::iter::once(Payload::Header(header))
        .chain(chunks)
        .map(|payload| v1::ImportAdapterVersionRequest {
            payload: Some(payload),
        })
        .collect();
    let answer = client
        .tasks()
        .import_adapter_version(stream::iter(messages))
        .await?;
    Ok(answer.into_inner())
}

/// A version's file, checked against the header.
pub(crate) async fn exported(
    client: &Client,
    name: &str,
    format: v1::ExportFormat,
) -> Result<(v1::AdapterVersion, Bytes), Status> {
    use v1::export_adapter_version_response::Payload;
    let request = v1::ExportAdapterVersionRequest {
        name: name.into(),
        format: format.into(),
    };
    let mut answers = client
        .tasks()
        .export_adapter_version(request)
        .await?
        .into_inner();
    let first = answers.message().await?.and_then(|first| first.payload);
    let Some(Payload::Header(header)) = first else {
        panic!("the first message is the header");
    };
    let mut bytes = Vec::new();
    while let Some(message) = answers.message().await? {
        match message.payload {
            Some(Payload::Chunk(chunk)) => bytes.extend_from_slice(&chunk),
            other => panic!("{other:?} is no chunk"),
        }
    }
    assert_eq!(header.size_bytes as usize, bytes.len());
    assert_eq!(header.sha256, Sha256::digest(&bytes).to_vec());
    Ok((header.version.expect("a version"), bytes.into()))
}

pub(crate) fn into_task(task: &str) -> v1::ImportAdapterVersionHeader {
    v1::ImportAdapterVersionHeader {
        parent: format!("tasks/{task}"),
        ..Default::default()
    }
}

/// A head and adapters of width 4 for every block of a backbone.
pub(crate) fn adapters(config: &BackboneConfig, classes: usize) -> Vec<Stored> {
    let (c, w) = (config.width, 4);
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: Vec<usize>| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i % 7) as f32 * 0.01).collect();
        tensors.push(Stored {
            name,
            dtype: Float::F32.dtype(),
            shape,
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        });
    };
    for block in 0..config.layers {
        let site = format!("transformer.resblocks.{block}.adapter_pre_mlp");
        add(format!("{site}.fc1.weight"), vec![w, c]);
        add(format!("{site}.fc1.bias"), vec![w]);
        add(format!("{site}.conv.weight"), vec![w, 1, 3, 1, 1]);
        add(format!("{site}.conv.bias"), vec![w]);
        add(format!("{site}.fc2.weight"), vec![c, w]);
        add(format!("{site}.fc2.bias"), vec![c]);
    }
    add("fc.weight".into(), vec![classes, c]);
    add("fc.bias".into(), vec![classes]);
    tensors
}

pub(crate) fn file(tensors: &[Stored]) -> Bytes {
    serialize(tensors, &BTreeMap::new()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trained_version_goes_out_and_comes_into_another_task_with_its_digest() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    trained(&client, "shade").await;
    let name = serving(&client, "shade").await;
    for (i, format) in [v1::ExportFormat::Safetensors, v1::ExportFormat::Pytorch]
        .into_iter()
        .enumerate()
    {
        let (version, bytes) = exported(&client, &name, format).await.unwrap();
        let task = format!("copy-{i}");
        let header = v1::ImportAdapterVersionHeader {
            create_task: true,
            ..into_task(&task)
        };
        let copy = import(&client, header, &bytes).await.unwrap();
        assert_eq!(copy.sha256, version.sha256);
        assert_eq!(
            (copy.labels, copy.job, copy.evaluation),
            (version.labels, version.job, version.evaluation)
        );
        // It serves without being asked, and says the same.
        assert_eq!(serving(&client, &task).await, copy.name);
        let again = exported(&client, &copy.name, format).await.unwrap();
        assert!(again.1 == bytes, "the file is bit-equal");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_checked_before_a_version_exists() {
    let server = TestServer::start_with(|config| config.upload_limit = 3 << 20).await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let good = adapters(server.wiring.backbone.config(), 2);
    let with = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        file(&tensors)
    };
    let unreadable = |bytes: Bytes| {
        let client = &client;
        async move {
            let result = import(client, into_task("motion"), &bytes).await;
            refused(result, Code::InvalidArgument, "ADAPTERS_UNREADABLE");
        }
    };
    unreadable(Bytes::new()).await;
    unreadable(Bytes::from_static(b"anything")).await;
    unreadable(Bytes::from_static(b"\x80\x02cposix\nsystem\n.")).await;
    unreadable(with(&|tensors| drop(tensors.remove(0)))).await;
    unreadable(with(&|tensors| tensors[0].name.push('x'))).await;
    unreadable(with(&|tensors| tensors.retain(|t| t.name != "fc.bias"))).await;
    unreadable(with(&|tensors| {
        tensors[1].bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes())
    }))
    .await;

    // The head alone is a linear probe, which this task is not.
    let probe = with(&|tensors| tensors.retain(|t| t.name.starts_with("fc.")));
    let result = import(&client, into_task("motion"), &probe).await;
    refused(result, Code::InvalidArgument, "INVALID_FIELD");

    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_the_backbone_cannot_run_is_refused_with_its_field() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let request = v1::CreateTaskRequest {
        task_id: "deep".into(),
        task: Some(v1::Task {
            adapter: Some(v1::AdapterConfig {
                adapter_width: 4,
                adapter_layers: 99,
                adapter_pre_mlp: true,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let result = client.tasks().create_task(request).await;
    let status = result.expect_err("the backbone has fewer blocks");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("a field").field_violations;
    assert_eq!(violations[0].field, "task.adapter.adapter_layers");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_checked_before_a_version_exists() {
    let server = TestServer::start_with(|config| config.upload_limit = 3 << 20).await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let good = adapters(server.wiring.backbone.config(), 2);
    let bytes = file(&good);
    let wrong = |change: fn(&mut v1::ImportAdapterVersionHeader)| {
        let mut header = into_task("motion");
        change(&mut header);
        import(&client, header, &bytes)
    };
    let three = |header: &mut v1::ImportAdapterVersionHeader| {
        header.labels = ["a", "b", "c"].map(String::from).to_vec();
    };
    refused(wrong(three).await, Code::InvalidArgument, "INVALID_FIELD");
    let twice = |header: &mut v1::ImportAdapterVersionHeader| {
        header.labels = ["a", "a"].map(String::from).to_vec();
    };
    refused(wrong(twice).await, Code::InvalidArgument, "INVALID_FIELD");
    refused(
        wrong(|h| h.sha256 = vec![1; 32].into()).await,
        Code::DataLoss,
        "SHA256_MISMATCH",
    );
    refused(
        wrong(|h| h.sha256 = vec![1].into()).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    refused(
        wrong(|h| h.backbone_digest = vec![1; 32].into()).await,
        Code::FailedPrecondition,
        "BACKBONE_MISMATCH",
    );
    refused(
        wrong(|h| h.etag = "stale".into()).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    );
    refused(
        wrong(|h| h.parent = "tasks/other".into()).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
    );
    let large = Bytes::from(vec![0; 4 << 20]);
    let result = import(&client, into_task("motion"), &large).await;
    refused(result, Code::ResourceExhausted, "UPLOAD_TOO_LARGE");

    let request = v1::ListAdapterVersionsRequest {
        parent: "tasks/motion".into(),
        ..Default::default()
    };
    let versions = client
        .tasks()
        .list_adapter_versions(request.clone())
        .await
        .unwrap();
    assert_eq!(
        versions.into_inner().versions.len(),
        0,
        "nothing was refused too late"
    );
    let version = import(&client, into_task("motion"), &bytes).await.unwrap();
    assert_eq!(version.labels, ["0", "1"]);
    assert_eq!(
        (version.job.as_str(), version.dataset_digest.len()),
        ("", 0)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_another_backbone_is_refused() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let version = import(
        &client,
        into_task("motion"),
        &file(&adapters(server.wiring.backbone.config(), 2)),
    )
    .await
    .unwrap();
    let (_, bytes) = exported(&client, &version.name, v1::ExportFormat::Safetensors)
        .await
        .unwrap();
    let digest = server.wiring.backbone.digest().to_string();
    let text = String::from_utf8_lossy(&bytes);
    let at = text.find(&digest).expect("the manifest names the backbone");
    let mut other = bytes.to_vec();
    other[at] = if other[at] == b'0' { b'1' } else { b'0' };
    let result = import(&client, into_task("motion"), &other.into()).await;
    refused(result, Code::FailedPrecondition, "BACKBONE_MISMATCH");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_another_backbone_of_another_width_is_told_its_backbone() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    let own = server.wiring.backbone.config().clone();
    let bytes = file(&adapters(&own, 2));
    let version = import(&client, into_task("motion"), &bytes).await.unwrap();
    let (_, bytes) = exported(&client, &version.name, v1::ExportFormat::Safetensors)
        .await
        .unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut says: BTreeMap<String, String> =
        header.metadata().clone().unwrap().into_iter().collect();
    says.insert("backbone_digest".into(), "00".repeat(32));
    let wide = BackboneConfig {
        width: own.width * 2,
        ..own
    };
    let other = Bytes::from(serialize(&adapters(&wide, 2), &says));
    let result = import(&client, into_task("motion"), &other).await;
    refused(result, Code::FailedPrecondition, "BACKBONE_MISMATCH");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_import_leaves_no_task_behind() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let good = adapters(server.wiring.backbone.config(), 2);
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        ..into_task("new")
    };
    let labels = v1::ImportAdapterVersionHeader {
        labels: ["a", "b", "c"].map(String::from).to_vec(),
        ..header.clone()
    };
    let result = import(&client, labels, &file(&good)).await;
    refused(result, Code::InvalidArgument, "INVALID_FIELD");
    let etag = v1::ImportAdapterVersionHeader {
        etag: "of-another".into(),
        ..header.clone()
    };
    let result = import(&client, etag, &file(&good)).await;
    refused(result, Code::Aborted, "ETAG_MISMATCH");
    let tasks = client
        .tasks()
        .list_tasks(v1::ListTasksRequest::default())
        .await;
    assert_eq!(tasks.unwrap().into_inner().tasks, []);

    // So the next one may be of another shape.
    let probe: Vec<Stored> = good
        .iter()
        .filter(|tensor| tensor.name.starts_with("fc."))
        .cloned()
        .collect();
    import(&client, header.clone(), &file(&probe))
        .await
        .unwrap();
    let status = import(&client, header, &file(&good)).await.unwrap_err();
    assert_eq!(
        status.message(),
        "payload: the file has adapters of width 4 and kernel 3x1x1 before the MLP of every block, the task no adapters (a linear probe)"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_repeated_by_its_request_id_and_belongs_to_its_tenant() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    create_task(&client, "motion").await;
    create_task(&client, "other").await;
    let bytes = file(&adapters(server.wiring.backbone.config(), 2));
    let header = v1::ImportAdapterVersionHeader {
        labels: ["left", "right"].map(String::from).to_vec(),
        request_id: uuid::Uuid::now_v7().to_string(),
        ..into_task("motion")
    };
    let first = import(&client, header.clone(), &bytes).await.unwrap();
    let again = import(&client, header.clone(), &bytes).await.unwrap();
    assert_eq!(first, again);
    let first_header = header.clone();
    let elsewhere = v1::ImportAdapterVersionHeader {
        parent: "tasks/other".into(),
        ..header
    };
    let status = import(&client, elsewhere, &bytes).await.unwrap_err();
    assert!(
        status.message().contains("header.parent"),
        "{}",
        status.message()
    );
    refused::<()>(Err(status), Code::InvalidArgument, "REQUEST_ID_REUSED");
    let more = file(&adapters(server.wiring.backbone.config(), 3));
    let other = v1::ImportAdapterVersionHeader {
        labels: ["a", "b", "c"].map(String::from).to_vec(),
        ..first_header
    };
    let status = import(&client, other, &more).await.unwrap_err();
    for differs in ["sha256", "header.labels"] {
        assert!(status.message().contains(differs), "{}", status.message());
    }
    refused::<()>(Err(status), Code::InvalidArgument, "REQUEST_ID_REUSED");
    let second = import(&client, into_task("motion"), &bytes).await.unwrap();
    assert_ne!(
        first.name, second.name,
        "without an id it is another version"
    );

    let stranger = server.client("umbrella").await;
    let result = exported(&stranger, &first.name, v1::ExportFormat::Safetensors).await;
    refused(result, Code::NotFound, "VERSION_NOT_FOUND");
    let result = import(&stranger, into_task("motion"), &bytes).await;
    refused(result, Code::NotFound, "TASK_NOT_FOUND");
    let result = exported(
        &client,
        "tasks/motion/versions/99",
        v1::ExportFormat::Pytorch,
    )
    .await;
    refused(result, Code::NotFound, "VERSION_NOT_FOUND");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_passes_through_the_disk() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let classes = 5000;
    let tensors = adapters(server.wiring.backbone.config(), classes);
    let stored = serialize(&tensors, &BTreeMap::new());
    let torch = to_torch(&stored).expect("a PyTorch file");
    // An optimiser's state would come with it: whatever is not a tensor of the set costs nothing but the way.
    let note = BTreeMap::from([("note".to_owned(), "x".repeat(6 << 20))]);
    let padded = to_torch(&serialize(&tensors, &note)).expect("a PyTorch file");
    let padded = Bytes::from(padded);
    assert!(padded.len() > 5 << 20 && torch.len() < padded.len());
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        ..into_task("many")
    };
    let version = import(&client, header, &padded).await.unwrap();
    assert_eq!(version.labels.len(), classes);
    assert_eq!(version.labels[classes - 1], (classes - 1).to_string());
    server.stop().await;
}
