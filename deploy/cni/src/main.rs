//! `tidegate-cni`: a chained CNI plugin (CNI 1.1) that lets no packet of a pod pass before its policy is in force.
//!
//! It stands last in the chain. ADD: the plugins before it made the pod's interface; it
//!
//! 1. closes the host side: the agent's programs, which outlive the agent, are attached, and drop everything for an interface that
//!    has no entry (reason `not_ready`);
//! 2. tells the agent of the pod and waits until its policy is in force, for `waitSeconds` at most;
//! 3. hands on the result of the plugins before it, and writes one line to its log about what it did.
//!
//! A pod whose policy is not in force in time starts closed, and opens when it is. Where nothing can close the interface (the agent
//! never ran on this node, or the kernel has no TCX and the agent is away) ADD fails, and the kubelet tries again; with
//! `"withoutAgent": "open"` the pod starts unmanaged instead.
//!
//! DEL forgets what ADD did and always succeeds.

mod agent;
mod json;
mod kernel;

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent::{Outcome, Sandbox};
use json::{quoted, Document, Value};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;
const LOG_BYTES_MAX: u64 = 1 << 20;
const WAIT_SECONDS: f64 = 5.0;
/// However large `waitSeconds` is: runtimes give a plugin about two minutes.
const WAIT_SECONDS_MAX: f64 = 60.0;

/// CNI's own error codes, as far as used.
#[derive(Clone, Copy)]
enum Code {
    Environment = 4,
    Io = 5,
    Decode = 6,
    Configuration = 7,
    TryAgain = 11,
}

struct Failure {
    code: Code,
    message: String,
}

fn failure<T>(code: Code, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure {
        code,
        message: message.into(),
    })
}

/// What the configuration says.
struct Settings {
    state: PathBuf,
    pins: PathBuf,
    wait: Duration,
    open_without_agent: bool,
}

impl Settings {
    fn of(value: &Value) -> Result<Settings, Failure> {
        let path = |name: &str, default: &str| {
            let text = value.text(name);
            PathBuf::from(if text.is_empty() { default } else { text })
        };
        let open_without_agent = match value.text("withoutAgent") {
            "" | "refuse" => false,
            "open" => true,
            other => {
                return failure(
                    Code::Configuration,
                    format!("withoutAgent is {:?}: write refuse or open", other),
                )
            }
        };
        Ok(Settings {
            state: path("stateDirectory", "/run/tidegate"),
            pins: path("pinRoot", "/sys/fs/bpf/tidegate"),
            wait: Duration::from_secs_f64(
                value
                    .seconds("waitSeconds")
                    .unwrap_or(WAIT_SECONDS)
                    .min(WAIT_SECONDS_MAX),
            ),
            open_without_agent,
        })
    }

    fn socket(&self) -> PathBuf {
        self.state.join("admin.sock")
    }

    /// Where the interface of a container is noted, for DEL.
    fn note(&self, container: &str) -> PathBuf {
        self.state.join("cni").join(container)
    }
}

/// What the runtime says in the environment.
struct Call {
    container: String,
    namespace_path: PathBuf,
    interface: String,
    pod_namespace: String,
    pod: String,
    uid: String,
}

impl Call {
    fn read(needs_namespace: bool) -> Result<Call, Failure> {
        let variable = |name: &str| env::var(name).unwrap_or_default();
        let arguments = variable("CNI_ARGS");
        let argument = |name: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_string())
                .unwrap_or_default()
        };
        let call = Call {
            container: variable("CNI_CONTAINERID"),
            namespace_path: PathBuf::from(variable("CNI_NETNS")),
            interface: variable("CNI_IFNAME"),
            pod_namespace: argument("K8S_POD_NAMESPACE"),
            pod: argument("K8S_POD_NAME"),
            uid: argument("K8S_POD_UID"),
        };
        // It becomes a file's name.
        if call.container.is_empty()
            || !call
                .container
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        {
            return failure(Code::Environment, "CNI_CONTAINERID is missing or no id");
        }
        if call.container.starts_with('.') {
            return failure(Code::Environment, "CNI_CONTAINERID is no id");
        }
        if needs_namespace
            && (call.namespace_path.as_os_str().is_empty() || call.interface.is_empty())
        {
            return failure(Code::Environment, "CNI_NETNS and CNI_IFNAME are needed");
        }
        Ok(call)
    }
}

