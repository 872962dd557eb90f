//! Fetches an issuer's description and its key set over HTTP.
//!
//! Invariant: an answer has a limit of bytes and of time, redirections are not followed, and a description counts only if it names the issuer that was
//! asked for. The issuer is encrypted, or on this machine.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Client, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::keys::Set;
use super::source::{Error, Source};

/// Longest time of one request.
const LIMIT: Duration = Duration::from_secs(5);
/// Largest answer in bytes.
const BYTES: usize = 1 << 20;
/// Where an issuer describes itself, below its URL.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// An issuer's description of itself.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Fetches an issuer's keys.
pub(super) async fn keys(source: &Source) -> Result<Set, Error> {
    let client = client(source)?;
    let token = source.token_file.as_deref().map(bearer).transpose()?;
    let url = format!("{}{DISCOVERY}", source.url.trim_end_matches('/'));
    let answer = |problem: String| Error::Answer {
        url: url.clone(),
        problem,
    };
    let described: Description = get(&client, &url, token.as_ref()).await?;
    if described.issuer != *source.url {
        let named: String = described.issuer.chars().take(200).collect();
        return Err(answer(format!(
            "describes the issuer {named:?}, expected {:?}",
            source.url
        )));
    }
    // Whoever could change what comes in plain text could give tokens of its own.
    let is_plain = Url::parse(&described.jwks_uri).is_ok_and(|url| url.scheme() != "https");
    if is_plain && source.url.starts_with("https:") {
        return Err(answer("its jwks_uri is not encrypted".into()));
    }
    let keys: KeySet = get(&client, &described.jwks_uri, token.as_ref()).await?;
    let set = Set::of(&keys.keys);
    if set.is_empty() {
        return Err(answer(format!(
            "none of its {} keys is for RS256, PS256, ES256 or EdDSA, with 2,048 bits or more if RSA",
            keys.keys.len()
        )));
    }
    Ok(set)
}

fn client(source: &Source) -> Result<Client, Error> {
    // The HTTP client takes the process's TLS provider; one that is there already is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(LIMIT)
        .redirect(redirect::Policy::none());
    if let Some(path) = &source.ca_file {
        let authorities = Certificate::from_pem_bundle(&read(path)?);
        let authorities = authorities.map_err(|error| Error::Unfit {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        builder = builder.tls_certs_only(authorities);
    }
    builder.build().map_err(|error| Error::Answer {
        url: source.url.to_string(),
        problem: shown(&error),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        path: path.into(),
        source,
    })
}

/// The header with the token of a file, marked so that no debug output shows it.
fn bearer(path: &Path) -> Result<HeaderValue, Error> {
    let bytes = read(path)?;
    let value = [b"Bearer ", bytes.trim_ascii()].concat();
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| Error::Unfit {
        path: path.into(),
        problem: "expected a token on one line".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

async fn get<T: DeserializeOwned>(
    client: &Client,
    url: &str,
    token: Option<&HeaderValue>,
) -> Result<T, Error> {
    let failed = |problem: String| Error::Answer {
        url: url.to_owned(),
        problem,
    };
    let mut request = client.get(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token.clone());
    }
    let sent = request.send().await;
    let mut answer = sent.map_err(|error| failed(shown(&error)))?;
    if !answer.status().is_success() {
        return Err(failed(format!("answered {}", answer.status())));
    }
    let mut bytes = Vec::new();
    while let Some(part) = answer
        .chunk()
        .await
        .map_err(|error| failed(shown(&error)))?
    {
        if bytes.len() + part.len() > BYTES {
            return Err(failed(format!("answered more than {BYTES} bytes")));
        }
        bytes.extend_from_slice(&part);
    }
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}

/// An error of the HTTP client with its causes.
fn shown(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
