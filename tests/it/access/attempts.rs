//! An address that tries many credentials: its unknown ones are not looked at for a while, and callers with good ones do not notice.

use frameshift::config::Config;
use frameshift::proto::v1;
use frameshift::spec::Scopes;
use frameshift::tenancy::Method;
use frameshift::tenancy::key::Key;
use futures::stream::{FuturesUnordered, StreamExt};
use secrecy::ExposeSecret;
use tonic::{Code, Status};

use super::{Guarded, Raw};
use crate::server::{TestServer, reason};

/// The value of a counter, 0 when it was never set.
fn metric(server: &TestServer, name: &str) -> u64 {
    let text = server.wiring.metrics.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// A server that asks for keys, with an administrator's port.
async fn with_keys(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(|config| {
        config.tenancy.methods = [Method::Keys].into();
        config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
        change(config);
    })
    .await
}

/// Calls with a key.
async fn shown(raw: &Raw, path: &str, key: &str) -> Result<(), Status> {
    let bearer = format!("Bearer {key}");
    raw.answer(path, &[("authorization", &bearer)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_credentials_is_not_looked_up_and_touches_no_good_caller() {
    let server = with_keys(|_| ()).await;
    let guarded = Guarded::with_tenants(server).await;
    let good = guarded.key(Scopes::TENANT).await;
    let late = guarded.key(Scopes::TENANT).await;
    let raw = Raw::of(&guarded).await;
    let path = "/frameshift.v1.VideoService/ListVideos";
    shown(&raw, path, &good).await.unwrap();
    let mut crowded = 0;
    for _ in 0..200 {
        let bad = Key::generate().unwrap().reveal();
        let status = shown(&raw, path, bad.expose_secret()).await.unwrap_err();
        match reason(&status).as_str() {
            "CREDENTIAL_REFUSED" => {}
            "TOO_MANY_CREDENTIALS" => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                crowded += 1;
            }
            other => panic!("{other}"),
        }
        shown(&raw, path, &good).await.unwrap();
    }
    // A credential that was looked up is unknown; one that was not is refused for the others of its address.
    let refused = |why: &str| {
        let name = format!("frameshift_credentials_refused_total{{reason=\"{why}\"}}");
        metric(&guarded.server, &name)
    };
    let looked = refused("unknown");
    assert_eq!(refused("crowded"), crowded);
    assert!(
        crowded > 0 && looked + crowded == 200,
        "{looked} + {crowded}"
    );
    assert!(looked <= 150, "20 at once, and one a second: {looked}");
    assert_eq!(
        metric(&guarded.server, "frameshift_credential_guessing_total"),
        1
    );
    // A good key that nobody has used here waits its turn, and is not told that it is bad.
    match shown(&raw, path, &late).await {
        Ok(()) => {}
        Err(status) => assert_eq!(reason(&status), "TOO_MANY_CREDENTIALS"),
    }
    // Nothing was looked at for the refusals that came late.
    let client = guarded.client(&good).await;
    let listed = client
        .videos()
        .list_videos(v1::ListVideosRequest::default())
        .await;
    assert!(listed.is_ok());
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_bad_credentials_alone_is_read_slowly() {
    /// Calls with a bad credential: more than are under way at a time, so that some are sent after the first were refused.
    const BAD: usize = 640;
    let server = with_keys(|_| ()).await;
    let guarded = Guarded::with_tenants(server).await;
    let good = guarded.key(Scopes::TENANT).await;
    let (flooded, own) = (Raw::of(&guarded).await, Raw::of(&guarded).await);
    let path = "/frameshift.v1.VideoService/ListVideos";
    shown(&own, path, &good).await.unwrap();
    let bad = Key::generate().unwrap().reveal();
    let calls = (0..BAD).map(|_| shown(&flooded, path, bad.expose_secret()));
    let mut calls: FuturesUnordered<_> = calls.collect();
    calls.next().await.unwrap().unwrap_err();
    // A good caller at the same address, on its own connection, does not wait.
    let so_far = {
        let others = async {
            for _ in 0..50 {
                shown(&own, path, &good).await.unwrap();
            }
            let name = |why| format!("frameshift_credentials_refused_total{{reason=\"{why}\"}}");
            let of = |why| metric(&guarded.server, &name(why));
            of("unknown") + of("crowded")
        };
        let mut others = std::pin::pin!(others);
        loop {
            tokio::select! {
                so_far = &mut others => break so_far,
                Some(answer) = calls.next() => drop(answer.unwrap_err()),
            }
        }
    };
    assert!(so_far < BAD as u64, "{so_far} of {BAD} were read");
    drop(calls);
    guarded.server.stop().await;
}

/// Makes calls with bad credentials over one connection, one after the other, until it is read slowly or there were a hundred.
async fn many_bad(server: &TestServer, raw: &Raw) {
    let bad = Key::generate().unwrap().reveal();
    let path = "/frameshift.v1.VideoService/ListVideos";
    for _ in 0..100 {
        shown(raw, path, bad.expose_secret()).await.unwrap_err();
        if metric(server, "frameshift_slow_connections ") == 1 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_proxies_are_never_read_slowly() {
    for is_listed in [true, false] {
        let server = with_keys(|config| match is_listed {
            true => config.rpc.trusted_proxies = "127.0.0.0/8".parse().unwrap(),
            false => config.rpc.behind_proxy = true,
        })
        .await;
        let guarded = Guarded::with_tenants(server).await;
        many_bad(&guarded.server, &Raw::of(&guarded).await).await;
        let crowded = "frameshift_credentials_refused_total{reason=\"crowded\"}";
        assert!(metric(&guarded.server, crowded) > 32);
        let slowed = "frameshift_connections_slowed_total ";
        assert_eq!(metric(&guarded.server, slowed), 0);
        guarded.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_credential_with_a_bad_tenant_ends_the_pauses() {
    let server = with_keys(|_| ()).await;
    let guarded = Guarded::with_tenants(server).await;
    let good = guarded.key(Scopes::TENANT).await;
    let path = "/frameshift.v1.VideoService/ListVideos";
    shown(&Raw::of(&guarded).await, path, &good).await.unwrap();
    let flooded = Raw::of(&guarded).await;
    many_bad(&guarded.server, &flooded).await;
    let slow = "frameshift_slow_connections ";
    assert_eq!(metric(&guarded.server, slow), 1);
    let bearer = format!("Bearer {good}");
    let headers = [("authorization", &*bearer), ("x-frameshift-tenant", "-no-")];
    flooded.answer(path, &headers).await.unwrap_err();
    assert_eq!(metric(&guarded.server, slow), 0);
    guarded.server.stop().await;
}
