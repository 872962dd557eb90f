//! An OpenID Connect issuer on this machine: real keys, real signatures, real HTTP. Unit tests of the library use it, too.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::{rsa, signature};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The audience of good tokens.
pub(crate) const AUDIENCE: &str = "frameshift";

/// A key of an issuer, with its private half.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
    pub(crate) public: Value,
}

impl Signer {
    pub(crate) fn new(id: &str, algorithm: Algorithm) -> Self {
        // The list of algorithms may grow.
        #[allow(clippy::wildcard_enum_match_arm)]
        let key = match algorithm {
            Algorithm::ES256 => {
                let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
                EncodingKey::from_ec_der(&pair.serialize_der())
            }
            Algorithm::EdDSA => {
                let pair = signature::Ed25519KeyPair::generate().unwrap();
                // The first version of PKCS #8, without the public half, is what tokens are signed with.
                EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref())
            }
            _ => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
                let wrapped: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                // In PKCS #8, 26 bytes say that a key of this size is one of RSA; then it comes as PKCS #1 has it.
                EncodingKey::from_rsa_der(&wrapped.as_ref()[26..])
            }
        };
        let mut public =
            serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
        public["kid"] = id.into();
        Self {
            id: id.into(),
            algorithm,
            key,
            public,
        }
    }

    /// A token with some claims; its header is changed as the caller likes.
    pub(crate) fn sign(&self, claims: &Value, change: impl FnOnce(&mut Header)) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        change(&mut header);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// What the issuer answers now.
#[derive(Default)]
struct State {
    keys: Mutex<Vec<Value>>,
    /// What describes the issuer in place of the truth.
    description: Mutex<Option<Value>>,
    fetches: AtomicUsize,
    is_down: AtomicBool,
}

/// An issuer that serves until it is dropped.
pub(crate) struct Issuer {
    pub(crate) url: String,
    state: Arc<State>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Issuer {
    /// An issuer with these keys.
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let url = format!("http://{address}/realm");
        let state = Arc::new(State::default());
        let described = {
            let (state, url) = (Arc::clone(&state), url.clone());
            move || async move {
                if state.is_down.load(Ordering::SeqCst) {
                    return (StatusCode::SERVICE_UNAVAILABLE, String::new());
                }
                let own = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
                let said = state.description.lock().unwrap().clone().unwrap_or(own);
                (StatusCode::OK, said.to_string())
            }
        };
        let keys = {
            let state = Arc::clone(&state);
            move || async move {
                if state.is_down.load(Ordering::SeqCst) {
                    return (StatusCode::SERVICE_UNAVAILABLE, String::new());
                }
                state.fetches.fetch_add(1, Ordering::SeqCst);
                let keys = state.keys.lock().unwrap().clone();
                (StatusCode::OK, json!({"keys": keys}).to_string())
            }
        };
        let routes = Router::new()
            .route("/realm/.well-known/openid-configuration", get(described))
            .route("/realm/keys", get(keys))
            .route(
                "/realm/moved",
                get(|| async { (StatusCode::FOUND, [("location", "/realm/keys")]) }),
            );
        let server = tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        });
        let issuer = Self { url, state, server };
        issuer.rotate(signers);
        issuer
    }

    /// Publishes these keys and no others.
    pub(crate) fn rotate(&self, signers: &[&Signer]) {
        self.publish(signers.iter().map(|signer| signer.public.clone()).collect());
    }

    /// Publishes what may be no keys.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        *self.state.keys.lock().unwrap() = keys;
    }

    /// Describes itself in another way.
    pub(crate) fn describe(&self, description: Value) {
        *self.state.description.lock().unwrap() = Some(description);
    }

    pub(crate) fn be_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::SeqCst);
    }

    /// How often the keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }

    /// The claims of a good token of an hour.
    pub(crate) fn claims(&self, subject: &str) -> Value {
        json!({"iss": self.url, "aud": AUDIENCE, "sub": subject, "exp": now() + 3600, "iat": now()})
    }
}

/// Seconds since the Unix epoch.
// The clock that tokens are judged by.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}
