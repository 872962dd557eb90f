//! Two releases at a time: the program of the release before beside this one's, on one database, on the wire, and on each other's checkpoints.
//!
//! `FRAMESHIFT_PREVIOUS` names the program of the release before, which `deploy/skew.sh` builds; without it these tests are skipped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::proto::v1::job_event::Event;
use rustix::process::Signal;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::process::Command;

use crate::faults::load::Load;
use crate::replicas::{Stand, is_full, job, signal, submit_long};
use crate::reports::command::{Ran, output, word};
use crate::server::{classify, clip, create_dataset, create_task, events, trained, until, upload};
use crate::server_process::{Process, command_of};

/// Servers of the fleet.
const REPLICAS: usize = 3;

/// The program of this release.
const OWN: &str = env!("CARGO_BIN_EXE_frameshift");

/// The program of the release before; without one the test says that it is skipped.
fn previous() -> Option<PathBuf> {
    let path = std::env::var_os("FRAMESHIFT_PREVIOUS").map(PathBuf::from);
    match &path {
        Some(path) => assert!(path.is_file(), "{} is no program", path.display()),
        None => eprintln!("skipped: no program of the release before (deploy/skew.sh builds it)"),
    }
    path
}

/// Waits until so many classifications more were right.
async fn more(load: &Load, answers: usize) {
    let (before, begun) = (load.right(), Instant::now());
    while load.right() < before + answers {
        let late = begun.elapsed() > Duration::from_secs(120);
        assert!(!late, "no answers: {}", load.told());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_two_releases_share_a_database_through_an_upgrade_and_a_rollback() {
    let Some(previous) = previous() else { return };
    let Some(stand) = Stand::start(REPLICAS).await else {
        return;
    };
    let stand = Arc::new(stand);
    let own = Path::new(OWN);
    let mut servers = Vec::new();
    // The release before makes the schema.
    for place in 0..REPLICAS {
        let server = stand.launch_of(&previous, &format!("old{place}"), &["--drain-grace", "1s"]);
        stand.open(place, &server).await;
        servers.push(server);
    }
    let load = Arc::new(Load::new(Arc::clone(&stand)).await);
    let callers = load.begin();
    let answers = if is_full() { 1000 } else { 100 };
    more(&load, answers).await;
    // Up, one server of three down again, and up.
    let steps = [(0, own), (1, own), (2, own), (1, &*previous), (1, own)];
    for (step, (place, program)) in steps.into_iter().enumerate() {
        let name = format!("step{step}");
        let next = stand.launch_of(program, &name, &["--drain-grace", "1s"]);
        stand.open(place, &next).await;
        let before = std::mem::replace(&mut servers[place], next);
        assert_eq!(before.terminate().await.code(), Some(0));
        more(&load, answers).await;
        println!("server {place} is {}: {}", program.display(), load.told());
        let died = callers.iter().find(|caller| caller.is_finished());
        assert!(died.is_none(), "a caller has failed");
    }
    load.end();
    for caller in callers {
        caller.await.expect("a caller found a fault");
    }
    load.check(Duration::from_secs(120)).await;
    println!("{}", load.told());
    for (place, server) in servers.into_iter().enumerate() {
        stand.close(place);
        assert_eq!(server.terminate().await.code(), Some(0));
    }
}

/// A job of some seconds that writes a checkpoint every few steps.
async fn long_job(client: &Client) -> String {
    create_task(client, "long").await;
    create_dataset(client, "long").await;
    submit_long(client, 400, 10).await
}

fn serve(program: &Path, folder: &Path) -> Process {
    Process::start_by(command_of(program, folder), folder, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_under_the_next_release_from_its_checkpoint() {
    let Some(previous) = previous() else { return };
    for kind in [Signal::TERM, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = serve(&previous, folder.path());
        let client = server.client().await;
        let name = long_job(&client).await;
        until(|| async { job(&client, &name).await.step >= 60 }).await;
        let seen = job(&client, &name).await;
        drop(client);
        signal(&server, kind);
        server.ended().await;

        let server = serve(Path::new(OWN), folder.path());
        let client = server.client().await;
        let told = events(&client, &name, 0).await;
        let ended = job(&client, &name).await;
        assert_eq!(ended.state(), v1::JobState::Succeeded, "{ended:?}");
        // The steps that were told twice are those after the newest checkpoint.
        let steps: Vec<i64> = told
            .iter()
            .filter_map(|event| match &event.event {
                Some(Event::Step(step)) => Some(step.step as i64),
                _ => None,
            })
            .collect();
        let back = steps.windows(2).filter(|pair| pair[1] <= pair[0]);
        let back: Vec<_> = back.map(|pair| pair[0] - pair[1]).collect();
        assert!(back.iter().all(|steps| *steps < 20), "{kind:?}: {back:?}");
        assert!(seen.step < ended.step, "{} of {}", seen.step, ended.step);
        println!(
            "{kind:?} at step {}: went on, back by {back:?} steps",
            seen.step
        );
        assert_eq!(server.terminate().await.code(), Some(0));
    }
}

/// The newest migration of the database file below a folder.
async fn schema(folder: &Path) -> i64 {
    let file = SqliteConnectOptions::new().filename(folder.join("data/metadata.sqlite"));
    let mut conn = file.connect().await.expect("a database");
    let newest = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations");
    newest.fetch_one(&mut conn).await.expect("migrations")
}

/// Whether a server has a video.
async fn has(server: &Process, video: &v1::Video) -> bool {
    let client = server.client().await;
    let request = v1::GetVideoRequest {
        name: video.name.clone(),
    };
    client.videos().get_video(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_serves_a_database_file_of_this_one_or_leaves_it_alone() {
    let Some(previous) = previous() else { return };
    let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = serve(Path::new(OWN), folder.path());
    let client = server.client().await;
    let video = upload(&client, &clip(3)).await.expect("uploaded");
    drop(client);
    assert_eq!(server.terminate().await.code(), Some(0));
    // What the release before makes of a folder of its own says whether it knows the schema.
    let server = serve(&previous, own.path());
    drop(server.client().await);
    assert_eq!(server.terminate().await.code(), Some(0));
    let (newest, known) = (schema(folder.path()).await, schema(own.path()).await);
    if known == newest {
        let server = serve(&previous, folder.path());
        assert!(has(&server, &video).await, "it is there");
        assert_eq!(server.terminate().await.code(), Some(0));
    } else {
        let refused = crate::server_process::output(command_of(&previous, folder.path())).await;
        assert_ne!(refused.0, Some(0), "{}", refused.1);
        assert!(refused.1.contains("migration"), "{}", refused.1);
    }
    println!("schema {newest}, of the release before {known}");
    let server = serve(Path::new(OWN), folder.path());
    assert!(has(&server, &video).await, "it is there");
    assert_eq!(server.terminate().await.code(), Some(0));
}

/// Runs a command of a program against a server.
async fn ask(program: &Path, address: &str, words: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command
        .env_remove("FRAMESHIFT_SERVER")
        .env_remove("FRAMESHIFT_TENANT")
        .args(["--server", address, "--tenant", "acme", "--json"])
        .args(words)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    output(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_each_release_work_with_servers_of_the_other() {
    let Some(previous) = previous() else { return };
    let own = Path::new(OWN);
    for (serving, asking) in [(own, &*previous), (&*previous, own)] {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(serving, folder.path());
        let client = server.client().await;
        trained(&client, "motion").await;
        let address = server.address().await;
        let file = folder.path().join("clip.mp4");
        std::fs::write(&file, clip(77)).unwrap();
        for words in [
            &["health"][..],
            &["info"],
            &["upload", word(&file)],
            &["videos", "list"],
            &["tasks", "list"],
            &["tasks", "show", "motion"],
            &["dataset", "list"],
            &["jobs", "list"],
            &[
                "train",
                "--task",
                "motion",
                "--dataset",
                "motion",
                "--epochs",
                "1",
            ],
            &["classify", "--task", "motion", word(&file)],
        ] {
            let ran = ask(asking, &address, words).await;
            assert_eq!(
                ran.code,
                Some(0),
                "{} asks {words:?}: {ran:#?}",
                asking.display()
            );
        }
        let video = upload(&client, &clip(78)).await.expect("uploaded");
        let request = classify("motion", &video.name);
        let answer = client.classification().classify(request).await;
        answer.expect("classified");
        assert_eq!(server.terminate().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_starts_and_answers_as_fast_as_that_of_the_release_before() {
    let Some(previous) = previous() else { return };
    // A ratio of two builds of one kind is meant: deploy/skew.sh builds both as they are shipped, and then asks for it.
    if std::env::var_os("FRAMESHIFT_CURRENT").is_none() {
        eprintln!("skipped: no program of this release as it is shipped (deploy/skew.sh --speed)");
        return;
    }
    let current = std::env::var_os("FRAMESHIFT_CURRENT")
        .map(PathBuf::from)
        .unwrap();
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..16 {
        for place in [round % 2, 1 - round % 2] {
            let program = [&previous, &current][place];
            let folder = tempfile::tempdir().unwrap();
            let begun = Instant::now();
            let server = serve(program, folder.path());
            let client = server.client().await;
            let start = begun.elapsed();
            upload(&client, &clip(9)).await.expect("uploaded");
            times[place].push((start, begun.elapsed()));
            assert_eq!(server.terminate().await.code(), Some(0));
        }
    }
    let median = |of: &dyn Fn(&(Duration, Duration)) -> Duration, place: usize| {
        let mut own: Vec<f64> = times[place]
            .iter()
            .map(|time| of(time).as_secs_f64())
            .collect();
        own.sort_by(f64::total_cmp);
        own[own.len() / 2]
    };
    let (start, answer) = (
        |own: &(Duration, Duration)| own.0,
        |own: &(Duration, Duration)| own.1,
    );
    for (name, of) in [
        ("start", &start as &dyn Fn(&_) -> _),
        ("first upload", &answer),
    ] {
        let (before, now) = (median(of, 0), median(of, 1));
        println!(
            "{name}: {now:.3} s, before {before:.3} s, ratio {:.3}",
            now / before
        );
    }
}
