//! What identifies this client to a server and the server to it: tenant, API key, certificates.
//!
//! Invariant: a key comes from a file or the environment, never from an argument, which every process of the machine can read; it is in no debug output.
//! A file's credential is read again while the client runs, since orchestrators replace tokens before they end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Request, Status};
use uuid::Uuid;

use super::Error;
use crate::telemetry::trace::Outgoing;

/// What a client shows to a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Address of the server: `host:port`, `http://…` or `https://…`.
    pub server: String,
    /// Tenant to call as; the server's choice when absent.
    pub tenant: Option<String>,
    /// API key, or another bearer's credential.
    pub api_key: Option<SecretString>,
    /// File with the API key or another bearer's credential, in place of `api_key`; it is read again as it changes.
    pub api_key_file: Option<PathBuf>,
    /// Certificates, for `https://`.
    pub tls: Tls,
    /// Whether the address is that of the administrators' API, which a command line gives by another option.
    pub is_admin: bool,
}

impl Options {
    /// The option of the command line that gives the address.
    pub(super) fn flag(&self) -> &'static str {
        match self.is_admin {
            true => "--admin-server",
            false => "--server",
        }
    }
}

/// Certificates of both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the authorities that the server's certificate may come from; the system's when absent.
    pub ca: Option<PathBuf>,
    /// PEM file with this client's certificate, and its chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Whether anything is given.
    pub(super) fn is_given(&self) -> bool {
        self.ca.is_some() || self.certificate.is_some() || self.key.is_some()
    }

    /// TLS as the transport takes it.
    pub(super) fn config(&self) -> Result<ClientTlsConfig, Error> {
        let config = ClientTlsConfig::new();
        let config = match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?)),
            None => config.with_native_roots(),
        };
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Ok(config.identity(Identity::from_pem(read(certificate)?, read(key)?)))
            }
            (None, None) => Ok(config),
            (Some(_), None) | (None, Some(_)) => Err(Error::Usage(
                "--tls-cert and --tls-cert-key go together: a certificate and its key".into(),
            )),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

/// Reads a key from a file, without the white space around it.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn key_of(path: &Path) -> Result<SecretString, Error> {
    let bytes = read(path)?;
    Ok(String::from_utf8_lossy(&bytes).trim().into())
}

/// Time for which the credential of a file is not read again.
const FRESH: Duration = Duration::from_secs(10);

/// The credential of every request. Clones share it.
#[derive(Debug, Clone)]
enum Bearer {
    /// Always the same.
    Fixed(MetadataValue<Ascii>),
    /// That of a file.
    File(Arc<Kept>),
}

/// The credential of a file, as it was read last.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    fresh: Duration,
    /// The value is marked as sensitive, so that its debug output is not the value.
    last: Mutex<(MetadataValue<Ascii>, Instant)>,
}

impl Bearer {
    fn of_file(path: &Path, fresh: Duration) -> Result<Self, Error> {
        let value = bearer(&key_of(path)?)?;
        Ok(Self::File(Arc::new(Kept {
            path: path.into(),
            fresh,
            last: Mutex::new((value, Instant::now())),
        })))
    }

    /// The credential now. A file that cannot be read keeps the one before: it may be in the middle of its replacement.
    fn value(&self) -> MetadataValue<Ascii> {
        let kept = match self {
            Self::Fixed(value) => return value.clone(),
            Self::File(kept) => kept,
        };
        let mut last = kept.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.1.elapsed() >= kept.fresh {
            last.1 = Instant::now();
            let read = key_of(&kept.path).and_then(|key| bearer(&key));
            match read {
                Ok(value) => last.0 = value,
                Err(error) => tracing::warn!(%error, "the credential before is used"),
            }
        }
        last.0.clone()
    }
}

