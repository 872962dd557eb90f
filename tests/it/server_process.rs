//! The real program as a child process: how it starts, refuses to, drains, and what survives its sudden end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::model::load::{Archive, Overrides, plan};
use frameshift::proto::v1;
use futures::stream;
use rustix::process::{Pid, Signal, kill_process};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::processes;
use crate::rpc_uploads::{committed, create, write_rest};
use crate::rpc_versions::{adapters, exported, file, import, into_task};
use crate::server::{backbone, clip, noise, serving, soon, until, upload, upload_messages};

/// A server of its own process.
pub(crate) struct Process {
    child: Child,
    address: PathBuf,
}

pub(crate) fn command(folder: &Path) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_frameshift")), folder)
}

/// As [`command`], of a program of another release.
pub(crate) fn command_of(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"])
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--backbone")
        .arg(backbone())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

impl Process {
    pub(crate) fn start(folder: &Path, extra: &[&str]) -> Self {
        Self::start_by(command(folder), folder, extra)
    }

    /// As [`Self::start`], by a command of the test's own.
    pub(crate) fn start_by(mut command: Command, folder: &Path, extra: &[&str]) -> Self {
        let address = folder.join(format!("address-{}", uuid::Uuid::now_v7()));
        let child = command
            .arg("--address-file")
            .arg(&address)
            .args(extra)
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// The address once it is bound.
    pub(crate) async fn address(&self) -> String {
        until(|| async { self.address.is_file() }).await;
        let address = std::fs::read_to_string(&self.address).unwrap();
        address.trim().to_owned()
    }

    /// A client once the server serves.
    pub(crate) async fn client(&self) -> Client {
        let address = format!("http://{}", self.address().await);
        let client = Client::connect(&address, Some("acme")).await.unwrap();
        until(|| async {
            frameshift::client::health::is_serving(&client)
                .await
                .unwrap()
        })
        .await;
        client
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap() as i32).unwrap()
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        processes::ended(&mut self.child).await
    }

    pub(crate) async fn terminate(self) -> ExitStatus {
        self.signalled(Signal::TERM).await
    }

    async fn signalled(mut self, signal: Signal) -> ExitStatus {
        kill_process(self.pid(), signal).unwrap();
        self.ended().await
    }
}

pub(crate) async fn output(mut command: Command) -> (Option<i32>, String) {
    let output = processes::output(&mut command).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_belongs_to_one_server_which_drains_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(folder.path(), &[]);
    let client = first.client().await;
    let (code, text) = output(command(folder.path())).await;
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("is in use by another process"), "{text}");
    // Whoever tidies up may take the file for a stale one.
    std::fs::remove_file(folder.path().join("data/lock")).unwrap();
    let (code, text) = output(command(folder.path())).await;
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("is in use by another process"), "{text}");
    upload(&client, &clip(1))
        .await
        .expect("the first server lives on");
    assert_eq!(first.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_closes_and_a_quit_drain_as_well() {
    for signal in [Signal::HUP, Signal::QUIT] {
        let folder = tempfile::tempdir().unwrap();
        let server = Process::start(folder.path(), &[]);
        let client = server.client().await;
        upload(&client, &clip(1)).await.unwrap();
        assert_eq!(server.signalled(signal).await.code(), Some(0), "{signal:?}");
    }
}

/// Descriptors that a process has open.
fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))
        .unwrap()
        .count()
}

/// The preface and an empty SETTINGS frame: a connection that speaks HTTP/2 and asks for nothing.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_calls_are_told_to_come_again_and_all_is_well_once_there_are_some() {
    const LIMIT: usize = 96;
    let folder = tempfile::tempdir().unwrap();
    // The shell lowers its own hard limit, which the program that it becomes cannot raise.
    let serve = command(folder.path());
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -n {LIMIT} && exec \"$@\""), "sh"])
        .arg(serve.as_std().get_program())
        .args(serve.as_std().get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let server = Process::start_by(limited, folder.path(), &[]);
    let client = server.client().await;
    let pid = server.pid();
    let stored = upload(&client, &clip(1)).await.unwrap();

    let address = std::fs::read_to_string(&server.address).unwrap();
    let mut silent = Vec::new();
    for _ in 0..2 * LIMIT {
        // Those beyond the limit wait in the kernel's queue.
        let mut connection = tokio::net::TcpStream::connect(address.trim())
            .await
            .unwrap();
        connection.write_all(GREETING).await.unwrap();
        silent.push(connection);
    }
    until(|| async { descriptors(pid) >= LIMIT - 1 }).await;
    for _ in 0..2 {
        if let Err(status) = soon(upload(&client, &clip(2))).await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
        }
    }
    let mut videos = client.videos();
    let name = stored.name;
    let record = videos.get_video(v1::GetVideoRequest { name });
    soon(record).await.expect("what is known needs no new file");

    drop(silent);
    until(|| async { upload(&client, &clip(3)).await.is_ok() }).await;
    server.client().await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why_and_which_kind_of_fault_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--listen", "0.0.0.0:0"], 64, "--insecure-allow-anonymous"),
        (&["--queue-clips", "none"], 64, "--queue-clips"),
        (
            &["--config", "/nowhere/frameshift.toml"],
            64,
            "/nowhere/frameshift.toml",
        ),
        (&["--backbone", "/nowhere"], 69, "/nowhere"),
        // A program without CUDA, a machine without a driver, and one with fewer devices say different things in one sentence.
        (&["--device", "cuda:99"], 69, "cannot compute on cuda:99: "),
        (&["--device", "gpu"], 64, "device"),
    ];
    for (arguments, code, part) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.path().join("data"));
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(arguments);
        let (exit, text) = output(command).await;
        assert_eq!(exit, Some(code), "{text}");
        assert!(text.contains(part), "{text}");
    }
}

