//! A server that takes keys, tokens and certificates, and those who vouch for its callers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use frameshift::tenancy::tls::Clients;
use frameshift::tenancy::{Method, identities};
use jsonwebtoken::Algorithm;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, SanType};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::super::*;
use crate::issuer::{Issuer, Signer};
use crate::tls::Authority;

/// Names that both the issuer and the authority of certificates vouch for, and what they may do.
pub(super) const RULES: [(&str, &str); 7] = [
    ("owner", "tenant = \"acme\"\nrole = \"owner\""),
    ("viewer", "tenant = \"acme\"\nrole = \"viewer\""),
    (
        "device",
        "tenant = \"acme\"\nrole = \"device\"\ntasks = [\"gestures\"]",
    ),
    ("operator", "role = \"operator\""),
    ("both", "tenant = \"acme\"\nrole = \"owner\""),
    ("both", "tenant = \"globex\"\nrole = \"viewer\""),
    ("lost", "tenant = \"nowhere\"\nrole = \"owner\""),
];

/// A server that takes keys, tokens and certificates.
pub(super) struct Bed {
    pub(super) guarded: Guarded,
    pub(super) issuer: Issuer,
    pub(super) signer: Signer,
    pub(super) own: Authority,
    pub(super) clients: Authority,
    pub(super) identities: PathBuf,
}

pub(super) fn spiffe(name: &str) -> String {
    format!("spiffe://frameshift.example/ns/acme/sa/{name}")
}

impl Bed {
    pub(super) async fn start() -> Self {
        let signer = Signer::new("first", Algorithm::ES256);
        let issuer = Issuer::start(&[&signer]).await;
        let (own, clients) = (Authority::new(), Authority::new());
        clients.revoke(&[666], 2090);
        let identities = own.at("identities.toml");
        std::fs::write(&identities, written(&issuer, &RULES)).unwrap();
        let mut tls = own.server(Some((&clients.at("ca"), Clients::Optional)));
        tls.revoked = Some(clients.at("crl"));
        let path = identities.clone();
        let server = TestServer::start_with(|config| {
            config.tenancy.methods = Method::ALL.into();
            config.tenancy.attempts = NonZeroU32::MAX;
            config.tenancy.identities = Some(identities::Config {
                poll: Duration::from_millis(5),
                ..identities::Config::new(path)
            });
            config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
            config.tls = Some(tls);
        })
        .await;
        Self {
            guarded: Guarded::with_tenants(server).await,
            issuer,
            signer,
            own,
            clients,
            identities,
        }
    }

    pub(super) fn token(&self, subject: &str) -> String {
        let subject = format!("system:serviceaccount:acme:{subject}");
        self.signer.sign(&self.issuer.claims(&subject), |_| {})
    }

    /// TLS of a client that trusts the server, with a certificate as it is made here.
    pub(super) fn tls(&self, shown: Option<&dyn Fn(&mut CertificateParams)>) -> ClientTlsConfig {
        let ca = std::fs::read(self.own.at("ca")).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        match shown {
            Some(change) => {
                let pair = self.clients.sign(change);
                tls.identity(Identity::from_pem(pair.certificate, pair.key))
            }
            None => tls,
        }
    }

    pub(super) async fn raw(&self, shown: Option<&dyn Fn(&mut CertificateParams)>) -> Raw {
        let tls = self.tls(shown);
        let with = |endpoint: Endpoint| endpoint.tls_config(tls.clone()).unwrap();
        Raw::over(&self.guarded, "https", with).await
    }

    /// Connections that show a certificate with a SPIFFE id.
    pub(super) async fn showing(&self, name: &str) -> Raw {
        let name = spiffe(name);
        self.raw(Some(&|params| params.subject_alt_names = vec![uri(&name)]))
            .await
    }
}

pub(super) fn uri(name: &str) -> SanType {
    SanType::URI(Ia5String::try_from(name).unwrap())
}

/// A file of identities with rules for both kinds of names.
pub(super) fn written(issuer: &Issuer, rules: &[(&str, &str)]) -> String {
    let mut text = format!(
        "[[issuers]]\nurl = \"{}\"\naudiences = [\"frameshift\"]\n",
        issuer.url
    );
    for (name, may) in rules {
        text +=
            &format!("[[issuers.rules]]\nsubject = \"system:serviceaccount:acme:{name}\"\n{may}\n");
    }
    for (name, may) in rules {
        text += &format!("[[certificates]]\nname = \"{}\"\n{may}\n", spiffe(name));
    }
    text
}

/// Puts a text into a file, which appears whole.
pub(super) fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// How a caller proves who it is: by which connections, with which header.
pub(super) struct Shown<'a> {
    pub(super) raw: &'a Raw,
    pub(super) bearer: Option<String>,
}

impl Shown<'_> {
    pub(super) async fn call(&self, path: &str, tenant: Option<&str>) -> Result<(), Status> {
        let mut headers = Vec::new();
        if let Some(bearer) = &self.bearer {
            headers.push(("authorization", bearer.as_str()));
        }
        headers.extend(tenant.map(|tenant| ("x-frameshift-tenant", tenant)));
        self.raw.call(path, &headers).await
    }
}
