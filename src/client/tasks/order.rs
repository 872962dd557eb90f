//! The order of frames as an option of the command line.

use crate::proto::v1;

/// The order in which the frames of a video are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// As players show them; no frame is left out
    Display,
    /// As the reference counts them, to compare with published checkpoints: sorted by time stamps, one frame for each
    Reference,
}

impl From<Order> for v1::FrameOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Display => Self::Display,
            Order::Reference => Self::Reference,
        }
    }
}

impl From<v1::FrameOrder> for Order {
    fn from(order: v1::FrameOrder) -> Self {
        match order {
            v1::FrameOrder::Reference => Self::Reference,
            v1::FrameOrder::Unspecified | v1::FrameOrder::Display => Self::Display,
        }
    }
}

impl Order {
    /// The number of a given order in a message; that of none means the server's default.
    pub fn number(given: Option<Self>) -> i32 {
        given.map_or(v1::FrameOrder::Unspecified, Into::into).into()
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Display => "display",
            Self::Reference => "reference",
        })
    }
}
