//! The operations of the model's walk on operands that have a place: each looks where its operands are and calls the host's or the device's implementation.
//!
//! Invariant: an operation's result is where its operands are; operands of one operation are in one place.

pub(crate) mod activation;
pub(crate) mod adamw;
mod array;
pub(crate) mod attention;
pub(crate) mod cells;
mod depthwise;
pub(crate) mod embed;
mod later;
pub(crate) mod linear;
mod matrix;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod rows;
mod sums;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::array::Array;
pub(crate) use self::depthwise::{Convolved, Depthwise, convolve_each};
pub(crate) use self::later::Later;
pub(crate) use self::matrix::{Matrix, Vector};
pub(crate) use self::sums::{Onto, columns, weight_gradient};
use super::Place;

/// Returns whether two places are the same one.
pub(crate) fn is_same(a: &Place, b: &Place) -> bool {
    match (a, b) {
        (Place::Host, Place::Host) => true,
        #[cfg(feature = "cuda")]
        (Place::Cuda(a), Place::Cuda(b)) => std::sync::Arc::ptr_eq(a, b),
        #[cfg(feature = "cuda")]
        (Place::Host, Place::Cuda(_)) | (Place::Cuda(_), Place::Host) => false,
    }
}

/// Error of an operation whose operands are in several places.
#[cfg(feature = "cuda")]
fn apart<T>() -> candle_core::Result<T> {
    candle_core::bail!("operands of one operation are in several places")
}
