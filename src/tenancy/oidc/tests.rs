//! Tokens of a real issuer: good ones, every way to be bad, and an issuer that rotates its keys or is away.

mod fetching;
#[path = "../../../tests/it/issuer.rs"]
mod issuer;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use issuer::{AUDIENCE, Signer, now};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tenancy::identities::rules::Role;

/// An issuer whose subjects `dev:…` read for acme.
fn config(issuer: &issuer::Issuer) -> Issuer {
    Issuer {
        url: issuer.url.as_str().into(),
        audiences: [AUDIENCE.to_owned()].into(),
        ca_file: None,
        token_file: None,
        by_claim: None,
        rules: vec![Rule {
            pattern: "dev:*".parse().unwrap(),
            tenant: Some("acme".parse().unwrap()),
            grant: Grant {
                scopes: Role::Viewer.scopes(),
                tasks: None,
            },
        }],
    }
}

fn timing() -> Timing {
    Timing::with_stale_limit(Duration::from_secs(3600))
}

fn issuers(issuer: &issuer::Issuer) -> Arc<Issuers> {
    let issuers = Issuers::new(vec![config(issuer)], timing(), Metrics::new());
    Arc::new(issuers)
}

/// The label of what a token gets.
async fn label(issuers: &Issuers, token: &str) -> &'static str {
    match issuers.verify(token).await {
        Ok(_) => "accepted",
        Err(refused) => refused.label(),
    }
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

