//! The access logger `counts`: called by Envoy when a request or a connection has ended.

use std::os::raw::c_void;

use crate::abi::{guarded, log_warning, Buffer};
use crate::report::{self, Ends, Settings};
use crate::verdict::{verdict_of, Asked, Stage, HTTP_STAGES, TLS_STAGES};

#[cfg(test)]
use without_envoy::*;

const HTTP_RBAC: &[u8] = b"envoy.filters.http.rbac";
const NETWORK_RBAC: &[u8] = b"envoy.filters.network.rbac";
const DENIED: &[u8] = b"denied";

/// `envoy_dynamic_module_type_access_log_type`: those that come once, at the end.
const NOT_SET: u32 = 0;
const TCP_CONNECTION_END: u32 = 3;
const DOWNSTREAM_END: u32 = 6;

type Log = *mut c_void;

#[repr(C)]
#[derive(Default)]
struct BytesInfo {
    received: u64,
    sent: u64,
    wire_received: u64,
    wire_sent: u64,
}

#[cfg(not(test))]
extern "C" {
    fn envoy_dynamic_module_callback_access_logger_get_downstream_direct_remote_address(
        log: Log,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;
    fn envoy_dynamic_module_callback_access_logger_get_downstream_local_address(
        log: Log,
        address: *mut Buffer,
        port: *mut u32,
    ) -> bool;
    fn envoy_dynamic_module_callback_access_logger_get_connection_id(
        log: Log,
        id: *mut u64,
    ) -> bool;
    fn envoy_dynamic_module_callback_access_logger_get_response_code_details(
        log: Log,
        details: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_access_logger_get_connection_termination_details(
        log: Log,
        details: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_access_logger_get_response_flags(
        log: Log,
        flags: *mut u64,
    ) -> bool;
    fn envoy_dynamic_module_callback_access_logger_get_bytes_info(log: Log, bytes: *mut BytesInfo);
    fn envoy_dynamic_module_callback_access_logger_get_dynamic_metadata(
        log: Log,
        namespace: Buffer,
        path: Buffer,
        value: *mut Buffer,
    ) -> bool;
}

/// One logger's settings; Err: why it counts nothing.
struct Logger {
    settings: Option<Settings>,
}

/// What Envoy knows of the request that has ended. Lives for one call.
struct Ended {
    log: Log,
    is_tcp: bool,
    audited: bool,
}

impl Ended {
    fn ask(&self, question: impl FnOnce(Log, *mut Buffer) -> bool) -> &[u8] {
        let mut answer = Buffer::EMPTY;
        if !question(self.log, &mut answer) {
            return &[];
        }
        // What Envoy lends lives until the call ends, as `self` does.
        unsafe { answer.borrow() }
    }

    fn ends(&self) -> Ends<'_> {
        let (mut client, mut server) = (Buffer::EMPTY, Buffer::EMPTY);
        let (mut client_port, mut server_port, mut connection) = (0_u32, 0_u32, 0_u64);
        unsafe {
            // The direct one: the other is what a client's X-Forwarded-For says.
            envoy_dynamic_module_callback_access_logger_get_downstream_direct_remote_address(
                self.log,
                &mut client,
                &mut client_port,
            );
            envoy_dynamic_module_callback_access_logger_get_downstream_local_address(
                self.log,
                &mut server,
                &mut server_port,
            );
            envoy_dynamic_module_callback_access_logger_get_connection_id(
                self.log,
                &mut connection,
            );
            Ends {
                client: client.borrow(),
                client_port: client_port as u16,
                server: server.borrow(),
                connection,
            }
        }
    }

    fn bytes(&self) -> u64 {
        let mut bytes = BytesInfo::default();
        unsafe { envoy_dynamic_module_callback_access_logger_get_bytes_info(self.log, &mut bytes) };
        bytes.received + bytes.sent
    }
}

impl Asked for Ended {
    fn stages(&self) -> &'static [Stage] {
        if self.is_tcp {
            &TLS_STAGES
        } else {
            &HTTP_STAGES
        }
    }

    fn details(&self) -> &[u8] {
        if self.is_tcp {
            return self.ask(|log, answer| unsafe {
                envoy_dynamic_module_callback_access_logger_get_connection_termination_details(
                    log, answer,
                )
            });
        }
        self.ask(|log, answer| unsafe {
            envoy_dynamic_module_callback_access_logger_get_response_code_details(log, answer)
        })
    }

    fn flags(&self) -> u64 {
        let mut flags = 0;
        unsafe {
            envoy_dynamic_module_callback_access_logger_get_response_flags(self.log, &mut flags)
        };
        flags
    }

    fn is_denied(&self, key: &str) -> bool {
        let namespace = Buffer::lend(if self.is_tcp { NETWORK_RBAC } else { HTTP_RBAC });
        let value = self.ask(|log, answer| unsafe {
            envoy_dynamic_module_callback_access_logger_get_dynamic_metadata(
                log,
                namespace,
                Buffer::lend(key.as_bytes()),
                answer,
            )
        });
        value == DENIED
    }

    fn is_audited(&self) -> bool {
        self.audited
    }
}

fn log_ended(logger: &Logger, log: Log, kind: u32) {
    let settings = match &logger.settings {
        Some(settings) if matches!(kind, NOT_SET | TCP_CONNECTION_END | DOWNSTREAM_END) => settings,
        _ => return,
    };
    report::with(settings, |scope| {
        let ended = Ended {
            log,
            is_tcp: kind == TCP_CONNECTION_END,
            audited: scope.is_audited(),
        };
        let (kind, side) = verdict_of(&ended, settings.side());
        scope.count(ended.ends(), kind, side, ended.bytes());
    });
}

/// A logger for each listener. What can't be read counts nothing: it must not cost the node its listener.
#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_access_logger_config_new(
    _config: *mut c_void,
    _name: Buffer,
    config: Buffer,
) -> *const c_void {
    guarded(std::ptr::null(), || {
        let text = String::from_utf8_lossy(unsafe { config.borrow() });
        let settings = match Settings::parse(&text) {
            Ok(settings) => Some(settings),
            Err(problem) => {
                log_warning(&format!("tidegate: requests are not counted: {problem}"));
                None
            }
        };
        if let Some(settings) = &settings {
            // Opened now, so that a worker's first request need not.
            if let Err(problem) = crate::node::obtain(&settings.maps) {
                log_warning(&format!("tidegate: {}: {problem}", settings.maps.display()));
            }
        }
        Box::into_raw(Box::new(Logger { settings })) as *const c_void
    })
}

