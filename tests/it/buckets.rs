//! Objects in a bucket: the contract, a bucket that fails, and whole servers on one.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use frameshift::app::App;
use frameshift::config::Config;
use frameshift::ids::{TenantId, VideoId};
use frameshift::spec::Digest;
use frameshift::store::{Bucket, Error, Faults, Recorded, Store, cache, layout};
use frameshift::telemetry::Metrics;
use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic_types::StatusExt;

use crate::server::{TestServer, classify, clip, config, noise, refused, trained, until, upload};
use crate::store::{cached, contract};

mod azurite;
pub(crate) mod proxy;
pub(crate) mod weed;

use proxy::Mood;
use weed::Weed;

fn open(bucket: &Bucket) -> Store {
    Store::in_bucket(bucket, Metrics::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract_with_and_without_a_cache() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    contract::holds(&open(&weed.bucket("plain"))).await;
    contract::holds(&open(&weed.bucket("deep/er"))).await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(&weed.bucket("cached"));
    contract::holds(&cached(store, folder.path()).await).await;
    // A prefix is a world of its own.
    let (one, other) = (open(&weed.bucket("one")), open(&weed.bucket("other")));
    one.identify("one").await.unwrap();
    assert_eq!(other.identity().await.unwrap(), None);

    // What is dropped in the middle is given up in the bucket, too.
    let faults = Faults::default();
    let store = one.with_faults(faults.clone());
    let key = layout::video(&TenantId::anonymous(), VideoId::generate());
    let mut writer = store.writer(&key).await.unwrap();
    writer.write(&vec![0; 9 << 20]).await.unwrap();
    drop(writer);
    until(|| async { faults.aborted() == 1 }).await;

    // Keys that are wrong are said by name, and are no outage.
    let mut wrong = weed.bucket("plain");
    wrong.variables[1].1 = "wrong".into();
    let error = open(&wrong).get(&key).await.unwrap_err();
    assert!(!matches!(error, Error::NotFound { .. }), "{error:?}");
    let text = format!("{error:?}");
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_azure_keeps_the_contract_too() {
    let Some(azurite) = azurite::Azurite::start().await else {
        return;
    };
    contract::holds(&open(&azurite.bucket("plain"))).await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(&azurite.bucket("cached"));
    contract::holds(&cached(store, folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failed_answer_in_ten_and_slow_answers_fail_no_call() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let mood = Mood::default();
    let endpoint = proxy::start(weed.port(), &mood).await;
    mood.refuse_one_in(10);
    contract::holds(&open(&weed::bucket(&endpoint, "failing"))).await;
    let seen = mood.seen();
    assert!(seen > 40, "{seen}");
    mood.refuse_one_in(0);
    mood.delay(Duration::from_secs(2));
    let store = open(&weed::bucket(&endpoint, "slow"));
    let key = layout::video(&TenantId::anonymous(), VideoId::generate());
    let bytes = Bytes::from(vec![7; 9 << 20]);
    store.put(&key, bytes.clone()).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pass_over_all_videos_asks_the_bucket_for_nothing() {
    let Some(weed) = Weed::start().await else {
        return;
    };
    let mood = Mood::default();
    let endpoint = proxy::start(weed.port(), &mood).await;
    let folder = tempfile::tempdir().unwrap();
    let store = cached(open(&weed::bucket(&endpoint, "epochs")), folder.path()).await;
    let mut videos = Vec::new();
    for i in 0..50u8 {
        let bytes = vec![i; 100_000 + usize::from(i)];
        let key = layout::video(&TenantId::anonymous(), VideoId::generate());
        let recorded = Recorded {
            size: bytes.len() as u64,
            sha256: Digest(Sha256::digest(&bytes).into()),
        };
        store.put(&key, bytes.into()).await.unwrap();
        videos.push((key, recorded));
    }
    let pass = async || {
        let before = mood.seen();
        for (key, recorded) in &videos {
            let opened = store.open_recorded(key, *recorded).await.unwrap();
            assert!(opened.is_verified);
        }
        mood.seen() - before
    };
    assert_eq!(pass().await, 50, "one request for each");
    assert_eq!(pass().await, 0);
}

fn on_bucket(folder: &Path, bucket: Bucket) -> Config {
    let mut config = config(folder);
    config.cache = Some(cache::Config {
        folder: folder.join("cache"),
        bytes: 1 << 30,
    });
    config.objects = Some(bucket);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_bucket_serves_from_its_cache_while_the_bucket_is_away() {
    let Some(mut weed) = Weed::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(on_bucket(folder.path(), weed.bucket("fleet"))).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "motion").await;
    let large = upload(&client, &noise(50)).await.unwrap();
    let request = classify("motion", &videos[0].name);
    let mut classification = client.classification();
    let answer = classification.classify(request.clone()).await;
    let answer = answer.unwrap().into_inner();
    assert!(
        !folder.path().join("objects").exists(),
        "nothing lies beside"
    );

    weed.kill();
    let cached = classification.classify(request.clone()).await;
    assert_eq!(cached.unwrap().into_inner().predictions, answer.predictions);
    let sent = upload(&client, &clip(77)).await.unwrap_err();
    assert!(sent.get_error_details().retry_info().is_some(), "{sent:?}");
    refused(Err::<(), _>(sent), Code::Unavailable, "STORE_UNAVAILABLE");
    weed.restart().await;
    until(|| async { upload(&client, &clip(77)).await.is_ok() }).await;
    server.stop().await;

    // Everything that was acknowledged is in the bucket: a server with an empty cache has it.
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    let server = TestServer::start_on(on_bucket(folder.path(), weed.bucket("fleet"))).await;
    let client = server.client("acme").await;
    let mut classification = client.classification();
    let again = classification.classify(request).await;
    assert_eq!(again.unwrap().into_inner().predictions, answer.predictions);
    let request = classify("motion", &large.name);
    classification.classify(request).await.unwrap();
    server.stop().await;

    // The bucket belongs to one database.
    let other = tempfile::tempdir().unwrap();
    let refused = App::bind(on_bucket(other.path(), weed.bucket("fleet"))).await;
    let Err(refused) = refused else {
        panic!("a new database is paired with the objects of another one");
    };
    let text = refused.to_string();
    assert!(
        text.contains("s3://videos/fleet holds the objects"),
        "{text}"
    );
}
