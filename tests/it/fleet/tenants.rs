//! Tenants on several servers: what one server is told of a tenant, the others know.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_erased_through_one_server_is_gone_from_every_other() {
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let (one, other) = (fleet.start("one").await, fleet.start("other").await);
    let (first, second) = (one.client("acme").await, other.client("acme").await);
    let videos = trained(&first, "motion").await;
    serving(&second, "motion").await;
    let ask = || classify("motion", &videos[0].name);
    for client in [&first, &second] {
        client.classification().classify(ask()).await.unwrap();
    }
    let acme: frameshift::ids::TenantId = "acme".parse().unwrap();
    assert!(!other.wiring.engine.residency(&acme).is_empty());
    let actor = frameshift::metadata::Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    };
    let records = &one.wiring.metadata;
    records.begin_erasure(&acme, &actor).await.unwrap();
    until(|| async {
        let erasure = records.get_erasure(&acme).await.unwrap();
        erasure.end_time.is_some()
    })
    .await;
    for (server, client) in [(&one, &first), (&other, &second)] {
        let answer = client.classification().classify(ask()).await;
        refused(answer, Code::PermissionDenied, "TENANT_ERASED");
        until(|| async { server.wiring.engine.residency(&acme).is_empty() }).await;
    }
    // Others find a server as it was.
    let globex = other.client("globex").await;
    trained(&globex, "motion").await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_hear_what_a_tenant_asks_of_the_others() {
    use frameshift::metadata::{Actor, Quotas, Rates, TenantUpdate};
    let Some(fleet) = Fleet::new().await else {
        return;
    };
    let (one, other) = (fleet.start("one").await, fleet.start("other").await);
    let acme: frameshift::ids::TenantId = "acme".parse().unwrap();
    let actor = Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    };
    let records = &one.wiring.metadata;
    records.create_tenant(&acme, "", &actor).await.unwrap();
    let rates = Rates {
        clip_frames: Some(1_000_000),
        requests: None,
    };
    let update = TenantUpdate {
        quotas: Some(Quotas {
            rates,
            ..Quotas::default()
        }),
        ..TenantUpdate::default()
    };
    records
        .update_tenant(&acme, update, None, &actor)
        .await
        .unwrap();
    for server in [&one, &other] {
        until(|| async { server.wiring.tenants.terms(&acme).rates == rates }).await;
    }
    // Both are asked for much more than a half.
    let flood = |server: &TestServer| {
        let tenants = &server.wiring.tenants;
        while tenants.charge(&acme, 100_000).is_ok() {}
        for _ in 0..200 {
            let _ = tenants.charge(&acme, 100_000);
        }
    };
    let granted = |server: &TestServer| server.wiring.tenants.granted(&acme).clip_frames;
    // A window that a server closes by itself in between, without a flood in it, gives the other one more until the next.
    until(|| async {
        for server in [&one, &other] {
            flood(server);
            server.wiring.tenants.close_window().await.unwrap();
        }
        [&one, &other].map(granted) == [Some(500_000); 2]
    })
    .await;
    one.stop().await;
    other.stop().await;
}
