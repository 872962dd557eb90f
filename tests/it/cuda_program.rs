//! The real program on the emulated device: it serves, trains, and ends as on a GPU.

use std::path::{Path, PathBuf};

use frameshift::client::Client;
use frameshift::model::load::{Overrides, plan};
use frameshift::proto::v1;
use tokio::process::Command;
use tonic::Code;

use crate::emulated;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{backbone, classify, clip, found, reason, serving, until, upload};
use crate::server_process::{Process, command, output};

/// Returns a server's command on the emulated device, in f32 so that its scores can be compared closely; `None` where there is no g++.
fn on_the_device(folder: &Path) -> Option<Command> {
    let built = emulated::built()?;
    let mut command = command(folder);
    command
        .args(["--device", "cuda:0", "--precision", "f32"])
        .env("LD_LIBRARY_PATH", built.libraries());
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_never_comes_up_does_not_keep_the_program_from_ending() {
    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
    let folder = tempfile::tempdir().unwrap();
    // The loader of libraries waits for what nobody writes into the pipe, and nothing can interrupt it.
    let library = folder.path().join("libcuda.so");
    mknodat(CWD, &library, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut command = command(folder.path());
    command
        .args(["--device", "cuda:0"])
        .env("LD_LIBRARY_PATH", folder.path());
    let server = Process::start_by(command, folder.path(), &[]);
    // A pipe that nobody reads cannot be opened for writing.
    let write = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let _held = found(|| open(&library, write, Mode::empty()).ok()).await;
    assert_eq!(server.terminate().await.code(), Some(0));
}

/// Imports a task with adapters of fixed weights.
async fn motion(client: &Client) {
    let backbone = plan(&backbone(), &Overrides::default()).unwrap();
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        ..into_task("motion")
    };
    let set = file(&adapters(backbone.config(), 3));
    import(client, header, &set).await.unwrap();
    serving(client, "motion").await;
}

async fn scores(client: &Client, video: &str) -> Vec<(String, f32)> {
    let request = classify("motion", video);
    let answer = client.classification().classify(request).await;
    let answer = answer.unwrap().into_inner();
    let mut scores: Vec<(String, f32)> = (answer.predictions.into_iter())
        .map(|score| (score.label, score.score))
        .collect();
    scores.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!scores.is_empty());
    scores
}

