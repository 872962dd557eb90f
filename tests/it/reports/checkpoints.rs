//! Reported checkpoints of the built-in backbone: what lies beside the weights, labels that come with them, and imports that are refused.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::config::Backbone;
use frameshift::proto::v1;
use tonic::{Code, Status};

use super::command;
use crate::rpc_versions::{import, into_task};
use crate::server::{TestServer, refused, serving};

fn input(case: &str, name: &str) -> Bytes {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/reports");
    let path = folder.join(case).join(name);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.into()
}

async fn server() -> TestServer {
    TestServer::start_with(|config| config.backbone = Backbone::Builtin).await
}

fn new(task: &str) -> v1::ImportAdapterVersionHeader {
    v1::ImportAdapterVersionHeader {
        create_task: true,
        labels: ["left", "right"].map(String::from).to_vec(),
        ..into_task(task)
    }
}

async fn tasks(client: &Client) -> Vec<v1::Task> {
    let list = v1::ListTasksRequest::default();
    let answer = client.tasks().list_tasks(list).await.unwrap();
    answer.into_inner().tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_an_import_are_as_they_look() {
    let server = server().await;
    let client = server.client("acme").await;
    let probe = input("checkpoint-1", "probe.pth");
    let header = v1::ImportAdapterVersionHeader {
        labels: ["\u{feff}left", " cafe\u{301} "].map(String::from).to_vec(),
        ..new("a")
    };
    let version = import(&client, header, &probe).await.unwrap();
    assert_eq!(version.labels, ["left", "café"]);
    for (labels, says) in [
        (["left", "left "], "there twice"),
        (["left", "   "], "header.labels[1]"),
    ] {
        let header = v1::ImportAdapterVersionHeader {
            labels: labels.map(String::from).to_vec(),
            ..new("b")
        };
        let status = import(&client, header, &probe).await.unwrap_err();
        assert!(status.message().contains(says), "{}", status.message());
        refused::<()>(Err(status), Code::InvalidArgument, "INVALID_FIELD");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_import_leaves_nothing_and_the_next_one_keeps_its_sampling() {
    let server = server().await;
    let client = server.client("acme").await;
    let probe = input("checkpoint-2", "probe.pth");
    let sampling = |frames, rate| {
        Some(v1::ClipSampling {
            num_frames: frames,
            sampling_rate: rate,
            ..Default::default()
        })
    };
    let one = v1::ImportAdapterVersionHeader {
        labels: vec!["only".into()],
        ..new("gestures")
    };
    refused(
        import(&client, one, &probe).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    assert_eq!(tasks(&client).await, []);

    let strided = v1::ImportAdapterVersionHeader {
        sampling: sampling(16, 4),
        ..new("gestures")
    };
    import(&client, strided.clone(), &probe).await.unwrap();
    let own = tasks(&client).await[0].sampling.unwrap();
    assert_eq!((own.num_frames, own.sampling_rate), (16, 4));
    import(&client, strided, &probe).await.unwrap();
    import(&client, new("gestures"), &probe).await.unwrap();
    let other = v1::ImportAdapterVersionHeader {
        sampling: sampling(8, 0),
        ..new("gestures")
    };
    let status: Status = import(&client, other, &probe).await.unwrap_err();
    for says in [
        "header.sampling",
        "16 frames, one of every 4",
        "8 frames uniformly",
    ] {
        assert!(status.message().contains(says), "{}", status.message());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_without_labels_takes_the_tasks_when_the_count_fits() {
    let server = server().await;
    let client = server.client("acme").await;
    let probe = input("checkpoint-2", "probe.pth");
    import(&client, new("gestures"), &probe).await.unwrap();
    serving(&client, "gestures").await;
    let again = import(&client, into_task("gestures"), &probe)
        .await
        .unwrap();
    assert_eq!(again.labels, ["left", "right"]);

    let config = server.wiring.backbone.config().clone();
    let three: Vec<_> = crate::rpc_versions::adapters(&config, 3)
        .into_iter()
        .filter(|tensor| tensor.name.starts_with("fc."))
        .collect();
    let three = crate::rpc_versions::file(&three);
    let status = import(&client, into_task("gestures"), &three)
        .await
        .unwrap_err();
    assert!(
        status
            .message()
            .contains("has 2 labels, the file's head has 3 rows"),
        "{}",
        status.message()
    );
    refused::<()>(Err(status), Code::InvalidArgument, "INVALID_FIELD");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_python_beside_the_weights_refuse_no_checkpoint() {
    let server = server().await;
    let client = server.client("acme").await;
    let mut digests = Vec::new();
    let objects = [
        ("plain", None),
        ("compiled", None),
        ("numpy_scalar", Some("numpy")),
        ("namespace", Some("argparse.Namespace")),
    ];
    for (number, (name, object)) in objects.into_iter().enumerate() {
        let file = input("checkpoint-3", &format!("{name}.pth"));
        let version = import(&client, new(&format!("t{number}")), &file).await;
        let version = version.unwrap_or_else(|status| panic!("{name}: {status}"));
        let passed_over = version.passed_over.join("; ");
        match object {
            None => assert_eq!(passed_over, "", "{name}"),
            Some(object) => assert!(passed_over.contains(object), "{name}: {passed_over}"),
        }
        digests.push(version.sha256);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrappers_of_trainers_around_names_change_nothing() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let config = server.wiring.backbone.config().clone();
    let renamed = |rename: &dyn Fn(&str) -> String| {
        let mut tensors = crate::rpc_versions::adapters(&config, 2);
        for tensor in &mut tensors {
            tensor.name = rename(&tensor.name);
        }
        tensors
    };
    let mut averaged = renamed(&|name| format!("module.{name}"));
    let mut counter = averaged[0].clone();
    (counter.name, counter.shape) = ("n_averaged".to_owned(), Vec::new());
    counter.bytes.truncate(4);
    averaged.push(counter);
    let files = [
        renamed(&str::to_owned),
        renamed(&|name| format!("module._orig_mod.{name}")),
        renamed(&|name| format!("_forward_module.model.{name}")),
        renamed(&|name| format!("backbone.{name}")),
        renamed(&|name| format!("network.{name}")),
        // Parts of a model that were wrapped by themselves.
        renamed(&|name| name.replace("resblocks.0.", "resblocks.0._orig_mod.")),
        renamed(&|name| {
            let block = name.replace("resblocks.1.", "resblocks.1._checkpoint_wrapped_module.");
            format!("_fsdp_wrapped_module.{block}")
        }),
        averaged,
    ];
    let mut digests = Vec::new();
    for (number, tensors) in files.iter().enumerate() {
        let header = v1::ImportAdapterVersionHeader {
            sampling: Some(v1::ClipSampling {
                num_frames: 2,
                ..Default::default()
            }),
            ..new(&format!("t{number}"))
        };
        let version = import(&client, header, &crate::rpc_versions::file(tensors)).await;
        let version = version.unwrap_or_else(|status| panic!("{number}: {status}"));
        digests.push(version.sha256);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    // Names that would become one are left as they are, and fit nothing.
    let mut double = renamed(&str::to_owned);
    let mut second = double[0].clone();
    second.name = second
        .name
        .replace("resblocks.0.", "resblocks.0._orig_mod.");
    double.push(second);
    let double = import(&client, new("double"), &crate::rpc_versions::file(&double)).await;
    let refusals = [Code::InvalidArgument, Code::FailedPrecondition];
    assert!(refusals.contains(&double.unwrap_err().code()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_labels_is_named_with_its_line() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let probe = command::input("checkpoint-1/probe.pth");
    let own = |name: &str| command::input("checkpoint-1").join(name);
    let written = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let utf16: Vec<u8> = "\u{feff}left\r\nright\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (task, path) in [
        ("a", own("with_mark.txt")),
        ("b", own("empty_last_line.txt")),
        ("c", written("utf16.txt", &utf16)),
    ] {
        let words = ["import", command::word(&probe), "--task", task];
        let labels = ["--labels", command::word(&path), "--json"];
        let ran = command::ask(&server, &[&words[..], &labels].concat()).await;
        let version = &ran.ends(0).json()[0];
        assert_eq!(version["labels"], serde_json::json!(["left", "right"]));
    }
    for (name, bytes, says) in [
        ("middle.txt", &b"left\n\nright\n"[..], ", line 2: empty"),
        (
            "twice.txt",
            b"left\r\nleft \r\n",
            ", line 2: label \"left\" is that of line 1, too",
        ),
        (
            "latin1.txt",
            b"left\nth\xe9\n",
            ", line 2: not UTF-8 (byte 0xe9 at column 3)",
        ),
        (
            "one.txt",
            b"only\n",
            "1 label, the head of the file has 2 rows",
        ),
        ("none.txt", b"\n", ", line 1: no label"),
    ] {
        let path = written(name, bytes);
        let words = ["import", command::word(&probe), "--task", "refused"];
        let labels = ["--labels", command::word(&path)];
        let ran = command::ask(&server, &[&words[..], &labels].concat()).await;
        let ran = ran.ends(65);
        assert!(ran.err.contains(name) && ran.err.contains(says), "{ran:?}");
    }
    let client = server.client("default").await;
    let names: Vec<_> = tasks(&client)
        .await
        .into_iter()
        .map(|task| task.name)
        .collect();
    assert_eq!(names, ["tasks/a", "tasks/b", "tasks/c"]);
    server.stop().await;
}
