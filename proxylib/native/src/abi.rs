//! The border to Envoy: the only file with `unsafe`.
//!
//! Names and layouts are those of Envoy's `source/extensions/dynamic_modules/abi/abi.h`.

use std::os::raw::c_char;

/// The ABI this module was written for. Envoy warns, but does not refuse, when its own differs.
const ABI_VERSION: &[u8] = b"v0.2.0\0";

/// Called once, when Envoy loads the module.
#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    ABI_VERSION.as_ptr().cast()
}