fn main() {
    let started = Instant::now();
    let mut text = String::new();
    let read = io::stdin()
        .take(CONFIGURATION_BYTES_MAX)
        .read_to_string(&mut text);
    let command = env::var("CNI_COMMAND").unwrap_or_default();
    let result = match read {
        Ok(_) => run(&command, &text, started),
        Err(error) => failure(Code::Io, format!("standard input: {}", error)),
    };
    match result {
        Ok(output) => print!("{}", output),
        Err(Failure { code, message }) => {
            let version = json::parse(&text)
                .map(|document| document.value.text("cniVersion").to_string())
                .unwrap_or_default();
            let version = if version.is_empty() {
                VERSIONS[VERSIONS.len() - 1].to_string()
            } else {
                version
            };
            println!(
                "{{\"cniVersion\":{},\"code\":{},\"msg\":{}}}",
                quoted(&version),
                code as u8,
                quoted(&format!("tidegate: {}", message))
            );
            exit(1);
        }
    }
}

fn run(command: &str, text: &str, started: Instant) -> Result<String, Failure> {
    if command == "VERSION" {
        let versions: Vec<String> = VERSIONS.iter().map(|version| quoted(version)).collect();
        return Ok(format!(
            "{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[{}]}}\n",
            versions.join(",")
        ));
    }
    let document = match json::parse(text) {
        Ok(document) => document,
        Err(error) => return failure(Code::Decode, error),
    };
    let settings = Settings::of(&document.value)?;
    match command {
        "ADD" => add(&document, &settings, started),
        "DEL" => delete(&settings),
        "CHECK" | "STATUS" | "GC" => Ok(String::new()),
        _ => failure(Code::Environment, format!("CNI_COMMAND is {:?}", command)),
    }
}

fn add(document: &Document<'_>, settings: &Settings, started: Instant) -> Result<String, Failure> {
    let call = Call::read(true)?;
    let (result, previous) = match (document.raw("prevResult"), document.value.get("prevResult")) {
        (Some(result), Some(previous)) => (result, previous),
        _ => {
            return failure(
                Code::Configuration,
                "is a chained plugin: put it behind the one that makes the interface",
            )
        }
    };
    let host = match kernel::host_side(&call.namespace_path, &call.interface) {
        Ok(host) => host,
        Err(error) => {
            return failure(
                Code::Io,
                format!("which interface leads to {}: {}", call.interface, error),
            )
        }
    };
    note(settings, &call.container, &host)?;
    let closed = close(settings, &host);
    let sandbox = Sandbox {
        namespace: &call.pod_namespace,
        name: &call.pod,
        uid: &call.uid,
        container: &call.container,
        interface: &host,
        addresses: addresses(previous, &call.interface),
    };
    let outcome = agent::open(&settings.socket(), &sandbox, settings.wait);
    let took = started.elapsed();
    let said = match (&outcome, &closed) {
        (Outcome::Open, _) => "open: its policy is in force".to_string(),
        (Outcome::Closed(why) | Outcome::Silent(why), Ok(())) => format!(
            "starts closed, and opens when its policy is in force: {}",
            why
        ),
        (Outcome::Closed(why) | Outcome::Silent(why), Err(problem))
            if settings.open_without_agent =>
        {
            format!("starts UNMANAGED: {}; {}", problem, why)
        }
        (Outcome::Closed(why) | Outcome::Silent(why), Err(problem)) => {
            let message = format!("nothing can close {}: {}; {}", host, problem, why);
            log(
                settings,
                &call,
                &host,
                took,
                &format!("refused: {}", message),
            );
            return failure(Code::TryAgain, message);
        }
    };
    log(settings, &call, &host, took, &said);
    Ok(format!("{}\n", result))
}

