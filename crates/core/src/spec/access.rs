//! Scopes: what a caller may do.
//!
//! Invariant: a scope's name is stored and never changes its meaning.

use std::fmt;
use std::str::FromStr;

/// A kind of action that a caller may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Classify and embed videos.
    Classify,
    /// Read videos, data sets, tasks, versions and jobs.
    Read,
    /// Change videos, data sets and tasks.
    Write,
    /// Submit and control jobs.
    Train,
    /// Choose what serves, and import versions.
    Serve,
    /// Administer the keys of the caller's own tenant.
    TenantAdmin,
    /// Administer tenants and all keys; it opens no tenant's data.
    FleetAdmin,
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no scope: expected one of classify, read, write, train, serve, tenant-admin, fleet-admin"
)]
pub struct UnknownScope {
    /// The text, shortened to 80 characters.
    pub text: String,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 7] = [
        Self::Classify,
        Self::Read,
        Self::Write,
        Self::Train,
        Self::Serve,
        Self::TenantAdmin,
        Self::FleetAdmin,
    ];

    /// The name of the scope, as it is stored and as the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Read => "read",
            Self::Write => "write",
            Self::Train => "train",
            Self::Serve => "serve",
            Self::TenantAdmin => "tenant-admin",
            Self::FleetAdmin => "fleet-admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| UnknownScope {
            text: text.chars().take(80).collect(),
        })
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope of a tenant's own callers: all but [`Scope::FleetAdmin`].
    pub const TENANT: Self = Self::of(&[
        Scope::Classify,
        Scope::Read,
        Scope::Write,
        Scope::Train,
        Scope::Serve,
        Scope::TenantAdmin,
    ]);

    /// The set of these scopes.
    pub const fn of(scopes: &[Scope]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < scopes.len() {
            bits |= 1 << scopes[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// Whether the set has a scope.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether the set has any scope of another one.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every scope of the set is in another one.
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether the set has no scope.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes of the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let bits = scopes
            .into_iter()
            .fold(0, |bits, scope| bits | 1 << scope as u8);
        Self(bits)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            write!(f, "{gap}{scope}")?;
        }
        Ok(())
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split_whitespace().map(str::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_back_as_they_are_written() {
        for bits in 0..1 << Scope::ALL.len() {
            let set = Scopes(bits);
            assert_eq!(set.to_string().parse(), Ok(set));
            assert_eq!(set.iter().collect::<Scopes>(), set);
        }
        assert!("read everything".parse::<Scopes>().is_err());
    }

    #[test]
    fn a_tenants_scopes_are_all_but_the_fleets() {
        for scope in Scope::ALL {
            let is_fleet = scope == Scope::FleetAdmin;
            assert_eq!(Scopes::TENANT.contains(scope), !is_fleet, "{scope}");
        }
        let fleet = Scopes::of(&[Scope::FleetAdmin]);
        assert!(!fleet.meets(Scopes::TENANT) && !fleet.is_within(Scopes::TENANT));
        assert!(Scopes::of(&[Scope::Read]).is_within(Scopes::TENANT));
    }
}
