//! What was found in a video: how players turn it, and warnings.

use super::codes::coded;

coded! {
    /// How players turn a picture to show it upright.
    Rotation {
        /// Not at all.
        None = 0, "0";
        /// A quarter turn clockwise.
        Quarter = 1, "90";
        /// Half a turn.
        Half = 2, "180";
        /// A quarter turn counter-clockwise.
        ThreeQuarters = 3, "270";
    }
}

impl Rotation {
    /// Clockwise degrees.
    pub fn degrees(self) -> u32 {
        u32::from(self as u8) * 90
    }

    /// Whether width and height change places.
    pub fn is_sideways(self) -> bool {
        matches!(self, Self::Quarter | Self::ThreeQuarters)
    }
}

/// What players do to a stored picture: they mirror it, then turn it. There are eight orientations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Orientation {
    /// Whether the stored picture is mirrored left to right, before it is turned.
    pub is_mirrored: bool,
    /// The turn.
    pub rotation: Rotation,
}

impl Orientation {
    /// The picture as it is stored.
    pub const STORED: Self = Self {
        is_mirrored: false,
        rotation: Rotation::None,
    };

    /// The orientation of a display matrix, in the order of QuickTime's `tkhd`: a point (x, y) goes to (a x + c y, b x + d y), and y points down.
    ///
    /// A matrix that is no right-angled one within half a degree is not applied.
    pub(crate) fn of_matrix([a, b, _, c, d, _, _, _, _]: [i32; 9]) -> Self {
        /// The tangent of half a degree.
        const TILT: f64 = 0.008_727;
        let [a, b, c, d] = [a, b, c, d].map(f64::from);
        let is_small = |part: f64, whole: f64| whole != 0.0 && part.abs() <= TILT * whole.abs();
        let is_upright = is_small(b, a) && is_small(c, d);
        let is_sideways = is_small(a, b) && is_small(d, c);
        if !is_upright && !is_sideways {
            return Self::STORED;
        }
        let is_mirrored = a * d - b * c < 0.0;
        // Where the turn alone takes the point (1, 0).
        let sign = if is_mirrored { -1.0 } else { 1.0 };
        let rotation = match (is_upright, a * sign > 0.0, b * sign > 0.0) {
            (true, true, _) => Rotation::None,
            (true, false, _) => Rotation::Half,
            (false, _, true) => Rotation::Quarter,
            (false, _, false) => Rotation::ThreeQuarters,
        };
        Self {
            is_mirrored,
            rotation,
        }
    }
}

coded! {
    /// A finding that did not prevent decoding.
    Warning {
        /// A decoder error ended the video early, or pictures are marked as damaged.
        Damaged = 1, "DAMAGED";
        /// The container promises more than there is.
        Truncated = 2, "TRUNCATED";
        /// Frames have equal time stamps, or none. All are kept; the order of the reference drops them.
        Repeated = 4, "REPEATED_TIME_STAMPS";
        /// Time stamps start again, as in recordings that were joined. All frames are kept, and time goes on.
        Restarted = 8, "RESTARTED_TIME_STAMPS";
        /// Sorting by time stamps gives another order than the one that players show.
        Shuffled = 16, "SHUFFLED_TIME_STAMPS";
    }
}

/// A set of warnings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Warnings(u8);

impl Warnings {
    /// Adds a warning.
    pub(crate) fn insert(&mut self, warning: Warning) {
        self.0 |= warning as u8;
    }

    /// Whether a warning is in the set.
    pub fn contains(self, warning: Warning) -> bool {
        self.0 & warning as u8 != 0
    }

    /// The warnings in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Warning> {
        Warning::ALL
            .iter()
            .copied()
            .filter(move |&warning| self.contains(warning))
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// `None` for a bit that no warning has.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        let known = Warning::ALL
            .iter()
            .fold(0, |known, &warning| known | warning as u8);
        (bits & !known == 0).then_some(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eight_matrices_are_eight_orientations() {
        let mut seen = std::collections::HashSet::new();
        for ((a, b, c, d), degrees, is_mirrored) in [
            ((1, 0, 0, 1), 0, false),
            ((0, 1, -1, 0), 90, false),
            ((-1, 0, 0, -1), 180, false),
            ((0, -1, 1, 0), 270, false),
            ((-1, 0, 0, 1), 0, true),
            // The left edge goes to the bottom: mirrored, it is on the right, which a quarter turn takes to the bottom.
            ((0, -1, -1, 0), 90, true),
            ((1, 0, 0, -1), 180, true),
            ((0, 1, 1, 0), 270, true),
        ] {
            for scale in [1, 1 << 16] {
                let [a, b, c, d] = [a, b, c, d].map(|part: i32| part * scale);
                let found = Orientation::of_matrix([a, b, 0, c, d, 0, 7, 9, 1 << 30]);
                assert_eq!(
                    (found.rotation.degrees(), found.is_mirrored),
                    (degrees, is_mirrored)
                );
                seen.insert(found);
            }
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn a_matrix_without_right_angles_is_not_applied() {
        for (a, b, c, d) in [
            (0, 0, 0, 0),
            (1, 1, -1, 1),
            (1, 0, 0, 0),
            (i32::MIN, i32::MIN, 1, 1),
        ] {
            let found = Orientation::of_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30]);
            assert_eq!(found, Orientation::STORED, "{a} {b} {c} {d}");
        }
        // A matrix of measured angles, a tenth of a degree off.
        let found = Orientation::of_matrix([114, 65_536, 0, -65_536, 114, 0, 0, 0, 1 << 30]);
        assert_eq!(found.rotation, Rotation::Quarter);
    }
}
