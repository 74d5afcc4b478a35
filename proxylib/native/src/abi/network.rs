//! The network filter: Envoy's hooks on one side, `kafka::shell` on the other.

use std::net::IpAddr;
use std::os::raw::c_void;

use super::{guarded, Buffer};
use crate::kafka::shell::{Carrier, Config, Ending, Filter};

#[cfg(test)]
use without_envoy::*;

/// `envoy_dynamic_module_type_on_network_filter_data_status`
const CONTINUE: u32 = 0;
const STOP_ITERATION: u32 = 1;
/// `envoy_dynamic_module_type_network_connection_close_type`
const FLUSH_WRITE: u32 = 0;
const NO_FLUSH: u32 = 1;
/// Slices of one buffer; one of Envoy's read buffers has a few.
const CHUNKS_MAX: usize = 1_024;

type Envoy = *mut c_void;

#[cfg(not(test))]
extern "C" {
    fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size(
        envoy: Envoy,
    ) -> usize;
    fn envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks(
        envoy: Envoy,
        chunks: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size(
        envoy: Envoy,
    ) -> usize;
    fn envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks(
        envoy: Envoy,
        chunks: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_drain_read_buffer(
        envoy: Envoy,
        length: usize,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_drain_write_buffer(
        envoy: Envoy,
        length: usize,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_prepend_read_buffer(
        envoy: Envoy,
        data: Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_prepend_write_buffer(
        envoy: Envoy,
        data: Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_inject_read_data(
        envoy: Envoy,
        data: Buffer,
        end: bool,
    );
    fn envoy_dynamic_module_callback_network_filter_inject_write_data(
        envoy: Envoy,
        data: Buffer,
        end: bool,
    );
    fn envoy_dynamic_module_callback_network_filter_close_with_details(
        envoy: Envoy,
        kind: u32,
        details: Buffer,
    );
    fn envoy_dynamic_module_callback_network_filter_get_remote_address(
        envoy: Envoy,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_get_local_address(
        envoy: Envoy,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;
    fn envoy_dynamic_module_callback_network_filter_get_connection_id(envoy: Envoy) -> u64;
    fn envoy_dynamic_module_callback_network_filter_read_disable(
        envoy: Envoy,
        disable: bool,
    ) -> u32;
}

/// Which buffer a hook is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Read,
    Write,
}

/// Envoy's connection, for the time of one hook.
struct Hook {
    envoy: Envoy,
    side: Side,
}

impl Hook {
    /// The buffer's bytes as Envoy has them, or one copy where they are in too many slices.
    fn with_input<T>(&self, use_input: impl FnOnce(&[&[u8]]) -> T) -> T {
        let mut chunks: [Buffer; 16] = [Buffer::EMPTY; 16];
        let mut more = Vec::new();
        let envoy = self.envoy;
        let count = unsafe {
            match self.side {
                Side::Read => {
                    envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size(envoy)
                }
                Side::Write => {
                    envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size(envoy)
                }
            }
        };
        assert!(count <= CHUNKS_MAX, "a buffer of too many slices");
        let room: &mut [Buffer] = if count <= chunks.len() {
            &mut chunks[..count]
        } else {
            more.resize(count, Buffer::EMPTY);
            &mut more
        };
        let found = count > 0
            && unsafe {
                // Envoy fills in as many as it has just told.
                match self.side {
                    Side::Read => {
                        envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks(
                            envoy,
                            room.as_mut_ptr(),
                        )
                    }
                    Side::Write => {
                        envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks(
                            envoy,
                            room.as_mut_ptr(),
                        )
                    }
                }
            };
        if !found {
            return use_input(&[]);
        }
        // The slices live until the buffer changes, which the shell does when it is done with them.
        let slices: Vec<&[u8]> = room.iter().map(|chunk| unsafe { chunk.borrow() }).collect();
        use_input(&slices)
    }
}

impl Carrier for Hook {
    fn prepend(&mut self, bytes: &[u8]) {
        let data = Buffer::lend(bytes);
        unsafe {
            match self.side {
                Side::Read => envoy_dynamic_module_callback_network_filter_prepend_read_buffer(
                    self.envoy, data,
                ),
                Side::Write => envoy_dynamic_module_callback_network_filter_prepend_write_buffer(
                    self.envoy, data,
                ),
            }
        };
    }

    fn drain(&mut self, length: usize) {
        unsafe {
            match self.side {
                Side::Read => envoy_dynamic_module_callback_network_filter_drain_read_buffer(
                    self.envoy, length,
                ),
                Side::Write => envoy_dynamic_module_callback_network_filter_drain_write_buffer(
                    self.envoy, length,
                ),
            }
        };
    }

    fn to_broker(&mut self, bytes: &[u8]) {
        let data = Buffer::lend(bytes);
        unsafe {
            envoy_dynamic_module_callback_network_filter_inject_read_data(self.envoy, data, false)
        };
    }

    fn to_client(&mut self, bytes: &[u8]) {
        let data = Buffer::lend(bytes);
        unsafe {
            envoy_dynamic_module_callback_network_filter_inject_write_data(self.envoy, data, false)
        };
    }

    fn pause(&mut self, pause: bool) {
        unsafe {
            envoy_dynamic_module_callback_network_filter_read_disable(self.envoy, pause);
        }
    }

    fn close(&mut self, ending: Ending, details: &str) {
        let kind = match ending {
            Ending::Flush => FLUSH_WRITE,
            Ending::Now => NO_FLUSH,
        };
        let details = Buffer::lend(details.as_bytes());
        unsafe {
            envoy_dynamic_module_callback_network_filter_close_with_details(
                self.envoy, kind, details,
            )
        };
    }
}

type Ask = unsafe extern "C" fn(Envoy, *mut Buffer, *mut u32) -> bool;

fn address(envoy: Envoy, ask: Ask) -> Option<(IpAddr, u16)> {
    let (mut text, mut port) = (Buffer::EMPTY, 0);
    if !unsafe { ask(envoy, &mut text, &mut port) } {
        return None;
    }
    let text = std::str::from_utf8(unsafe { text.borrow() }).ok()?;
    Some((text.parse().ok()?, u16::try_from(port).ok()?))
}

/// # Safety
/// As Envoy's ABI says: the buffers live for the call.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_new(
    _envoy: *mut c_void,
    name: Buffer,
    config: Buffer,
) -> *const c_void {
    let (name, config) = unsafe { (name.borrow(), config.borrow()) };
    guarded(std::ptr::null(), || match Config::of(name, config) {
        Ok(config) => Box::into_raw(Box::new(config)) as *const c_void,
        Err(error) => {
            eprintln!("tidegate: Kafka filter: {}", error);
            std::ptr::null()
        }
    })
}

/// # Safety
/// `config` came from `config_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_config_destroy(
    config: *mut c_void,
) {
    guarded((), || drop(unsafe { Box::from_raw(config as *mut Config) }))
}

/// # Safety
/// `config` came from `config_new` and lives longer than the filter.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new(
    config: *mut c_void,
    _envoy: Envoy,
) -> *const c_void {
    guarded(std::ptr::null(), || {
        let config = unsafe { &*(config as *const Config) };
        Box::into_raw(Box::new(Filter::new(config))) as *const c_void
    })
}

/// # Safety
/// `filter` came from `new`; Envoy calls one hook of a filter at a time, but for those that our own calls bring about.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_new_connection(
    envoy: Envoy,
    filter: *mut c_void,
) -> u32 {
    let filter = unsafe { &*(filter as *const Filter) };
    let mut hook = Hook {
        envoy,
        side: Side::Read,
    };
    run(filter, &mut hook, |filter, hook| {
        let client = address(
            envoy,
            envoy_dynamic_module_callback_network_filter_get_remote_address,
        );
        let server = address(
            envoy,
            envoy_dynamic_module_callback_network_filter_get_local_address,
        );
        let number =
            unsafe { envoy_dynamic_module_callback_network_filter_get_connection_id(envoy) };
        filter.begin(hook, client, server, number)
    })
}

/// # Safety
/// As for `new_connection`.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_read(
    envoy: Envoy,
    filter: *mut c_void,
    _length: usize,
    _end: bool,
) -> u32 {
    let filter = unsafe { &*(filter as *const Filter) };
    let mut hook = Hook {
        envoy,
        side: Side::Read,
    };
    run(filter, &mut hook, |filter, hook| {
        let decision = hook.with_input(|input| filter.request(input));
        filter.carry_out(hook, decision)
    })
}

/// # Safety
/// As for `new_connection`.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_write(
    envoy: Envoy,
    filter: *mut c_void,
    _length: usize,
    _end: bool,
) -> u32 {
    let filter = unsafe { &*(filter as *const Filter) };
    let mut hook = Hook {
        envoy,
        side: Side::Write,
    };
    run(filter, &mut hook, |filter, hook| {
        let decision = hook.with_input(|input| filter.response(input));
        filter.carry_out(hook, decision)
    })
}

/// Runs a hook; where it panics the connection ends.
fn run(filter: &Filter, hook: &mut Hook, call: impl FnOnce(&Filter, &mut Hook) -> bool) -> u32 {
    let go_on = guarded(None, || Some(call(filter, hook)));
    match go_on {
        Some(true) => CONTINUE,
        Some(false) => STOP_ITERATION,
        None => {
            guarded((), || filter.fault());
            hook.close(Ending::Now, "tidegate_kafka_fault");
            STOP_ITERATION
        }
    }
}

/// # Safety
/// As for `new_connection`.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_event(
    _envoy: Envoy,
    _filter: *mut c_void,
    _event: u32,
) {
}