#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_access_logger_config_destroy(config: *const c_void) {
    guarded((), || {
        if !config.is_null() {
            drop(unsafe { Box::from_raw(config as *mut Logger) });
        }
    });
}

/// A worker's logger is the listener's: what a worker keeps is its own (report.rs).
#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_access_logger_new(
    config: *const c_void,
    _log: Log,
) -> *const c_void {
    config
}

#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_access_logger_log(
    log: Log,
    logger: *const c_void,
    kind: u32,
) {
    guarded((), || {
        if !logger.is_null() {
            log_ended(unsafe { &*(logger as *const Logger) }, log, kind);
        }
    });
}

#[no_mangle]
pub extern "C" fn envoy_dynamic_module_on_access_logger_destroy(_logger: *const c_void) {}

#[cfg(test)]
mod without_envoy {
    //! Envoy's side, for a test binary to link.
    use super::*;

    macro_rules! absent {
        ($($name:ident($($type:ty),*) -> $result:ty = $value:expr;)*) => {
            $(pub(super) unsafe fn $name($(_: $type),*) -> $result { $value })*
        };
    }

    absent! {
        envoy_dynamic_module_callback_access_logger_get_downstream_direct_remote_address(Log, *mut Buffer, *mut u32) -> bool = false;
        envoy_dynamic_module_callback_access_logger_get_downstream_local_address(Log, *mut Buffer, *mut u32) -> bool = false;
        envoy_dynamic_module_callback_access_logger_get_connection_id(Log, *mut u64) -> bool = false;
        envoy_dynamic_module_callback_access_logger_get_response_code_details(Log, *mut Buffer) -> bool = false;
        envoy_dynamic_module_callback_access_logger_get_connection_termination_details(Log, *mut Buffer) -> bool = false;
        envoy_dynamic_module_callback_access_logger_get_response_flags(Log, *mut u64) -> bool = false;
        envoy_dynamic_module_callback_access_logger_get_bytes_info(Log, *mut BytesInfo) -> () = ();
        envoy_dynamic_module_callback_access_logger_get_dynamic_metadata(Log, Buffer, Buffer, *mut Buffer) -> bool = false;
    }
}
