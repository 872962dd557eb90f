//! Reported uploads that nobody finishes: the tenant sees them, their number is limited, and they can be given up.

use frameshift::proto::v1;
use tonic::Code;

use crate::server::{TestServer, refused};

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_upload_is_seen_limited_and_given_up() {
    let server = TestServer::start_with(|config| config.library.uploads.uploads = 3).await;
    let client = server.client("acme").await;
    let mut videos = client.videos();
    let mut names = Vec::new();
    for _ in 0..3 {
        let request = v1::CreateUploadRequest::default();
        let upload = videos.create_upload(request).await.unwrap().into_inner();
        assert!(upload.expire_time.is_some());
        names.push(upload.name);
    }
    let one_more = videos
        .create_upload(v1::CreateUploadRequest::default())
        .await;
    refused(one_more, Code::ResourceExhausted, "TOO_MANY_UPLOADS");
    let list = v1::ListUploadsRequest::default();
    let listed = videos
        .list_uploads(list.clone())
        .await
        .unwrap()
        .into_inner();
    let mut listed: Vec<String> = listed.uploads.into_iter().map(|own| own.name).collect();
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
    for name in &names {
        // Giving up is idempotent.
        for _ in 0..2 {
            let request = v1::DeleteUploadRequest { name: name.clone() };
            videos.delete_upload(request).await.unwrap();
        }
    }
    let listed = videos
        .list_uploads(list.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.uploads, []);
    videos
        .create_upload(v1::CreateUploadRequest::default())
        .await
        .unwrap();
    server.stop().await;
}
