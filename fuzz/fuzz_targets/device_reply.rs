#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qwenauth_fuzz::check("device_reply", bytes));
