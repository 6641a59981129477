#![no_main]

use std::sync::Once;

#[path = "../targets.rs"]
#[allow(dead_code)]
mod targets;

/// The database may panic over what is in a file, which the index catches. The fuzzer's own hook would end
/// the process before that.
static CATCHES: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    CATCHES.call_once(|| drop(std::panic::take_hook()));
    targets::index(data);
});
