//! The border to Envoy: all `unsafe` of the crate lives in this folder.
//!
//! Names and layouts are those of Envoy's `source/extensions/dynamic_modules/abi/abi.h`; only what is
//! used is declared. One file per extension point.

pub mod access_log;
pub mod network;
pub mod system;

use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// The ABI this module was written for. Envoy warns, but does not refuse, when its own differs.
const ABI_VERSION: &[u8] = b"v0.2.0\0";

/// Bytes lent by one side to the other for the time of a call: `envoy_dynamic_module_type_*_buffer`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buffer {
    pub start: *const u8,
    pub length: usize,
}

impl Buffer {
    /// An empty buffer, for Envoy to fill in.
    pub const EMPTY: Buffer = Buffer {
        start: std::ptr::null(),
        length: 0,
    };

    /// Lends `bytes` to Envoy for one call.
    pub fn lend(bytes: &[u8]) -> Buffer {
        Buffer {
            start: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    /// The bytes that Envoy lent.
    ///
    /// # Safety
    /// `start` points at `length` bytes that live and stay unchanged for as long as the slice is used, or is null.
    pub unsafe fn borrow<'a>(self) -> &'a [u8] {
        if self.start.is_null() || self.length == 0 {
            return &[];
        }
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

/// Runs a hook; a panic becomes `fallback` instead of the end of the node's Envoy.
pub fn guarded<T>(fallback: T, hook: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(hook)).unwrap_or(fallback)
}

/// Called once, when Envoy loads the module.
#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    ABI_VERSION.as_ptr().cast()
}

const LOG_LEVEL_WARNING: u32 = 3;

#[cfg(not(test))]
extern "C" {
    fn envoy_dynamic_module_callback_log(level: u32, message: Buffer);
}

/// Writes a line to Envoy's log.
pub fn log_warning(message: &str) {
    #[cfg(not(test))]
    unsafe {
        envoy_dynamic_module_callback_log(LOG_LEVEL_WARNING, Buffer::lend(message.as_bytes()))
    };
    #[cfg(test)]
    eprintln!("level {LOG_LEVEL_WARNING}: {message}");
}
