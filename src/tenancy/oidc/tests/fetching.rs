//! When keys are fetched, and which of them are used.

use super::*;

#[tokio::test]
async fn keys_that_are_weak_or_for_something_else_are_not_used() {
    let strong = Signer::new("strong", Algorithm::RS256);
    let issuer = issuer::Issuer::start(&[&strong]).await;
    let changed = |id: &str, change: &dyn Fn(&mut Value)| {
        let mut key = strong.public.clone();
        key["kid"] = id.into();
        change(&mut key);
        key
    };
    let short = URL_SAFE_NO_PAD.encode([0xc5; 128]);
    // Zeros in front make no key longer.
    let padded = URL_SAFE_NO_PAD.encode([vec![0; 128], vec![0xc5; 128]].concat());
    issuer.publish(vec![
        json!("nonsense"),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "curve", "x": "AA", "y": "AA"}),
        json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"}),
        changed("rsa1024", &|key| key["n"] = short.clone().into()),
        changed("padded", &|key| key["n"] = padded.clone().into()),
        changed("encrypts", &|key| key["use"] = "enc".into()),
        changed("other", &|key| key["alg"] = "RS512".into()),
        changed("any", &|key| key["alg"] = Value::Null),
        strong.public.clone(),
    ]);
    let issuers = issuers(&issuer);
    let claims = issuer.claims("dev:bob");
    for (id, expected) in [
        ("rsa1024", "token_key"),
        ("padded", "token_key"),
        ("encrypts", "token_key"),
        ("other", "token_key"),
        ("curve", "token_key"),
        ("secret", "token_key"),
        ("any", "accepted"),
        ("strong", "accepted"),
    ] {
        let token = strong.sign(&claims, |header| header.kid = Some(id.into()));
        assert_eq!(label(&issuers, &token).await, expected, "{id}");
    }
    // A token that names no key means the only one, and here there are two.
    let unnamed = strong.sign(&claims, |header| header.kid = None);
    assert_eq!(label(&issuers, &unnamed).await, "token_key");
}

#[tokio::test]
async fn a_thousand_tokens_with_unknown_keys_cause_one_fetch_in_half_a_minute() {
    let own = Signer::new("own", Algorithm::ES256);
    let issuer = issuer::Issuer::start(&[&own]).await;
    let issuers = issuers(&issuer);
    let claims = issuer.claims("dev:bob");
    assert_eq!(
        label(&issuers, &own.sign(&claims, |_| {})).await,
        "accepted"
    );
    pass(Duration::from_secs(31)).await;
    let begun = issuer.fetches();
    for round in 1..=3 {
        let workers: Vec<_> = (0..1000)
            .map(|number| {
                let id = format!("unknown-{round}-{number}");
                let token = own.sign(&claims, |header| header.kid = Some(id));
                let issuers = Arc::clone(&issuers);
                tokio::spawn(async move { label(&issuers, &token).await })
            })
            .collect();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), "token_key");
        }
        assert_eq!(issuer.fetches(), begun + round, "one in each half a minute");
        assert_eq!(
            label(&issuers, &own.sign(&claims, |_| {})).await,
            "accepted"
        );
        pass(Duration::from_secs(31)).await;
    }
}

#[tokio::test]
async fn a_rotated_key_is_fetched_and_one_that_is_gone_is_refused() {
    let (old, new) = (
        Signer::new("old", Algorithm::ES256),
        Signer::new("new", Algorithm::EdDSA),
    );
    let issuer = issuer::Issuer::start(&[&old]).await;
    let issuers = issuers(&issuer);
    let by = |signer: &Signer, subject: &str| signer.sign(&issuer.claims(subject), |_| {});
    assert_eq!(label(&issuers, &by(&old, "dev:bob")).await, "accepted");
    issuer.rotate(&[&new]);
    assert_eq!(label(&issuers, &by(&new, "dev:bob")).await, "token_key");
    pass(Duration::from_secs(31)).await;
    assert_eq!(label(&issuers, &by(&new, "dev:bob")).await, "accepted");
    assert_eq!(label(&issuers, &by(&old, "dev:eve")).await, "token_key");
    // Without a token that names it, a key is fetched when the set is old.
    issuer.rotate(&[&new, &old]);
    issuers.refresh();
    pass(Duration::from_secs(5 * 60)).await;
    let before = issuer.fetches();
    issuers.refresh();
    while issuer.fetches() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(label(&issuers, &by(&old, "dev:eve")).await, "accepted");
}

#[tokio::test]
async fn keys_serve_an_hour_of_an_issuers_outage_and_then_the_issuer_is_away() {
    let own = Signer::new("own", Algorithm::ES256);
    let issuer = issuer::Issuer::start(&[&own]).await;
    let issuers = issuers(&issuer);
    let token = |subject: &str| own.sign(&issuer.claims(subject), |_| {});
    assert_eq!(label(&issuers, &token("dev:a")).await, "accepted");
    issuer.be_down(true);
    pass(Duration::from_secs(59 * 60)).await;
    assert_eq!(label(&issuers, &token("dev:b")).await, "accepted");
    // Perhaps it is a new key of the issuer's: nobody can say.
    let unknown = own.sign(&issuer.claims("dev:c"), |header| {
        header.kid = Some("new".into())
    });
    assert_eq!(label(&issuers, &unknown).await, "issuer_away");
    pass(Duration::from_secs(2 * 60)).await;
    assert_eq!(label(&issuers, &token("dev:d")).await, "issuer_away");
    issuer.be_down(false);
    pass(Duration::from_secs(3)).await;
    assert_eq!(label(&issuers, &token("dev:d")).await, "accepted");
}

#[tokio::test]
async fn an_issuer_that_answers_something_else_is_away() {
    let own = Signer::new("own", Algorithm::ES256);
    let issuer = issuer::Issuer::start(&[&own]).await;
    let issuers = issuers(&issuer);
    let token = own.sign(&issuer.claims("dev:a"), |_| {});
    let keys = format!("{}/keys", issuer.url);
    for description in [
        json!({"issuer": "https://issuer.example", "jwks_uri": keys}),
        json!({"issuer": issuer.url, "jwks_uri": format!("{}/moved", issuer.url)}),
        json!({"issuer": issuer.url, "jwks_uri": "nonsense"}),
        json!({"issuer": issuer.url}),
        json!({"issuer": issuer.url, "jwks_uri": keys, "filler": "x".repeat(1 << 20)}),
    ] {
        issuer.describe(description.clone());
        assert_eq!(
            label(&issuers, &token).await,
            "issuer_away",
            "{description}"
        );
        pass(Duration::from_secs(3)).await;
    }
    issuer.describe(json!({"issuer": issuer.url, "jwks_uri": keys}));
    issuer.publish(Vec::new());
    assert_eq!(label(&issuers, &token).await, "issuer_away", "no keys");
    pass(Duration::from_secs(3)).await;
    issuer.rotate(&[&own]);
    assert_eq!(label(&issuers, &token).await, "accepted");
}

#[tokio::test]
async fn a_caller_that_leaves_stops_no_fetch() {
    let own = Signer::new("own", Algorithm::ES256);
    let issuer = issuer::Issuer::start(&[&own]).await;
    let issuers = issuers(&issuer);
    let token = own.sign(&issuer.claims("dev:a"), |_| {});
    {
        let mut verifying = std::pin::pin!(issuers.verify(&token));
        let waiting = futures::poll!(&mut verifying);
        assert!(waiting.is_pending());
    }
    while issuer.fetches() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(label(&issuers, &token).await, "accepted");
    assert_eq!(issuer.fetches(), 1);
}
