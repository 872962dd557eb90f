//! Puts the caller into every request of the API, and refuses whoever may not call the method. Calls of the health service have no caller.
//!
//! Invariant: nothing of a request but its path and its headers is looked at before its credential and scope were accepted; every refused credential
//! gets one answer, whatever is wrong with it. Handlers never see a credential.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use secrecy::{ExposeSecret, SecretString};
use tonic::Status;
use tonic::body::Body;

use super::scopes::{self, Need};
use super::stack::budget::Peer;
use super::stack::{Concern, Inner, answer, request_id};
use super::{Reflection, methods, status};
use crate::ids::{KeyId, TaskId, TenantId};
use crate::telemetry::metrics::{self, Metrics};
use crate::tenancy::admin::Call;
use crate::tenancy::{self, Caller, Credentials, HEADER, Principal, Refusals, Refused, Source};

const BEARER: &str = "bearer";

/// Caller of a request, for its metrics and log lines: set when it becomes known, read when the request ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<OnceLock<Who>>);

/// Who made a request.
#[derive(Debug)]
struct Who {
    caller: metrics::Caller,
    /// Caller and address, when the audit log records how the call ends.
    audited: Option<(Principal, Source)>,
}

impl Seen {
    fn say(&self, caller: metrics::Caller) {
        let audited = None;
        let _ = self.0.set(Who { caller, audited });
    }

    /// Returns the caller; nobody for a request that ended before its credential was checked.
    pub(super) fn caller(&self) -> metrics::Caller {
        let who = self.0.get();
        who.map_or(metrics::Caller::Nobody, |who| who.caller.clone())
    }

    /// Tells the audit log how a call ended, if it may have changed something for a caller who is known.
    pub(super) fn audit(&self, method: &'static str, code: &'static str) {
        let audited = self.0.get().and_then(|who| who.audited.as_ref());
        if let Some((principal, source)) = audited {
            tracing::info!(target: "audit", %principal, %source, method, code, "a call");
        }
    }
}

/// Identifies callers.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    credentials: Option<Credentials>,
    reflection: Reflection,
    refusals: Arc<Refusals>,
    denials: Arc<Refusals>,
    metrics: Metrics,
}

impl Concern for Callers {
    async fn around<S: Inner>(&self, mut request: Request<Body>, next: S) -> Response<Body> {
        match self.admit(&mut request).await {
            Ok(()) => answer(next, request).await,
            Err(status) => status.into_http(),
        }
    }
}

impl Callers {
    /// Callers who prove who they are with credentials, or anonymous ones.
    pub(super) fn new(
        credentials: Option<Credentials>,
        reflection: Reflection,
        metrics: Metrics,
    ) -> Self {
        Self {
            credentials,
            reflection,
            refusals: Arc::default(),
            denials: Arc::default(),
            metrics,
        }
    }

    /// Puts the caller into the request, if it may call the method.
    async fn admit(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let headers = request.headers_mut();
        let presented = presented(headers);
        headers.remove(AUTHORIZATION);
        let path = request.uri().path();
        let known = methods::known(path);
        let need = scopes::need(path);
        let is_open = match need {
            Some(Need::Nothing) => true,
            Some(Need::Reflection) => self.reflection != Reflection::Authenticated,
            Some(Need::AnyOf(_) | Need::OnTasks) => false,
            // Without authentication a method that does not exist is no secret.
            None => self.credentials.is_none() && !knows_tenants(path),
        };
        if is_open {
            return Ok(());
        }
        let seen = request
            .extensions()
            .get::<Seen>()
            .cloned()
            .unwrap_or_default();
        let source = source(request);
        let proven = match &self.credentials {
            Some(credentials) => {
                let verified = match presented {
                    Ok(bearer) => credentials.verify(bearer.expose_secret()).await,
                    Err(refused) => Err((None, refused)),
                };
                Some(verified.map_err(|refused| self.refused(refused, source, known, &seen))?)
            }
            None => None,
        };
        let tenants = request.headers().get_all(HEADER);
        let tenants = tenants.iter().map(|value| value.as_bytes());
        let caller = match proven {
            Some(caller) => caller.within(tenants),
            None => tenancy::identify(tenants),
        };
        let caller = caller.map_err(|error| {
            seen.say(metrics::Caller::Malformed);
            status::of_tenancy(&error)
        })?;
        let is_audited = self.credentials.is_some() && need.is_some_and(Need::is_audited);
        let who = Who {
            caller: match &caller.tenant {
                Some(tenant) => metrics::Caller::Tenant(tenant.clone()),
                None => metrics::Caller::Operator,
            },
            audited: is_audited.then(|| (caller.principal.clone(), source)),
        };
        let _ = seen.0.set(who);
        tracing::Span::current().record("tenant", tracing::field::display(seen.caller()));
        if let Err(status) = may_call(&caller, need, known) {
            self.denied(&caller, source, known);
            return Err(status);
        }
        request.extensions_mut().insert(caller);
        Ok(())
    }

