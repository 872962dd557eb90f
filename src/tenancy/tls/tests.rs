//! Files of TLS that change, and certificates that clients show.

use super::*;
use rcgen::{CertificateParams, KeyPair};

struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        made.renew();
        made
    }

    fn config(&self) -> Config {
        let at = |name: &str| self.folder.path().join(name);
        Config::new(at("certificate"), at("key"))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn renew(&self) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        self.write("certificate", &params.self_signed(&key).unwrap().pem());
        self.write("key", &key.serialize_pem());
    }
}

#[test]
fn files_that_have_not_changed_are_not_loaded_again() {
    let made = Made::new();
    let certificates = Certificates::load(made.config()).unwrap();
    let first = certificates.current();
    assert!(!certificates.reload().unwrap());
    assert!(Arc::ptr_eq(&first, &certificates.current()));
    made.renew();
    assert!(certificates.reload().unwrap());
    assert!(!Arc::ptr_eq(&first, &certificates.current()));
}

#[test]
fn what_cannot_be_used_leaves_what_was_before_and_is_told_of_once() {
    let made = Made::new();
    let certificates = Certificates::load(made.config()).unwrap();
    let first = certificates.current();
    let other = KeyPair::generate().unwrap().serialize_pem();
    for (name, text, expected) in [
        ("key", other.as_str(), "cannot be used"),
        ("key", "nonsense", "expected a private key"),
        ("certificate", "nonsense", "expected certificates"),
    ] {
        made.write(name, text);
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!certificates.reload().unwrap(), "the same files again");
        assert!(Arc::ptr_eq(&first, &certificates.current()));
    }
    std::fs::remove_file(made.folder.path().join("key")).unwrap();
    let error = certificates.reload().unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    made.renew();
    assert!(certificates.reload().unwrap());
}

#[test]
fn authorities_that_are_none_are_refused_with_their_file() {
    let made = Made::new();
    made.write("ca", "");
    let config = Config {
        clients: Some((made.folder.path().join("ca"), Clients::Required)),
        ..made.config()
    };
    let error = Certificates::load(config).unwrap_err().to_string();
    assert!(error.contains("ca: expected certificates"), "{error}");
}

#[tokio::test]
async fn the_time_that_is_left_is_a_metric() {
    let made = Made::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    made.write("certificate", &params.self_signed(&key).unwrap().pem());
    made.write("key", &key.serialize_pem());
    let certificates = Certificates::load(made.config()).unwrap();
    let metrics = Metrics::new();
    let (drain, signal) = crate::shutdown::channel();
    drain.start();
    certificates.watch(metrics.clone(), signal).await.unwrap();
    let text = metrics.text();
    assert!(
        text.contains("frameshift_tls_certificate_expiry_seconds -"),
        "{text}"
    );
}
