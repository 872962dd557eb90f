//! gRPC-Web as browsers speak it: over HTTP/1.1, with a preflight, for pages of the list alone, and not at all unless it is turned on.

use std::num::NonZeroU32;
use std::time::Duration;

use frameshift::proto::v1;
use frameshift::spec::{Scope, Scopes};
use prost::Message;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::Guarded;
use crate::server::{TestServer, soon};

const PAGE: &str = "https://app.example";

/// A client of HTTP/1.1.
fn browser() -> Client {
    // It takes the process's TLS provider; one that is there already is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn served() -> Guarded {
    let server = TestServer::start_with(|config| {
        config.tenancy.methods = [frameshift::tenancy::Method::Keys].into();
        config.tenancy.attempts = NonZeroU32::MAX;
        config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
        config.rpc.web_origins = vec![PAGE.parse().unwrap()];
        config.rpc.handshake = Duration::from_millis(200);
    })
    .await;
    Guarded::with_tenants(server).await
}

/// What a page got: the headers of the answer, its messages, and its trailers as text.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    messages: Vec<Vec<u8>>,
    trailers: String,
}

/// Calls a method from a page.
async fn call(
    guarded: &Guarded,
    method: &str,
    message: &impl Message,
    headers: &[(&str, &str)],
) -> Answer {
    let url = format!("http://{}/frameshift.v1.{method}", guarded.server.address);
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let mut request = browser()
        .post(url)
        .header("content-type", "application/grpc-web+proto")
        .header("origin", PAGE)
        .body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = answer.bytes().await.unwrap();
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    let mut rest = &bytes[..];
    while let Some((head, after)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (part, after) = after.split_at(length);
        match head[0] & 0x80 {
            0 => messages.push(part.to_vec()),
            _ => trailers += std::str::from_utf8(part).unwrap(),
        }
        rest = after;
    }
    Answer {
        status,
        headers,
        messages,
        trailers,
    }
}

impl Answer {
    /// The status of the call, from wherever it was sent.
    fn grpc_status(&self) -> String {
        if let Some(status) = self.headers.get("grpc-status") {
            return status.to_str().unwrap().to_owned();
        }
        let line = self.trailers.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == "grpc-status").then(|| value.trim().to_owned())
        });
        line.expect("a status")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_calls_with_its_bearers_credential_and_scope() {
    let guarded = served().await;
    let key = guarded.key(Scopes::of(&[Scope::Read])).await;
    let bearer = format!("Bearer {key}");
    let with = [("authorization", bearer.as_str())];
    let info = v1::GetServerInfoRequest {};
    let answer = call(&guarded, "ServerService/GetServerInfo", &info, &with).await;
    assert_eq!(
        (answer.status, answer.grpc_status().as_str()),
        (StatusCode::OK, "0")
    );
    let info = v1::ServerInfo::decode(&answer.messages[0][..]).unwrap();
    assert_eq!(info.tenant, "acme");
    assert_eq!(answer.headers["access-control-allow-origin"], PAGE);
    assert!(answer.headers.contains_key("x-request-id"));
    let create = v1::CreateTaskRequest::default();
    let answer = call(&guarded, "TaskService/CreateTask", &create, &with).await;
    assert_eq!(answer.grpc_status(), "7", "the scope is missing");
    // A cookie is no credential.
    let cookie = [("cookie", "authorization=Bearer x")];
    let list = v1::ListVideosRequest::default();
    let answer = call(&guarded, "VideoService/ListVideos", &list, &cookie).await;
    assert_eq!(answer.grpc_status(), "16");
    // A stream of answers, too.
    let wanted = v1::WatchJobRequest {
        name: "jobs/00000000-0000-7000-8000-000000000003".into(),
        ..Default::default()
    };
    let answer = call(&guarded, "FineTuningService/WatchJob", &wanted, &with).await;
    assert_eq!(answer.grpc_status(), "5");
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_the_list_may_call() {
    let guarded = served().await;
    let url = format!(
        "http://{}/frameshift.v1.VideoService/ListVideos",
        guarded.server.address
    );
    for (origin, is_allowed) in [
        (PAGE, true),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let asked = browser()
            .request(Method::OPTIONS, &url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,x-grpc-web,content-type",
            )
            .send()
            .await
            .unwrap();
        let headers = asked.headers();
        let allowed = headers.get("access-control-allow-origin");
        assert_eq!(allowed.is_some(), is_allowed, "{origin}");
        assert!(!headers.contains_key("access-control-allow-credentials"));
    }
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_of_http1_are_refused_and_slow_ones_end() {
    let guarded = served().await;
    let url = format!(
        "http://{}/frameshift.v1.VideoService/ListVideos",
        guarded.server.address
    );
    for kind in ["application/grpc", "application/json", "text/html"] {
        let answer = browser()
            .post(&url)
            .header("content-type", kind)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{kind}");
    }
    let mut slow = TcpStream::connect(guarded.server.address).await.unwrap();
    slow.write_all(b"POST /x HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let mut bytes = Vec::new();
    let ended = soon(slow.read_to_end(&mut bytes)).await;
    assert!(ended.is_err() || bytes.is_empty(), "{bytes:?}");
    // Clients of HTTP/2 are served as ever.
    let key = guarded.key(Scopes::TENANT).await;
    let client = guarded.client(&key).await;
    let listed = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert!(listed.is_ok());
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_there_is_no_http1() {
    let server = TestServer::start().await;
    let url = format!(
        "http://{}/frameshift.v1.ServerService/GetServerInfo",
        server.address
    );
    let sent = browser()
        .post(url)
        .header("content-type", "application/grpc-web+proto")
        .body(vec![0; 5])
        .send()
        .await;
    assert!(sent.is_err(), "{sent:?}");
    server.stop().await;
}
