//! Keys from their creation to their end, on real records and with records that are away.

mod administration;
mod timing;

use std::time::Duration;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::super::admin::{self, Call, KeyRequest};
use super::super::{Admin, Meter, Tenants, bootstrap};
use super::feed::DAY;
use super::*;
use crate::ids::TenantId;
use crate::metadata::{
    Access, Actor, Database, Fault, HashKind, KeyOwner, NewKey, Outages, PageRequest, SecretHash,
    TenantUpdate,
};
use crate::shutdown;
use crate::spec::{Digest, Scope, Scopes};

struct Bed {
    credentials: Credentials,
    admin: Admin,
    store: Database,
    outages: Outages,
    folder: TempDir,
}

async fn bed() -> Bed {
    bed_with(|_| {}).await
}

async fn bed_with(change: impl FnOnce(&mut Config)) -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.sqlite");
    let store = Database::open(metadata::Config::at(path)).await.unwrap();
    let outages = Outages::default();
    let records = outages.wrap(Arc::new(store.clone()));
    let mut config = Config {
        methods: [Method::Keys].into(),
        attempts: std::num::NonZeroU32::MAX,
        ..Config::default()
    };
    change(&mut config);
    let credentials = Credentials::new(config, records, Metrics::new()).unwrap();
    let tenants = Tenants::new(
        Arc::clone(&credentials.0.metadata),
        Meter::default(),
        Duration::from_secs(2),
    );
    let admin = Admin::new(credentials.clone(), tenants);
    admin
        .create_tenant(&Call::operator(), &acme(), "Acme")
        .await
        .unwrap();
    Bed {
        credentials,
        admin,
        store,
        outages,
        folder,
    }
}

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn wanted(scopes: &[Scope]) -> KeyRequest {
    KeyRequest {
        tenant: Some(acme()),
        display_name: "a key".into(),
        scopes: Scopes::of(scopes),
        tasks: Default::default(),
        lifetime: Some(Duration::from_secs(3600)),
    }
}

impl Bed {
    async fn key(&self, scopes: &[Scope]) -> (KeyId, String) {
        let operator = Call::operator();
        let made = self.admin.create_key(&operator, wanted(scopes)).await;
        let (record, key) = made.unwrap();
        (record.id, key.reveal().expose_secret().to_owned())
    }

    /// The label of what a bearer gets.
    async fn refusal(&self, bearer: &str) -> &'static str {
        match self.credentials.verify(bearer).await {
            Ok(_) => "accepted",
            Err((_, refused)) => refused.label(),
        }
    }
}

fn actor() -> Actor {
    Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    }
}

fn as_call(caller: Caller) -> Call {
    Call {
        caller,
        ..Call::operator()
    }
}

/// The same key with another secret, and a checksum that fits.
fn forged(bearer: &str) -> String {
    let id = Key::parse(bearer).unwrap().id().clone();
    let other = Key::with_id(id).unwrap();
    other.reveal().expose_secret().to_owned()
}

#[tokio::test]
async fn a_key_is_its_caller_until_it_is_revoked() {
    let bed = bed().await;
    let (id, bearer) = bed.key(&[Scope::Read, Scope::Classify]).await;
    let caller = bed.credentials.verify(&bearer).await.unwrap();
    assert_eq!(caller.principal, Principal::Key(id.clone()));
    assert_eq!(caller.tenant, Some(acme()));
    assert_eq!(caller.scopes.to_string(), "classify read");
    assert_eq!(bed.refusal(&forged(&bearer)).await, "wrong_secret");
    assert_eq!(bed.refusal("nonsense").await, "malformed");
    let stranger = Key::generate().unwrap().reveal();
    for _ in 0..2 {
        assert_eq!(bed.refusal(stranger.expose_secret()).await, "unknown");
    }
    bed.admin.revoke_key(&Call::operator(), &id).await.unwrap();
    assert_eq!(bed.refusal(&bearer).await, "revoked");
    assert_eq!(bed.refusal(&forged(&bearer)).await, "wrong_secret");
}

#[tokio::test]
async fn a_known_key_is_not_looked_up_for_every_call() {
    let bed = bed().await;
    let (_, bearer) = bed.key(&[Scope::Read]).await;
    for _ in 0..100 {
        assert_eq!(bed.refusal(&bearer).await, "accepted");
    }
    assert_eq!(bed.outages.calls("find_key"), 1);
    let stranger = Key::generate().unwrap().reveal();
    for _ in 0..100 {
        assert_eq!(bed.refusal(stranger.expose_secret()).await, "unknown");
    }
    assert_eq!(bed.outages.calls("find_key"), 2);
}

