//! Values with a unit: byte sizes and durations.
//!
//! Invariant: `FromStr` reads what `Display` prints, to the same value.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Number of bytes: `1GiB`, `512 MiB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Duration: `30s`, `1h 30m`, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// An address to listen on: `127.0.0.1:50051`, `[::1]:50051`, `localhost:50051`. A name is looked up when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

/// A part of a whole: from `0` to `1`, for example `0.25`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Ratio(pub f64);

/// What the model computes on: `auto`, `cpu`, or `cuda:0` (`cuda` for short).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if it can be used, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of NVIDIA's with this number.
    Cuda(usize),
}

/// Error of a text that cannot be read as a value with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct Invalid {
    text: String,
    expected: &'static str,
}

const BYTES: &str = "a byte size such as 1GiB, 512MiB, 64KiB or 4096 (decimal units: GB, MB, kB)";
const SPAN: &str = "a duration such as 30s, 250ms or 1h 30m";
const RATIO: &str = "a number from 0 to 1 such as 0.25";
const DEVICE: &str = "auto, cpu, or cuda:N with the number of a GPU";
const ADDRESS: &str = "an address such as 127.0.0.1:50051 or localhost:50051";

/// Binary units, largest first, so that printing takes the largest that divides the size.
const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
const DECIMAL: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid {
            text: text.into(),
            expected: BYTES,
        };
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = trimmed[..digits].parse().map_err(|_| invalid())?;
        let unit = trimmed[digits..].trim_start();
        let scale = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .chain(&DECIMAL)
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .ok_or_else(invalid)?
                .1
        };
        number.checked_mul(scale).map(Self).ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale) = UNITS
            .iter()
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale))
            .unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / scale)
    }
}

impl FromStr for Span {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|_| Invalid {
                text: text.into(),
                expected: SPAN,
            })
    }
}

impl FromStr for Ratio {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let number = text.trim().parse().ok();
        let ratio = number.filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Self).ok_or_else(|| Invalid {
            text: text.into(),
            expected: RATIO,
        })
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DeviceChoice {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let ordinal = |digits: &str| digits.parse::<u16>().ok();
        match text.trim() {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(ordinal)
                .map(|ordinal| Self::Cuda(ordinal.into())),
        }
        .ok_or_else(|| Invalid {
            text: text.into(),
            expected: DEVICE,
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let found: Vec<SocketAddr> = text
            .to_socket_addrs()
            .map(Iterator::collect)
            .unwrap_or_default();
        // Clients that are given the name try IPv4 as well, and many try nothing else.
        let first = found
            .iter()
            .find(|address| address.is_ipv4())
            .or(found.first());
        first.copied().map(Self).ok_or_else(|| Invalid {
            text: text.into(),
            expected: ADDRESS,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

struct Text<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = Invalid>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($type:ty, $expected:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text($expected, std::marker::PhantomData))
            }
        }
    };
}

as_text!(ByteSize, BYTES);
as_text!(Span, SPAN);
as_text!(Ratio, RATIO);
as_text!(Address, ADDRESS);
as_text!(DeviceChoice, DEVICE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_are_printed() {
        for (text, bytes, printed) in [
            ("1GiB", 1 << 30, "1GiB"),
            ("1024 mib", 1 << 30, "1GiB"),
            ("4096", 4096, "4KiB"),
            ("1500", 1500, "1500B"),
            ("0", 0, "0B"),
            ("2GB", 2_000_000_000, "1953125KiB"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
            assert_eq!(printed.parse(), Ok(size));
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "1 pound", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ratios_lie_between_0_and_1() {
        for (text, ratio) in [("0", 0.0), ("1", 1.0), (" 0.25 ", 0.25), ("1e-3", 0.001)] {
            let read: Ratio = text.parse().unwrap();
            assert_eq!(read, Ratio(ratio));
            assert_eq!(read.to_string().parse(), Ok(read));
        }
        for bad in ["", "-0.1", "1.1", "NaN", "inf", "25%"] {
            assert!(bad.parse::<Ratio>().is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_read_back_as_they_are_printed() {
        for (text, device, printed) in [
            ("auto", DeviceChoice::Auto, "auto"),
            ("cpu", DeviceChoice::Cpu, "cpu"),
            ("cuda", DeviceChoice::Cuda(0), "cuda:0"),
            ("cuda:3", DeviceChoice::Cuda(3), "cuda:3"),
        ] {
            let read: DeviceChoice = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (device, printed));
            assert_eq!(printed.parse(), Ok(device));
        }
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:70000"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_may_name_its_host() {
        for (text, wanted) in [
            ("localhost:50051", "127.0.0.1:50051"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:1", "[::1]:1"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), wanted);
        }
        for bad in ["", "localhost", "127.0.0.1", "localhost:port", ":x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_back_as_they_are_printed() {
        for text in ["30s", "250ms", "1h 30m"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), text);
        }
        for bad in ["", "30", "-1s", "soon"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
