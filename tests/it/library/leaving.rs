//! Callers that disconnect, and concurrent callers, between the write of a blob and its record.

use std::sync::Arc;

use frameshift::library::{Error, Library};
use frameshift::metadata::{self, Kind};
use frameshift::store::{self, Store};

use super::{Setting, tenant};
use crate::server::until;

#[tokio::test]
async fn a_caller_that_leaves_while_its_video_is_probed_leaves_no_blob() {
    let setting = Setting::new().await;
    setting
        .prober
        .is_slow
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let mut single = setting.single(None, None).await;
    single.write(b"abc").await.expect("written");
    let caller = tokio::spawn(single.finish());
    setting.prober.began.notified().await;
    assert_eq!(setting.files().len(), 1, "the blob is there");
    caller.abort();
    until(|| async { setting.files().is_empty() }).await;

    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(b"abc").await.expect("written");
    let caller = tokio::spawn(stream.finish(None));
    setting.prober.began.notified().await;
    assert_eq!(setting.files().len(), 2, "the part and the blob");
    caller.abort();
    until(|| async { setting.files().len() == 1 }).await;
    assert_eq!(setting.committed(upload).await, 3, "the part stays");
}

#[tokio::test]
async fn a_video_that_is_deleted_while_it_is_opened_does_not_exist() {
    let setting = Setting::new().await;
    let mut single = setting.single(None, None).await;
    single.write(b"abc").await.expect("written");
    let video = single.finish().await.expect("finished");
    setting.faults.hold_reads(true);
    let library = setting.library.clone();
    let opening = tokio::spawn(async move { library.open_video(&tenant(), video.id).await });
    setting.faults.reader_waits().await;
    let deleted = setting
        .library
        .delete_video(&tenant(), video.id, false)
        .await;
    deleted.expect("deleted");
    setting.faults.hold_reads(false);
    let opened = opening.await.expect("no panic").map(drop);
    assert!(
        matches!(
            opened,
            Err(Error::Metadata(metadata::Error::NotFound {
                kind: Kind::Video,
                ..
            }))
        ),
        "{opened:?}"
    );
}

#[tokio::test]
async fn a_video_whose_blob_is_lost_is_lost_and_not_missing() {
    let setting = Setting::new().await;
    let mut single = setting.single(None, None).await;
    single.write(b"abc").await.expect("written");
    let video = single.finish().await.expect("finished");
    std::fs::remove_file(&setting.files()[0]).expect("removed");
    let opened = setting.library.open_video(&tenant(), video.id).await;
    let damage = frameshift::library::Damage::Missing;
    assert!(matches!(
        opened.map(drop),
        Err(Error::Damaged { damage: found, .. }) if found == damage
    ));
}

#[tokio::test]
async fn of_two_streams_that_finish_one_upload_both_answer_the_same_video() {
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let mut first = setting.stream(upload).await;
    first.write(&[7; 2_500]).await.expect("written");
    first.commit().await.expect("committed");
    let (library, owner) = (&setting.library, tenant());
    let second = library.write_upload(&owner, upload, 2_500).await;
    let second = second.expect("opened");
    let third = library.write_upload(&owner, upload, 2_500).await;
    let third = third.expect("opened");

    // The second caller has read the list of parts when the first one deletes them.
    setting.faults.hold_reads(true);
    let late = tokio::spawn(second.finish(None));
    setting.faults.reader_waits().await;
    let calm = Library::new(
        setting.library.config().clone(),
        Store::open(setting.directory.path()).expect("a store"),
        Arc::clone(&setting.records),
        setting.prober.clone(),
    );
    let first = calm.write_upload(&tenant(), upload, 2_500).await;
    let video = first.expect("opened").finish(None).await.expect("finished");
    setting.faults.hold_reads(false);
    let answered = late.await.expect("no panic").expect("finished");
    assert_eq!(answered, video);
    assert_eq!(third.finish(None).await.expect("finished"), video);
    until(|| async { setting.files().len() == 1 }).await;
}

#[tokio::test]
async fn a_lost_part_is_said_to_be_lost() {
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(&[7; 2_500]).await.expect("written");
    std::fs::remove_file(&setting.files()[0]).expect("removed");
    assert!(matches!(
        stream.finish(None).await,
        Err(Error::Store(store::Error::NotFound { .. }))
    ));
}
