//! `frameshift fetch-backbone`: from a server that breaks off, from a bucket, and what it refuses.
#![cfg(feature = "s3")]

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frameshift::spec::Digest;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::buckets::weed::Weed;

/// A server of one file.
#[derive(Default)]
struct Served {
    bytes: Vec<u8>,
    /// Whether ranges are answered as such.
    has_ranges: bool,
    /// Bytes after which each answer breaks off; 0 means none does.
    breaks_after: usize,
    requests: AtomicU64,
    sent: AtomicU64,
}

async fn serve(file: Arc<Served>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let file = Arc::clone(&file);
            tokio::spawn(async move { answer(stream, &file).await });
        }
    });
    format!("http://{address}/vit/model.safetensors?signature=secret")
}

async fn answer(mut stream: TcpStream, file: &Served) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    file.requests.fetch_add(1, Ordering::SeqCst);
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    if !head.starts_with("get /vit/model.safetensors?signature=secret ") {
        let _ = stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .await;
        return;
    }
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="));
    let from = range.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let from = from.filter(|_| file.has_ranges).unwrap_or(0);
    let all = file.bytes.len();
    let (status, more) = match from {
        0 => ("200 OK", String::new()),
        from => (
            "206 Partial Content",
            format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n",
        all - from
    );
    let mut end = all;
    if file.breaks_after > 0 {
        end = all.min(from + file.breaks_after);
    }
    file.sent.fetch_add((end - from) as u64, Ordering::SeqCst);
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&file.bytes[from..end]).await;
}

fn noise(count: usize) -> Vec<u8> {
    let mut stream = frameshift::rng::Stream::new(1, "a file");
    (0..count / 8)
        .flat_map(|_| stream.bits().to_le_bytes())
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    Digest(Sha256::digest(bytes).into()).to_string()
}

async fn fetch(url: &str, folder: &Path, sha256: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.arg("fetch-backbone").arg(url).arg(folder);
    command.args(["--sha256", sha256]).args(more);
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
    crate::processes::output(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_in_pieces_and_a_broken_download_goes_on() {
    let file = Arc::new(Served {
        bytes: noise(1_000_000),
        has_ranges: true,
        breaks_after: 400_000,
        ..Served::default()
    });
    let url = serve(Arc::clone(&file)).await;
    let (folder, good) = (tempfile::tempdir().unwrap(), sha256(&file.bytes));
    let place = folder.path().join("backbone");
    let done = fetch(&url, &place, &good, &[]).await;
    assert!(done.status.success(), "{done:?}");
    let path = place.join("model.safetensors");
    assert_eq!(std::fs::read(&path).unwrap(), file.bytes);
    assert_eq!(file.requests.load(Ordering::SeqCst), 3);
    assert_eq!(
        file.sent.load(Ordering::SeqCst),
        1_000_000,
        "nothing was sent twice"
    );

    // It is there: nobody is asked.
    let again = fetch(&url, &place, &good, &[]).await;
    assert!(again.status.success(), "{again:?}");
    assert_eq!(file.requests.load(Ordering::SeqCst), 3);

    // What an ended download left is used.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(place.join("model.safetensors.part"), &file.bytes[..900_000]).unwrap();
    let rest = fetch(&url, &place, &good, &[]).await;
    assert!(rest.status.success(), "{rest:?}");
    assert_eq!(file.sent.load(Ordering::SeqCst), 1_100_000);
    assert_eq!(std::fs::read(&path).unwrap(), file.bytes);
    let names: Vec<_> = std::fs::read_dir(&place).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_is_refused_and_not_kept() {
    let file = Arc::new(Served {
        bytes: noise(100_000),
        ..Served::default()
    });
    let url = serve(Arc::clone(&file)).await;
    let folder = tempfile::tempdir().unwrap();
    let wrong = fetch(&url, folder.path(), &sha256(b"another"), &[]).await;
    assert_eq!(wrong.status.code(), Some(65), "{wrong:?}");
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        said.contains(&sha256(&file.bytes)) && !said.contains("signature"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    // A server without ranges sends all of it again.
    std::fs::write(folder.path().join("m.pt.part"), b"rubbish").unwrap();
    let good = sha256(&file.bytes);
    let done = fetch(&url, folder.path(), &good, &["--name", "m.pt"]).await;
    assert!(done.status.success(), "{done:?}");
    assert_eq!(
        std::fs::read(folder.path().join("m.pt")).unwrap(),
        file.bytes
    );

    let missing = url.replace("/vit/", "/none/");
    let missing = fetch(&missing, folder.path(), &good, &[]).await;
    assert_eq!(missing.status.code(), Some(69), "{missing:?}");
    for (url, more) in [
        ("ftp://x/y", &[][..]),
        ("https://x/", &[]),
        (&url, &["--name", "../x"]),
    ] {
        let usage = fetch(url, folder.path(), &good, more).await;
        assert_eq!(usage.status.code(), Some(64), "{url}: {usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_out_of_a_bucket() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let bytes = noise(500_000);
    let store = frameshift::store::Store::in_bucket(
        &weed.bucket("models"),
        frameshift::telemetry::Metrics::new(),
    );
    let key = frameshift::store::layout::video(
        &frameshift::ids::TenantId::anonymous(),
        frameshift::ids::VideoId::generate(),
    );
    store
        .unwrap()
        .put(&key, bytes.clone().into())
        .await
        .unwrap();
    let url = format!("s3://videos/models/{key}");
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("model.safetensors");
    std::fs::write(folder.path().join("model.safetensors.part"), &bytes[..1000]).unwrap();
    let endpoint = weed.endpoint();
    let more = ["--endpoint", &endpoint, "--name", "model.safetensors"];
    let done = fetch(&url, folder.path(), &sha256(&bytes), &more).await;
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::read(name).unwrap(), bytes);
}
