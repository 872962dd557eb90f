//! Uploads: cut and resumed, exactly at the limit, undecodable, repeated.

use bytes::Bytes;
use frameshift::client::Client;
use frameshift::proto::v1;
use frameshift::rng::Stream;
use futures::stream;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::server::{TestServer, clip, noise, refused, soon, until, upload, upload_messages};

pub(crate) async fn create(client: &Client) -> String {
    let request = v1::CreateUploadRequest::default();
    let upload = client.videos().create_upload(request).await.unwrap();
    upload.into_inner().name
}

pub(crate) async fn committed(client: &Client, name: &str) -> u64 {
    let request = v1::GetUploadRequest { name: name.into() };
    let upload = client.videos().get_upload(request).await.unwrap();
    upload.into_inner().committed_bytes as u64
}

fn message(payload: v1::write_upload_request::Payload) -> v1::WriteUploadRequest {
    v1::WriteUploadRequest {
        payload: Some(payload),
    }
}

fn header(name: &str, offset: u64) -> v1::WriteUploadRequest {
    message(v1::write_upload_request::Payload::Header(
        v1::WriteUploadHeader {
            name: name.into(),
            offset: offset as i64,
        },
    ))
}

/// Sends what is missing and finishes.
/// Sends all bytes and leaves the upload unfinished.
pub(crate) async fn write_open(
    client: &Client,
    name: &str,
    bytes: &Bytes,
) -> Result<v1::Upload, Status> {
    use v1::write_upload_request::Payload;
    let messages = vec![header(name, 0), message(Payload::Chunk(bytes.clone()))];
    let upload = client.videos().write_upload(stream::iter(messages)).await?;
    Ok(upload.into_inner())
}

pub(crate) async fn write_rest(
    client: &Client,
    name: &str,
    offset: u64,
    bytes: &Bytes,
) -> Result<v1::Upload, Status> {
    use v1::write_upload_request::Payload;
    let mut messages = vec![header(name, offset)];
    let rest = bytes.slice(offset as usize..);
    for chunk in rest.chunks(1 << 20) {
        messages.push(message(Payload::Chunk(rest.slice_ref(chunk))));
    }
    let sha256 = Sha256::digest(bytes).to_vec().into();
    messages.push(message(Payload::Finish(v1::FinishUpload { sha256 })));
    let upload = client.videos().write_upload(stream::iter(messages)).await?;
    Ok(upload.into_inner())
}

