//! What administrators may do with keys, what is refused, and what the audit log has of it.

use super::*;

#[tokio::test]
async fn nobody_gives_a_key_more_than_the_caller_has() {
    let bed = bed().await;
    let make = async |scopes: &[Scope]| {
        let (_, bearer) = bed.key(scopes).await;
        bed.credentials.verify(&bearer).await.unwrap()
    };
    let tenant_admin = as_call(make(&[Scope::TenantAdmin, Scope::Read]).await);
    let create = async |wanted: KeyRequest| bed.admin.create_key(&tenant_admin, wanted).await;
    assert!(create(wanted(&[Scope::Read])).await.is_ok());
    let wider = create(wanted(&[Scope::Read, Scope::Serve])).await;
    assert!(matches!(wider, Err(admin::Error::TooWide(scopes)) if scopes.to_string() == "serve"));
    let elsewhere = KeyRequest {
        tenant: Some("globex".parse().unwrap()),
        ..wanted(&[Scope::Read])
    };
    assert!(matches!(
        create(elsewhere.clone()).await,
        Err(admin::Error::OtherTenant)
    ));
    let operator = KeyRequest {
        tenant: None,
        ..wanted(&[Scope::FleetAdmin])
    };
    assert!(create(operator).await.is_err());
    // A tenant that does not exist gets no key from an operator either.
    let nowhere = bed.admin.create_key(&Call::operator(), elsewhere).await;
    assert!(matches!(
        nowhere,
        Err(admin::Error::Metadata(metadata::Error::NotFound { .. }))
    ));
    // The secret of a wider key is not to be had by rotating it.
    let (wide, _) = bed.key(&[Scope::Serve]).await;
    let stolen = bed
        .admin
        .rotate_key(&tenant_admin, &wide, Duration::ZERO)
        .await;
    assert!(matches!(stolen, Err(admin::Error::TooWide(_))));
}

#[tokio::test]
async fn keys_that_cannot_be_are_refused_by_their_field() {
    let bed = bed().await;
    let refused =
        async |wanted: KeyRequest| match bed.admin.create_key(&Call::operator(), wanted).await {
            Err(admin::Error::Invalid(invalid)) => invalid.field,
            other => panic!("{other:?}"),
        };
    let read = wanted(&[Scope::Read]);
    assert_eq!(refused(wanted(&[])).await, "scopes");
    assert_eq!(
        refused(wanted(&[Scope::FleetAdmin, Scope::Read])).await,
        "scopes"
    );
    assert_eq!(refused(wanted(&[Scope::FleetAdmin])).await, "tenant");
    let nobody = KeyRequest {
        tenant: None,
        ..read.clone()
    };
    assert_eq!(refused(nobody).await, "tenant");
    let tasks = KeyRequest {
        tasks: ["gestures".parse().unwrap()].into(),
        ..read.clone()
    };
    assert_eq!(refused(tasks).await, "tasks");
    for lifetime in [Duration::ZERO, Duration::from_secs(4000 * 86_400)] {
        let lifetime = Some(lifetime);
        assert_eq!(
            refused(KeyRequest {
                lifetime,
                ..read.clone()
            })
            .await,
            "lifetime"
        );
    }
}

#[tokio::test]
async fn an_administrator_of_a_tenant_sees_its_own_keys_alone() {
    let bed = bed().await;
    let globex: TenantId = "globex".parse().unwrap();
    bed.admin
        .create_tenant(&Call::operator(), &globex, "")
        .await
        .unwrap();
    let theirs = KeyRequest {
        tenant: Some(globex.clone()),
        ..wanted(&[Scope::Read])
    };
    let (theirs, _) = bed
        .admin
        .create_key(&Call::operator(), theirs)
        .await
        .unwrap();
    let (_, bearer) = bed.key(&[Scope::TenantAdmin]).await;
    let own = as_call(bed.credentials.verify(&bearer).await.unwrap());
    let page = PageRequest::first();
    let listed = bed.admin.list_keys(&own.caller, None, &page).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].tenant, Some(acme()));
    let all = bed
        .admin
        .list_keys(&Call::operator().caller, None, &page)
        .await;
    assert_eq!(all.unwrap().items.len(), 2);
    let foreign = bed
        .admin
        .list_keys(&own.caller, Some(globex.clone()), &page)
        .await;
    assert!(matches!(foreign, Err(admin::Error::OtherTenant)));
    let missing = Key::generate().unwrap();
    for id in [&theirs.id, missing.id()] {
        let revoked = bed.admin.revoke_key(&own, id).await.unwrap_err();
        let text = format!("key {id} does not exist");
        assert_eq!(revoked.to_string(), text);
    }
}

#[tokio::test]
async fn every_change_of_administrators_is_in_the_audit_log_and_a_refused_one_is_not() {
    let bed = bed().await;
    let (id, bearer) = bed.key(&[Scope::TenantAdmin]).await;
    let own = as_call(bed.credentials.verify(&bearer).await.unwrap());
    let call = Call {
        source: "10.0.0.7".into(),
        request_id: "mine".into(),
        ..own.clone()
    };
    bed.admin.revoke_key(&call, &id).await.unwrap();
    let missing = Key::generate().unwrap();
    assert!(bed.admin.revoke_key(&call, missing.id()).await.is_err());
    let (operators, _) = {
        let wanted = KeyRequest {
            tenant: None,
            ..wanted(&[Scope::FleetAdmin])
        };
        bed.admin
            .create_key(&Call::operator(), wanted)
            .await
            .unwrap()
    };
    let page = PageRequest::first();
    let all = bed
        .admin
        .list_audit(&Call::operator().caller, &page)
        .await
        .unwrap()
        .items;
    let told: Vec<_> = all
        .iter()
        .map(|event| (event.method.as_str(), event.resource.clone()))
        .collect();
    assert_eq!(
        told,
        [
            ("CreateKey", format!("keys/{}", operators.id)),
            ("RevokeKey", format!("keys/{id}")),
            ("CreateKey", format!("keys/{id}")),
            ("CreateTenant", "tenants/acme".to_owned()),
        ]
    );
    assert_eq!(all[1].actor, call.actor());
    assert_eq!(
        (all[1].detail.as_str(), &all[1].tenant),
        ("tenant-admin", &Some(acme()))
    );
    // A tenant's administrator sees its own, page by page.
    let first = PageRequest::new(2, "").unwrap();
    let first = bed.admin.list_audit(&own.caller, &first).await.unwrap();
    let second = PageRequest::new(2, first.next.token()).unwrap();
    let second = bed.admin.list_audit(&own.caller, &second).await.unwrap();
    let seen: Vec<_> = first.items.iter().chain(&second.items).cloned().collect();
    assert_eq!(seen, all[1..]);
    assert!(second.next.is_end());
    // It is forgotten in time, and not before.
    let year = Duration::from_secs(365 * 86_400);
    assert_eq!(bed.store.forget_audit(year).await.unwrap(), 0);
    bed.store.advance_clock(year * 2);
    assert_eq!(bed.store.forget_audit(year).await.unwrap(), 4);
}