/// A tensor of a file that a test changes.
pub(crate) struct Raw {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A copy of the small backbone in `folder` with other tensors and another configuration.
pub(crate) fn changed_backbone(
    folder: &Path,
    config: impl FnOnce(&mut serde_json::Value),
    change: impl Fn(&str, &mut Raw),
) -> PathBuf {
    let path = folder.join("changed");
    std::fs::create_dir(&path).unwrap();
    let text = std::fs::read(backbone().join("config.json")).unwrap();
    let mut json = serde_json::from_slice(&text).unwrap();
    config(&mut json);
    std::fs::write(path.join("config.json"), json.to_string()).unwrap();
    let file = std::fs::read(backbone().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let mut tensor = Raw {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        change(&name, &mut tensor);
        tensors.insert(name, tensor);
    }
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name.as_str(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(path.join("model.safetensors"), bytes).unwrap();
    path
}

/// A copy of the small backbone whose last norm overflows: every weight is finite, and no forward is.
fn unfit_backbone(folder: &Path) -> PathBuf {
    let overflow = |name: &str, tensor: &mut Raw| {
        if name.ends_with("post_layernorm.weight") {
            let count = tensor.shape.iter().product();
            tensor.dtype = Dtype::F32;
            tensor.bytes = f32::MAX.to_le_bytes().repeat(count);
        }
    };
    changed_backbone(folder, |_| {}, overflow)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backbone_whose_first_forward_fails_ends_the_start_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--backbone"])
        .arg(unfit_backbone(folder.path()))
        .arg("--data-dir")
        .arg(folder.path().join("data"));
    let (code, text) = output(command).await;
    assert_eq!(code, Some(70), "{text}");
    assert!(text.contains("the engine ended unexpectedly"), "{text}");
    assert!(text.contains("its logits are not finite"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_sandbox_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path(), &["--video-sandbox=off"]);
    let client = server.client().await;
    let info = client
        .server()
        .get_server_info(v1::GetServerInfoRequest {})
        .await
        .unwrap();
    let layers = info.into_inner().video_isolation;
    assert_eq!(layers, ["process", "rlimits", "no_new_privs"]);
    upload(&client, &clip(1)).await.expect("it decodes");
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_part_is_lost_when_the_server_is_killed_after_storing_one() {
    let bytes = noise(100);
    // The first part is not on record when the process dies, so nothing is acknowledged; at the second, the first one is.
    for (point, least) in [("part-stored", 0), ("part-stored:2", 8 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Process::start(folder.path(), &["--crash-at", point]);
        let client = server.client().await;
        let name = create(&client).await;
        let cut = write_rest(&client, &name, 0, &bytes).await;
        assert!(cut.is_err());
        assert_eq!(
            server.ended().await.code(),
            None,
            "{point}: it was not killed"
        );

        let server = Process::start(folder.path(), &[]);
        let client = server.client().await;
        let offset = committed(&client, &name).await;
        assert_eq!(offset, least, "{point}");
        let upload = write_rest(&client, &name, offset, &bytes).await.unwrap();
        assert_eq!(
            upload.video.unwrap().sha256,
            Sha256::digest(&bytes).to_vec()
        );
        assert_eq!(server.terminate().await.code(), Some(0));
    }
}

async fn send(client: &Client, bytes: &Bytes) -> Result<v1::Video, tonic::Status> {
    let header = v1::UploadVideoHeader {
        request_id: "0197b3c0-0000-7000-8000-000000000002".into(),
        ..Default::default()
    };
    let messages = upload_messages(header, bytes);
    let video = client.videos().upload_video(stream::iter(messages)).await?;
    Ok(video.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_is_whole_or_absent_when_the_server_is_killed_around_its_commit() {
    let bytes = clip(60);
    for (point, videos) in [("blob-put", 0), ("before-commit", 0), ("after-commit", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Process::start(folder.path(), &["--crash-at", point]);
        let client = server.client().await;
        assert!(send(&client, &bytes).await.is_err());
        assert_eq!(
            server.ended().await.code(),
            None,
            "{point}: it was not killed"
        );

        let server = Process::start(folder.path(), &[]);
        let client = server.client().await;
        let list = async || {
            let listed = client
                .videos()
                .list_videos(v1::ListVideosRequest::default())
                .await;
            listed.unwrap().into_inner().videos
        };
        assert_eq!(list().await.len(), videos, "{point}");
        let again = send(&client, &bytes).await.unwrap();
        assert_eq!(again.sha256, Sha256::digest(&bytes).to_vec());
        assert_eq!(list().await, [again], "{point}");
        assert_eq!(server.terminate().await.code(), Some(0));
    }
}

/// A task's versions with all that is known of each, and its tensors' bytes by name; that a file has its digest is checked on the way.
async fn versions(client: &Client, task: &str) -> Vec<(v1::AdapterVersion, Tensors)> {
    let request = v1::ListAdapterVersionsRequest {
        parent: format!("tasks/{task}"),
        ..Default::default()
    };
    let listed = client.tasks().list_adapter_versions(request).await;
    let mut versions = Vec::new();
    for version in listed.unwrap().into_inner().versions {
        let format = v1::ExportFormat::Safetensors;
        let (version, bytes) = exported(client, &version.name, format).await.unwrap();
        let archive = Archive::in_memory("exported", bytes.to_vec()).unwrap();
        let entries = archive.header().entries.iter();
        let tensors = entries.map(|entry| (entry.name.clone(), archive.data(entry).to_vec()));
        versions.push((version, tensors.collect()));
    }
    versions
}

type Tensors = BTreeMap<String, Vec<u8>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_whole_or_absent_when_the_server_is_killed_around_its_import() {
    let backbone = plan(&backbone(), &Overrides::default()).unwrap();
    let sets = [2, 3].map(|classes| adapters(backbone.config(), classes));
    let files = sets.each_ref().map(|set| file(set));
    let [first, second] = sets.map(|set| -> Tensors {
        let tensors = set.into_iter();
        tensors.map(|tensor| (tensor.name, tensor.bytes)).collect()
    });
    let header = |request: u32| v1::ImportAdapterVersionHeader {
        create_task: true,
        request_id: format!("0197b3c0-0000-7000-8000-{request:012}"),
        ..into_task("motion")
    };
    // In the store; committed; serving.
    for (point, visible) in [
        ("publish:2", 1),
        ("after-commit:2", 2),
        ("alias-moved:2", 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Process::start(folder.path(), &["--crash-at", point]);
        let client = server.client().await;
        let kept = import(&client, header(1), &files[0]).await.unwrap();
        serving(&client, "motion").await;
        // The version may begin to serve before its answer leaves, or after.
        let answer = import(&client, header(2), &files[1]).await;
        assert!(answer.is_err() || point == "alias-moved:2");
        let code = server.ended().await.code();
        assert_eq!(code, None, "{point}: it was not killed");

        let server = Process::start(folder.path(), &[]);
        let client = server.client().await;
        let found = versions(&client, "motion").await;
        let again = import(&client, header(2), &files[1]).await.unwrap();
        let both = [
            (kept.clone(), first.clone()),
            (again.clone(), second.clone()),
        ];
        assert_eq!(found, both[..visible], "{point}");
        if let Ok(answer) = answer {
            assert_eq!(answer, again, "{point}");
        }
        for _ in 0..2 {
            let (first, second) = (header(1), header(2));
            assert_eq!(import(&client, first, &files[0]).await.unwrap(), kept);
            assert_eq!(import(&client, second, &files[1]).await.unwrap(), again);
        }
        assert_eq!(versions(&client, "motion").await, both, "{point}");
        until(|| async { serving(&client, "motion").await == again.name }).await;
        assert_eq!(server.terminate().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backbone_that_is_not_the_one_that_is_meant_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let other = "0".repeat(64);
    let mut started = command(folder.path());
    started.args(["--backbone-digest", &other]);
    let (code, text) = output(started).await;
    assert_eq!(code, Some(69), "{text}");
    let said = format!("backbone_digest is {other}, but the backbone ");
    assert!(text.contains(&said), "{text}");
    let found = text.trim().rsplit(' ').next().unwrap().to_owned();
    let server = Process::start(folder.path(), &["--backbone-digest", &found]);
    server.client().await;
    assert_eq!(server.terminate().await.code(), Some(0));

    let mut started = command(folder.path());
    started.args(["--backbone-digest", "5806e77c"]);
    let (code, text) = output(started).await;
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("64 hexadecimal digits"), "{text}");
}