/// Sends bytes up to `end`, then drops the call in the middle of it.
pub(crate) async fn write_and_cut(
    client: &Client,
    name: &str,
    offset: u64,
    end: usize,
    bytes: &Bytes,
) {
    use v1::write_upload_request::Payload;
    // One message at a time, so that the cut comes when almost all of them are with the server.
    let (sender, receiver) = mpsc::channel(1);
    let mut videos = client.videos();
    let call =
        tokio::spawn(async move { videos.write_upload(ReceiverStream::new(receiver)).await });
    let part = bytes.slice(offset as usize..end);
    let chunks = part.chunks(300_000);
    let chunks = chunks.map(|chunk| message(Payload::Chunk(part.slice_ref(chunk))));
    for message in std::iter::once(header(name, offset)).chain(chunks) {
        // The server hangs up when the stream before this one has committed more since the offset was read.
        if sender.send(message).await.is_err() {
            break;
        }
    }
    // What is only now on its way is dropped with the call.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    call.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_cut_at_random_bytes_goes_on_from_its_committed_offset() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let bytes = noise(100);
    assert!(bytes.len() > 17 << 20, "{}", bytes.len());
    let name = create(&client).await;
    let mut random = Stream::new(std::process::id().into(), "cuts");
    let mut seen = 0;
    for _ in 0..3 {
        let offset = committed(&client, &name).await;
        assert!(offset >= seen, "what was committed is gone");
        seen = offset;
        let end = offset + random.below(bytes.len() as u64 - offset);
        println!("from {offset}, cut at {end}");
        write_and_cut(&client, &name, offset, end as usize, &bytes).await;
    }
    // The cut stream may still be committing what had come; then the offset that was read is not the committed one any more.
    let upload = soon(async {
        loop {
            let offset = committed(&client, &name).await;
            match write_rest(&client, &name, offset, &bytes).await {
                Ok(upload) => break upload,
                Err(status) => refused::<()>(Err(status), Code::Aborted, "UPLOAD_OFFSET_MISMATCH"),
            }
        }
    })
    .await;
    let video = upload.video.expect("it has finished");
    assert_eq!(video.sha256, Sha256::digest(&bytes).to_vec());
    assert_eq!(video.size_bytes, bytes.len() as i64);
    assert_eq!(committed(&client, &name).await, bytes.len() as u64);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_of_the_limit_is_taken_and_one_byte_more_is_refused() {
    let video = clip(40);
    let limit = video.len() as u64;
    let server = TestServer::start_with(|config| config.upload_limit = limit).await;
    let client = server.client("acme").await;
    assert_eq!(
        upload(&client, &video).await.unwrap().size_bytes as u64,
        limit
    );
    let longer: Bytes = video.iter().copied().chain([0]).collect();
    let refusal = upload(&client, &longer).await;
    refused(refusal, Code::ResourceExhausted, "UPLOAD_TOO_LARGE");

    let name = create(&client).await;
    let refusal = write_rest(&client, &name, 0, &longer).await;
    refused(refusal, Code::ResourceExhausted, "UPLOAD_TOO_LARGE");
    let name = create(&client).await;
    assert!(write_rest(&client, &name, 0, &video).await.is_ok());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_upload_is_said_and_the_server_lives_on() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let text = Bytes::from_static(b"this is not a video at all");
    refused(
        upload(&client, &text).await,
        Code::InvalidArgument,
        "VIDEO_UNRECOGNISED",
    );
    refused(
        upload(&client, &Bytes::new()).await,
        Code::InvalidArgument,
        "VIDEO_EMPTY",
    );

    let mut videos = client.videos();
    let mut send = async |messages: Vec<v1::UploadVideoRequest>| {
        let answer = videos.upload_video(stream::iter(messages)).await;
        answer.map(tonic::Response::into_inner)
    };
    let wrong = v1::UploadVideoHeader {
        sha256: vec![7; 32].into(),
        ..Default::default()
    };
    let answer = send(upload_messages(wrong, &clip(1))).await;
    refused(answer, Code::DataLoss, "SHA256_MISMATCH");
    let short = v1::UploadVideoHeader {
        sha256: vec![7; 3].into(),
        ..Default::default()
    };
    let answer = send(upload_messages(short, &clip(1))).await;
    refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    refused(send(vec![]).await, Code::InvalidArgument, "INVALID_STREAM");
    let headless = upload_messages(v1::UploadVideoHeader::default(), &clip(1)).split_off(1);
    refused(
        send(headless).await,
        Code::InvalidArgument,
        "INVALID_STREAM",
    );
    let mut wide = upload_messages(v1::UploadVideoHeader::default(), &clip(1));
    let chunk = Bytes::from(vec![0; (1 << 20) + 1]);
    wide[1].payload = Some(v1::upload_video_request::Payload::Chunk(chunk));
    refused(send(wide).await, Code::InvalidArgument, "INVALID_STREAM");

    let listed = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert!(listed.unwrap().into_inner().videos.is_empty());
    let video = upload(&client, &clip(1)).await.unwrap();
    let probe = video.probe.unwrap();
    assert_eq!((probe.width, probe.height, probe.frames), (48, 48, 10));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_shows_what_it_is_whatever_it_is_called_and_what_is_wrong_with_it() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let whole = noise(20);
    let cut = whole.slice(..whole.len() / 2);
    for (bytes, frames, warnings) in [(&whole, 20..=20, &[][..]), (&cut, 5..=11, &["TRUNCATED"])] {
        let header = v1::UploadVideoHeader {
            display_name: "holiday.gif".into(),
            ..Default::default()
        };
        let messages = stream::iter(upload_messages(header, bytes));
        let video = client.videos().upload_video(messages).await.unwrap();
        let request = v1::GetVideoRequest {
            name: video.get_ref().name.clone(),
        };
        let video = client
            .videos()
            .get_video(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(video.size_bytes as usize, bytes.len());
        assert_eq!(video.sha256, Sha256::digest(bytes).to_vec());
        let probe = video.probe.unwrap();
        assert_eq!(
            (probe.container.as_str(), probe.codec.as_str()),
            ("matroska", "ffv1")
        );
        assert_eq!(
            (probe.width, probe.height, probe.rotation_degrees),
            (256, 256, 0)
        );
        assert!(frames.contains(&probe.frames), "{} frames", probe.frames);
        assert_eq!(probe.frame_rate, 10.0);
        let duration = probe.duration.unwrap();
        let tenths = duration.seconds * 10 + i64::from(duration.nanos) / 100_000_000;
        assert_eq!(tenths, i64::from(probe.frames) - 1);
        assert_eq!(probe.warnings, warnings);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let header = v1::UploadVideoHeader {
        request_id: "0197b3c0-0000-7000-8000-000000000001".into(),
        ..Default::default()
    };
    let messages = || upload_messages(header.clone(), &clip(1));
    let first = client
        .videos()
        .upload_video(stream::iter(messages()))
        .await
        .unwrap();
    let second = client
        .videos()
        .upload_video(stream::iter(messages()))
        .await
        .unwrap();
    assert_eq!(first.into_inner(), second.into_inner());
    let listed = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert_eq!(listed.unwrap().into_inner().videos.len(), 1);

    let stranger = server.client("other").await;
    let theirs = stranger
        .videos()
        .upload_video(stream::iter(messages()))
        .await
        .unwrap();
    let listed = stranger
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert_eq!(listed.unwrap().into_inner().videos, [theirs.into_inner()]);
    until(|| async { server.wiring.metrics.text().contains("upload_bytes_total") }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_uploads_are_listed_and_given_up() {
    let server = TestServer::start_with(|config| config.library.uploads.uploads = 2).await;
    let client = server.client("acme").await;
    let (one, two) = (create(&client).await, create(&client).await);
    let third = client
        .videos()
        .create_upload(v1::CreateUploadRequest::default())
        .await;
    refused(third, Code::ResourceExhausted, "TOO_MANY_UPLOADS");
    let list = async |page_token: String| {
        let request = v1::ListUploadsRequest {
            page_size: 1,
            page_token,
        };
        let page = client.videos().list_uploads(request).await;
        page.unwrap().into_inner()
    };
    let first = list(String::new()).await;
    assert_eq!(first.uploads.len(), 1);
    assert_eq!(first.uploads[0].name, one);
    let expires = first.uploads[0].expire_time.unwrap().seconds;
    let created = first.uploads[0].create_time.unwrap().seconds;
    assert_eq!(expires - created, 24 * 3600);
    let last = list(first.next_page_token).await;
    assert_eq!(
        (last.uploads[0].name.as_str(), last.next_page_token.as_str()),
        (two.as_str(), "")
    );

    for _ in 0..2 {
        let request = v1::DeleteUploadRequest { name: one.clone() };
        client.videos().delete_upload(request).await.unwrap();
    }
    let write = write_rest(&client, &one, 0, &clip(1)).await;
    refused(write, Code::NotFound, "UPLOAD_NOT_FOUND");
    write_rest(&client, &two, 0, &clip(1)).await.unwrap();
    let request = v1::DeleteUploadRequest { name: two.clone() };
    let finished = client.videos().delete_upload(request).await;
    refused(finished, Code::FailedPrecondition, "UPLOAD_FINISHED");
    assert!(list(String::new()).await.uploads.is_empty());
    let upload = client
        .videos()
        .get_upload(v1::GetUploadRequest { name: two })
        .await;
    assert_eq!(upload.unwrap().into_inner().expire_time, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_wrote_to_says_that_it_has_expired() {
    let server = TestServer::start_with(|config| {
        config.library.uploads.expiry = std::time::Duration::from_micros(1);
    })
    .await;
    let client = server.client("acme").await;
    let name = create(&client).await;
    let write = write_rest(&client, &name, 0, &clip(1)).await;
    refused(write, Code::NotFound, "UPLOAD_EXPIRED");
    let get = client
        .videos()
        .get_upload(v1::GetUploadRequest { name })
        .await;
    refused(get, Code::NotFound, "UPLOAD_EXPIRED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_in_capitals_is_the_same_and_another_content_is_refused() {
    use sha2::Digest as _;
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let id = "0197b3c0-0000-7000-8000-0000000000ab";
    let send = async |id: &str, bytes: Bytes, promised: bool| {
        let sha256 = if promised {
            Sha256::digest(&bytes).to_vec()
        } else {
            Vec::new()
        };
        let header = v1::UploadVideoHeader {
            request_id: id.into(),
            sha256: sha256.into(),
            ..Default::default()
        };
        let messages = stream::iter(upload_messages(header, &bytes));
        let answer = client.videos().upload_video(messages).await;
        answer.map(tonic::Response::into_inner)
    };
    let first = send(id, clip(1), true).await.unwrap();
    for promised in [true, false] {
        let again = send(&id.to_uppercase(), clip(1), promised).await.unwrap();
        assert_eq!(again, first);
        let other = send(id, clip(2), promised).await;
        refused(other, Code::InvalidArgument, "REQUEST_ID_REUSED");
    }
    let create = async |name: &str| {
        let request = v1::CreateDatasetRequest {
            dataset_id: name.into(),
            request_id: id.to_uppercase(),
            ..Default::default()
        };
        client.datasets().create_dataset(request).await
    };
    let first = create("first").await.unwrap().into_inner();
    assert_eq!(create("first").await.unwrap().into_inner(), first);
    let second = create("second").await;
    refused(second, Code::InvalidArgument, "REQUEST_ID_REUSED");
    let videos = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert_eq!(videos.unwrap().into_inner().videos.len(), 1);
    server.stop().await;
}
