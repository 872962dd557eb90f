//! Tenants and keys through the administrators' API, and what it refuses.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_from_its_creation_to_its_end_through_the_administrators_api() {
    let guarded = Guarded::start().await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let admin = guarded.admin(&operator).await;
    let request = v1::CreateKeyRequest {
        key: Some(v1::ApiKey {
            tenant: "tenants/acme".into(),
            scopes: vec!["read".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let made = admin
        .admin()
        .create_key(request)
        .await
        .unwrap()
        .into_inner();
    let name = made.key.unwrap().name;
    let listed = async |key: &str| {
        let client = guarded.client(key).await;
        let listed = client
            .videos()
            .list_videos(v1::ListVideosRequest::default())
            .await;
        listed.map(drop)
    };
    listed(&made.secret).await.unwrap();
    let rotate = v1::RotateKeyRequest {
        name: name.clone(),
        overlap: None,
    };
    let rotated = admin.admin().rotate_key(rotate).await.unwrap().into_inner();
    listed(&made.secret).await.unwrap();
    listed(&rotated.secret).await.unwrap();
    let suspend = |state: v1::TenantState| v1::UpdateTenantRequest {
        tenant: Some(v1::Tenant {
            name: "tenants/acme".into(),
            state: state.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["state".into()],
        }),
    };
    let suspended = suspend(v1::TenantState::Suspended);
    admin.admin().update_tenant(suspended).await.unwrap();
    refused(
        listed(&rotated.secret).await,
        Code::PermissionDenied,
        "TENANT_SUSPENDED",
    );
    let active = suspend(v1::TenantState::Active);
    admin.admin().update_tenant(active).await.unwrap();
    listed(&rotated.secret).await.unwrap();
    let revoke = v1::RevokeKeyRequest { name };
    admin.admin().revoke_key(revoke).await.unwrap();
    let events = admin
        .admin()
        .list_audit_events(v1::ListAuditEventsRequest::default())
        .await;
    let events = events.unwrap().into_inner().events;
    let methods: Vec<&str> = events.iter().map(|event| event.method.as_str()).collect();
    let latest = [
        "RevokeKey",
        "UpdateTenant",
        "UpdateTenant",
        "RotateKey",
        "CreateKey",
    ];
    assert_eq!(methods[..5], latest);
    assert_eq!(events[0].source, "127.0.0.1");
    assert!(events[0].principal.starts_with("keys/") && !events[0].request_id.is_empty());
    for secret in [&made.secret, &rotated.secret] {
        refused(
            listed(secret).await,
            Code::Unauthenticated,
            "CREDENTIAL_REFUSED",
        );
    }
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_administrators_ask_wrongly_is_refused_by_its_field() {
    let guarded = Guarded::start().await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let admin = guarded.admin(&operator).await;
    let create = async |key: v1::ApiKey, never_expires| {
        let request = v1::CreateKeyRequest {
            key: Some(key),
            lifetime: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            never_expires,
        };
        let status = admin.admin().create_key(request).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let key = v1::ApiKey {
        tenant: "tenants/acme".into(),
        scopes: vec!["read".into()],
        ..Default::default()
    };
    for never_expires in [false, true] {
        let (code, text) = create(key.clone(), never_expires).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.starts_with("lifetime: "), "{text}");
    }
    let wrong = [
        (v1::CreateKeyRequest::default(), "key: "),
        (
            v1::CreateKeyRequest {
                key: Some(v1::ApiKey {
                    scopes: vec!["read".into(), "everything".into()],
                    ..key.clone()
                }),
                ..Default::default()
            },
            "key.scopes[1]: ",
        ),
        (
            v1::CreateKeyRequest {
                key: Some(v1::ApiKey {
                    tenant: "acme".into(),
                    ..key.clone()
                }),
                ..Default::default()
            },
            "key.tenant: ",
        ),
    ];
    for (request, begin) in wrong {
        let status = admin.admin().create_key(request).await.unwrap_err();
        assert_eq!(reason(&status), "INVALID_FIELD");
        assert!(status.message().starts_with(begin), "{status:?}");
    }
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_taken_or_stale_is_told_to_administrators() {
    let guarded = Guarded::start().await;
    let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    let admin = guarded.admin(&operator).await;
    let nowhere = v1::CreateKeyRequest {
        key: Some(v1::ApiKey {
            tenant: "tenants/nowhere".into(),
            scopes: vec!["read".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    refused(
        admin.admin().create_key(nowhere).await,
        Code::NotFound,
        "TENANT_NOT_FOUND",
    );
    let again = v1::CreateTenantRequest {
        tenant_id: "acme".into(),
        tenant: None,
    };
    refused(
        admin.admin().create_tenant(again).await,
        Code::AlreadyExists,
        "TENANT_EXISTS",
    );
    let stale = v1::UpdateTenantRequest {
        tenant: Some(v1::Tenant {
            name: "tenants/acme".into(),
            etag: "99".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["display_name".into()],
        }),
    };
    refused(
        admin.admin().update_tenant(stale).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    );
    guarded.server.stop().await;
}
