//! Rules that map names from outside, subjects of tokens and names of certificates, to tenants and scopes.
//!
//! Invariant: a name that no rule matches may do nothing; a rule of an operator opens no tenant's data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use crate::ids::{TaskId, TenantId};
use crate::spec::{Scope, Scopes};
use crate::tenancy::{Caller, Error, Principal};

/// Longest name from outside, in bytes; OpenID Connect allows 255 for a subject, SPIFFE 2048 for an id.
pub(in crate::tenancy) const NAME: usize = 2048;
/// What separates the segments of a name.
const SEPARATORS: [char; 2] = [':', '/'];

/// A set of scopes for one kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::tenancy) enum Role {
    /// Reads.
    Viewer,
    /// Classifies.
    Device,
    /// Reads, writes, trains and classifies.
    Trainer,
    /// Does everything within the tenant.
    Owner,
    /// Administers the fleet, without access to any tenant's data.
    Operator,
}

impl Role {
    pub(in crate::tenancy) const fn scopes(self) -> Scopes {
        match self {
            Self::Viewer => Scopes::of(&[Scope::Read]),
            Self::Device => Scopes::of(&[Scope::Classify]),
            Self::Trainer => {
                Scopes::of(&[Scope::Read, Scope::Write, Scope::Train, Scope::Classify])
            }
            Self::Owner => Scopes::TENANT,
            Self::Operator => Scopes::of(&[Scope::FleetAdmin]),
        }
    }
}

/// A pattern of names: `*` stands for any characters within a segment, `**` at the end for everything that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) struct Pattern(String);

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if !is_name(text) {
            return Err("expected 1 to 2048 bytes without control characters");
        }
        if let Some(start) = text.strip_suffix("**") {
            let segment = start.rsplit(SEPARATORS).next().unwrap_or_default();
            if segment.contains('*') {
                return Err("no other `*` can stand in the segment of `**`");
            }
        }
        match text.strip_suffix("**").unwrap_or(text).contains("**") {
            true => Err("`**` can stand at the end only"),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    pub(in crate::tenancy) fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut name) = (self.0.as_str(), name);
        loop {
            // Whatever follows, if there is something.
            if pattern == "**" {
                return !name.is_empty();
            }
            let ends = (pattern.find(SEPARATORS), name.find(SEPARATORS));
            match ends {
                (Some(own), Some(other)) => {
                    let is_same = pattern.as_bytes().get(own) == name.as_bytes().get(other);
                    if !is_same || !segment(&pattern[..own], &name[..other]) {
                        return false;
                    }
                    (pattern, name) = (&pattern[own + 1..], &name[other + 1..]);
                }
                (None, other) => {
                    return match (pattern.strip_suffix("**"), other) {
                        (Some(start), _) => name.len() > start.len() && name.starts_with(start),
                        (None, None) => segment(pattern, name),
                        (None, Some(_)) => false,
                    };
                }
                (Some(_), None) => return false,
            }
        }
    }
}

/// Whether a segment matches its pattern, in which `*` stands for any characters.
fn segment(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        // The first place leaves the most for what follows.
        let Some(at) = name.find(part) else {
            return false;
        };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

/// Whether a text can be a name: neither too long for the log nor able to forge a line of it.
pub(in crate::tenancy) fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What callers of one tenant may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) struct Grant {
    pub(in crate::tenancy) scopes: Scopes,
    /// Tasks that the caller may classify with; `None` for all.
    pub(in crate::tenancy) tasks: Option<Arc<BTreeSet<TaskId>>>,
}

/// A rule: which names it matches, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) struct Rule {
    pub(in crate::tenancy) pattern: Pattern,
    /// Tenant of the callers; `None` for operators.
    pub(in crate::tenancy) tenant: Option<TenantId>,
    pub(in crate::tenancy) grant: Grant,
}

/// What a name from outside stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tenancy) enum Standing {
    /// An operator of the fleet.
    Operator,
    /// A caller of these tenants.
    Of(BTreeMap<TenantId, Grant>),
}

/// What a name stands for by the rules; `None` when none matches. The first rule that matches decides whether it is an operator's; of each tenant, the
/// first that matches decides what its callers may do.
pub(in crate::tenancy) fn standing(rules: &[Rule], name: &str) -> Option<Standing> {
    let mut tenants = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.pattern.matches(name)) {
        match &rule.tenant {
            None if tenants.is_empty() => return Some(Standing::Operator),
            None => {}
            Some(tenant) => {
                tenants
                    .entry(tenant.clone())
                    .or_insert_with(|| rule.grant.clone());
            }
        }
    }
    (!tenants.is_empty()).then_some(Standing::Of(tenants))
}

/// Somebody whom an issuer or an authority vouches for, before the choice of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub(in crate::tenancy) principal: Principal,
    pub(in crate::tenancy) standing: Standing,
}

impl Identity {
    /// The caller, for the tenant that a request names; without a name there has to be exactly one tenant.
    ///
    /// # Errors
    /// When the tenant is not the caller's, or there are several to choose from.
    pub(in crate::tenancy) fn choose(&self, named: Option<TenantId>) -> Result<Caller, Error> {
        let principal = self.principal.clone();
        let tenants = match (&self.standing, named) {
            (Standing::Operator, Some(_)) => return Err(Error::Foreign),
            (Standing::Operator, None) => {
                return Ok(Caller {
                    principal,
                    tenant: None,
                    scopes: Role::Operator.scopes(),
                    tasks: None,
                });
            }
            (Standing::Of(tenants), Some(named)) => {
                let grant = tenants.get(&named).ok_or(Error::Foreign)?;
                return Ok(of(principal, named, grant));
            }
            (Standing::Of(tenants), None) => tenants,
        };
        match (tenants.first_key_value(), tenants.len()) {
            (Some((tenant, grant)), 1) => Ok(of(principal, tenant.clone(), grant)),
            (Some(_), several) => Err(Error::Unchosen(several)),
            (None, _) => Err(Error::Foreign),
        }
    }
}

