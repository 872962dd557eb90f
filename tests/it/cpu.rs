//! `FRAMESHIFT_CPU=portable|avx2|avx512|amx` limits the tests to an instruction set.
#![allow(unsafe_code)]

use frameshift::model::{self, Isa};

/// Runs before `main`, so before any test computes. A server in a separate process reads the variable itself.
#[used]
#[unsafe(link_section = ".init_array")]
static HOOK: extern "C" fn() = {
    extern "C" fn hook() {
        if let Ok(name) = std::env::var("FRAMESHIFT_CPU") {
            let isa = name.parse::<Isa>();
            isa.and_then(model::limit).expect("FRAMESHIFT_CPU");
        }
    }
    hook
};

#[test]
fn the_tests_compute_with_the_instructions_that_were_asked_for() {
    use frameshift::spec::Precision;
    let used = model::instructions(Precision::F32);
    match std::env::var("FRAMESHIFT_CPU").ok().as_deref() {
        // AMX does not multiply floats; AVX-512 does so beside it.
        Some("amx") => assert_eq!(used, "avx512"),
        Some(asked) => assert_eq!(used, asked),
        None => {}
    }
}