async fn info(client: &Client) -> v1::ServerInfo {
    let request = v1::GetServerInfoRequest {};
    let info = client.server().get_server_info(request).await;
    info.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_answers_on_the_device_as_on_the_cpu_and_says_where_it_runs() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let Some(device) = on_the_device(folders[0].path()) else {
        return;
    };
    let mut answers = Vec::new();
    let cpu = command(folders[1].path());
    for (command, folder, extra) in [
        (device, &folders[0], &[][..]),
        (cpu, &folders[1], &["--device", "cpu", "--precision", "f32"]),
    ] {
        let server = Process::start_by(command, folder.path(), extra);
        let client = server.client().await;
        motion(&client).await;
        let video = upload(&client, &clip(40)).await.unwrap().name;
        answers.push((scores(&client, &video).await, info(&client).await));
        assert_eq!(server.terminate().await.code(), Some(0));
    }
    let (cpu, device) = (answers.pop().unwrap(), answers.pop().unwrap());
    for ((label, expected), (other, got)) in cpu.0.iter().zip(&device.0) {
        assert!(
            label == other && (expected - got).abs() < 1e-4,
            "{label}: {got}, not {expected}"
        );
    }
    assert_eq!((cpu.1.device.as_str(), cpu.1.accelerator), ("cpu", None));
    assert_eq!(device.1.device, "cuda:0 (emulated)");
    let accelerator = device.1.accelerator.unwrap();
    assert!(accelerator.slices > 0 && accelerator.uploaded_bytes > 0);
    assert!(accelerator.upload_us > 0);
    assert_eq!(accelerator.memory_bytes, 4 << 30);
    assert!(accelerator.used_bytes > 0 && accelerator.reserved_bytes >= accelerator.used_bytes);
    assert!(!accelerator.plans.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_ends_the_server_with_70() {
    ends_with_70("cuLaunchKernel:20:719").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_vanishes_ends_the_server_with_70() {
    // CUDA_ERROR_DEINITIALIZED: the driver is being unloaded.
    ends_with_70("cuEventRecord:3:4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_the_hardware_contained_ends_the_server_with_70() {
    ends_with_70("cuMemAllocAsync:20:226").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_while_nobody_asks_ends_the_server_with_70() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = on_the_device(folder.path()) else {
        return;
    };
    // The device is looked at every few seconds, by this call.
    command.env("FS_EMULATED_FAIL", "cuStreamQuery:5:719");
    let mut server = Process::start_by(command, folder.path(), &["--drain-grace", "0s"]);
    assert_eq!(server.ended().await.code(), Some(70));
}

/// Has the calls of a failure counted from the time on at which the returned file is there.
fn fail_later(command: &mut Command, folder: &Path, failure: &str) -> PathBuf {
    let file = folder.join("failures-count");
    command
        .env("FS_EMULATED_FAIL", failure)
        .env("FS_EMULATED_FAIL_FROM", &file);
    file
}

/// Classifies until this failure, whose calls count once the server has answered.
async fn ends_with_70(failure: &str) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = on_the_device(folder.path()) else {
        return;
    };
    let file = fail_later(&mut command, folder.path(), failure);
    let mut server = Process::start_by(command, folder.path(), &["--drain-grace", "0s"]);
    let client = server.client().await;
    motion(&client).await;
    let video = upload(&client, &clip(40)).await.unwrap().name;
    scores(&client, &video).await;
    std::fs::write(file, []).unwrap();
    until(|| async {
        let request = classify("motion", &video);
        match client.classification().classify(request).await {
            Ok(_) => false,
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                true
            }
        }
    })
    .await;
    assert_eq!(server.ended().await.code(), Some(70));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_room_refuses_a_clip_and_serves_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut command) = on_the_device(folder.path()) else {
        return;
    };
    // A failure of one allocation, which is tried twice.
    let file = fail_later(&mut command, folder.path(), "cuMemAllocAsync:20:2:2");
    let server = Process::start_by(command, folder.path(), &[]);
    let client = server.client().await;
    motion(&client).await;
    let video = upload(&client, &clip(40)).await.unwrap().name;
    let expected = scores(&client, &video).await;
    std::fs::write(file, []).unwrap();
    until(|| async {
        let request = classify("motion", &video);
        match client.classification().classify(request).await {
            Ok(_) => false,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert_eq!(reason(&status), "DEVICE_MEMORY_FULL");
                true
            }
        }
    })
    .await;
    assert_eq!(
        scores(&client, &video).await,
        expected,
        "the set is not quarantined"
    );
    assert_eq!(server.terminate().await.code(), Some(0));
}

/// Builds libraries of the names of NVIDIA's, which have almost none of their functions; `None` where there is no g++.
fn old_libraries(folder: &Path) -> Option<PathBuf> {
    emulated::built()?;
    let (source, own) = (folder.join("old.cpp"), folder.join("libcuda.so"));
    std::fs::write(&source, "extern \"C\" int cuInit(unsigned) { return 0; }").unwrap();
    let mut compiler = std::process::Command::new("g++");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(&own)
        .arg(&source);
    assert!(compiler.status().unwrap().success());
    for name in ["libcuda.so.1", "libcublasLt.so", "libcublasLt.so.13"] {
        std::os::unix::fs::symlink(&own, folder.join(name)).unwrap();
    }
    Some(folder.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_too_old_is_said_and_auto_computes_on_the_cpu() {
    let (folder, libraries) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(libraries) = old_libraries(libraries.path()) else {
        return;
    };
    let mut asked = command(folder.path());
    asked
        .args(["--device", "cuda:0"])
        .env("LD_LIBRARY_PATH", &libraries);
    let (code, text) = output(asked).await;
    assert_eq!(code, Some(69), "{text}");
    let said = "cannot compute on cuda:0: the NVIDIA driver or libcublasLt is too old";
    assert!(text.contains(said), "{text}");
    let mut auto = command(folder.path());
    auto.env("LD_LIBRARY_PATH", &libraries);
    let server = Process::start_by(auto, folder.path(), &["--device", "auto"]);
    assert_eq!(info(&server.client().await).await.device, "cpu");
    assert_eq!(server.terminate().await.code(), Some(0));
}
