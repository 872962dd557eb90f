//! Callers that others vouch for: tokens of a real issuer and clients' certificates, through the whole server.

mod bed;

use std::collections::BTreeSet;

use frameshift::metadata::{TenantState, TenantUpdate};
use jsonwebtoken::Algorithm;
use rcgen::CertificateParams;
use serde_json::{Value, json};

use super::*;
use crate::issuer::{Signer, now};
use crate::server::{soon, until};
use bed::{Bed, RULES, Shown, put, spiffe, uri, written};

#[tokio::test(flavor = "multi_thread")]
async fn every_method_refuses_every_token_and_certificate_that_is_not_good_in_one_way() {
    let bed = Bed::start().await;
    let plain = bed.raw(None).await;
    let unnamed = bed
        .raw(Some(&|params| params.subject_alt_names.clear()))
        .await;
    let nobody = bed.showing("nobody").await;
    let common = bed
        .raw(Some(&|params| {
            params.subject_alt_names.clear();
            let name = spiffe("owner");
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name.as_str());
        }))
        .await;
    let good = bed.issuer.claims("system:serviceaccount:acme:owner");
    let signed = |claims: &Value| bed.signer.sign(claims, |_| {});
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signed(&claims)
    };
    let stranger = Signer::new("first", Algorithm::ES256);
    let unknown = Signer::new("unknown", Algorithm::ES256);
    let bad = [
        changed("exp", (now() - 100).into()),
        changed("nbf", (now() + 100).into()),
        changed("aud", "another".into()),
        changed("iss", "https://issuer.example".into()),
        changed("sub", "system:serviceaccount:evil:owner".into()),
        changed("sub", "system:serviceaccount:acme:owner:x".into()),
        stranger.sign(&good, |_| {}),
        unknown.sign(&good, |_| {}),
        "a.b.c".to_owned(),
    ];
    let owner = bed.token("owner");
    let held = bed.showing("owner").await;
    let mut answers = BTreeSet::new();
    for path in methods() {
        let mut refused = Vec::new();
        for raw in [&plain, &unnamed, &nobody, &common] {
            refused.push(raw.call(&path, &[]).await);
        }
        for token in &bad {
            refused.push(plain.with(&path, token).await);
        }
        let bearer = format!("Bearer {owner}");
        let twice = [("authorization", bearer.as_str()); 2];
        refused.push(plain.call(&path, &twice).await);
        // A bad credential counts, also beside a good certificate.
        refused.push(held.with(&path, &bad[0]).await);
        for (place, answer) in refused.into_iter().enumerate() {
            let status = answer.expect_err(&path);
            assert_eq!(
                reason(&status),
                "CREDENTIAL_REFUSED",
                "{place} {path}: {status:?}"
            );
            answers.insert(told(&status).1);
        }
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_tokens_and_certificates_for_its_scope_and_their_own_tenant() {
    let bed = Bed::start().await;
    let plain = bed.raw(None).await;
    let names = ["owner", "viewer", "device", "operator"];
    let mut held = Vec::new();
    for name in names {
        held.push(bed.showing(name).await);
    }
    let by_token = names.map(|name| Shown {
        raw: &plain,
        bearer: Some(format!("Bearer {}", bed.token(name))),
    });
    let by_certificate = held.iter().map(|raw| Shown { raw, bearer: None });
    for callers in [
        by_token.into_iter().collect(),
        by_certificate.collect::<Vec<_>>(),
    ] {
        for path in methods() {
            let is_fleet = path.contains(".AdminService/");
            let mut narrow = 0;
            for (name, caller) in names.iter().zip(&callers) {
                let answer = caller.call(&path, None).await;
                match answer {
                    Ok(()) => {
                        assert!(
                            !is_fleet || ["operator", "owner"].contains(name),
                            "{name} {path}"
                        );
                        let mut answers = Vec::new();
                        for tenant in ["globex", "never"] {
                            let denied = caller.call(&path, Some(tenant)).await;
                            let status = denied.expect_err(&path);
                            assert_eq!(reason(&status), "TENANT_DENIED", "{name} {path}");
                            answers.push(told(&status));
                        }
                        assert_eq!(answers[0], answers[1]);
                    }
                    Err(status) => {
                        // A device is for certain tasks, none of which the bare backbone is.
                        let wanted = match *name == "device" && path.ends_with("/Embed") {
                            true => "TASK_DENIED",
                            false => "SCOPE_MISSING",
                        };
                        assert_eq!(reason(&status), wanted, "{name} {path}: {status:?}");
                        narrow += 1;
                    }
                }
            }
            assert!(narrow > 0, "{path} is for everybody");
            assert!(narrow < names.len(), "{path} is for nobody");
            let right = &callers[if is_fleet { 3 } else { 0 }];
            right.call(&path, None).await.expect(&path);
        }
    }
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_several_tenants_names_one_of_them_that_exists_and_is_served() {
    let bed = Bed::start().await;
    let path = "/frameshift.v1.VideoService/ListVideos";
    let plain = bed.raw(None).await;
    let held = bed.showing("both").await;
    let lost = bed.showing("lost").await;
    let of = |name: &str| Shown {
        raw: &plain,
        bearer: Some(format!("Bearer {}", bed.token(name))),
    };
    for both in [
        of("both"),
        Shown {
            raw: &held,
            bearer: None,
        },
    ] {
        for tenant in ["acme", "globex"] {
            both.call(path, Some(tenant)).await.unwrap();
        }
        let status = both.call(path, Some("never")).await.unwrap_err();
        assert_eq!(reason(&status), "TENANT_DENIED");
        let bearer = both
            .bearer
            .as_deref()
            .map(|bearer| ("authorization", bearer));
        let headers: Vec<_> = bearer.into_iter().collect();
        let status = both.raw.answer(path, &headers).await.unwrap_err();
        assert_eq!(
            reason(&status),
            "TENANT_INVALID",
            "several, and none is chosen"
        );
    }
    for lost in [
        of("lost"),
        Shown {
            raw: &lost,
            bearer: None,
        },
    ] {
        let status = lost.call(path, None).await.unwrap_err();
        assert_eq!(
            reason(&status),
            "TENANT_DENIED",
            "a tenant that nobody made"
        );
    }
    let suspended = TenantUpdate {
        state: Some(TenantState::Suspended),
        ..Default::default()
    };
    let records = &bed.guarded.server.wiring.metadata;
    let acme: TenantId = "acme".parse().unwrap();
    records
        .update_tenant(&acme, suspended, None, &actor())
        .await
        .unwrap();
    for owner in [of("owner"), of("both")] {
        until(|| async {
            let refused = owner.call(path, Some("acme")).await;
            refused.is_err_and(|status| reason(&status) == "TENANT_SUSPENDED")
        })
        .await;
    }
    of("both").call(path, Some("globex")).await.unwrap();
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearers_credential_is_the_identity_also_beside_a_certificate() {
    let bed = Bed::start().await;
    let held = bed.showing("viewer").await;
    let path = "/frameshift.v1.TaskService/CreateTask";
    assert_eq!(
        reason(&held.call(path, &[]).await.unwrap_err()),
        "SCOPE_MISSING"
    );
    held.with(path, &bed.token("owner")).await.unwrap();
    let key = bed.guarded.key(Scopes::of(&[Scope::Read])).await;
    let status = held.with(path, &key).await.unwrap_err();
    assert_eq!(reason(&status), "SCOPE_MISSING");
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_certificates_end_in_the_handshake_and_one_that_ends_later_is_refused_then() {
    let bed = Bed::start().await;
    let path = "/frameshift.v1.VideoService/ListVideos";
    let owner = spiffe("owner");
    let revoked = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri(&owner)];
        params.serial_number = Some(666u64.into());
    };
    let expired = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri(&owner)];
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    };
    let twice = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri(&owner), uri(&spiffe("viewer"))];
    };
    for bad in [&revoked as &dyn Fn(&mut CertificateParams), &expired] {
        let tls = bed.tls(Some(bad));
        let endpoint = Endpoint::from_shared(format!("https://{}", bed.guarded.server.address));
        let channel = endpoint.unwrap().tls_config(tls).unwrap().connect_lazy();
        let mut grpc = tonic::client::Grpc::new(channel);
        assert!(grpc.ready().await.is_err() || refused_call(&mut grpc, path).await);
    }
    let named_twice = bed.raw(Some(&twice)).await;
    let status = named_twice.call(path, &[]).await.unwrap_err();
    assert_eq!(reason(&status), "CREDENTIAL_REFUSED");
    bed.guarded.server.stop().await;
}

