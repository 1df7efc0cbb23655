//! The end of the process.

use std::ffi::c_int;
use std::io::Write as _;

unsafe extern "C" {
    // SAFETY: `_exit` of POSIX takes any number and has no preconditions.
    safe fn _exit(code: c_int) -> !;
}

/// Ends the process at once, without the exit handlers of its libraries. OpenSSL's frees what threads of librdkafka may still use:
/// a client that closes in the background would crash the process at its end.
pub fn exit_now(code: u8) -> ! {
    // Standard output is written line by line; a closed one has no reader.
    let _flushed = std::io::stdout().flush().is_ok();
    _exit(c_int::from(code))
}
