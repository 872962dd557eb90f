//! The instruction sets that the kernels are written for: which of them this CPU has, and which of those this process may use.
//!
//! Invariant: every choice of instructions below `model` asks here, so that [`limit`] makes a process compute as on a lesser CPU.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use super::kernel::{self, Format, tiles::Tiles};
use crate::spec::Invalid;

/// A set of instructions; later ones are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Isa {
    /// Plain loops, as the compiler translates them.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512, with its bfloat16 or VNNI instructions for those formats.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AMX's matrix unit, for bfloat16 and 8-bit integers, with AVX-512 for the remainder.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// NEON, which every 64-bit ARM has.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The best set that this process may use, as a number. A process-wide switch like the CPU itself; it is set before anything is computed, or never.
static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Makes this process compute as on a CPU whose best instructions are these: for tests of every instruction set on one machine.
///
/// # Errors
/// When this CPU does not have these instructions.
pub fn limit(isa: Isa) -> Result<(), Invalid> {
    if ![Format::F32, Format::Bf16, Format::Int8]
        .iter()
        .any(|&format| isa.runs(format))
    {
        return Err(Invalid::new("cpu", format!("this CPU has no {isa}")));
    }
    LIMIT.store(isa as u8, Ordering::Relaxed);
    Ok(())
}

/// Whether AVX2 and FMA may be used and exist.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn is_wide() -> bool {
    Isa::Avx2.is_allowed()
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
}

/// Whether the instructions of 512 bits may be used and exist as well.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn is_widest() -> bool {
    is_wide()
        && Isa::Avx512.is_allowed()
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl")
}

impl Isa {
    /// Every set, the best first.
    pub(crate) const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Amx,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        Self::Portable,
    ];

    /// Whether [`limit`] admits this set.
    #[inline]
    fn is_allowed(self) -> bool {
        self as u8 <= LIMIT.load(Ordering::Relaxed)
    }

    /// Whether this process may use what a format needs of this set, and the CPU has it.
    pub(crate) fn runs(self, format: Format) -> bool {
        self.is_allowed() && self.tiles().has(format)
    }

    /// The tiles of this set.
    pub(super) fn tiles(self) -> &'static dyn Tiles {
        match self {
            Self::Portable => &kernel::portable::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &kernel::avx2::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &kernel::avx512::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Amx => &kernel::amx::Amx,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => &kernel::neon::Neon,
        }
    }

    /// The name of the set, as `bench compute` prints it and [`FromStr`] reads it.
    pub(super) fn name(self) -> &'static str {
        self.tiles().name()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.iter().find(|isa| isa.name() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|isa| isa.name()).collect();
            Invalid::new(
                "cpu",
                format!("expected one of {}, got {text:?}", names.join(", ")),
            )
        })
    }
}

#[cfg(test)]
mod tests;