fn close(settings: &Settings, host: &str) -> Result<(), String> {
    let programs = kernel::program_directory(&settings.pins).ok_or_else(|| {
        format!(
            "no programs are pinned under {}: the agent never ran here",
            settings.pins.display()
        )
    })?;
    kernel::close(&settings.pins, &programs, host)
        .map_err(|error| format!("attaching to {}: {}", host, error))
}

fn delete(settings: &Settings) -> Result<String, Failure> {
    let call = Call::read(false)?;
    let note = settings.note(&call.container);
    if let Ok(host) = fs::read_to_string(&note) {
        kernel::unpin(&settings.pins, host.trim());
        let _ = fs::remove_file(&note);
    }
    agent::forget(
        &settings.socket(),
        &call.pod_namespace,
        &call.pod,
        &call.container,
    );
    Ok(String::new())
}

fn note(settings: &Settings, container: &str, host: &str) -> Result<(), Failure> {
    let path = settings.note(container);
    let made = fs::create_dir_all(path.parent().unwrap_or_else(|| Path::new("/")))
        .and_then(|()| fs::write(&path, host));
    made.or_else(|error| failure(Code::Io, format!("{}: {}", path.display(), error)))
}

/// The pod's addresses of the result before us, without prefix lengths; those of other interfaces left out.
fn addresses(previous: &Value, interface: &str) -> Vec<String> {
    let interfaces = previous.list("interfaces");
    let ours = interfaces
        .iter()
        .position(|one| one.text("name") == interface && !one.text("sandbox").is_empty());
    previous
        .list("ips")
        .iter()
        .filter(|ip| match (ip.get("interface"), ours) {
            (Some(Value::Number(index)), Some(ours)) => index.parse() == Ok(ours),
            _ => true,
        })
        .filter_map(|ip| {
            ip.text("address")
                .split('/')
                .next()
                .filter(|address| !address.is_empty())
                .map(str::to_string)
        })
        .collect()
}

/// Write one line about what was done. The log is a convenience: it is cut when it is long, and a problem with it is none.
fn log(settings: &Settings, call: &Call, host: &str, took: Duration, said: &str) {
    let path = settings.state.join("cni.log");
    if fs::metadata(&path)
        .map(|metadata| metadata.len() > LOG_BYTES_MAX)
        .unwrap_or(false)
    {
        let _ = fs::rename(&path, path.with_extension("log.1"));
    }
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|time| time.as_secs())
        .unwrap_or(0);
    let line = format!(
        "{{\"time\":{},\"pod\":{},\"container\":{},\"interface\":{},\"milliseconds\":{},\"did\":{}}}\n",
        seconds,
        quoted(&format!("{}/{}", call.pod_namespace, call.pod)),
        quoted(&call.container),
        quoted(host),
        took.as_millis(),
        quoted(said)
    );
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(&path) {
        let _ = file.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_addresses_are_told() {
        let text = r#"{"interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/ns"},{"name":"net1","sandbox":"/ns"}],
            "ips":[{"address":"10.0.0.5/24","interface":2},{"address":"fd00::5/64","interface":2},{"address":"192.168.0.9/24","interface":3}]}"#;
        let document = json::parse(text).unwrap();
        assert_eq!(addresses(&document.value, "eth0"), ["10.0.0.5", "fd00::5"]);
    }

    #[test]
    fn addresses_without_an_interface_are_the_pods() {
        let document = json::parse(r#"{"ips":[{"version":"4","address":"10.0.0.5/24"}]}"#).unwrap();
        assert_eq!(addresses(&document.value, "eth0"), ["10.0.0.5"]);
    }

    #[test]
    fn an_unknown_setting_is_an_error() {
        let document = json::parse(r#"{"withoutAgent":"maybe"}"#).unwrap();
        assert!(Settings::of(&document.value).is_err());
    }
}