fn without(claims: &Value, name: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Lets time pass without waiting for it; sockets go on in real time afterwards.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_token_by_every_accepted_algorithm_stands_for_its_subject() {
    let algorithms = [
        Algorithm::RS256,
        Algorithm::PS256,
        Algorithm::ES256,
        Algorithm::EdDSA,
    ];
    let signers = algorithms.map(|algorithm| Signer::new(&format!("{algorithm:?}"), algorithm));
    let issuer = issuer::Issuer::start(&signers.each_ref()).await;
    let issuers = issuers(&issuer);
    for signer in &signers {
        let token = signer.sign(&issuer.claims("dev:bob"), |_| {});
        let identity = issuers.verify(&token).await.unwrap();
        let caller = identity.choose(None).unwrap();
        assert_eq!(
            caller.principal.to_string(),
            format!("{}#dev:bob", issuer.url)
        );
        assert_eq!(caller.tenant, Some("acme".parse().unwrap()));
        assert_eq!(caller.scopes.to_string(), "read");
        assert_eq!(issuers.known(&token), Some(identity));
        assert_eq!(issuers.known(&token[1..]), None);
        // An access token says what it is; some issuers say nothing.
        for kind in [Some("at+jwt"), Some("application/at+JWT"), None] {
            let kind = kind.map(str::to_owned);
            let token = signer.sign(&issuer.claims("dev:bob"), |header| header.typ = kind);
            assert_eq!(label(&issuers, &token).await, "accepted");
        }
    }
    assert_eq!(issuer.fetches(), 1);
}

/// A token that nobody signed as its header says.
fn made_up(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signature = URL_SAFE_NO_PAD.encode(signature);
    format!("{}.{}.{signature}", part(header), part(claims))
}

// The table is long.
#[allow(clippy::too_many_lines)]
#[tokio::test]
async fn every_way_for_a_token_to_be_bad_is_refused() {
    let own = Signer::new("own", Algorithm::RS256);
    let second = Signer::new("second", Algorithm::ES256);
    let stranger = Signer::new("own", Algorithm::RS256);
    let issuer = issuer::Issuer::start(&[&own, &second]).await;
    let issuers = issuers(&issuer);
    let good = issuer.claims("dev:bob");
    let signed = |claims: Value| own.sign(&claims, |_| {});
    let headed = |change: fn(&mut Header)| own.sign(&good, change);
    let token = signed(good.clone());
    assert_eq!(label(&issuers, &token).await, "accepted");

    let none = made_up(&json!({"alg": "none", "kid": "own"}), &good, b"");
    let none_again = made_up(
        &json!({"alg": "None", "typ": "JWT", "kid": "own"}),
        &good,
        b"x",
    );
    let mut as_secret = Header::new(Algorithm::HS256);
    as_secret.kid = Some("own".into());
    let modulus = own.public["n"].as_str().unwrap();
    let secrets = [
        modulus.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(modulus).unwrap(),
        own.public.to_string().into_bytes(),
    ];
    let by_secret = secrets.map(|secret| {
        let key = EncodingKey::from_secret(&secret).unwrap();
        jsonwebtoken::encode(&as_secret, &good, &key).unwrap()
    });
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(with(&good, "sub", "dev:eve".into()).to_string());
    let mut own_key = stranger.public.clone();
    own_key["kid"] = "mine".into();
    let embedded = made_up(
        &json!({"alg": "RS256", "kid": "mine", "jwk": own_key}),
        &good,
        b"x",
    );
    let critical = json!({"alg": "RS256", "kid": "own", "crit": ["exp"], "exp": 1});
    let huge = signed(with(&good, "filler", "x".repeat(1 << 20).into()));
    let of_other_issuer = with(&good, "iss", "https://issuer.example".into());
    let two_issuers = with(&good, "iss", json!([issuer.url, "https://issuer.example"]));
    let cases = [
        (none, "malformed"),
        (none_again, "malformed"),
        (by_secret[0].clone(), "token_algorithm"),
        (by_secret[1].clone(), "token_algorithm"),
        (by_secret[2].clone(), "token_algorithm"),
        (stranger.sign(&good, |_| {}), "token_signature"),
        (format!("{head}.{other}.{signature}"), "token_signature"),
        (format!("{head}.{other}."), "token_signature"),
        (embedded, "token_key"),
        (made_up(&critical, &good, b"x"), "malformed"),
        (
            headed(|header| header.kid = Some("nobody".into())),
            "token_key",
        ),
        (
            headed(|header| header.kid = Some("second".into())),
            "token_key",
        ),
        (
            headed(|header| header.typ = Some("logout+jwt".into())),
            "token_type",
        ),
        (
            second.sign(&good, |header| header.kid = Some("own".into())),
            "token_key",
        ),
        (
            signed(with(&good, "aud", "another".into())),
            "token_audience",
        ),
        (
            signed(with(&good, "aud", json!(["another", "third"]))),
            "token_audience",
        ),
        (signed(with(&good, "aud", json!([]))), "token_audience"),
        (signed(without(&good, "aud")), "malformed"),
        (signed(of_other_issuer), "token_issuer"),
        (signed(two_issuers), "malformed"),
        (
            signed(with(&good, "iss", format!("{}/", issuer.url).into())),
            "token_issuer",
        ),
        (signed(without(&good, "iss")), "malformed"),
        (signed(with(&good, "exp", (now() - 60).into())), "expired"),
        (signed(with(&good, "exp", "tomorrow".into())), "malformed"),
        (signed(without(&good, "exp")), "malformed"),
        (
            signed(with(&good, "nbf", (now() + 600).into())),
            "token_immature",
        ),
        (signed(with(&good, "nbf", "now".into())), "malformed"),
        (signed(without(&good, "sub")), "malformed"),
        (signed(with(&good, "sub", "".into())), "token_subject"),
        (
            signed(with(&good, "sub", "dev:bob\nroot".into())),
            "token_subject",
        ),
        (
            signed(with(
                &good,
                "sub",
                format!("dev:{}", "x".repeat(300)).into(),
            )),
            "token_subject",
        ),
        (signed(with(&good, "sub", "eve".into())), "unmapped"),
        (huge, "token_too_long"),
        ("a.b.c".into(), "malformed"),
        ("..".into(), "malformed"),
        (String::new(), "malformed"),
        (format!("{token}."), "malformed"),
    ];
    for (place, (token, expected)) in cases.iter().enumerate() {
        let shown: String = token.chars().take(200).collect();
        assert_eq!(label(&issuers, token).await, *expected, "{place}: {shown}");
        assert_eq!(issuers.known(token), None, "{place}");
    }
    // Clocks may differ by a little.
    for claims in [
        with(&good, "exp", (now() - 5).into()),
        with(&good, "nbf", (now() + 5).into()),
        with(&good, "aud", json!(["another", AUDIENCE])),
    ] {
        assert_eq!(label(&issuers, &signed(claims)).await, "accepted");
    }
    assert!(
        issuer.fetches() <= 1,
        "unknown keys are not asked for at once"
    );
}

#[tokio::test]
async fn claims_name_tenants_and_scopes_but_make_no_operators() {
    let own = Signer::new("own", Algorithm::ES256);
    let issuer = issuer::Issuer::start(&[&own]).await;
    let configured = |may: Granted| {
        let by_claim = ByClaim {
            tenant: "orgs".into(),
            may,
        };
        let issuer = Issuer {
            by_claim: Some(by_claim),
            ..config(&issuer)
        };
        Issuers::new(vec![issuer], timing(), Metrics::new())
    };
    let by_scope = configured(Granted::Claim("scope".into()));
    let told = async |issuers: &Issuers, subject: &str, more: Value| {
        let mut claims = issuer.claims(subject);
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let identity = issuers.verify(&own.sign(&claims, |_| {})).await;
        let identity = identity.map_err(|refused| refused.label().to_owned())?;
        match &identity.standing {
            Standing::Operator => Err("operator".to_owned()),
            Standing::Of(tenants) => Ok(tenants
                .iter()
                .map(|(tenant, grant)| format!("{tenant}: {}", grant.scopes))
                .collect::<Vec<_>>()
                .join(", ")),
        }
    };
    for (subject, more, expected) in [
        (
            "eve",
            json!({"orgs": ["globex", "A B"], "scope": "openid read classify fleet-admin"}),
            Ok("globex: classify read"),
        ),
        (
            "eve",
            json!({"orgs": "globex", "scope": ["train"]}),
            Ok("globex: train"),
        ),
        (
            "eve",
            json!({"orgs": "globex", "scope": "openid"}),
            Err("unmapped"),
        ),
        ("eve", json!({"orgs": 7, "scope": "read"}), Err("unmapped")),
        ("eve", json!({"scope": "fleet-admin"}), Err("unmapped")),
        // A rule says more about a subject than a claim.
        (
            "dev:bob",
            json!({"orgs": ["acme", "globex"], "scope": "write"}),
            Ok("acme: read, globex: write"),
        ),
    ] {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(
            told(&by_scope, subject, more.clone()).await,
            expected,
            "{more}"
        );
    }
    let always = configured(Granted::Always(Role::Trainer.scopes()));
    let said = told(&always, "eve", json!({"orgs": "globex", "scope": "openid"})).await;
    assert_eq!(said.unwrap(), "globex: classify read write train");
}

#[tokio::test]
async fn other_rules_keep_the_keys_of_an_issuer() {
    let own = Signer::new("own", Algorithm::ES256);
    let issuer = issuer::Issuer::start(&[&own]).await;
    let before = issuers(&issuer);
    let token = own.sign(&issuer.claims("dev:a"), |_| {});
    assert_eq!(label(&before, &token).await, "accepted");
    let strict = Issuer {
        rules: Vec::new(),
        ..config(&issuer)
    };
    let after = before.renewed(vec![strict]);
    assert_eq!(after.known(&token), None);
    assert_eq!(label(&after, &token).await, "unmapped");
    assert_eq!(issuer.fetches(), 1);
}

#[test]
fn tokens_take_bounded_memory() {
    let issuers = Issuers::new(Vec::new(), timing(), Metrics::new());
    let identity = Arc::new(Identity {
        principal: Principal::Anonymous,
        standing: Standing::Operator,
    });
    let verified = |until| Verified {
        identity: Arc::clone(&identity),
        until,
    };
    for number in 0..TOKENS {
        issuers.remember(&number.to_string(), 0, verified(number as i64));
    }
    issuers.remember("more", 10, verified(100));
    assert_eq!(
        issuers.tokens().len(),
        TOKENS - 10,
        "those that ended are gone"
    );
    for number in 0..2 * TOKENS {
        issuers.remember(&format!("x{number}"), 0, verified(i64::MAX));
    }
    assert!(issuers.tokens().len() <= TOKENS);
}

proptest! {
    #![proptest_config(crate::inputs())]

    #[test]
    fn strangers_texts_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        token::fuzz(&bytes);
    }

    #[test]
    fn texts_that_look_like_tokens_are_read_without_a_panic(
        algorithm in "RS256|PS256|ES256|EdDSA|HS256|none",
        header in "\\PC{0,20}",
        payload in "\\PC{0,60}",
        times in any::<(u64, f64)>(),
        signature in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let header = json!({"alg": algorithm, "kid": header, "typ": "JWT"});
        let claims = json!({
            "iss": "https://i", "sub": payload, "aud": "frameshift", "exp": times.0, "nbf": times.1, "x": payload,
        });
        token::fuzz(made_up(&header, &claims, &signature).as_bytes());
        let (header, claims) = (json!(header.to_string()), json!([payload]));
        token::fuzz(made_up(&header, &claims, &signature).as_bytes());
    }
}