/// The header with a credential.
fn bearer(key: &SecretString) -> Result<MetadataValue<Ascii>, Error> {
    let value = format!("Bearer {}", key.expose_secret());
    let mut value: MetadataValue<Ascii> = value
        .parse()
        .map_err(|_| Error::Usage("the API key is not printable ascii".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Servers that the requests of one task reach, where a balancer routes by the header.
const SPREAD: usize = 2;

/// Where a balancer that routes by header sends requests of a task: to few servers, so that its adapter set is in the memory of few, and each time to another
/// one of them, so that a request that is tried again does not meet the same full queue. Clones take turns together.
#[derive(Debug, Clone)]
struct Route {
    /// Tenant and id of the task.
    task: Arc<str>,
    turn: Arc<AtomicUsize>,
}

impl Route {
    fn value(&self) -> Option<MetadataValue<Ascii>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % SPREAD;
        format!("{}/{turn}", self.task).parse().ok()
    }
}

/// Puts the tenant, the credential, the route and the trace into every request.
#[derive(Debug, Clone)]
pub struct Signed {
    tenant: Option<MetadataValue<Ascii>>,
    bearer: Option<Bearer>,
    /// Trace that the requests are a part of.
    trace: Option<Arc<Outgoing>>,
    route: Option<Route>,
}

impl Signed {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let tenant = options.tenant.as_ref().map(|tenant| {
            let wrong = |_| Error::Tenant {
                tenant: tenant.clone(),
            };
            tenant.parse().map_err(wrong)
        });
        let bearer = match (&options.api_key_file, &options.api_key) {
            (Some(path), _) => Some(Bearer::of_file(path, FRESH)),
            (None, Some(key)) => Some(bearer(key).map(Bearer::Fixed)),
            (None, None) => None,
        };
        Ok(Self {
            tenant: tenant.transpose()?,
            bearer: bearer.transpose()?,
            trace: None,
            route: None,
        })
    }

    /// Makes the requests those of a task, by its id or its name.
    pub(super) fn toward(&mut self, task: &str) {
        let tenant = self.tenant.as_ref().and_then(|own| own.to_str().ok());
        let tenant = tenant.unwrap_or("default");
        let task = task.strip_prefix("tasks/").unwrap_or(task);
        // Callers begin with any of the servers.
        let [.., first] = Uuid::now_v7().into_bytes();
        self.route = Some(Route {
            task: format!("{tenant}/{task}").into(),
            turn: Arc::new(AtomicUsize::new(usize::from(first))),
        });
    }

    /// Makes the requests a part of a trace.
    pub(super) fn in_trace(&mut self, trace: Outgoing) {
        self.trace = Some(Arc::new(trace));
    }
}

impl Interceptor for Signed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(tenant) = &self.tenant {
            metadata.insert("x-frameshift-tenant", tenant.clone());
        }
        if let Some(bearer) = &self.bearer {
            metadata.insert("authorization", bearer.value());
        }
        if let Some(route) = self.route.as_ref().and_then(Route::value) {
            metadata.insert("x-frameshift-route", route);
        }
        if let Some(trace) = &self.trace {
            // The last eight bytes of such a UUID are random but for two bits.
            let [.., a, b, c, d, e, f, g, h] = Uuid::now_v7().into_bytes();
            // Hexadecimal digits are a value; a state that is none is left out.
            if let Ok(parent) = trace.parent([a, b, c, d, e, f, g, h]).parse() {
                metadata.insert("traceparent", parent);
            }
            if let Some(Ok(state)) = trace.state().map(str::parse) {
                metadata.insert("tracestate", state);
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_no_debug_output() {
        let options = Options {
            api_key: Some("fsk_very_secret".into()),
            ..Options::default()
        };
        let signed = Signed::new(&options).unwrap();
        for text in [format!("{options:?}"), format!("{signed:?}")] {
            assert!(!text.contains("very_secret"), "{text}");
        }
    }

    #[test]
    fn requests_of_a_task_take_turns_on_two_routes() {
        let routes = |options: &Options, task: &str| {
            let mut signed = Signed::new(options).unwrap();
            signed.toward(task);
            let mut clone = signed.clone();
            let mut sent = [&mut signed, &mut clone].map(|own| {
                let sent = own.call(Request::new(())).unwrap();
                let route = sent.metadata().get("x-frameshift-route");
                route.unwrap().to_str().unwrap().to_owned()
            });
            sent.sort_unstable();
            sent
        };
        let own = Options {
            tenant: Some("acme".into()),
            ..Options::default()
        };
        assert_eq!(
            routes(&own, "tasks/motion"),
            ["acme/motion/0", "acme/motion/1"]
        );
        let default = Options::default();
        assert_eq!(routes(&default, "m"), ["default/m/0", "default/m/1"]);
        let plain = Signed::new(&default)
            .unwrap()
            .call(Request::new(()))
            .unwrap();
        assert!(plain.metadata().get("x-frameshift-route").is_none());
    }

    #[test]
    fn a_key_from_a_file_has_no_white_space_around_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " fsk_x\n").unwrap();
        assert_eq!(key_of(file.path()).unwrap().expose_secret(), "fsk_x");
        let absent = key_of(Path::new("/nowhere/key")).unwrap_err();
        assert_eq!(absent.exit_code(), 66);
    }

    #[test]
    fn the_credential_of_a_file_is_read_again_and_kept_while_it_cannot_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first\n").unwrap();
        let bearer = Bearer::of_file(file.path(), Duration::ZERO).unwrap();
        let clone = bearer.clone();
        assert_eq!(bearer.value().to_str().unwrap(), "Bearer first");
        std::fs::write(file.path(), "second").unwrap();
        for bearer in [&bearer, &clone] {
            assert_eq!(bearer.value().to_str().unwrap(), "Bearer second");
        }
        std::fs::write(file.path(), "not\nprintable").unwrap();
        assert_eq!(bearer.value().to_str().unwrap(), "Bearer second");
        file.close().unwrap();
        assert_eq!(bearer.value().to_str().unwrap(), "Bearer second");
        assert!(!format!("{bearer:?}").contains("second"));
        let fresh = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(fresh.path(), "first").unwrap();
        let bearer = Bearer::of_file(fresh.path(), FRESH).unwrap();
        std::fs::write(fresh.path(), "second").unwrap();
        assert_eq!(bearer.value().to_str().unwrap(), "Bearer first", "not yet");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let tls = Tls {
            certificate: Some("x.pem".into()),
            ..Tls::default()
        };
        assert_eq!(tls.config().unwrap_err().exit_code(), 64);
    }
}
