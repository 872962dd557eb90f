//! Validates the settings of callers: who they are, and from where they are heard.
//!
//! Invariant: callers without credentials are heard from other machines only when that was asked for twice, and credentials cross a network in plain text
//! only when somebody said that a proxy encrypts it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::load::{Error, Layered};
use super::settings::{ClientCertificates, Plaintext, Settings};
use crate::metadata::AtOnce;
use crate::tenancy::tls::{self, Clients};
use crate::tenancy::{self, Method, identities};

const EXPECTED: &str = "`none`, or a list of: keys, oidc, mtls";

/// Accepted ways of proving who calls: `none`, or names with commas between them; in the file also a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Methods(pub BTreeSet<Method>);

impl FromStr for Methods {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" | "none" => Ok(Self::default()),
            names => names.split(',').map(|name| method(name.trim())).collect(),
        }
    }
}

fn method(name: &str) -> Result<Method, String> {
    let found = Method::ALL.into_iter().find(|method| method.name() == name);
    found.ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        format!("{shown:?} is no method: expected {EXPECTED}")
    })
}

impl FromIterator<Method> for Methods {
    fn from_iter<I: IntoIterator<Item = Method>>(methods: I) -> Self {
        Self(methods.into_iter().collect())
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<&str> = self.0.iter().map(|method| method.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl Serialize for Methods {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Methods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Methods;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Methods, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Methods, A::Error> {
                let mut methods = BTreeSet::new();
                while let Some(name) = names.next_element::<String>()? {
                    methods.insert(method(&name).map_err(serde::de::Error::custom)?);
                }
                Ok(Methods(methods))
            }
        }

        deserializer.deserialize_any(Names)
    }
}

/// Returns how callers are identified.
pub(super) fn config(layers: &Layered, settings: &Settings) -> Result<tenancy::Config, Error> {
    let methods = &settings.authentication.0;
    let is_anonymous = methods.is_empty();
    if is_anonymous {
        let needless = [
            ("key_pepper_file", settings.key_pepper_file.is_some()),
            ("bootstrap_key_file", settings.bootstrap_key_file.is_some()),
            ("admin_listen", settings.admin_listen.is_some()),
            ("identities_file", settings.identities_file.is_some()),
        ];
        for (key, is_set) in needless {
            if is_set {
                let problem = "has no meaning while authentication is none";
                return Err(layers.complain(key, problem));
            }
        }
    } else if settings.insecure_allow_anonymous {
        let problem = "not together with authentication: callers are anonymous or they are not";
        return Err(layers.complain("insecure_allow_anonymous", problem));
    }
    fitting(layers, settings)?;
    reachable(layers, settings, "listen", settings.listen.0)?;
    if let Some(admin) = settings.admin_listen {
        reachable(layers, settings, "admin_listen", admin.0)?;
    }
    Ok(tenancy::Config {
        methods: methods.clone(),
        pepper_file: settings.key_pepper_file.clone(),
        bootstrap_file: settings.bootstrap_key_file.clone(),
        identities: settings
            .identities_file
            .clone()
            .map(|path| identities::Config {
                stale_limit: settings.issuer_stale_limit.0,
                ..identities::Config::new(path)
            }),
        attempts: settings.refused_credentials_per_address,
        stale_limit: settings.stale_limit.0,
        at_once: AtOnce {
            requests: settings.requests_per_tenant.map(NonZeroU32::get),
            clips: settings.clips_per_tenant.map(NonZeroU32::get),
            ..AtOnce::default()
        },
        ..tenancy::Config::default()
    })
}

/// Refuses methods of authentication without what they need, and the other way round.
fn fitting(layers: &Layered, settings: &Settings) -> Result<(), Error> {
    let has = |method: Method| settings.authentication.0.contains(&method);
    let needs_identities = has(Method::Oidc) || has(Method::Mtls);
    let has_identities = settings.identities_file.is_some();
    let (key, problem) = match () {
        () if has(Method::Oidc) && !cfg!(feature = "oidc") => (
            "authentication",
            "oidc needs the cargo feature `oidc`, without which this program was built",
        ),
        () if needs_identities && !has_identities => (
            "authentication",
            "oidc and mtls need identities_file, which says who may do what",
        ),
        () if has_identities && !needs_identities && !settings.authentication.0.is_empty() => (
            "identities_file",
            "has no meaning unless authentication has oidc or mtls",
        ),
        () if has(Method::Mtls) && settings.tls_client_ca.is_none() => (
            "authentication",
            "mtls needs tls_client_ca, the authorities of the clients' certificates",
        ),
        () if settings.tls_client_crl.is_some() && settings.tls_client_ca.is_none() => {
            ("tls_client_crl", "needs tls_client_ca")
        }
        () => return Ok(()),
    };
    Err(layers.complain(key, problem))
}

/// Refuses an address that others can reach, where nothing says that this is safe.
fn reachable(
    layers: &Layered,
    settings: &Settings,
    key: &str,
    address: SocketAddr,
) -> Result<(), Error> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    if settings.authentication.0.is_empty() {
        if settings.insecure_allow_anonymous {
            return Ok(());
        }
        let problem = format!(
            "{address} can be reached from other machines, and callers are not authenticated: any of them could read and change every tenant's data; \
             listen on 127.0.0.1, set authentication, or accept this with --insecure-allow-anonymous"
        );
        return Err(layers.complain(key, problem));
    }
    if settings.tls_certificate.is_some() || settings.plaintext == Some(Plaintext::BehindProxy) {
        return Ok(());
    }
    let problem = format!(
        "{address} can be reached from other machines, and credentials would cross the network in plain text: set tls_certificate and tls_key, listen on \
         127.0.0.1, or say with --plaintext behind-proxy that a proxy in front encrypts them"
    );
    Err(layers.complain(key, problem))
}

/// Returns the files of TLS, if there are any.
pub(super) fn tls(layers: &Layered, settings: &Settings) -> Result<Option<tls::Config>, Error> {
    let (certificate, key) = match (&settings.tls_certificate, &settings.tls_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (Some(_), None) => return Err(layers.complain("tls_certificate", "needs tls_key")),
        (None, Some(_)) => return Err(layers.complain("tls_key", "needs tls_certificate")),
        (None, None) if settings.tls_client_ca.is_some() => {
            return Err(layers.complain("tls_client_ca", "needs tls_certificate and tls_key"));
        }
        (None, None) => return Ok(None),
    };
    if settings.plaintext.is_some() {
        let problem = "not together with tls_certificate: nothing is in plain text";
        return Err(layers.complain("plaintext", problem));
    }
    let clients = match settings.tls_client_certificates {
        ClientCertificates::Required => Clients::Required,
        ClientCertificates::Optional => Clients::Optional,
    };
    let authorities = settings.tls_client_ca.clone();
    Ok(Some(tls::Config {
        clients: authorities.map(|path| (path, clients)),
        revoked: settings.tls_client_crl.clone(),
        speaks_http1: settings.grpc_web_origins.is_some(),
        ..tls::Config::new(certificate, key)
    }))
}