    /// Counts a refused credential and writes the reason to the audit log. Returns the status for the caller.
    fn refused(
        &self,
        (key, refused): (Option<KeyId>, Refused),
        source: Source,
        method: Option<&'static str>,
        seen: &Seen,
    ) -> Status {
        seen.say(metrics::Caller::Unproven);
        self.metrics.credential_refused(refused.label());
        if let Some(silent) = self.refusals.count(source) {
            let key = key.as_ref().map(tracing::field::display);
            tracing::warn!(
                target: "audit",
                reason = refused.label(), key, %source, method, not_told = silent,
                "a credential was refused"
            );
        }
        status::of_credential(refused)
    }

    /// Tells the audit log of a caller that asked for more than it may.
    fn denied(&self, caller: &Caller, source: Source, method: Option<&'static str>) {
        if let Some(silent) = self.denials.count(source) {
            tracing::warn!(
                target: "audit",
                principal = %caller.principal, scopes = %caller.scopes, %source, method, not_told = silent,
                "a call was denied"
            );
        }
    }
}

/// Refuses a caller without the scope of a method, and a key for certain tasks where they are not looked at.
fn may_call(
    caller: &Caller,
    need: Option<Need>,
    known: Option<&'static str>,
) -> Result<(), Status> {
    let Some(need) = need else {
        return match known {
            Some(method) => Err(status::method_denied(method)),
            // The router says that there is no such method.
            None => Ok(()),
        };
    };
    if !need.scopes().meets(caller.scopes) {
        return Err(status::scope_missing(need.scopes()));
    }
    if caller.tasks.is_some() && !matches!(need, Need::OnTasks | Need::Reflection) {
        let is_info = known.is_some_and(|method| method.ends_with("/GetServerInfo"));
        if !is_info {
            return Err(status::method_denied(known.unwrap_or_default()));
        }
    }
    Ok(())
}

/// The bearer's credential of a request.
fn presented(headers: &HeaderMap) -> Result<SecretString, Refused> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        return Err(Refused::Several);
    }
    let text = value.to_str().map_err(|_| Refused::Malformed)?;
    let (scheme, credential) = text.split_once(' ').ok_or(Refused::Malformed)?;
    if !scheme.eq_ignore_ascii_case(BEARER) {
        return Err(Refused::Malformed);
    }
    // A comma is in no key; it is how a proxy joins repeated headers.
    match credential.contains(',') {
        true => Err(Refused::Several),
        false => Ok(credential.trim().into()),
    }
}

fn source(request: &Request<Body>) -> Source {
    let peer = request.extensions().get::<Peer>();
    peer.and_then(Peer::address)
        .map_or(Source::Others, Source::of)
}

/// Whether the method of a path is the API's own, whose requests have a tenant.
pub(super) fn knows_tenants(path: &str) -> bool {
    path.starts_with("/frameshift.")
}

/// The caller of a request that came through the stack.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    caller
        .cloned()
        .ok_or_else(|| status::internal("a request without a caller"))
}

/// An administrator's call that came through the stack.
pub(super) fn call<T>(request: &tonic::Request<T>) -> Result<Call, Status> {
    let extensions = request.extensions();
    let address = extensions.get::<Peer>().and_then(Peer::address);
    let id = extensions.get::<request_id::Name>();
    Ok(Call {
        caller: caller(request)?,
        source: address.map_or_else(String::new, |address| address.to_string()),
        request_id: id.map_or_else(String::new, |id| id.as_str().to_owned()),
    })
}

/// The tenant of a request that came through the stack.
pub(super) fn tenant<T>(request: &tonic::Request<T>) -> Result<TenantId, Status> {
    let caller = request.extensions().get::<Caller>();
    caller
        .and_then(|caller| caller.tenant.clone())
        .ok_or_else(|| status::internal("a request without a tenant"))
}

/// Tasks that the caller of a request may classify with.
#[derive(Debug, Clone)]
pub(super) struct Allowed(Option<Arc<BTreeSet<TaskId>>>);

impl Allowed {
    /// Returns the credentials of a request's caller.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        let caller = request.extensions().get::<Caller>();
        Self(caller.and_then(|caller| caller.tasks.clone()))
    }

    /// Refuses a task that the caller may not use, whether it exists or not; `None` stands for the backbone, which is of no task.
    pub(super) fn check(&self, task: Option<&TaskId>) -> Result<(), Status> {
        match (&self.0, task) {
            (None, _) => Ok(()),
            (Some(tasks), Some(task)) if tasks.contains(task) => Ok(()),
            (Some(_), task) => Err(status::task_denied(task)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        match presented(&headers) {
            Ok(bearer) => Ok(bearer.expose_secret().to_owned()),
            Err(refused) => Err(refused.label()),
        }
    }

    #[test]
    fn one_bearers_credential_is_read_and_nothing_else() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(read(&[good]), Ok("abc".to_owned()), "{good}");
        }
        assert_eq!(read(&[]), Err("missing"));
        for bad in ["abc", "Basic abc", "Bearerabc", "", "Bearer\tabc"] {
            assert_eq!(read(&[bad]), Err("malformed"), "{bad}");
        }
        assert_eq!(read(&["Bearer a", "Bearer a"]), Err("several"));
        assert_eq!(read(&["Bearer a, Bearer b"]), Err("several"));
    }
}
