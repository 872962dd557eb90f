//! What every blob store keeps, wherever its blobs are and whatever decorates it.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use frameshift::ids::UploadId;
use frameshift::spec::Digest;
use frameshift::store::{Error, Recorded, Store, layout};
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256};

use super::video;

/// Checks the whole contract on a store that is empty.
pub(crate) async fn holds(store: &Store) {
    a_store_says_whose_blobs_it_holds_and_whether_there_are_any(store).await;
    a_blob_reads_back_whole_by_every_way(store).await;
    a_writer_makes_the_same_blob_as_one_put_whatever_the_pieces(store).await;
    a_writer_that_is_dropped_leaves_nothing(store).await;
    other_bytes_than_those_of_the_record_are_damage(store).await;
    a_copy_is_the_same_bytes_under_a_second_key(store).await;
    a_listing_has_the_blobs_and_what_is_discarded_is_gone(store).await;
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn recorded(bytes: &[u8]) -> Recorded {
    Recorded {
        size: bytes.len() as u64,
        sha256: digest(bytes),
    }
}

async fn a_store_says_whose_blobs_it_holds_and_whether_there_are_any(store: &Store) {
    assert_eq!(store.identity().await.expect("read"), None);
    store.identify("a-database").await.expect("written");
    let id = store.identity().await.expect("read");
    assert_eq!(id.as_deref(), Some("a-database"));
    assert!(!store.has_blobs().await.expect("listed"), "the id is none");
    let key = video();
    let bytes = Bytes::from_static(b"x");
    store.put(&key, bytes).await.expect("written");
    assert!(store.has_blobs().await.expect("listed"));
    store.delete(&key).await.expect("deleted");
}

async fn a_blob_reads_back_whole_by_every_way(store: &Store) {
    let key = video();
    assert!(!store.exists(&key).await.expect("asked"));
    let missing = |error: Error| assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let content = Bytes::from_static(b"pictures");
    missing(store.get(&key).await.expect_err("nothing"));
    missing(store.size(&key).await.expect_err("nothing"));
    missing(store.open_file(&key).await.expect_err("nothing"));
    let opened = store.open_recorded(&key, recorded(&content)).await;
    missing(opened.expect_err("nothing"));
    store.put(&key, content.clone()).await.expect("written");
    assert!(store.exists(&key).await.expect("asked"));
    assert_eq!(store.size(&key).await.expect("asked"), 8);
    assert_eq!(store.get(&key).await.expect("read"), content);
    for _ in 0..2 {
        let read = store.get_verified(&key, digest(&content)).await;
        assert_eq!(read.expect("read"), content);
    }
    let file = store.open_file(&key).await.expect("opened");
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 4).expect("read");
    assert_eq!(&bytes, b"ures");
    let opened = store.open_recorded(&key, recorded(&content)).await;
    let opened = opened.expect("opened");
    opened.file.read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(&bytes, b"pict");
    store.delete(&key).await.expect("deleted");
    store.delete(&key).await.expect("deleted already");
    assert!(!store.exists(&key).await.expect("asked"));
    let opened_again = store.open_recorded(&key, recorded(&content)).await;
    missing(opened_again.expect_err("deleted"));
    // An open file can still be read after its deletion.
    file.read_exact_at(&mut bytes, 0).expect("read");
    opened.file.read_exact_at(&mut bytes, 4).expect("read");
    assert_eq!(&bytes, b"ures");
}

