//! An operator has one server of a fleet drain through another one's administrators' API, and a server that is alone through its own.

use frameshift::client::Options;
use frameshift::ids::KeyId;
use frameshift::metadata::NewKey;
use frameshift::spec::{Scope, Scopes};
use frameshift::tenancy::key::Key;
use frameshift::tenancy::{Hasher, Method};
use secrecy::ExposeSecret as _;

use super::*;
use crate::access::Guarded;
use crate::tenants::actor;

/// A key with some scopes on record, and what its callers present.
async fn key(server: &TestServer, scopes: Scopes) -> (KeyId, String) {
    let key = Key::generate().unwrap();
    let is_fleet = scopes.contains(Scope::FleetAdmin);
    let new = NewKey {
        id: key.id().clone(),
        tenant: (!is_fleet).then(|| "acme".parse().unwrap()),
        display_name: String::new(),
        scopes,
        tasks: None,
        hash: Hasher::new(None).unwrap().stored(&key),
        created_by: "test".into(),
        lifetime: None,
    };
    let records = &server.wiring.metadata;
    records.create_key(new, &actor()).await.unwrap();
    (key.id().clone(), key.reveal().expose_secret().to_owned())
}

async fn presenting(address: std::net::SocketAddr, key: &str) -> Client {
    let options = Options {
        server: address.to_string(),
        api_key: Some(key.into()),
        ..Options::default()
    };
    Client::open(&options).await.unwrap()
}

async fn replicas(operator: &Client) -> Vec<v1::Replica> {
    let list = v1::ListReplicasRequest::default();
    let listed = operator.admin().list_replicas(list).await.unwrap();
    listed.into_inner().replicas
}

async fn drain(client: &Client, name: &str) -> Result<(), tonic::Status> {
    let request = v1::DrainReplicaRequest {
        name: format!("replicas/{name}"),
    };
    client.admin().drain_replica(request).await.map(drop)
}

/// Expects one event of a drain in the audit log.
async fn expect_event(operator: &Client, key: &KeyId, name: &str) {
    let list = v1::ListAuditEventsRequest::default();
    let listed = operator.admin().list_audit_events(list).await.unwrap();
    let events = listed.into_inner().events;
    let of_drain = events.iter().filter(|own| own.method == "DrainReplica");
    let of_drain: Vec<_> = of_drain.collect();
    assert_eq!(of_drain.len(), 1, "{events:?}");
    assert_eq!(of_drain[0].resource, format!("replicas/{name}"));
    assert_eq!(of_drain[0].principal, format!("keys/{key}"));
    assert_eq!(
        (of_drain[0].source.as_str(), of_drain[0].tenant.as_str()),
        ("127.0.0.1", "")
    );
    assert!(!of_drain[0].request_id.is_empty());
}

/// Has the second server drain through the first one. Returns how long it took until it had ended.
async fn drained_by_another(fleet: &Fleet, has_hints: bool) -> std::time::Duration {
    let start = async |name: &str| {
        let mut config = fleet.config(name);
        config.tenancy.methods = [Method::Keys].into();
        config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
        config.rpc.drain_grace = std::time::Duration::ZERO;
        let server = config.database_server.as_mut().unwrap();
        server.hints = has_hints;
        TestServer::start_on(config).await
    };
    let one = start("one").await;
    let (id, secret) = key(&one, Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = presenting(one.admin.unwrap(), &secret).await;
    until(|| async { replicas(&operator).await.len() == 1 }).await;
    let first = replicas(&operator).await.remove(0).name;
    let other = start("other").await;
    until(|| async { replicas(&operator).await.len() == 2 }).await;
    let all = replicas(&operator).await;
    let second = all.into_iter().find(|own| own.name != first).unwrap().name;
    let begun = std::time::Instant::now();
    drain(&operator, &second).await.unwrap();
    // It may be asked again, and is on record once.
    let _ = drain(&operator, &second).await;
    other.ended().await.expect("it drains as by a signal");
    let took = begun.elapsed();
    expect_event(&operator, &id, &second).await;
    let left = replicas(&operator).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].name, first);
    assert!(left[0].drain_time.is_none(), "{left:?}");
    assert_eq!(left[0].state(), v1::ReplicaState::Ready);
    refused(
        drain(&operator, &second).await,
        Code::NotFound,
        "REPLICA_NOT_FOUND",
    );
    drop(operator);
    one.stop().await;
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_drains_when_an_operator_asks_another_one_for_it() {
    for has_hints in [true, false] {
        let Some(fleet) = Fleet::new().await else {
            return;
        };
        let took = drained_by_another(&fleet, has_hints).await;
        println!("a server has drained {took:.2?} after an operator asked (hints: {has_hints})");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_operator_drains_a_server_and_what_runs_is_finished() {
    let guarded = Guarded::start().await;
    let (id, secret) = key(&guarded.server, Scopes::of(&[Scope::FleetAdmin])).await;
    let operator = guarded.admin(&secret).await;
    until(|| async { replicas(&operator).await.len() == 1 }).await;
    let name = replicas(&operator).await.remove(0).name;
    let tenants = guarded.key(Scopes::TENANT).await;
    let admin = guarded.admin(&tenants).await;
    refused(
        drain(&admin, &name).await,
        Code::PermissionDenied,
        "SCOPE_MISSING",
    );
    refused(
        drain(&operator, "nowhere").await,
        Code::NotFound,
        "REPLICA_NOT_FOUND",
    );
    let request = v1::DrainReplicaRequest { name: name.clone() };
    let malformed = operator.admin().drain_replica(request).await;
    refused(malformed, Code::InvalidArgument, "INVALID_FIELD");
    let client = guarded.client(&tenants).await;
    trained(&client, "motion").await;
    let held = guarded.server.wiring.device.pause();
    let mut request = classify("motion", "");
    request.source = Some(v1::classify_request::Source::Content(crate::server::clip(
        20,
    )));
    let running = tokio::spawn(async move { client.classification().classify(request).await });
    let admission = guarded.server.wiring.engine.clone();
    until(|| async { admission.in_use().clips == 1 }).await;
    drain(&operator, &name).await.unwrap();
    expect_event(&operator, &id, &name).await;
    // It waits for what runs.
    until(|| async {
        let states = replicas_if_any(&operator).await;
        states.is_none_or(|all| {
            all.iter()
                .any(|own| own.state() == v1::ReplicaState::Draining)
        })
    })
    .await;
    drop(held);
    running.await.unwrap().expect("answered before the end");
    guarded
        .server
        .ended()
        .await
        .expect("it drains as by a signal");
}

/// The list, unless the server takes no more calls.
async fn replicas_if_any(operator: &Client) -> Option<Vec<v1::Replica>> {
    let list = v1::ListReplicasRequest::default();
    let listed = operator.admin().list_replicas(list).await.ok()?;
    Some(listed.into_inner().replicas)
}
