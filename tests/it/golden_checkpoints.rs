//! Checkpoints of the reference's training code: each becomes a version with equal logits, goes out in both formats and comes back bit-equal.
//!
//! Every case of `golden/checkpoints` is walked, never a list of names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::config::Backbone;
use frameshift::ids::{TenantId, VersionRef};
use frameshift::model::load::Archive;
use frameshift::model::{AdapterSet, Inference, Segment, Step};
use frameshift::proto::v1;
use frameshift::spec::Precision;
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::rpc_versions::{exported, import};
use crate::server::TestServer;
use crate::shared;

#[derive(Deserialize)]
struct Case {
    name: String,
    backbone: String,
    num_classes: usize,
    num_frames: usize,
    trainable: BTreeMap<String, Vec<usize>>,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct Tolerance {
    atol: f64,
}

fn cases() -> Vec<(PathBuf, Case)> {
    let root = shared::root().join("golden/checkpoints");
    let entries = fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no case in {}", root.display());
    folders
        .into_iter()
        .map(|folder| {
            let text = fs::read_to_string(folder.join("case.json")).expect("a case");
            let case = serde_json::from_str(&text).expect("a case is understood");
            (folder, case)
        })
        .collect()
}

/// Names of a case's checkpoints.
fn checkpoints(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("readable").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".pth"))
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checkpoint_is_imported_with_equal_logits_and_goes_out_and_in_bit_equal() {
    let cases = cases();
    let mut files = 0;
    for (folder, case) in &cases {
        let backbone = shared::root().join("golden").join(&case.backbone);
        let server = TestServer::start_with(|config| {
            config.backbone = Backbone::Path(backbone);
            config.precision = Some(Precision::F32);
        })
        .await;
        let client = server.client("acme").await;
        let mut digests = Vec::new();
        for (i, name) in checkpoints(folder).iter().enumerate() {
            let bytes = Bytes::from(fs::read(folder.join(name)).expect("a checkpoint"));
            let header = v1::ImportAdapterVersionHeader {
                parent: format!("tasks/imported-{i}"),
                create_task: true,
                sampling: Some(v1::ClipSampling {
                    num_frames: u32::try_from(case.num_frames).expect("a few frames"),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let version = import(&client, header, &bytes).await.expect("is imported");
            let labels: Vec<String> = (0..case.num_classes).map(|i| i.to_string()).collect();
            assert_eq!(version.labels, labels);
            check_logits(&server, folder, case, &version).await;
            check_round_trips(&client, case, &version, &folder.join(name)).await;
            digests.push(tensors_of(&server, &version).await);
            files += 1;
        }
        assert!(
            digests.windows(2).all(|pair| pair[0] == pair[1]),
            "{}: one set",
            case.name
        );
        server.stop().await;
    }
    println!("{} cases, {files} checkpoints", cases.len());
    assert!(files > 0, "no checkpoint");
}

fn reference(version: &v1::AdapterVersion) -> VersionRef {
    let (task, number) = version
        .name
        .split_once("/versions/")
        .expect("a version's name");
    VersionRef {
        tenant: "acme".parse::<TenantId>().expect("a tenant"),
        task: task["tasks/".len()..].parse().expect("a task"),
        version: number.parse().expect("a number"),
    }
}

async fn stored(server: &TestServer, version: &v1::AdapterVersion) -> Bytes {
    let loaded = server.wiring.registry.load(&reference(version)).await;
    loaded.expect("the version is whole").bytes
}

/// Names and bits of a version's tensors.
async fn tensors_of(server: &TestServer, version: &v1::AdapterVersion) -> Vec<(String, Vec<u8>)> {
    let bytes = stored(server, version).await;
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors: Vec<(String, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

async fn check_logits(
    server: &TestServer,
    folder: &Path,
    case: &Case,
    version: &v1::AdapterVersion,
) {
    let golden = fs::read(folder.join("expected.safetensors")).expect("golden data");
    let golden = SafeTensors::deserialize(&golden).expect("golden data");
    let input = golden.tensor("input").expect("an input");
    let values: Vec<f32> = input
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let expected = golden.tensor("logits_f64").expect("logits");
    let expected: Vec<f64> = expected
        .data()
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| f64::from_le_bytes(*b))
        .collect();

    let backbone = server.wiring.backbone.clone();
    let bytes = stored(server, version).await;
    let record = server
        .wiring
        .registry
        .get_version(&reference(version))
        .await
        .expect("a record");
    let set = AdapterSet::from_safetensors(
        &bytes,
        backbone.config(),
        record.manifest.adapter,
        case.num_classes,
    )
    .expect("it fits");
    let batch = input.shape()[0];
    let clips = values.chunks(values.len() / batch).map(Arc::from).collect();
    let segment = Segment {
        set: Arc::new(set),
        clips: 0..batch,
        num_frames: case.num_frames,
    };
    let mut inference = Inference::new(backbone, clips, vec![segment]).expect("a batch");
    while inference.advance().expect("the forward goes on") != Step::Done {}
    let logits = inference.into_logits().expect("logits").concat();
    assert_eq!(logits.len(), expected.len());
    let distance = logits
        .iter()
        .zip(&expected)
        .map(|(a, b)| (f64::from(*a) - b).abs());
    let worst = distance.fold(0.0, f64::max);
    println!(
        "{}: {}: logits within {worst:.2e} of {:.0e}",
        case.name, version.name, case.tolerance.atol
    );
    assert!(worst <= case.tolerance.atol);
}

async fn check_round_trips(
    client: &Client,
    case: &Case,
    version: &v1::AdapterVersion,
    checkpoint: &Path,
) {
    for format in [v1::ExportFormat::Safetensors, v1::ExportFormat::Pytorch] {
        let (shown, bytes) = exported(client, &version.name, format)
            .await
            .expect("goes out");
        assert_eq!(shown.sha256, version.sha256);
        let file = Archive::in_memory("exported", bytes.to_vec()).expect("is read");
        let shapes: BTreeMap<&str, &Vec<usize>> = file
            .header()
            .entries
            .iter()
            .map(|entry| (entry.name.as_str(), &entry.shape))
            .collect();
        let expected: BTreeMap<&str, &Vec<usize>> = case
            .trainable
            .iter()
            .map(|(name, shape)| (name.as_str(), shape))
            .collect();
        assert_eq!(shapes, expected, "{}: keys and shapes", case.name);
        assert_eq!(file.torch().is_some(), format == v1::ExportFormat::Pytorch);
        same_bits(&file, checkpoint);

        let header = v1::ImportAdapterVersionHeader {
            parent: format!(
                "{}-again-{}",
                version.name.replace("/versions/", "-"),
                format as i32
            ),
            create_task: true,
            ..Default::default()
        };
        let again = import(client, header, &bytes)
            .await
            .expect("comes in again");
        assert_eq!(again.sha256, version.sha256, "the version's digest is kept");
        assert_eq!(again.labels, version.labels);
    }
}

/// What goes out has the bits of what came in, where that was in the same float format.
fn same_bits(file: &Archive, checkpoint: &Path) {
    let original = Archive::open(checkpoint).expect("the checkpoint is read");
    let mut compared = 0;
    for entry in &file.header().entries {
        let names = [entry.name.clone(), format!("module.{}", entry.name)];
        let own = names.iter().find_map(|name| original.header().find(name));
        let own = own.expect("the checkpoint has it");
        if own.dtype == entry.dtype {
            assert!(
                original.data(own) == file.data(entry),
                "{} differs",
                entry.name
            );
            compared += 1;
        }
    }
    assert!(compared > 0, "{}", checkpoint.display());
}
