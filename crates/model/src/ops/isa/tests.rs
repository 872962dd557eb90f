//! The limit of the instructions, and the hook by which `FRAMESHIFT_CPU` sets it for this crate's own tests.
// The variable is a test's own; the program gets it through its configuration.
#![allow(unsafe_code, clippy::disallowed_methods)]

use super::*;

/// Runs before `main`, so before any test computes: what the program's hidden setting `cpu` does for a server.
#[used]
#[unsafe(link_section = ".init_array")]
static HOOK: extern "C" fn() = {
    extern "C" fn hook() {
        if let Ok(name) = std::env::var("FRAMESHIFT_CPU") {
            let isa: Result<Isa, Invalid> = name.parse();
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            if isa == Ok(Isa::Amx) {
                kernel::amx::emulator::install();
            }
            isa.and_then(limit).expect("FRAMESHIFT_CPU");
        }
    }
    hook
};

#[test]
fn the_best_instructions_are_within_the_limit() {
    let best = Isa::ALL.iter().find(|isa| isa.runs(Format::F32)).copied();
    let asked: Option<Isa> = std::env::var("FRAMESHIFT_CPU")
        .ok()
        .map(|name| name.parse().expect("FRAMESHIFT_CPU"));
    match asked {
        // AMX multiplies no floats: AVX-512 does beside it.
        #[cfg(target_arch = "x86_64")]
        Some(Isa::Amx) => assert_eq!(best, Some(Isa::Avx512)),
        Some(asked) => assert_eq!(best, Some(asked)),
        None => assert!(best.is_some()),
    }
}

#[test]
fn an_instruction_set_is_named_as_it_is_printed() {
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(*isa));
    }
    assert!("sse9".parse::<Isa>().is_err());
}

#[test]
#[cfg(target_arch = "x86_64")]
fn auto_is_bfloat16_where_there_is_amx() {
    use crate::spec::Precision;
    if Isa::Amx.runs(Format::Bf16) {
        assert_eq!(crate::ops::fastest(), Precision::Bf16);
        assert_eq!(crate::ops::instructions(Precision::Bf16), "amx");
        assert_eq!(crate::ops::instructions(Precision::F32), "avx512");
    }
}
