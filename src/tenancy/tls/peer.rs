//! Certificates that clients show: the name that they prove, and when they end.
//!
//! Invariant: a name is the only SPIFFE id of the certificate, else its first DNS name, and never the common name, which authorities do not check.

use std::sync::Arc;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::tenancy::identities::rules::is_name;

const SPIFFE: &str = "spiffe://";

/// What a verified certificate says of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SPIFFE id, else the first DNS name; `None` when it has neither.
    pub name: Option<Arc<str>>,
    /// End of the certificate, in seconds since the Unix epoch.
    pub ends: i64,
}

impl Certificate {
    /// Reads a certificate that was verified; `None` when it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, read) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(Self {
            name: name(&read).map(Into::into),
            ends: read.validity().not_after.timestamp(),
        })
    }
}

fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    // An extension that is there twice, or cannot be read, names nobody.
    let names = certificate.subject_alternative_name().ok()??;
    let names = &names.value.general_names;
    let ids = names.iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        uri.starts_with(SPIFFE).then_some(*uri)
    });
    let ids: Vec<&str> = ids.collect();
    let name = match ids.as_slice() {
        [] => names.iter().find_map(|name| {
            let GeneralName::DNSName(name) = name else {
                return None;
            };
            Some(name.to_ascii_lowercase())
        })?,
        [id] => (*id).to_owned(),
        // The specification refuses a certificate with several ids.
        _ => return None,
    };
    is_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn read(names: &[(&str, &str)]) -> Option<String> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "admin.example");
        params.subject_alt_names = names
            .iter()
            .map(|(kind, name)| {
                let name = Ia5String::try_from(*name).unwrap();
                match *kind {
                    "uri" => SanType::URI(name),
                    _ => SanType::DnsName(name),
                }
            })
            .collect();
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let read = Certificate::of(made.der()).unwrap();
        assert_eq!(read.ends, 2_208_988_800);
        read.name.map(|name| name.to_string())
    }

    #[test]
    fn a_name_is_the_spiffe_id_else_the_first_dns_name_and_never_the_common_name() {
        let id = ("uri", "spiffe://td/ns/acme/sa/x");
        assert_eq!(read(&[]), None);
        assert_eq!(
            read(&[("dns", "A.example"), id]).as_deref(),
            Some("spiffe://td/ns/acme/sa/x")
        );
        assert_eq!(
            read(&[("uri", "https://a"), ("dns", "A.example"), ("dns", "b")]).as_deref(),
            Some("a.example")
        );
        assert_eq!(read(&[id, ("uri", "spiffe://td/other")]), None);
        assert_eq!(Certificate::of(b"nonsense"), None);
    }
}
