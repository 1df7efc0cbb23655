//! Ends the process at once.

use std::ffi::c_int;
use std::io::Write as _;

unsafe extern "C" {
    // SAFETY: `_exit` of POSIX takes any number and has no preconditions.
    safe fn _exit(code: c_int) -> !;
}

/// Ends the process at once, without running the exit handlers of its libraries. OpenSSL's handler frees memory that librdkafka's
/// threads may still use, if a client is still closing in the background. The process could then crash while it exits.
pub fn exit_now(code: u8) -> ! {
    // Standard output is buffered by line. If this flush fails, the rest of the output is lost.
    let _flushed = std::io::stdout().flush().is_ok();
    _exit(c_int::from(code))
}
