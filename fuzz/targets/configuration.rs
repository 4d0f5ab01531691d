//! `configuration`, driven by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    medbind_fuzz::configuration::run(octets);
});
