//! Weights that a clip runs through beside the frozen layers: an adapter set, or none.
//!
//! Invariant: only a request for the bare backbone gets it; a version whose set is missing is an error.

use std::sync::Arc;

use super::Error;
use super::residency::Pin;
use crate::ids::TaskId;
use crate::model::{AdapterSet, Backbone};
use crate::rng::Stream;
use crate::spec::AdapterConfig;

/// An adapter set, or a stand-in for none.
#[derive(Clone)]
pub(super) enum Weights {
    /// The set of a version, pinned.
    Version(Pin),
    /// A set without adapters, whose head nobody reads.
    Bare(Arc<AdapterSet>),
}

impl Weights {
    /// The bare backbone.
    ///
    /// # Errors
    /// [`Error::Backbone`] when the backbone takes no set at all.
    pub(super) fn bare(backbone: &Backbone) -> Result<Self, Error> {
        let stream = Stream::new(0, "no adapters");
        let set = AdapterSet::fresh(backbone.config(), AdapterConfig::LINEAR_PROBE, 1, &stream);
        let set = set.map_err(|error| Error::Backbone {
            reason: error.to_string().into(),
        })?;
        Ok(Self::Bare(Arc::new(set)))
    }

    /// Different for every load of a set; the loads count from 1.
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Version(pin) => pin.id,
            Self::Bare(_) => 0,
        }
    }

    /// The task of the version; none for the bare backbone.
    pub(super) fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Version(pin) => Some(&pin.version.task),
            Self::Bare(_) => None,
        }
    }

    /// The set.
    pub(super) fn set(&self) -> &Arc<AdapterSet> {
        match self {
            Self::Version(pin) => &pin.set,
            Self::Bare(set) => set,
        }
    }

    /// Why the set is refused by now.
    pub(super) fn refused(&self) -> Option<Error> {
        match self {
            Self::Version(pin) => Some(Error::Quarantined {
                version: pin.version.clone(),
                reason: pin.refused()?,
            }),
            Self::Bare(_) => None,
        }
    }

    /// Notes that a clip failed with the set, which is to be warmed again, and returns the clip's error.
    pub(super) fn suspect(&self, reason: Arc<str>) -> Error {
        match self {
            Self::Version(pin) => pin.suspect(),
            Self::Bare(_) => {}
        }
        self.failed(reason)
    }

    /// Returns the error of a clip that failed with the weights, which are not at fault.
    pub(super) fn failed(&self, reason: Arc<str>) -> Error {
        match self {
            Self::Version(pin) => Error::Failed {
                version: pin.version.clone(),
                reason,
            },
            Self::Bare(_) => Error::Backbone { reason },
        }
    }
}