/// Whether a call fails before any answer of the server.
async fn refused_call(grpc: &mut tonic::client::Grpc<Channel>, path: &str) -> bool {
    let path = PathAndQuery::try_from(path).unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc.unary(Request::new(()), path, codec).await;
    answer.is_err_and(|status| reason(&status).is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_are_in_force_without_a_restart_and_bad_ones_are_not() {
    let bed = Bed::start().await;
    let plain = bed.raw(None).await;
    let held = bed.showing("viewer").await;
    let path = "/frameshift.v1.TaskService/CreateTask";
    let token = bed.token("viewer");
    assert!(plain.with(path, &token).await.is_err());
    assert!(held.call(path, &[]).await.is_err());
    let wider: Vec<(&str, &str)> = RULES
        .iter()
        .map(|(name, may)| match *name {
            "viewer" => ("viewer", "tenant = \"acme\"\nrole = \"owner\""),
            name => (name, *may),
        })
        .collect();
    put(&bed.identities, &written(&bed.issuer, &wider));
    until(|| async { plain.with(path, &token).await.is_ok() }).await;
    held.call(path, &[]).await.unwrap();
    put(&bed.identities, "nonsense");
    let refused = "frameshift_identities_reloads_total{outcome=\"refused\"} 1";
    until(|| async { bed.guarded.server.wiring.metrics.text().contains(refused) }).await;
    plain.with(path, &token).await.unwrap();
    // Without a rule the same connection and the same token are nobody's.
    put(&bed.identities, &written(&bed.issuer, &RULES[..1]));
    until(|| async { plain.with(path, &token).await.is_err() }).await;
    let status = held.call(path, &[]).await.unwrap_err();
    assert_eq!(reason(&status), "CREDENTIAL_REFUSED");
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_mebibyte_ends_in_an_error_and_harms_nobody() {
    let bed = Bed::start().await;
    let plain = bed.raw(None).await;
    let path = "/frameshift.v1.VideoService/ListVideos";
    let mut claims = bed.issuer.claims("system:serviceaccount:acme:owner");
    claims["filler"] = json!("x".repeat(1 << 20));
    let huge = bed.signer.sign(&claims, |_| {});
    let bearer = format!("Bearer {huge}");
    let other = bed.raw(None).await;
    let sent = soon(async {
        let mut grpc = tonic::client::Grpc::new(other.own.clone());
        grpc.ready().await.unwrap();
        let mut request = Request::new(());
        request
            .metadata_mut()
            .insert("authorization", bearer.parse().unwrap());
        let path = PathAndQuery::try_from(path).unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        grpc.unary(request, path, codec).await
    });
    let answer: Result<Response<()>, Status> = sent.await;
    assert!(answer.is_err());
    plain.with(path, &bed.token("owner")).await.unwrap();
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_description_names_the_caller() {
    let bed = Bed::start().await;
    let ca = bed.own.at("ca");
    let client = async |api_key: Option<String>, own: bool| {
        let name = spiffe("viewer");
        let pair = bed
            .clients
            .sign(|params| params.subject_alt_names = vec![uri(&name)]);
        bed.own.put("client", &pair);
        let options = Options {
            server: format!("https://{}", bed.guarded.server.address),
            api_key: api_key.map(Into::into),
            tls: frameshift::client::Tls {
                ca: Some(ca.clone()),
                certificate: own.then(|| bed.own.at("client.pem")),
                key: own.then(|| bed.own.at("client.key")),
            },
            ..Options::default()
        };
        let client = Client::open(&options).await.unwrap();
        let info = client
            .server()
            .get_server_info(v1::GetServerInfoRequest {})
            .await;
        info.unwrap().into_inner()
    };
    let by_token = client(Some(bed.token("device")), false).await;
    assert_eq!(
        by_token.principal,
        format!("{}#system:serviceaccount:acme:device", bed.issuer.url)
    );
    assert_eq!(by_token.tasks, ["tasks/gestures"]);
    let by_certificate = client(None, true).await;
    let expected = format!("certificates/{}", spiffe("viewer"));
    assert_eq!(by_certificate.principal, expected);
    assert_eq!(by_certificate.scopes, ["read"]);
    bed.guarded.server.stop().await;
}
