//! The file of identities as it is written: issuers of tokens, and the rules of their subjects and of certificates.
//!
//! Invariant: what cannot be meant is refused with its place in the file; no issuer is without audiences, and no two rules' lists share a principal.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use url::Url;

use super::rules::{Grant, Pattern, Role, Rule};
use crate::ids::{TaskId, TenantId};
use crate::spec::Scopes;
use crate::tenancy::oidc::Issuer;

/// Most issuers of a file.
const ISSUERS: usize = 64;
/// Most rules of an issuer, and of certificates.
const RULES: usize = 10_000;

/// The file as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    issuers: Vec<WrittenIssuer>,
    #[serde(default)]
    certificates: Vec<WrittenRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIssuer {
    url: String,
    audiences: BTreeSet<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    tenant_claim: Option<String>,
    scope_claim: Option<String>,
    role: Option<Role>,
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    subject: Option<String>,
    name: Option<String>,
    tenant: Option<String>,
    role: Option<Role>,
    scopes: Option<Vec<String>>,
    #[serde(default)]
    tasks: BTreeSet<String>,
}

/// What is wrong with the file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) place: String,
    pub(super) what: String,
}

fn problem(place: impl Into<String>, what: impl Into<String>) -> Problem {
    let (place, what) = (place.into(), what.into());
    Problem { place, what }
}

/// Claims of a token that name tenants, and what their callers may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) struct ByClaim {
    /// Claim with a tenant or a list of tenants.
    pub(in crate::tenancy) tenant: String,
    pub(in crate::tenancy) may: Granted,
}

/// What callers may do whose tenant a claim names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) enum Granted {
    /// Always these scopes.
    Always(Scopes),
    /// The scopes in a claim: words with spaces between them, or a list.
    Claim(String),
}

impl File {
    /// The issuers and the rules of certificates.
    pub(super) fn check(self) -> Result<(Vec<Issuer>, Vec<Rule>), Problem> {
        if self.issuers.len() > ISSUERS {
            return Err(problem("issuers", format!("more than {ISSUERS}")));
        }
        let mut urls = BTreeSet::new();
        let mut issuers = Vec::new();
        for (number, issuer) in self.issuers.into_iter().enumerate() {
            let place = format!("issuers[{number}]");
            if !urls.insert(issuer.url.clone()) {
                let what = format!("{} is there twice", issuer.url);
                return Err(problem(format!("{place}.url"), what));
            }
            issuers.push(issuer.check(&place)?);
        }
        let certificates = rules(self.certificates, "certificates", Kind::Name)?;
        Ok((issuers, certificates))
    }
}

impl WrittenIssuer {
    fn check(self, place: &str) -> Result<Issuer, Problem> {
        let at = |field: &str| format!("{place}.{field}");
        let url = Url::parse(&self.url).map_err(|error| problem(at("url"), error.to_string()))?;
        let is_local = matches!(
            url.host_str(),
            Some("localhost" | "127.0.0.1" | "::1" | "[::1]")
        );
        match url.scheme() {
            "https" => {}
            "http" if is_local => {}
            _ => {
                let what = "expected https://…; http:// is for issuers on this machine only";
                return Err(problem(at("url"), what));
            }
        }
        let has_more = url.query().is_some() || url.fragment().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            let what = "expected a URL without a user, a query and a fragment";
            return Err(problem(at("url"), what));
        }
        if self.audiences.is_empty() || self.audiences.contains("") {
            let what = "name at least one: a token for another service is not one for this server";
            return Err(problem(at("audiences"), what));
        }
        let by_claim = match (self.tenant_claim, self.scope_claim, self.role) {
            (None, None, None) => None,
            (None, _, _) => {
                let what = "scope_claim and role go with it";
                return Err(problem(at("tenant_claim"), what));
            }
            (Some(tenant), Some(scopes), None) => Some(ByClaim {
                tenant,
                may: Granted::Claim(scopes),
            }),
            (Some(_), _, Some(Role::Operator)) => {
                let what = "a claim cannot make operators; give their subjects a rule";
                return Err(problem(at("role"), what));
            }
            (Some(tenant), None, Some(role)) => Some(ByClaim {
                tenant,
                may: Granted::Always(role.scopes()),
            }),
            (Some(_), _, _) => {
                let what = "needs either scope_claim or role";
                return Err(problem(at("tenant_claim"), what));
            }
        };
        let rules = rules(self.rules, &at("rules"), Kind::Subject)?;
        if rules.is_empty() && by_claim.is_none() {
            let what = "needs rules or a tenant_claim: nobody could call otherwise";
            return Err(problem(place, what));
        }
        Ok(Issuer {
            url: self.url.into(),
            audiences: self.audiences,
            ca_file: self.ca_file,
            token_file: self.token_file,
            by_claim,
            rules,
        })
    }
}