async fn a_writer_makes_the_same_blob_as_one_put_whatever_the_pieces(store: &Store) {
    let content: Vec<u8> = (0..(20 << 20)).map(|i: u32| ((i * 7) >> 3) as u8).collect();
    let put = video();
    let bytes = Bytes::from(content.clone());
    store.put(&put, bytes).await.expect("written");
    assert_eq!(store.get(&put).await.expect("read"), content);
    for piece in [1 << 20, (8 << 20) + 1, content.len()] {
        eprintln!("pieces of {piece}");
        let key = video();
        let mut writer = store.writer(&key).await.expect("a writer");
        for part in content.chunks(piece) {
            writer.write(part).await.expect("written");
            let is_there = store.exists(&key).await.expect("asked");
            assert!(!is_there, "visible before its end");
        }
        let written = writer.finish().await.expect("finished");
        assert_eq!(written.size, content.len() as u64);
        assert_eq!(written.sha256, digest(&content));
        assert_eq!(store.measured(&key).await.expect("read"), written);
        let opened = store.open_recorded(&key, recorded(&content)).await;
        let mut bytes = vec![0; content.len()];
        let file = opened.expect("opened").file;
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert!(bytes == content);
        store.delete(&key).await.expect("deleted");
    }
    for content in [&b""[..], b"little"] {
        let key = video();
        let mut writer = store.writer(&key).await.expect("a writer");
        writer.write(content).await.expect("written");
        let written = writer.finish().await.expect("finished");
        assert_eq!(written.size, content.len() as u64);
        assert_eq!(store.get(&key).await.expect("read"), content);
        let file = store.open_file(&key).await.expect("opened");
        let size = file.metadata().expect("a file").len();
        assert_eq!(size, content.len() as u64);
        store.delete(&key).await.expect("deleted");
    }
    store.delete(&put).await.expect("deleted");
}

async fn a_writer_that_is_dropped_leaves_nothing(store: &Store) {
    let key = video();
    let mut writer = store.writer(&key).await.expect("a writer");
    writer.write(&vec![1; 17 << 20]).await.expect("written");
    drop(writer);
    assert!(!store.exists(&key).await.expect("asked"));
}

async fn other_bytes_than_those_of_the_record_are_damage(store: &Store) {
    let key = video();
    let bytes = Bytes::from_static(b"weighty");
    store.put(&key, bytes).await.expect("written");
    let expected = digest(b"weights");
    match store.get_verified(&key, expected).await {
        Err(Error::Digest {
            key: named,
            expected: promised,
            found,
        }) => {
            assert_eq!((named.as_str(), promised), (key.as_str(), expected));
            assert_eq!(found, digest(b"weighty"));
        }
        other => panic!("{other:?}"),
    }
    match store.open_recorded(&key, recorded(b"weights")).await {
        Ok(opened) => assert!(!opened.is_verified, "it was not looked at"),
        Err(error) => assert!(matches!(error, Error::Digest { .. }), "{error:?}"),
    }
    store.delete(&key).await.expect("deleted");
}

async fn a_copy_is_the_same_bytes_under_a_second_key(store: &Store) {
    let (from, to) = (video(), video());
    let missing = store.copy(&from, &to).await;
    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
    let bytes = Bytes::from_static(b"pictures");
    store.put(&from, bytes.clone()).await.expect("written");
    store.copy(&from, &to).await.expect("copied");
    store.delete(&from).await.expect("deleted");
    assert_eq!(store.get(&to).await.expect("read"), bytes);
    let written = store
        .written(&[to.clone(), to.clone()])
        .await
        .expect("read");
    let twice = digest(b"picturespictures");
    assert_eq!((written.size, written.sha256), (16, twice));
    store.delete(&to).await.expect("deleted");
}

async fn a_listing_has_the_blobs_and_what_is_discarded_is_gone(store: &Store) {
    let key = layout::part(
        &frameshift::ids::TenantId::anonymous(),
        UploadId::generate(),
        3,
    );
    let bytes = Bytes::from_static(b"abc");
    store.put(&key, bytes).await.expect("written");
    let list = || store.list().try_collect::<Vec<_>>();
    let all = list().await.expect("listed");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((&all[0].key, all[0].size), (&key, 3));
    let (day, now) = (Duration::from_secs(24 * 3600), 1_800_000_000_000_000);
    store.discard(&key, now).await.expect("moved");
    store.discard(&key, now).await.expect("is there already");
    assert!(!store.exists(&key).await.expect("asked"));
    assert!(list().await.expect("listed").is_empty());
    let later = now + 24 * 3_600_000_000;
    assert_eq!(store.empty_trash(later - 1, day).await.expect("asked"), 0);
    assert_eq!(store.empty_trash(later, day).await.expect("emptied"), 1);
}
