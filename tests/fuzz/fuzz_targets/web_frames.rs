#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vizard_fuzz::web_frames(bytes));
