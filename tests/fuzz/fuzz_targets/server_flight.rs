#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vizard_fuzz::server_flight(bytes));
