//! What clients may hold and how long they may take, and what they are told: over real connections.

use std::time::Duration;

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::proto::v1;
use futures::future::{join_all, select_all};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use prost::Message;
use tokio::net::TcpStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::server::{TestServer, classify, clip, reason, refused, soon, upload};

const CLASSIFY: &str = "frameshift.v1.ClassificationService/Classify";
const UPLOAD: &str = "frameshift.v1.VideoService/UploadVideo";

/// A method, a call's headers and its bytes; the code and the reason of its refusal.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Bytes, Code, &'a str);

/// A connection without a library's manners.
async fn connect(server: &TestServer) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Begins a call of a tenant.
async fn begin(
    client: &SendRequest<Bytes>,
    method: &str,
    headers: &[(&str, &str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut head = http::Request::post(format!("http://server/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-frameshift-tenant", "acme");
    for (name, value) in headers {
        head = head.header(*name, *value);
    }
    let mut client = client.clone().ready().await.unwrap();
    client.send_request(head.body(()).unwrap(), false).unwrap()
}

/// The status of an answer without a body.
async fn status(answer: ResponseFuture) -> Status {
    let answer = answer.await.expect("an answer");
    Status::from_header_map(answer.headers()).expect("a status in the head")
}

fn head(flag: u8, length: u32) -> Vec<u8> {
    let mut head = vec![flag];
    head.extend(length.to_be_bytes());
    head
}

fn framed(bytes: &[u8]) -> Bytes {
    let mut frame = head(0, bytes.len() as u32);
    frame.extend(bytes);
    frame.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_messages_of_one_connection_neither_fill_the_memory_nor_stop_the_others() {
    let server = TestServer::start_with(|config| {
        config.rpc.limits.message_memory = 256 << 20;
        config.rpc.limits.patience = Duration::from_millis(200);
        config.rpc.limits.idle = Duration::from_secs(3600);
    })
    .await;
    let attacker = connect(&server).await;
    let mut open = Vec::new();
    let mut answers = FuturesUnordered::new();
    for _ in 0..24 {
        let (answer, mut body) = begin(&attacker, CLASSIFY, &[]).await;
        body.send_data(head(0, 31 << 20).into(), false).unwrap();
        open.push(body);
        answers.push(status(answer));
    }
    let client = server.client("acme").await;
    upload(&client, &clip(1)).await.expect("others are served");
    // A quarter of the memory is for one, which is two messages.
    while answers.len() > 2 {
        let status = soon(answers.next()).await.expect("an answer");
        assert!(status.get_error_details().retry_info().is_some());
        refused::<()>(Err(status), Code::ResourceExhausted, "MESSAGE_MEMORY_FULL");
    }
    let none = futures::poll!(answers.next());
    assert!(none.is_pending(), "these have room: {none:?}");
    drop((open, answers));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_that_stops_ends_its_call() {
    let server =
        TestServer::start_with(|config| config.rpc.limits.idle = Duration::from_millis(300)).await;
    let (answer, mut body) = begin(&connect(&server).await, CLASSIFY, &[]).await;
    body.send_data(head(0, 31 << 20).into(), false).unwrap();
    let ended = soon(status(answer)).await;
    refused::<()>(Err(ended), Code::DeadlineExceeded, "STREAM_IDLE");
    drop(body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_sends_only_its_header_ends() {
    let server =
        TestServer::start_with(|config| config.rpc.limits.idle = Duration::from_millis(300)).await;
    let client = connect(&server).await;
    let header = v1::UploadVideoRequest {
        payload: Some(v1::upload_video_request::Payload::Header(
            v1::UploadVideoHeader::default(),
        )),
    };
    let (answer, mut body) = begin(&client, UPLOAD, &[]).await;
    body.send_data(framed(&header.encode_to_vec()), false)
        .unwrap();
    let ended = status(answer).await;
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::DeadlineExceeded, "STREAM_IDLE")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_silent_stream_and_a_connection_that_never_answers_do_not_hold_a_drain() {
    // What ends the drain is not its limit.
    let server =
        TestServer::start_with(|config| config.drain_timeout = Duration::from_secs(3600)).await;
    let (answer, body) = begin(&connect(&server).await, UPLOAD, &[]).await;
    // It takes part in HTTP/2's handshake and is not heard of again: no answer to any PING.
    let mute = TcpStream::connect(server.address).await.unwrap();
    mute.writable().await.unwrap();
    let spoken = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert_eq!(mute.try_write(spoken).unwrap(), spoken.len());
    // Read as it comes, as a client does: the connection closes after it.
    let ended = tokio::spawn(answer);
    soon(server.stop()).await;
    match ended.await.unwrap() {
        Ok(answer) => {
            let ended = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!(
                (ended.code(), reason(&ended).as_str()),
                (Code::Unavailable, "DRAINING")
            );
        }
        // The library gives up what it has not read yet when it writes, for example an acknowledgement, after the server has closed the connection.
        Err(error) => assert!(error.is_io(), "{error}"),
    }
    drop((body, mute));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_reaches_a_handler_is_told_with_its_reason() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let request = v1::ClassifyRequest {
        task: "tasks/none".into(),
        source: Some(v1::classify_request::Source::Content(
            vec![0; 33 << 20].into(),
        )),
        options: None,
        ..Default::default()
    };
    // Clients of other makes have no limit of their own.
    let mut unlimited = client
        .classification()
        .max_encoding_message_size(usize::MAX);
    let answer = unlimited.classify(request).await;
    let status_of = answer.as_ref().unwrap_err().message().to_owned();
    refused(answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    for part in ["34603", "33554432", "ClassifyUpload"] {
        assert!(status_of.contains(part), "{status_of}");
    }

    let raw = connect(&server).await;
    let cases: [Case<'_>; 6] = [
        (
            CLASSIFY,
            &[],
            framed(&[0xff; 20]),
            Code::InvalidArgument,
            "MESSAGE_UNREADABLE",
        ),
        (
            CLASSIFY,
            &[],
            head(7, 0).into(),
            Code::InvalidArgument,
            "MESSAGE_UNREADABLE",
        ),
        (
            CLASSIFY,
            &[],
            head(0, 20)[..3].to_vec().into(),
            Code::InvalidArgument,
            "MESSAGE_UNREADABLE",
        ),
        (
            CLASSIFY,
            &[("grpc-encoding", "br")],
            head(1, 0).into(),
            Code::Unimplemented,
            "COMPRESSION_UNSUPPORTED",
        ),
        (
            "frameshift.v1.ClassificationService/Nothing",
            &[],
            framed(&[]),
            Code::Unimplemented,
            "METHOD_UNKNOWN",
        ),
        (
            "frameshift.v1.Nowhere/Nothing",
            &[],
            framed(&[]),
            Code::Unimplemented,
            "METHOD_UNKNOWN",
        ),
    ];
    for (method, headers, bytes, code, expected) in cases {
        let (answer, mut body) = begin(&raw, method, headers).await;
        // Some are refused by their head, before this comes.
        let _ = body.send_data(bytes, true);
        let ended = status(answer).await;
        assert_eq!((ended.code(), reason(&ended).as_str()), (code, expected));
        assert!(!ended.message().is_empty());
    }
    // In a stream, too.
    let (answer, mut body) = begin(&raw, UPLOAD, &[]).await;
    body.send_data(framed(&[0xff; 20]), true).unwrap();
    let ended = status(answer).await;
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::InvalidArgument, "MESSAGE_UNREADABLE")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_read_and_bounded_by_what_they_become() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = upload(&client, &clip(1)).await.unwrap();
    let get = v1::GetVideoRequest {
        name: video.name.clone(),
    };
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut videos = client.videos().send_compressed(encoding);
        let found = videos.get_video(get.clone()).await.unwrap().into_inner();
        assert_eq!(found, video);
        // 40 MB of one byte take a few kilobytes.
        let bomb = v1::ClassifyRequest {
            task: "tasks/none".into(),
            source: Some(v1::classify_request::Source::Content(
                vec![0; 40_000_000].into(),
            )),
            options: None,
            ..Default::default()
        };
        let mut calls = client.classification().send_compressed(encoding);
        refused(
            calls.classify(bomb).await,
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_and_make_room() {
    let server = TestServer::start_with(|config| {
        config.rpc.connections = 3;
        config.rpc.handshake = Duration::from_millis(200);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Clients find room as soon as the silent ones are gone.
    let address = format!("http://{}", server.address);
    let reached = async {
        loop {
            if let Ok(client) = Client::connect(&address, Some("acme")).await
                && upload(&client, &clip(1)).await.is_ok()
            {
                return;
            }
        }
    };
    soon(reached).await;
    drop(silent);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_streams_are_limited_and_anothers_are_not() {
    let server = TestServer::start_with(|config| config.rpc.limits.streams_per_tenant = 2).await;
    let raw = connect(&server).await;
    let mut answers = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let (answer, body) = begin(&raw, UPLOAD, &[]).await;
        answers.push(Box::pin(status(answer)));
        bodies.push(body);
    }
    // Whichever comes last.
    let (ended, _, others) = select_all(answers).await;
    assert_eq!(
        (ended.code(), reason(&ended).as_str()),
        (Code::ResourceExhausted, "TOO_MANY_STREAMS")
    );
    let other = server.client("other").await;
    upload(&other, &clip(1)).await.expect("another tenant's");
    let acme = server.client("acme").await;
    let unary = acme
        .classification()
        .classify(classify(
            "none",
            "videos/00000000-0000-7000-8000-000000000000",
        ))
        .await;
    refused(unary, Code::NotFound, "TASK_NOT_FOUND");
    drop((others, bodies));
    server.stop().await;
}

/// An upload of which 7 MiB come and then nothing; how it ends.
async fn stopping_upload(client: &Client) -> Status {
    use v1::upload_video_request::Payload;
    let message = |payload| v1::UploadVideoRequest {
        payload: Some(payload),
    };
    let header = message(Payload::Header(v1::UploadVideoHeader::default()));
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let chunks = std::iter::repeat_n(message(Payload::Chunk(chunk)), 7);
    let sent = stream::iter(std::iter::once(header).chain(chunks)).chain(stream::pending());
    let answer = client.videos().upload_video(sent).await;
    answer.expect_err("it never ends by itself")
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_uploads_that_stop_hold_their_budget_only_and_make_room() {
    let server = TestServer::start_with(|config| {
        // Four uploads at a time.
        config.rpc.limits.upload_memory = 110 << 20;
        config.rpc.limits.upload_patience = Duration::from_millis(50);
        config.rpc.limits.idle = Duration::from_secs(2);
    })
    .await;
    let client = server.client("acme").await;
    let ends = join_all((0..60).map(|_| stopping_upload(&client))).await;
    let mut reasons: Vec<String> = ends.iter().map(reason).collect();
    reasons.sort();
    reasons.dedup();
    assert_eq!(reasons, ["STREAM_IDLE", "UPLOAD_MEMORY_FULL"]);
    let held = ends
        .iter()
        .filter(|end| reason(end) == "STREAM_IDLE")
        .count();
    assert!((4..60).contains(&held), "{held}");
    let other = server.client("other").await;
    upload(&other, &clip(1)).await.expect("room is made");
    server.stop().await;
}
