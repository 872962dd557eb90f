//! A proxy before an object store that answers 503 to some requests and holds others up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What the proxy does; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Mood(Arc<Counts>);

#[derive(Default)]
struct Counts {
    seen: AtomicU64,
    /// One request in so many is answered 503; 0 means none.
    refused: AtomicU64,
    delay_ms: AtomicU64,
}

impl Mood {
    /// Requests that came.
    pub(crate) fn seen(&self) -> u64 {
        self.0.seen.load(Ordering::SeqCst)
    }

    pub(crate) fn refuse_one_in(&self, requests: u64) {
        self.0.refused.store(requests, Ordering::SeqCst);
    }

    pub(crate) fn delay(&self, time: Duration) {
        let ms = time.as_millis() as u64;
        self.0.delay_ms.store(ms, Ordering::SeqCst);
    }
}

/// Starts a proxy before a port of this machine. Returns its URL.
pub(crate) async fn start(port: u16, mood: &Mood) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mood = mood.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let mood = mood.clone();
            tokio::spawn(async move {
                // A connection that breaks is the client's to notice.
                let _ = carry(client, port, &mood).await;
            });
        }
    });
    format!("http://{address}")
}

async fn carry(client: TcpStream, port: u16, mood: &Mood) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let mut upstream: Option<(OwnedReadHalf, OwnedWriteHalf)> = None;
    while let Some(request) = message(&mut from_client).await? {
        let seen = mood.0.seen.fetch_add(1, Ordering::SeqCst) + 1;
        let delay = mood.0.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let refused = mood.0.refused.load(Ordering::SeqCst);
        if refused > 0 && seen.is_multiple_of(refused) {
            let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            to_client.write_all(answer.as_bytes()).await?;
            continue;
        }
        if upstream.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            upstream = Some(stream.into_split());
        }
        let Some((from_server, to_server)) = &mut upstream else {
            continue;
        };
        to_server.write_all(&request).await?;
        let is_head = request.starts_with(b"HEAD ");
        answer(from_server, &mut to_client, is_head).await?;
    }
    Ok(())
}

/// Reads a request with its body; `None` when the client has gone.
async fn message(from: &mut OwnedReadHalf) -> std::io::Result<Option<Vec<u8>>> {
    let Some(mut request) = head(from).await? else {
        return Ok(None);
    };
    let length = length(&request).unwrap_or(0);
    let begin = request.len();
    request.resize(begin + length, 0);
    from.read_exact(&mut request[begin..]).await?;
    Ok(Some(request))
}

/// Passes on one answer. It ends with its length, its last chunk, or with the connection.
async fn answer(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    is_head: bool,
) -> std::io::Result<()> {
    let Some(head) = head(from).await? else {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    to.write_all(&head).await?;
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let is_empty = is_head || text.starts_with("http/1.1 204") || text.starts_with("http/1.1 304");
    if is_empty {
        return Ok(());
    }
    if let Some(length) = length(&head) {
        tokio::io::copy(&mut from.take(length as u64), to).await?;
        return Ok(());
    }
    // A chunked body: its end is a chunk of length 0.
    let mut tail = Vec::new();
    let mut piece = vec![0; 64 << 10];
    while !tail.ends_with(b"0\r\n\r\n") {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&piece[..read]).await?;
        tail.extend_from_slice(&piece[..read]);
        let keep = tail.len().saturating_sub(8);
        tail.drain(..keep);
    }
    Ok(())
}

async fn head(from: &mut OwnedReadHalf) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(head))
}

fn length(head: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))?;
    value.trim().parse().ok()
}
