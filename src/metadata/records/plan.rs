//! What is asked of a task's serving: one version, or several that share its requests, and versions that only watch.
//!
//! Invariant: a plan that [`Plan::check`] accepts names a version once, and the shares of its members are all of the requests.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::ids::AdapterVersion;
use crate::spec::Invalid;

/// All of a task's requests, in the unit of shares.
pub const WHOLE: u16 = 1000;
/// Most versions that share a task's requests.
pub const MEMBERS: usize = 8;
/// Most shadow versions of a task.
pub const SHADOWS: usize = 4;

/// Which versions are to serve a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The main version: it answers whatever has no other version, and the others begin when it serves.
    pub main: AdapterVersion,
    /// Versions that share the requests, the main one among them; empty when the main one answers all of them.
    #[serde(default)]
    pub members: Vec<Share>,
    /// Versions that are run on requests beside the one that answers, and answer nobody.
    #[serde(default)]
    pub shadows: Vec<Share>,
}

/// A version and its share of a task's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The version.
    pub version: AdapterVersion,
    /// Share of the requests, in thousandths.
    pub per_mille: u16,
    /// Proof that the version can serve; for the main version the task's own fields state it.
    #[serde(default)]
    pub proof: Proof,
}

/// Whether a version of a plan can serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The version is still to be loaded and warmed up; it gets no requests yet.
    #[default]
    Pending,
    /// The version was loaded and warmed up.
    Ready,
    /// The version cannot serve and gets no requests.
    Failed {
        /// Reason why the version cannot serve.
        why: String,
    },
}

impl Share {
    /// Creates the share of a version that is still to be proved.
    pub fn new(version: AdapterVersion, per_mille: u16) -> Self {
        Self {
            version,
            per_mille,
            proof: Proof::Pending,
        }
    }
}

impl From<AdapterVersion> for Plan {
    fn from(main: AdapterVersion) -> Self {
        Self {
            main,
            members: Vec::new(),
            shadows: Vec::new(),
        }
    }
}

impl Plan {
    /// Whether the main version answers everything and nothing watches.
    pub fn is_plain(&self) -> bool {
        self.members.is_empty() && self.shadows.is_empty()
    }

    /// Every version of the plan once.
    pub fn versions(&self) -> impl Iterator<Item = AdapterVersion> {
        std::iter::once(self.main).chain(self.others().map(|own| own.version))
    }

    /// Every share but the main version's.
    pub fn others(&self) -> impl Iterator<Item = &Share> {
        let members = self.members.iter().filter(|own| own.version != self.main);
        members.chain(&self.shadows)
    }

    /// The share of a version that is not the main one.
    pub fn other_mut(&mut self, version: AdapterVersion) -> Option<&mut Share> {
        let main = self.main;
        let shares = self.members.iter_mut().chain(&mut self.shadows);
        let mut others = shares.filter(|own| own.version != main);
        others.find(|own| own.version == version)
    }

    /// Whether a version other than the main one is still to be proved.
    pub fn is_pending(&self) -> bool {
        self.others().any(|own| own.proof == Proof::Pending)
    }

    /// The same plan with every version still to be proved.
    pub fn unproved(mut self) -> Self {
        let shares = self.members.iter_mut().chain(&mut self.shadows);
        shares.for_each(|own| own.proof = Proof::Pending);
        self
    }

    /// Checks the shares.
    ///
    /// # Errors
    /// When a version comes twice, the main one is not among the members, the members' shares do not sum to [`WHOLE`], a share is 0 or more than that,
    /// or there are too many versions.
    pub fn check(&self) -> Result<(), Invalid> {
        let wrong = |field, problem: String| Err(Invalid::new(field, problem));
        for (field, shares, most) in [
            ("split", &self.members, MEMBERS),
            ("shadows", &self.shadows, SHADOWS),
        ] {
            if shares.len() > most {
                return wrong(field, format!("at most {most} versions"));
            }
            if let Some(own) = shares
                .iter()
                .find(|own| !(1..=WHOLE).contains(&own.per_mille))
            {
                let Share {
                    version, per_mille, ..
                } = own;
                let problem = format!("version {version}: {per_mille} is not 1 to {WHOLE}");
                return wrong(field, problem);
            }
        }
        let mut known = HashSet::new();
        if let Some(own) = self.members.iter().find(|own| !known.insert(own.version)) {
            return wrong("split", format!("version {} comes twice", own.version));
        }
        known.insert(self.main);
        if let Some(own) = self.shadows.iter().find(|own| !known.insert(own.version)) {
            let problem = format!("version {} comes twice or answers already", own.version);
            return wrong("shadows", problem);
        }
        if self.members.is_empty() {
            return Ok(());
        }
        if self.members.iter().all(|own| own.version != self.main) {
            return wrong("version", format!("{} is not in `split`", self.main));
        }
        let sum: u32 = self
            .members
            .iter()
            .map(|own| u32::from(own.per_mille))
            .sum();
        if sum != u32::from(WHOLE) {
            return wrong("split", format!("the shares sum to {sum}, not to {WHOLE}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32) -> AdapterVersion {
        AdapterVersion::new(number).unwrap()
    }

    fn plan(members: &[(u32, u16)], shadows: &[(u32, u16)]) -> Plan {
        let shares = |own: &[(u32, u16)]| {
            let shares = own.iter();
            shares
                .map(|&(number, share)| Share::new(version(number), share))
                .collect()
        };
        Plan {
            main: version(1),
            members: shares(members),
            shadows: shares(shadows),
        }
    }

    #[test]
    fn shares_are_all_of_the_requests_and_a_version_comes_once() {
        for good in [
            plan(&[], &[]),
            plan(&[(1, 1000)], &[(2, 1)]),
            plan(&[(2, 1), (1, 999)], &[(3, 1000)]),
        ] {
            good.check().unwrap();
        }
        for (bad, field) in [
            (plan(&[(1, 900), (2, 99)], &[]), "split"),
            (plan(&[(1, 900), (2, 200)], &[]), "split"),
            (plan(&[(1, 1000), (2, 0)], &[]), "split"),
            (plan(&[(1, 500), (1, 500)], &[]), "split"),
            (plan(&[(2, 1000)], &[]), "version"),
            (plan(&[], &[(1, 10)]), "shadows"),
            (plan(&[(1, 500), (2, 500)], &[(2, 10)]), "shadows"),
            (plan(&[], &[(2, 10), (2, 10)]), "shadows"),
            (plan(&[], &[(2, 1001)]), "shadows"),
            (
                plan(&[], &[(2, 9), (3, 9), (4, 9), (5, 9), (6, 9)]),
                "shadows",
            ),
        ] {
            assert_eq!(bad.check().unwrap_err().field, field, "{bad:?}");
        }
    }

    #[test]
    fn the_main_version_is_no_other_and_what_waits_is_pending() {
        let mut own = plan(&[(1, 900), (2, 100)], &[(3, 1000)]);
        assert!(own.versions().map(AdapterVersion::get).eq([1, 2, 3]));
        assert!(own.other_mut(version(1)).is_none());
        for number in [2, 3] {
            assert!(own.is_pending());
            own.other_mut(version(number)).unwrap().proof = Proof::Ready;
        }
        assert!(!own.is_pending());
        assert!(own.unproved().is_pending());
        assert!(!Plan::from(version(1)).is_pending());
    }
}
