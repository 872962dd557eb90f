//! Validates the settings of connections and calls.

use http::HeaderValue;

use super::load::{Error, Layered};
use super::machine;
use super::settings::{Plaintext, Reflection, Settings};
use crate::rpc;

/// Returns one `part`-th of the memory that this process may use, and at least room for a few of the largest messages. Where the system does not
/// report the memory, 4 GiB are assumed.
fn share_of_memory(part: u64) -> u64 {
    const UNKNOWN: u64 = 4 << 30;
    const LEAST: u64 = 128 << 20;
    (machine::memory().unwrap_or(UNKNOWN) / part).max(LEAST)
}

/// Room for two concurrent uploads.
const LEAST_UPLOAD_MEMORY: u64 = 64 << 20;

/// Returns the limits of connections and calls.
pub(super) fn config(layers: &Layered, settings: &Settings) -> Result<rpc::Config, Error> {
    let message_memory = match settings.message_memory {
        Some(size) if size.0 < 2 * rpc::MESSAGE_BYTES as u64 => {
            return Err(layers.complain("message_memory", "expected 64MiB or more"));
        }
        Some(size) => size.0,
        None => share_of_memory(8),
    };
    let upload_memory = match settings.upload_memory {
        Some(size) if size.0 < LEAST_UPLOAD_MEMORY => {
            return Err(layers.complain("upload_memory", "expected 64MiB or more"));
        }
        Some(size) => size.0,
        None => share_of_memory(16),
    };
    Ok(rpc::Config {
        connection_age: settings.connection_age.0,
        keepalive_interval: settings.keepalive_interval.0,
        keepalive_timeout: settings.keepalive_timeout.0,
        connections: settings.connections.get(),
        limits: rpc::Limits {
            message_memory,
            upload_memory,
            spool_bytes: settings.spool_bytes.0,
            streams_per_tenant: settings.streams_per_tenant.get(),
            live_streams_per_tenant: settings.live_streams_per_tenant.get(),
            live_memory: settings.live_memory.0,
            idle: settings.stream_idle.0,
            call: settings.call_deadline.0,
            ..rpc::Limits::default()
        },
        drain_grace: settings.drain_grace.0,
        reflection: match settings.reflection {
            Reflection::Authenticated if settings.authentication.0.is_empty() => {
                let problem = "`authenticated` has no meaning while authentication is none";
                return Err(layers.complain("reflection", problem));
            }
            Reflection::On => rpc::Reflection::On,
            Reflection::Authenticated => rpc::Reflection::Authenticated,
            Reflection::Off => rpc::Reflection::Off,
        },
        trusted_proxies: settings
            .trusted_proxies
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|problem: String| layers.complain("trusted_proxies", problem))?,
        behind_proxy: settings.plaintext == Some(Plaintext::BehindProxy),
        web_origins: web_origins(layers, settings)?,
        ..rpc::Config::default()
    })
}

/// Returns the origins of pages whose browsers may call. Browsers compare an origin as text, so it has to be as they write it.
fn web_origins(layers: &Layered, settings: &Settings) -> Result<Vec<HeaderValue>, Error> {
    let said = settings.grpc_web_origins.as_deref().unwrap_or_default();
    let words = said.split(',').map(str::trim);
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| {
            let url: Option<http::Uri> = word.parse().ok();
            let is_origin = url.is_some_and(|url| {
                let scheme = url.scheme_str().unwrap_or_default();
                let host = url.authority().map_or("", |authority| authority.as_str());
                matches!(scheme, "http" | "https") && word == format!("{scheme}://{host}")
            });
            let value = HeaderValue::from_str(word).ok();
            let value = value.filter(|_| is_origin && !word.contains(['@', '*']));
            value.ok_or_else(|| {
                let shown: String = word.chars().take(80).collect();
                let problem = format!(
                    "{shown:?} is no origin: expected https://HOST or https://HOST:PORT, without a path, as browsers send it; there is no wildcard"
                );
                layers.complain("grpc_web_origins", problem)
            })
        })
        .collect()
}
