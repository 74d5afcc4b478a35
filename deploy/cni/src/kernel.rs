//! What is asked of the kernel: programs attached to an interface, and which interface leads to a namespace. All `unsafe` is here.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Error};
use std::mem::{size_of, zeroed};
use std::os::raw::{c_char, c_int, c_long, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn send(fd: c_int, buffer: *const c_void, size: usize, flags: c_int) -> isize;
    fn recv(fd: c_int, buffer: *mut c_void, size: usize, flags: c_int) -> isize;
    fn if_indextoname(index: c_uint, name: *mut c_char) -> *mut c_char;
    fn if_nametoindex(name: *const c_char) -> c_uint;
}

#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(target_arch = "aarch64")]
const SYS_BPF: c_long = 280;

const BPF_OBJ_PIN: c_int = 6;
const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_CREATE: c_int = 28;
const CLONE_NEWNET: c_int = 0x4000_0000;
const AF_NETLINK: c_int = 16;
const SOCK_RAW_CLOEXEC: c_int = 3 | 0o2_000_000;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const NETLINK_HEADER: usize = 16;
const LINK_HEADER: usize = 16;

/// Where a program is attached: packets from the pod, or to it.
#[derive(Clone, Copy)]
pub enum Side {
    FromPod,
    ToPod,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::FromPod, Side::ToPod];

    fn attach_type(self) -> u32 {
        match self {
            Side::FromPod => 46, // BPF_TCX_INGRESS of the host side
            Side::ToPod => 47,
        }
    }

    fn program(self) -> &'static str {
        match self {
            Side::FromPod => "tg_from_endp",
            Side::ToPod => "tg_to_endp",
        }
    }

    /// The name of the link's pin, as the agent has it (bpf_redirect/attach.py).
    pub fn link_name(self, interface: &str) -> String {
        let side = match self {
            Side::FromPod => "in",
            Side::ToPod => "out",
        };
        format!("{}-{}", side, interface.replace('.', "+"))
    }
}

/// The directory of the programs that the agent pinned last; none if it never ran on this node since it was started.
pub fn program_directory(pins: &Path) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(pins)
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix('v')?
                .parse()
                .ok()?;
            Some((number, entry.path().join("programs")))
        })
        .filter(|(_, path)| {
            Side::ALL
                .iter()
                .all(|side| path.join(side.program()).exists())
        })
        .collect();
    versions.sort();
    versions.pop().map(|(_, path)| path)
}

/// Attach the agent's programs to both sides of an interface, pinned: until the agent gives the interface an entry they drop all.
pub fn close(pins: &Path, programs: &Path, interface: &str) -> io::Result<()> {
    let index = index_of(interface)?;
    for side in Side::ALL {
        let program = object_get(&programs.join(side.program()))?;
        let pin = pins.join("links").join(side.link_name(interface));
        // A pin of this name is that of an interface that is gone, or ours from a try before: either way it is made anew.
        match fs::remove_file(&pin) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let attributes = [program.as_raw_fd() as u32, index, side.attach_type(), 0];
        let link = bpf(BPF_LINK_CREATE, &attributes)?;
        object_pin(&link, &pin)?;
    }
    Ok(())
}

/// Forget the pins of an interface; the links go with them.
pub fn unpin(pins: &Path, interface: &str) {
    for side in Side::ALL {
        let _ = fs::remove_file(pins.join("links").join(side.link_name(interface)));
    }
}

