//! The layers of the workers' confinement: their names, and sets of them.

use std::fmt;

macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        /// A layer of the workers' confinement.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Layer {
            $($(#[$doc])* $name = $bit,)*
        }

        impl Layer {
            /// Every layer, in the order in which a worker puts them on.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// A short name for logs and the API.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

layers! {
    /// A process of its own, without the server's memory, environment and descriptors, that ends with its zygote and that others cannot look into.
    Process = 1, "process";
    /// Limits of memory, processor time, files and processes.
    ResourceLimits = 2, "rlimits";
    /// The worker can gain no privileges.
    NoNewPrivileges = 4, "no_new_privs";
    /// Landlock: no path, no TCP port, no signal and no abstract socket outside, as far as the kernel's version goes.
    Landlock = 8, "landlock";
    /// A list of system calls; any other ends the process.
    Seccomp = 16, "seccomp";
}

/// A set of layers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Layers(u8);

impl Layers {
    /// No layer: for tests that show what the layers are there for.
    pub const NONE: Self = Self(0);
    /// Every layer.
    pub const ALL: Self = Self(31);
    /// The layers that do not need a kernel with Landlock or seccomp.
    pub const PLAIN: Self = Self(7);

    /// Adds a layer.
    #[must_use]
    pub const fn with(self, layer: Layer) -> Self {
        Self(self.0 | layer as u8)
    }

    /// Whether a layer is in the set.
    pub fn contains(self, layer: Layer) -> bool {
        self.0 & layer as u8 != 0
    }

    /// The layers of this set that the other lacks.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set has no layer.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The layers in the order in which a worker puts them on.
    pub fn iter(self) -> impl Iterator<Item = Layer> {
        let all = Layer::ALL.iter().copied();
        all.filter(move |&layer| self.contains(layer))
    }

    /// Whether the kernel itself keeps a worker from the rest of the system: with Landlock or seccomp.
    pub fn is_confined(self) -> bool {
        self.contains(Layer::Landlock) || self.contains(Layer::Seccomp)
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// `None` for a bit that no layer has.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, layer) in self.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, layer.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let all = Layer::ALL
            .iter()
            .fold(Layers::NONE, |set, &layer| set.with(layer));
        assert_eq!(all, Layers::ALL);
        assert_eq!(all.iter().collect::<Vec<_>>(), Layer::ALL);
        let kernel = Layers::ALL.without(Layers::PLAIN);
        assert_eq!(kernel.to_string(), "landlock, seccomp");
        assert!(kernel.is_confined() && !Layers::PLAIN.is_confined());
        assert_eq!(Layers::NONE.to_string(), "none");
        assert_eq!(Layers::from_bits(31), Some(Layers::ALL));
        assert_eq!(Layers::from_bits(32), None);
    }
}
