#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qwenauth::internals::check("answer", bytes));