/// # Safety
/// `filter` came from `new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn envoy_dynamic_module_on_network_filter_destroy(filter: *mut c_void) {
    guarded((), || drop(unsafe { Box::from_raw(filter as *mut Filter) }))
}

/// Stands where Envoy would be, so that the crate's own tests link.
#[cfg(test)]
#[allow(non_snake_case)]
mod without_envoy {
    use super::{Buffer, Envoy};

    macro_rules! absent {
        ($($name:ident ( $($argument:ty),* ) -> $result:ty;)*) => {
            $(pub unsafe extern "C" fn $name($(_: $argument),*) -> $result { unreachable!("there is no Envoy here") })*
        };
    }

    absent! {
        envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks_size(Envoy) -> usize;
        envoy_dynamic_module_callback_network_filter_get_read_buffer_chunks(Envoy, *mut Buffer) -> bool;
        envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks_size(Envoy) -> usize;
        envoy_dynamic_module_callback_network_filter_get_write_buffer_chunks(Envoy, *mut Buffer) -> bool;
        envoy_dynamic_module_callback_network_filter_drain_read_buffer(Envoy, usize) -> bool;
        envoy_dynamic_module_callback_network_filter_drain_write_buffer(Envoy, usize) -> bool;
        envoy_dynamic_module_callback_network_filter_prepend_read_buffer(Envoy, Buffer) -> bool;
        envoy_dynamic_module_callback_network_filter_prepend_write_buffer(Envoy, Buffer) -> bool;
        envoy_dynamic_module_callback_network_filter_inject_read_data(Envoy, Buffer, bool) -> ();
        envoy_dynamic_module_callback_network_filter_inject_write_data(Envoy, Buffer, bool) -> ();
        envoy_dynamic_module_callback_network_filter_close_with_details(Envoy, u32, Buffer) -> ();
        envoy_dynamic_module_callback_network_filter_get_remote_address(Envoy, *mut Buffer, *mut u32) -> bool;
        envoy_dynamic_module_callback_network_filter_get_local_address(Envoy, *mut Buffer, *mut u32) -> bool;
        envoy_dynamic_module_callback_network_filter_get_connection_id(Envoy) -> u64;
        envoy_dynamic_module_callback_network_filter_read_disable(Envoy, bool) -> u32;
    }
}