fn of(principal: Principal, tenant: TenantId, grant: &Grant) -> Caller {
    Caller {
        principal,
        tenant: Some(tenant),
        scopes: grant.scopes,
        tasks: grant.tasks.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(pattern: &str, tenant: Option<&str>, role: Role) -> Rule {
        Rule {
            pattern: pattern.parse().unwrap(),
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
            grant: Grant {
                scopes: role.scopes(),
                tasks: None,
            },
        }
    }

    #[test]
    fn a_star_stays_within_its_segment() {
        for (pattern, name, expected) in [
            (
                "system:serviceaccount:acme:*",
                "system:serviceaccount:acme:reader",
                true,
            ),
            (
                "system:serviceaccount:acme:*",
                "system:serviceaccount:acme-evil:reader",
                false,
            ),
            (
                "system:serviceaccount:acme:*",
                "system:serviceaccount:acme:a:b",
                false,
            ),
            (
                "system:serviceaccount:*:reader",
                "system:serviceaccount:acme:reader",
                true,
            ),
            (
                "system:serviceaccount:*:reader",
                "system:serviceaccount:a:b:reader",
                false,
            ),
            ("spiffe://td/ns/acme/**", "spiffe://td/ns/acme/sa/x", true),
            ("spiffe://td/ns/acme/**", "spiffe://td/ns/acme/", false),
            ("spiffe://td/ns/acme/**", "spiffe://td/ns/acme", false),
            (
                "spiffe://td/ns/acme/**",
                "spiffe://td/ns/acmeevil/sa/x",
                false,
            ),
            ("spiffe://td/ns/ac**", "spiffe://td/ns/acme/sa/x", true),
            ("spiffe://*/x", "spiffe://td/x", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*", "alice", true),
            ("*", "alice:bob", false),
            ("**", "alice:bob/x", true),
            ("alice", "Alice", false),
            ("alice", "alicex", false),
            ("a:b", "a/b", false),
            ("é*", "été", true),
            ("é*", "ete", false),
            ("e*", "été", false),
            ("é*", "étage", true),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern} {name}");
        }
        for bad in [
            "",
            "a\nb",
            "a**b",
            "**a",
            "a*b**",
            "***",
            &"x".repeat(NAME + 1),
        ] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_for_its_tenant() {
        let rules = [
            rule("dev:*", Some("acme"), Role::Viewer),
            rule("dev:bob", Some("acme"), Role::Owner),
            rule("dev:bob", Some("globex"), Role::Owner),
            rule("dev:bob", None, Role::Operator),
            rule("ops:*", None, Role::Operator),
            rule("ops:*", Some("acme"), Role::Owner),
        ];
        let Some(Standing::Of(tenants)) = standing(&rules, "dev:bob") else {
            panic!("of tenants");
        };
        let scopes: Vec<String> = tenants
            .iter()
            .map(|(tenant, grant)| format!("{tenant} {}", grant.scopes))
            .collect();
        assert_eq!(scopes[0], "acme read");
        assert_eq!(scopes.len(), 2);
        assert_eq!(standing(&rules, "ops:eve"), Some(Standing::Operator));
        assert_eq!(standing(&rules, "nobody"), None);
    }

    #[test]
    fn a_tenant_is_chosen_among_the_callers_own() {
        let rules = [
            rule("a", Some("acme"), Role::Viewer),
            rule("*", Some("globex"), Role::Device),
        ];
        let of = |name: &str| Identity {
            principal: Principal::Certificate(name.into()),
            standing: standing(&rules, name).unwrap(),
        };
        let named = |tenant: &str| Some(tenant.parse().unwrap());
        let caller = of("b").choose(None).unwrap();
        assert_eq!(caller.tenant, named("globex"));
        assert_eq!(caller.scopes.to_string(), "classify");
        assert_eq!(of("a").choose(None), Err(Error::Unchosen(2)));
        let chosen = of("a").choose(named("acme")).unwrap();
        assert_eq!(chosen.scopes.to_string(), "read");
        for tenant in ["acme", "nowhere"] {
            assert_eq!(of("b").choose(named(tenant)), Err(Error::Foreign));
        }
        let operator = Identity {
            principal: Principal::Operator,
            standing: Standing::Operator,
        };
        assert_eq!(operator.choose(named("acme")), Err(Error::Foreign));
        assert_eq!(operator.choose(None).unwrap().tenant, None);
    }

    /// A pattern that says the same as [`segment`], by trying every length.
    fn plain(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => (0..=name.len()).any(|taken| plain(rest, &name[taken..])),
            (Some((own, rest)), Some((other, others))) => own == other && plain(rest, others),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    proptest! {
        #[test]
        fn a_segment_matches_as_every_length_tried_in_turn(pattern in "[ab*é]{0,8}", name in "[abé]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            prop_assert_eq!(segment(&pattern, &name), plain(&chars(&pattern), &chars(&name)));
        }

        #[test]
        fn strangers_names_are_matched_without_a_panic(pattern in ".{1,20}", name in "\\PC{0,40}") {
            if let Ok(pattern) = pattern.parse::<Pattern>() {
                pattern.matches(&name);
            }
        }
    }
}
