//! Videos that are not handed out or not stored: bytes that changed, that were not promised, or that the decoder refuses.

use std::time::Duration;

use frameshift::library::{Damage, Error};
use frameshift::metadata::VideoRecord;
use frameshift::spec::Digest;
use frameshift::video::{self, Input};
use sha2::{Digest as _, Sha256};

use super::{LIMIT, PART, Setting, content, gone, sha256, tenant};

fn damage(opened: frameshift::library::Result<(VideoRecord, Input)>) -> Damage {
    match opened {
        Err(Error::Damaged { damage, .. }) => damage,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stored_video_whose_bytes_changed_is_not_handed_out() {
    let setting = Setting::new().await;
    let mut upload = setting.single(None, None).await;
    upload.write(&[7; 500]).await.expect("written");
    let video = upload.finish().await.expect("stored");
    let open = || setting.library.open_video(&video.tenant, video.id);
    open().await.expect("whole");
    let file = setting.files().remove(0);
    let whole = std::fs::read(&file).expect("read");

    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    std::fs::write(&file, &flipped).expect("damaged");
    // The clock of the file system is coarser than this test.
    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    let touched = std::fs::File::options().write(true).open(&file);
    touched
        .and_then(|own| own.set_modified(later))
        .expect("touched");
    let found = Digest(Sha256::digest(&flipped).into());
    let expected = video.sha256;
    assert_eq!(damage(open().await), Damage::Sha256 { expected, found });
    std::fs::write(&file, &whole[..499]).expect("cut");
    let (expected, found) = (500, 499);
    assert_eq!(damage(open().await), Damage::Size { expected, found });
    std::fs::write(&file, &whole).expect("mended");
    open().await.expect("whole again");
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(damage(open().await), Damage::Missing);
}

#[tokio::test]
async fn bytes_that_are_not_the_promised_ones_become_no_video() {
    let setting = Setting::new().await;
    let promised = Some(Digest([0; 32]));
    let mut single = setting.single(promised, None).await;
    single.write(b"abc").await.expect("written");
    assert!(matches!(
        single.finish().await,
        Err(Error::Sha256Mismatch { .. })
    ));
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(b"abc").await.expect("written");
    assert!(matches!(
        stream.finish(promised).await,
        Err(Error::Sha256Mismatch { .. })
    ));
    gone(&setting, upload).await;
}

#[tokio::test]
async fn a_file_that_the_decoder_refuses_becomes_no_video() {
    let setting = Setting::new().await;
    for bytes in [&b"bad video"[..], b""] {
        let mut single = setting.single(None, None).await;
        single.write(bytes).await.expect("written");
        let refused = single.finish().await;
        assert!(
            matches!(refused, Err(Error::Probe(video::Error::Rejected(_)))),
            "{refused:?}"
        );
        let upload = setting.upload().await;
        let mut stream = setting.stream(upload).await;
        stream.write(bytes).await.expect("written");
        let refused = stream.finish(None).await;
        assert!(
            matches!(refused, Err(Error::Probe(video::Error::Rejected(_)))),
            "{refused:?}"
        );
        gone(&setting, upload).await;
    }
}

#[tokio::test]
async fn a_read_of_the_store_that_fails_is_no_damage_and_passes() {
    let setting = Setting::new().await;
    let mut single = setting.single(None, None).await;
    single.write(b"abc").await.expect("written");
    let video = single.finish().await.expect("finished");
    setting.faults.fail_read(1);
    match setting.library.open_video(&tenant(), video.id).await {
        Err(Error::Store(error)) => assert!(error.is_temporary(), "{error:?}"),
        other => panic!("{:?}", other.map(|(record, _)| record)),
    }
    let opened = setting.library.open_video(&tenant(), video.id).await;
    opened.expect("the next read works");
}

#[tokio::test]
async fn one_byte_over_the_limit_is_refused() {
    let setting = Setting::new().await;
    let bytes = content(LIMIT);
    let mut single = setting.single(None, None).await;
    single
        .write(&bytes)
        .await
        .expect("the limit itself is allowed");
    assert!(matches!(
        single.write(&[0]).await,
        Err(Error::TooLarge { limit: 10_000 })
    ));
    drop(single);

    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream
        .write(&bytes)
        .await
        .expect("the limit itself is allowed");
    assert!(matches!(
        stream.write(&[0]).await,
        Err(Error::TooLarge { limit: 10_000 })
    ));
    let video = stream
        .finish(Some(sha256(&bytes)))
        .await
        .expect("without that byte");
    assert_eq!(video.size_bytes, LIMIT as u64);
}

#[tokio::test]
async fn a_wrong_sha256_is_refused_before_the_file_is_written_again() {
    let setting = Setting::new().await;
    let upload = setting.upload().await;
    let mut stream = setting.stream(upload).await;
    stream.write(&content(3 * PART)).await.expect("written");
    // As on a full disk, where refusing the upload makes room.
    setting.faults.fail_write(1);
    let refused = stream.finish(Some(Digest([0; 32]))).await;
    assert!(
        matches!(refused, Err(Error::Sha256Mismatch { .. })),
        "{refused:?}"
    );
    gone(&setting, upload).await;
}
