//! `synod_decoders` says what is checked.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synod_decoders::run("link", data);
});