#[tokio::test]
async fn an_expired_key_is_refused_from_the_cache_as_well() {
    let bed = bed().await;
    let key = Key::generate().unwrap();
    let bearer = key.reveal();
    let new = NewKey {
        id: key.id().clone(),
        tenant: Some(acme()),
        display_name: String::new(),
        scopes: Scopes::of(&[Scope::Read]),
        tasks: None,
        hash: bed.credentials.hasher().stored(&key),
        created_by: "test".into(),
        lifetime: Some(Duration::from_secs(2)),
    };
    bed.store.create_key(new, &actor()).await.unwrap();
    assert_eq!(bed.refusal(bearer.expose_secret()).await, "accepted");
    let begun = std::time::Instant::now();
    while bed.refusal(bearer.expose_secret()).await == "accepted" {
        assert!(begun.elapsed() < Duration::from_secs(10), "still accepted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bed.refusal(bearer.expose_secret()).await, "expired");
    // The first look, and one for each refusal: the cache answered until the end.
    assert_eq!(bed.outages.calls("find_key"), 3);
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_and_never_three() {
    let bed = bed().await;
    let (id, first) = bed.key(&[Scope::Read]).await;
    let week = Duration::from_secs(7 * 86_400);
    let mut secrets = vec![first];
    for _ in 0..2 {
        let rotated = bed.admin.rotate_key(&Call::operator(), &id, week).await;
        let (_, key) = rotated.unwrap();
        secrets.push(key.reveal().expose_secret().to_owned());
    }
    let [first, second, third] = &secrets[..] else {
        panic!("three secrets");
    };
    assert_eq!(bed.refusal(first).await, "wrong_secret");
    assert_eq!(bed.refusal(second).await, "accepted");
    assert_eq!(bed.refusal(third).await, "accepted");
    // Without an overlap the secret before ends at once.
    let none = Duration::ZERO;
    let last = bed.admin.rotate_key(&Call::operator(), &id, none).await;
    assert_eq!(bed.refusal(third).await, "expired");
    let last = last.unwrap().1.reveal();
    assert_eq!(bed.refusal(last.expose_secret()).await, "accepted");
    bed.admin.revoke_key(&Call::operator(), &id).await.unwrap();
    let ended = bed.admin.rotate_key(&Call::operator(), &id, none).await;
    assert!(matches!(
        ended,
        Err(admin::Error::Metadata(metadata::Error::KeyEnded { .. }))
    ));
}

#[tokio::test]
async fn callers_of_a_suspended_tenant_are_refused_until_it_is_resumed() {
    let bed = bed().await;
    let (_, bearer) = bed.key(&[Scope::Read]).await;
    assert_eq!(bed.refusal(&bearer).await, "accepted");
    for (state, expected) in [
        (TenantState::Suspended, "suspended"),
        (TenantState::Active, "accepted"),
    ] {
        let update = TenantUpdate {
            state: Some(state),
            ..TenantUpdate::default()
        };
        bed.admin
            .update_tenant(&Call::operator(), &acme(), update, None)
            .await
            .unwrap();
        assert_eq!(bed.refusal(&bearer).await, expected);
    }
}

#[tokio::test]
async fn a_revocation_by_another_process_is_seen_by_the_feed() {
    let bed = bed_with(|config| config.feed_poll = Duration::from_millis(20)).await;
    let (id, bearer) = bed.key(&[Scope::Read]).await;
    let (drain, signal) = shutdown::channel();
    let following = tokio::spawn(bed.credentials.clone().follow(signal));
    // The feed is followed from its end on.
    while bed.outages.calls("access_changes") < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bed.refusal(&bearer).await, "accepted");
    // Past this process's handle, as another replica would.
    bed.store
        .revoke_key(&KeyOwner::Any, &id, &actor())
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    while bed.refusal(&bearer).await == "accepted" {
        assert!(begun.elapsed() < Duration::from_secs(10), "still accepted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bed.refusal(&bearer).await, "revoked");
    drain.start();
    following.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_day_of_a_use_is_on_record_after_the_drain() {
    let bed = bed().await;
    let (id, bearer) = bed.key(&[Scope::Read]).await;
    assert_eq!(bed.refusal(&bearer).await, "accepted");
    let (drain, signal) = shutdown::channel();
    drain.start();
    bed.credentials.clone().follow(signal).await.unwrap();
    let known = bed.store.find_key(&id).await.unwrap().unwrap();
    assert_eq!(known.key.last_use, Some(telemetry::now_micros() / DAY));
    let before = bed.outages.calls("note_key_use");
    assert_eq!(bed.refusal(&bearer).await, "accepted");
    let (drain, signal) = shutdown::channel();
    drain.start();
    bed.credentials.clone().follow(signal).await.unwrap();
    assert_eq!(bed.outages.calls("note_key_use"), before, "once a day");
}

#[tokio::test]
async fn while_the_database_is_away_known_keys_stay_good_and_others_are_unavailable() {
    let bed = bed_with(|config| config.fresh = Duration::ZERO).await;
    let (_, known) = bed.key(&[Scope::Read]).await;
    let (_, other) = bed.key(&[Scope::Read]).await;
    assert_eq!(bed.refusal(&known).await, "accepted");
    bed.outages.set_fault("find_key", Some(Fault::Away));
    assert_eq!(bed.refusal(&known).await, "accepted");
    assert_eq!(bed.refusal(&other).await, "unavailable");
    assert_eq!(bed.refusal(&forged(&known)).await, "unavailable");
    bed.outages.set_fault("find_key", None);
    assert_eq!(bed.refusal(&other).await, "accepted");
}

#[tokio::test]
async fn a_key_that_was_refused_is_not_good_again_while_the_database_is_away() {
    let bed = bed_with(|config| config.fresh = Duration::ZERO).await;
    let (id, bearer) = bed.key(&[Scope::Read]).await;
    assert_eq!(bed.refusal(&bearer).await, "accepted");
    // Past this process's handle, as another replica would; the feed is not read before the outage.
    bed.store
        .revoke_key(&KeyOwner::Any, &id, &actor())
        .await
        .unwrap();
    assert_eq!(bed.refusal(&bearer).await, "revoked");
    bed.outages.set_fault("find_key", Some(Fault::Away));
    assert_eq!(bed.refusal(&bearer).await, "unavailable");
}

#[tokio::test]
async fn past_the_stale_limit_no_key_is_good_without_the_database() {
    let bed = bed_with(|config| {
        config.fresh = Duration::ZERO;
        config.stale_limit = Duration::ZERO;
    })
    .await;
    let (_, known) = bed.key(&[Scope::Read]).await;
    assert_eq!(bed.refusal(&known).await, "accepted");
    bed.outages.set_fault("find_key", Some(Fault::Away));
    assert_eq!(bed.refusal(&known).await, "unavailable");
}

#[tokio::test]
async fn two_bootstraps_at_once_make_one_key() {
    let bed = bed().await;
    let hasher = bed.credentials.hasher();
    let makes = (0..8).map(|_| bootstrap::make(hasher, &bed.store));
    let made = futures::future::join_all(makes).await;
    let keys: Vec<Key> = made.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(keys.len(), 1);
    let bearer = keys[0].reveal();
    let caller = bed
        .credentials
        .verify(bearer.expose_secret())
        .await
        .unwrap();
    assert_eq!(
        (caller.tenant, caller.scopes.to_string().as_str()),
        (None, "fleet-admin")
    );
    // Once it is revoked, there may be another one.
    let id = keys[0].id();
    bed.admin.revoke_key(&Call::operator(), id).await.unwrap();
    assert!(bootstrap::make(hasher, &bed.store).await.unwrap().is_some());
}

#[tokio::test]
async fn the_key_of_a_file_is_recorded_once_and_stays_revoked() {
    let bed = bed().await;
    let path = bed.folder.path().join("first");
    let key = Key::generate().unwrap();
    let bearer = key.reveal();
    std::fs::write(&path, format!("{}\n", bearer.expose_secret())).unwrap();
    let config = Config {
        methods: [Method::Keys].into(),
        bootstrap_file: Some(path.clone()),
        ..Config::default()
    };
    let again = Credentials::new(config, Arc::new(bed.store.clone()), Metrics::new()).unwrap();
    for _ in 0..2 {
        again.bootstrap().await.unwrap();
        assert_eq!(bed.refusal(bearer.expose_secret()).await, "accepted");
    }
    bed.admin
        .revoke_key(&Call::operator(), key.id())
        .await
        .unwrap();
    again.bootstrap().await.unwrap();
    assert_eq!(bed.refusal(bearer.expose_secret()).await, "revoked");
    std::fs::write(&path, "password").unwrap();
    let refused = again.bootstrap().await.unwrap_err().to_string();
    assert!(
        refused.contains("expected a key") && !refused.contains("password"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_dump_of_the_database_holds_no_secret() {
    let bed = bed().await;
    let (id, bearer) = bed.key(&[Scope::Read]).await;
    let minute = Duration::from_secs(60);
    let rotated = bed.admin.rotate_key(&Call::operator(), &id, minute).await;
    let rotated = rotated.unwrap().1.reveal();
    assert_eq!(bed.refusal(&bearer).await, "accepted");
    bed.store.close().await.unwrap();
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(bed.folder.path()).unwrap() {
        bytes.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let has = |text: &str| {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(has(id.as_str()), "the search finds what is there");
    for bearer in [bearer.as_str(), rotated.expose_secret()] {
        let key = Key::parse(bearer).unwrap();
        assert!(!has(bearer) && !has(key.secret()));
        // Not even a part that would make guessing the rest easier.
        assert!(!has(&key.secret()[..16]) && !has(&key.secret()[27..]));
    }
}

#[tokio::test]
async fn a_hash_of_the_wrong_kind_verifies_nothing() {
    let bed = bed().await;
    let key = Key::generate().unwrap();
    let new = NewKey {
        id: key.id().clone(),
        tenant: Some(acme()),
        display_name: String::new(),
        scopes: Scopes::of(&[Scope::Read]),
        tasks: None,
        // What an HMAC without a pepper would be taken for, were the kind not looked at.
        hash: SecretHash {
            kind: HashKind::HmacSha256,
            digest: Digest([0; 32]),
        },
        created_by: "test".into(),
        lifetime: None,
    };
    bed.store.create_key(new, &actor()).await.unwrap();
    assert_eq!(
        bed.refusal(key.reveal().expose_secret()).await,
        "wrong_secret"
    );
}