/// What the patterns of a list are for.
#[derive(Clone, Copy)]
enum Kind {
    Subject,
    Name,
}

fn rules(written: Vec<WrittenRule>, place: &str, kind: Kind) -> Result<Vec<Rule>, Problem> {
    if written.len() > RULES {
        return Err(problem(place, format!("more than {RULES}")));
    }
    let checked = written.into_iter().enumerate();
    checked
        .map(|(number, rule)| rule.check(&format!("{place}[{number}]"), kind))
        .collect()
}

impl WrittenRule {
    fn check(self, place: &str, kind: Kind) -> Result<Rule, Problem> {
        let at = |field: &str| format!("{place}.{field}");
        let (field, own, other) = match kind {
            Kind::Subject => ("subject", self.subject, self.name),
            Kind::Name => ("name", self.name, self.subject),
        };
        let (Some(pattern), None) = (own, other) else {
            return Err(problem(place, format!("expected `{field}`")));
        };
        let pattern: Pattern = pattern
            .parse()
            .map_err(|error: &str| problem(at(field), error))?;
        let scopes = match (self.role, self.scopes) {
            (Some(role), None) => role.scopes(),
            (None, Some(names)) => {
                let parsed: Result<Scopes, _> = names.iter().map(|name| name.parse()).collect();
                parsed.map_err(|error: crate::spec::UnknownScope| {
                    problem(at("scopes"), error.to_string())
                })?
            }
            (Some(_), Some(_)) | (None, None) => {
                let what = "needs either role (viewer, device, trainer, owner, operator) or scopes";
                return Err(problem(place, what));
            }
        };
        let operator = Role::Operator.scopes();
        if scopes.is_empty() || (scopes.meets(operator) && scopes != operator) {
            let what = "expected scopes; fleet-admin goes with no other";
            return Err(problem(at("scopes"), what));
        }
        let tenant = self.tenant.map(|tenant| tenant.parse::<TenantId>());
        let tenant = tenant.transpose();
        let tenant = tenant.map_err(|error| problem(at("tenant"), error.to_string()))?;
        match (&tenant, scopes == operator) {
            (None, false) => return Err(problem(at("tenant"), "is missing")),
            (Some(_), true) => {
                let what = "not for an operator, who has access to no tenant's data";
                return Err(problem(at("tenant"), what));
            }
            (Some(_), false) | (None, true) => {}
        }
        let only_classifies = scopes == Role::Device.scopes();
        if !self.tasks.is_empty() && !only_classifies {
            let what = "goes with the role device, or the scope classify alone";
            return Err(problem(at("tasks"), what));
        }
        let tasks: Result<BTreeSet<TaskId>, _> =
            self.tasks.iter().map(|task| task.parse()).collect();
        let tasks =
            tasks.map_err(|error: crate::ids::Error| problem(at("tasks"), error.to_string()))?;
        let tasks = (!tasks.is_empty()).then(|| Arc::new(tasks));
        Ok(Rule {
            pattern,
            tenant,
            grant: Grant { scopes, tasks },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(Vec<Issuer>, Vec<Rule>), String> {
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        file.check()
            .map_err(|problem| format!("{}: {}", problem.place, problem.what))
    }

    const ISSUER: &str = "[[issuers]]\nurl = \"https://issuer.example\"\n";

    #[test]
    fn a_file_says_who_may_do_what() {
        let text = format!(
            "{ISSUER}audiences = [\"frameshift\"]\n\
             [[issuers.rules]]\nsubject = \"system:serviceaccount:acme:*\"\ntenant = \"acme\"\nrole = \"trainer\"\n\
             [[issuers.rules]]\nsubject = \"ops\"\nrole = \"operator\"\n\
             [[certificates]]\nname = \"spiffe://td/camera/*\"\ntenant = \"acme\"\nscopes = [\"classify\"]\ntasks = [\"gestures\"]\n"
        );
        let (issuers, certificates) = check(&text).unwrap();
        assert_eq!(issuers[0].rules.len(), 2);
        assert_eq!(issuers[0].rules[1].tenant, None);
        let camera = &certificates[0].grant;
        assert_eq!(camera.scopes.to_string(), "classify");
        assert_eq!(camera.tasks.as_ref().unwrap().len(), 1);
        let claims = format!(
            "{ISSUER}audiences = [\"a\"]\ntenant_claim = \"org\"\nscope_claim = \"scope\"\n"
        );
        assert!(check(&claims).unwrap().0[0].by_claim.is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        let audience = "audiences = [\"a\"]\n";
        let rule = "[[issuers.rules]]\nsubject = \"x\"\n";
        for (text, expected) in [
            (format!("{ISSUER}audiences = []\n"), "issuers[0].audiences"),
            (
                "[[issuers]]\nurl = \"http://issuer.example\"\naudiences = [\"a\"]\n".into(),
                "issuers[0].url: expected https",
            ),
            (
                format!(
                    "{ISSUER}{audience}{rule}tenant = \"acme\"\nrole = \"viewer\"\n{ISSUER}{audience}"
                ),
                "issuers[1].url",
            ),
            (format!("{ISSUER}{audience}"), "issuers[0]: needs rules"),
            (
                format!("{ISSUER}{audience}scope_claim = \"s\"\n"),
                "issuers[0].tenant_claim",
            ),
            (
                format!("{ISSUER}{audience}tenant_claim = \"s\"\n"),
                "issuers[0].tenant_claim",
            ),
            (
                format!("{ISSUER}{audience}tenant_claim = \"s\"\nrole = \"operator\"\n"),
                "issuers[0].role",
            ),
            (
                format!("{ISSUER}{audience}{rule}tenant = \"acme\"\n"),
                "needs either role",
            ),
            (
                format!("{ISSUER}{audience}{rule}role = \"viewer\"\n"),
                "issuers[0].rules[0].tenant: is missing",
            ),
            (
                format!("{ISSUER}{audience}{rule}tenant = \"acme\"\nrole = \"operator\"\n"),
                "rules[0].tenant: not for an operator",
            ),
            (
                format!(
                    "{ISSUER}{audience}{rule}tenant = \"acme\"\nscopes = [\"read\", \"fleet-admin\"]\n"
                ),
                "rules[0].scopes",
            ),
            (
                format!(
                    "{ISSUER}{audience}{rule}tenant = \"acme\"\nrole = \"owner\"\ntasks = [\"t\"]\n"
                ),
                "rules[0].tasks",
            ),
            (
                "[[certificates]]\nsubject = \"x\"\ntenant = \"acme\"\nrole = \"viewer\"\n".into(),
                "certificates[0]: expected `name`",
            ),
            ("[[certificates]]\nnme = \"x\"\n".into(), "unknown field"),
            (
                "[[certificates]]\nname = \"x\"\ntenant = \"A B\"\nrole = \"viewer\"\n".into(),
                "certificates[0].tenant",
            ),
        ] {
            let error = check(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
