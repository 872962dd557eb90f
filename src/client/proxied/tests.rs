//! A tiny HTTP/2 server in the place of a proxy: it answers with pages, and cuts streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use prost::Message;
use tokio::net::TcpListener;

use super::*;
use crate::client::output::Output;
use crate::client::{Client, Error, train, upload};
use crate::proto::v1;

/// Longest time that anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What the server answers to a call of a path.
type Answers = Arc<dyn Fn(&str, SendResponse<Bytes>) + Send + Sync>;

async fn proxy(answers: Answers) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let path = request.uri().path().to_owned();
                    // The body is taken in, as a proxy does.
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(bytes)) = body.data().await {
                            let _ = body.flow_control().release_capacity(bytes.len());
                        }
                    });
                    answers(&path, respond);
                }
            });
        }
    });
    address
}

async fn client(address: SocketAddr) -> Client {
    Client::connect(&address.to_string(), None).await.unwrap()
}

/// A page as proxies send it.
fn page(mut respond: SendResponse<Bytes>, status: u16, content: &str) {
    let head = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content)
        .body(())
        .unwrap();
    let mut body = respond.send_response(head, false).unwrap();
    let text = format!("<html><h1>{status}</h1></html>");
    body.send_data(text.into(), true).unwrap();
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

fn head() -> Response<()> {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(())
        .unwrap()
}

/// Messages, then the status with which the stream ends.
fn messages(mut respond: SendResponse<Bytes>, messages: &[Bytes], end: Code) {
    let mut body = respond.send_response(head(), false).unwrap();
    for message in messages {
        body.send_data(message.clone(), false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", i32::from(end).into());
    body.send_trailers(trailers).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_proxy_is_shown_as_one() {
    for (status, says) in [
        (
            413,
            "413 (body too large): raise its limit (nginx: client_max_body_size 0)",
        ),
        (502, "502 (bad gateway)"),
        (504, "504 (gateway timeout)"),
        (404, "404 (no such path)"),
        (418, "418 (not a gRPC answer)"),
    ] {
        let answers: Answers = Arc::new(move |_, respond| page(respond, status, "text/html"));
        let client = client(proxy(answers).await).await;
        let request = v1::GetServerInfoRequest {};
        let refused = client.server().get_server_info(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        let text = refused.message().to_owned();
        assert!(
            text.contains("a proxy between here and the server"),
            "{text}"
        );
        assert!(text.contains(says), "{text}");
        let error = Error::from(refused);
        assert_eq!(error.exit_code(), 69, "{error}");
    }
    let answers: Answers = Arc::new(|_, respond| page(respond, 200, "text/html"));
    let client = client(proxy(answers).await).await;
    let request = v1::GetServerInfoRequest {};
    let refused = client.server().get_server_info(request).await.unwrap_err();
    assert!(
        refused.message().contains("\"text/html\", not gRPC"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_proxy_refuses_is_sent_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let answers: Answers = Arc::new(move |_, respond| {
        counted.fetch_add(1, Ordering::SeqCst);
        page(respond, 413, "text/html");
    });
    let client = client(proxy(answers).await).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    let progress = Output::new(true).count(0, "");
    let sent = upload::file(&client, &path, &progress);
    let error = tokio::time::timeout(LIMIT, sent)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.exit_code(), 69, "{error}");
    assert!(
        error.to_string().contains("client_max_body_size"),
        "{error}"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// A stream that is reset before its head.
fn reset(mut respond: SendResponse<Bytes>) {
    respond.send_reset(h2::Reason::INTERNAL_ERROR);
}

/// How clients see the end of a stream that something on the way cut.
const CUTS: [Code; 4] = [
    Code::Internal,
    Code::Unknown,
    Code::Cancelled,
    Code::Unavailable,
];

/// Answers of a server with one job, whose stream is cut so many times.
fn job(cuts: usize, watched: &Arc<AtomicUsize>) -> Answers {
    let watched = Arc::clone(watched);
    Arc::new(move |path, respond| {
        let state = |state: v1::JobState| v1::job_event::StateChange {
            state: state.into(),
            ..Default::default()
        };
        let event = |sequence, change| v1::JobEvent {
            sequence,
            event: Some(v1::job_event::Event::State(change)),
            ..Default::default()
        };
        let has_ended = watched.load(Ordering::SeqCst) > cuts;
        match path.rsplit('/').next().unwrap() {
            "WatchJob" => {
                let so_far = watched.fetch_add(1, Ordering::SeqCst);
                let number = so_far as u64 + 1;
                if so_far < cuts {
                    let waits = framed(&event(number, state(v1::JobState::Queued)));
                    messages(respond, &[waits], CUTS[so_far % CUTS.len()]);
                } else {
                    let ended = framed(&event(number, state(v1::JobState::Succeeded)));
                    messages(respond, &[ended], Code::Ok);
                }
            }
            "GetJob" => {
                let state = match has_ended {
                    true => v1::JobState::Succeeded,
                    false => v1::JobState::Queued,
                };
                let job = v1::Job {
                    name: "jobs/7".into(),
                    state: state.into(),
                    ..Default::default()
                };
                messages(respond, &[framed(&job)], Code::Ok);
            }
            other => panic!("{other} is not asked for"),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_job_outlives_every_cut_of_its_stream() {
    // More cuts in a row than any number of attempts: waiting is no failed attempt.
    let cuts = 7;
    let watched = Arc::new(AtomicUsize::new(0));
    let client = client(proxy(job(cuts, &watched)).await).await;
    let output = Output::new(true);
    let watch = train::watch(&client, "jobs/7", 0, output);
    tokio::time::timeout(LIMIT, watch).await.unwrap().unwrap();
    assert_eq!(watched.load(Ordering::SeqCst), cuts + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_asked_for_ends_the_watching() {
    let answers: Answers = Arc::new(|path, respond| match path.ends_with("WatchJob") {
        true => reset(respond),
        false => page(respond, 403, "text/html"),
    });
    let client = client(proxy(answers).await).await;
    let watch = train::watch(&client, "jobs/7", 0, Output::new(true));
    let error = tokio::time::timeout(LIMIT, watch)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.exit_code(), 69, "{error}");
}

#[test]
fn what_a_proxy_refuses_for_good_is_not_sent_again() {
    let of = |number| {
        let answer = StatusCode::from_u16(number).unwrap();
        foreign(answer, &HeaderMap::new()).unwrap()
    };
    for number in [200, 403, 404, 413, 431] {
        assert!(is_refused(&of(number)), "{number}");
    }
    for number in [408, 429, 500, 502, 503, 504] {
        assert!(!is_refused(&of(number)), "{number}");
    }
    assert!(!is_refused(&Status::unavailable("the server's own")));
    let mut own = HeaderMap::new();
    own.insert("grpc-status", "14".parse().unwrap());
    assert!(foreign(StatusCode::OK, &own).is_none());
}
