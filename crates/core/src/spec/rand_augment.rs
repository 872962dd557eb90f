//! RandAugment in the syntax of timm, for example `rand-m7-n4-mstd0.5-inc1`.

use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// Largest magnitude.
const MOST: f64 = 10.0;
/// Most operations of a clip.
const MOST_LAYERS: u8 = 15;

/// How pictures are changed at random: some of 15 operations, each done with probability 0.5.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandAugment {
    /// Mean magnitude, 0 to 10.
    pub magnitude: f64,
    /// Number of operations that are drawn, with repetition.
    pub layers: u8,
    /// Standard deviation of the magnitude.
    pub deviation: f64,
    /// Whether every operation changes more at a larger magnitude.
    pub increasing: bool,
}

impl fmt::Display for RandAugment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            magnitude,
            layers,
            deviation,
            increasing,
        } = self;
        let increasing = u8::from(*increasing);
        write!(
            f,
            "rand-m{magnitude}-n{layers}-mstd{deviation}-inc{increasing}"
        )
    }
}

impl FromStr for RandAugment {
    type Err = Invalid;

    /// Reads the sections m (10 by default), n (2), mstd (0) and inc (0), in any order. `inc0` means what it says; in the reference any `inc` is on.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |section: &str| {
            let problem = format!(
                "{section:?} of {text:?}: expected rand-mM-nN-mstdS-incI, M and S 0 to 10, N 1 to 15, I 0 or 1"
            );
            Invalid::new("rand_augment", problem)
        };
        let mut read = Self {
            magnitude: MOST,
            layers: 2,
            deviation: 0.0,
            increasing: false,
        };
        let mut sections = text.split('-');
        match sections.next() {
            Some("rand") => {}
            other => return Err(wrong(other.unwrap_or_default())),
        }
        for section in sections {
            let digit = section.find(|c: char| c.is_ascii_digit());
            let (key, value) = section.split_at(digit.unwrap_or(section.len()));
            let number = value.parse::<f64>().ok();
            let number = number.filter(|number| (0.0..=MOST).contains(number));
            match key {
                "m" => read.magnitude = number.ok_or_else(|| wrong(section))?,
                "mstd" => read.deviation = number.ok_or_else(|| wrong(section))?,
                "n" => {
                    let layers = value.parse().ok();
                    let layers = layers.filter(|layers| (1..=MOST_LAYERS).contains(layers));
                    read.layers = layers.ok_or_else(|| wrong(section))?;
                }
                "inc" => {
                    read.increasing = match value {
                        "0" => false,
                        "1" => true,
                        _ => return Err(wrong(section)),
                    }
                }
                _ => return Err(wrong(section)),
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syntax_of_timm_is_read_and_shown() {
        let text = "rand-m7-n4-mstd0.5-inc1";
        let read: RandAugment = text.parse().unwrap();
        let expected = RandAugment {
            magnitude: 7.0,
            layers: 4,
            deviation: 0.5,
            increasing: true,
        };
        assert_eq!((read, read.to_string().as_str()), (expected, text));
        let short: RandAugment = "rand".parse().unwrap();
        assert_eq!(short.to_string(), "rand-m10-n2-mstd0-inc0");
        for wrong in [
            "",
            "auto-m7",
            "rand-m11",
            "rand-n0",
            "rand-n16",
            "rand-w0",
            "rand-m",
            "rand-inc2",
            "rand-mNaN",
            "rand-n2.5",
            "rand-",
            "rand-m7-x",
        ] {
            let refused = wrong.parse::<RandAugment>().unwrap_err();
            assert_eq!(refused.field, "rand_augment", "{wrong}");
        }
    }
}