/// The name of this namespace's interface that leads to `interface` in the namespace at `path`.
///
/// The process has one thread and comes back to its own namespace; if it can't, that is an error and the process ends.
pub fn host_side(path: &Path, interface: &str) -> io::Result<String> {
    let own = File::open("/proc/self/ns/net")?;
    let other = File::open(path)?;
    enter(&other)?;
    let peer = peer_index(interface);
    enter(&own)?;
    let peer = peer?;
    let mut name = [0u8; 16];
    // SAFETY: the buffer holds IF_NAMESIZE bytes, and the function writes no more.
    let found = unsafe { if_indextoname(peer, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return Err(Error::last_os_error());
    }
    let end = name
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call touches no memory of ours.
    match unsafe { setns(namespace.as_raw_fd(), CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn index_of(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: a string that ends with a zero.
    match unsafe { if_nametoindex(name.as_ptr()) } {
        0 => Err(Error::last_os_error()),
        index => Ok(index),
    }
}

/// Ask by netlink for the number of an interface's other end.
fn peer_index(interface: &str) -> io::Result<u32> {
    // SAFETY: makes a descriptor, which is owned from here on.
    let fd = unsafe { socket(AF_NETLINK, SOCK_RAW_CLOEXEC, 0) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: as above.
    let netlink = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = link_request(interface);
    // SAFETY: pointer and size are those of the vector.
    if unsafe {
        send(
            netlink.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    } < 0
    {
        return Err(Error::last_os_error());
    }
    let mut answer = vec![0u8; 1 << 16];
    // SAFETY: as above.
    let size = unsafe {
        recv(
            netlink.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        )
    };
    if size < 0 {
        return Err(Error::last_os_error());
    }
    peer_of(&answer[..size as usize])
}

fn link_request(interface: &str) -> Vec<u8> {
    let mut attribute = Vec::new();
    attribute.extend_from_slice(&((4 + interface.len() + 1) as u16).to_ne_bytes());
    attribute.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    attribute.extend_from_slice(interface.as_bytes());
    attribute.push(0);
    attribute.resize((attribute.len() + 3) & !3, 0);
    let mut request = Vec::new();
    request.extend_from_slice(
        &((NETLINK_HEADER + LINK_HEADER + attribute.len()) as u32).to_ne_bytes(),
    );
    request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&1u16.to_ne_bytes()); // NLM_F_REQUEST
    request.extend_from_slice(&1u32.to_ne_bytes());
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(&[0; LINK_HEADER]);
    request.extend_from_slice(&attribute);
    request
}

/// Read the peer out of the answer.
fn peer_of(answer: &[u8]) -> io::Result<u32> {
    let short = || {
        Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is too short",
        )
    };
    let kind = u16::from_ne_bytes(answer.get(4..6).ok_or_else(short)?.try_into().unwrap());
    if kind != RTM_NEWLINK {
        let code = i32::from_ne_bytes(answer.get(16..20).ok_or_else(short)?.try_into().unwrap());
        return Err(Error::from_raw_os_error(-code));
    }
    let mut rest = answer
        .get(NETLINK_HEADER + LINK_HEADER..)
        .ok_or_else(short)?;
    while rest.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff;
        if size < 4 || size > rest.len() {
            break;
        }
        if kind == IFLA_LINK && size >= 8 {
            return Ok(u32::from_ne_bytes(rest[4..8].try_into().unwrap()));
        }
        rest = rest.get((size + 3) & !3..).unwrap_or(&[]);
    }
    Err(Error::new(
        io::ErrorKind::NotFound,
        "the interface has no other end (not a veth)",
    ))
}

fn bpf(command: c_int, attributes: &[u32; 4]) -> io::Result<OwnedFd> {
    descriptor(command, attributes.as_ptr().cast(), size_of::<[u32; 4]>())
}

#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

fn path_attributes(path: &Path, fd: RawFd) -> io::Result<(CString, ObjectAttributes)> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a value of this struct.
    let mut attributes: ObjectAttributes = unsafe { zeroed() };
    attributes.path = text.as_ptr() as u64;
    attributes.fd = fd as u32;
    Ok((text, attributes))
}

fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let (_text, attributes) = path_attributes(path, 0)?;
    descriptor(
        BPF_OBJ_GET,
        (&attributes as *const ObjectAttributes).cast(),
        size_of::<ObjectAttributes>(),
    )
}

fn object_pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let (_text, attributes) = path_attributes(path, object.as_raw_fd())?;
    // SAFETY: the struct and the path live until the call returns; the kernel reads `size` bytes.
    let result = unsafe {
        syscall(
            SYS_BPF,
            BPF_OBJ_PIN,
            &attributes as *const ObjectAttributes,
            size_of::<ObjectAttributes>(),
        )
    };
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

fn descriptor(command: c_int, attributes: *const c_void, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` points at `size` bytes that live until the call returns.
    let fd = unsafe { syscall(SYS_BPF, command, attributes, size) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER + LINK_HEADER];
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        bytes.extend_from_slice(attributes);
        bytes
    }

    #[test]
    fn the_peer_is_found_behind_other_attributes() {
        let mut attributes = vec![8, 0, 3, 0, b'e', b't', b'h', 0];
        attributes.extend_from_slice(&[8, 0, 5, 0]);
        attributes.extend_from_slice(&77u32.to_ne_bytes());
        assert_eq!(peer_of(&answer(&attributes)).unwrap(), 77);
    }

    #[test]
    fn answers_that_are_cut_short_are_errors() {
        let mut attributes = vec![8, 0, 5, 0];
        attributes.extend_from_slice(&77u32.to_ne_bytes());
        let whole = answer(&attributes);
        for size in 0..whole.len() {
            assert!(peer_of(&whole[..size]).is_err(), "{}", size);
        }
    }

    #[test]
    fn pins_are_named_as_the_agent_names_them() {
        assert_eq!(Side::FromPod.link_name("eth0.5"), "in-eth0+5");
        assert_eq!(Side::ToPod.link_name("lxc1"), "out-lxc1");
    }
}
