//! A worker program that attacks: this test binary, run again with [`PROGRAM`] as its first argument.
//!
//! An input that begins with [`MARK`] names an attack, which the worker tries in place of decoding, as confined as a decoder that a file has taken over.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr;

use frameshift::video::{Reject, worker};

/// First argument of the attacking program.
pub(crate) const PROGRAM: &str = "video-attacker";
/// Hides these system calls from the program, as a kernel that lacks them does.
pub(crate) const HIDE_LANDLOCK: &str = "without-landlock";
/// As [`HIDE_LANDLOCK`].
pub(crate) const HIDE_SECCOMP: &str = "without-seccomp";
/// Gives up root, if the test has it.
pub(crate) const AS_NOBODY: &str = "as-nobody";
/// Has every worker that sees Flash video try what is forbidden.
pub(crate) const FAIL_AT_FLV: &str = "failing-at-flv";

/// How an attack begins: the mark, a name, a number.
const MARK: &str = "ATTACK ";

/// What the worker answers when the attack succeeded.
pub(crate) const SUCCEEDED: Reject = Reject::NoFrames;
/// What it answers when the system refused it.
pub(crate) const REFUSED: Reject = Reject::Undecodable;

/// An attack as a video's bytes.
pub(crate) fn input(name: &str, number: u64) -> Vec<u8> {
    format!("{MARK}{name} {number}").into_bytes()
}

/// Runs before `main` and the test harness with its threads, as a worker program has to.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn(c_int, *const *const c_char) = begin;

extern "C" fn begin(count: c_int, arguments: *const *const c_char) {
    // SAFETY: the C library passes `main`'s arguments.
    let arguments: Vec<&str> = (1..count as usize)
        .map(|i| unsafe { CStr::from_ptr(*arguments.add(i)) })
        .map(|argument| argument.to_str().unwrap_or_default())
        .collect();
    let Some((&PROGRAM, options)) = arguments.split_first() else {
        return;
    };
    let mut before: worker::Before = attack;
    // SAFETY: calls of the system on this process, which has one thread.
    unsafe {
        // Where Yama guards processes, a child may look into its parent only when that allows it.
        libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
        for &option in options {
            match option {
                HIDE_LANDLOCK => hide(&[
                    libc::SYS_landlock_create_ruleset,
                    libc::SYS_landlock_restrict_self,
                ]),
                HIDE_SECCOMP => hide(&[libc::SYS_seccomp]),
                AS_NOBODY => become_nobody(),
                FAIL_AT_FLV => before = fail_at_flv,
                _ => libc::_exit(64),
            }
        }
        let _ = worker::main_with(before);
        libc::_exit(0);
    }
}

unsafe fn hide(calls: &[libc::c_long]) {
    let instruction = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let give = |value| instruction(libc::BPF_RET | libc::BPF_K, value, 0);
    let mut filter = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
    )];
    for &call in calls {
        filter.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            call as u32,
            1,
        ));
        filter.push(give(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program is readable during the call.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(done, 0, "a filter");
}

unsafe fn become_nobody() {
    const NOBODY: u32 = 65534;
    // SAFETY: calls of the system on this process.
    unsafe {
        if libc::geteuid() != 0 {
            return;
        }
        libc::setgroups(0, ptr::null());
        libc::setresgid(NOBODY, NOBODY, NOBODY);
        libc::setresuid(NOBODY, NOBODY, NOBODY);
        assert_eq!(libc::geteuid(), NOBODY);
        // No way back, and no capability is left: they went with the user.
        assert_eq!(libc::setuid(0), -1);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
}

fn fail_at_flv(file: &File, _: u64) -> Option<Reject> {
    let mut begin = [0; 3];
    file.read_at(&mut begin, 0).ok()?;
    (&begin == b"FLV" && open()).then_some(SUCCEEDED)
}

fn attack(file: &File, length: u64) -> Option<Reject> {
    let mut text = vec![0; length.min(64) as usize];
    file.read_exact_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text).ok()?.strip_prefix(MARK)?;
    let (name, number) = text.rsplit_once(' ')?;
    let number = number.parse().ok()?;
    let has_succeeded = match name {
        "open" => open(),
        "create" => create(),
        "socket" => socket() >= 0,
        "connect" => connect(number),
        "exec" => exec(),
        "fork" => fork(),
        "thread" => thread(),
        "ptrace" => ptrace(),
        "kill" => kill(number),
        "abort" => std::process::abort(),
        "crash" => crash(),
        "panic" => panic!("a bug"),
        "map code" => map_code(),
        "make code" => make_code(),
        "descriptor" => descriptor(),
        "parent's memory" => parents_memory(),
        "parent's pages" => parents_pages(),
        "dumpable" => dumpable(),
        "memory" => memory(),
        "allocate" => std::hint::black_box(vec![0_u8; 2 << 30]).len() == 2 << 30,
        "processor" => spin(number),
        "hang" => hang(),
        "lie" => lie(false),
        "smuggle" => lie(true),
        other => panic!("{other}"),
    };
    Some(if has_succeeded { SUCCEEDED } else { REFUSED })
}

fn open() -> bool {
    // SAFETY: the path ends with a zero.
    unsafe { libc::open(c"/proc/version".as_ptr(), libc::O_RDONLY) >= 0 }
}

fn create() -> bool {
    // SAFETY: the path ends with a zero.
    unsafe { libc::open(c"/tmp".as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600) >= 0 }
}

fn socket() -> c_int {
    // SAFETY: takes numbers only.
    unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }
}

fn connect(port: u64) -> bool {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: (port as u16).to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let length = size_of_val(&address) as u32;
    // SAFETY: the address is readable for its length.
    unsafe { libc::connect(socket(), (&raw const address).cast(), length) == 0 }
}

/// When it succeeds this program is no more: the other one's exit code is 1.
fn exec() -> bool {
    let arguments = [c"false".as_ptr(), ptr::null()];
    // SAFETY: the path and the arguments end with zeros.
    unsafe {
        libc::execve(
            c"/bin/false".as_ptr(),
            arguments.as_ptr(),
            [ptr::null()].as_ptr(),
        )
    };
    false
}

fn fork() -> bool {
    // SAFETY: the child ends at once.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            pid => pid > 0 && libc::waitpid(pid, ptr::null_mut(), 0) == pid,
        }
    }
}

fn thread() -> bool {
    std::thread::Builder::new()
        .spawn(|| {})
        .is_ok_and(|thread| thread.join().is_ok())
}

fn ptrace() -> bool {
    // SAFETY: this request takes no pointers.
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 }
}

fn kill(pid: u64) -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid as c_int, libc::SIGKILL) == 0 }
}

fn crash() -> bool {
    // SAFETY: none: nothing can be read here, which is the point.
    unsafe { ptr::read_volatile(std::hint::black_box(8 as *const u8)) == 0 }
}

fn map(bytes: usize, protection: c_int) -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) }
}

fn map_code() -> bool {
    map(4096, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) != libc::MAP_FAILED
}

/// Writes a function and runs it.
fn make_code() -> bool {
    #[cfg(target_arch = "x86_64")]
    const RETURN: &[u8] = &[0xc3];
    #[cfg(target_arch = "aarch64")]
    const RETURN: &[u8] = &[0xc0, 0x03, 0x5f, 0xd6];
    let memory = map(4096, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the memory is writable for a page, and holds a function without arguments when it becomes executable.
    unsafe {
        ptr::copy_nonoverlapping(RETURN.as_ptr(), memory.cast(), RETURN.len());
        if libc::mprotect(memory, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return false;
        }
        std::mem::transmute::<*mut c_void, extern "C" fn()>(memory)();
    }
    true
}

/// Whether there is a socket besides the worker's own. A call that is allowed tells sockets from other descriptors and from none.
fn descriptor() -> bool {
    let sockets = (0..1024).filter(|&descriptor| {
        // SAFETY: a message of no parts.
        unsafe {
            let mut message = std::mem::zeroed();
            let got = libc::recvmsg(
                descriptor,
                &mut message,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            );
            let error = std::io::Error::last_os_error().raw_os_error();
            got >= 0 || !matches!(error, Some(libc::EBADF | libc::ENOTSOCK))
        }
    });
    sockets.count() > 1
}

/// The same number lies at the same address in the zygote, from which this process was forked.
static SECRET: u64 = 0x0123_4567_89ab_cdef;

fn parents_memory() -> bool {
    // SAFETY: the path ends with a zero, and the buffer is writable for its length.
    unsafe {
        let path = format!("/proc/{}/mem\0", libc::getppid());
        let memory = libc::open(path.as_ptr().cast(), libc::O_RDONLY);
        let mut found = 0_u64;
        let at = (&raw const SECRET) as libc::off_t;
        libc::pread(memory, (&raw mut found).cast(), 8, at) == 8 && found == SECRET
    }
}

fn parents_pages() -> bool {
    let mut found = 0_u64;
    let local = libc::iovec {
        iov_base: (&raw mut found).cast(),
        iov_len: 8,
    };
    let remote = libc::iovec {
        iov_base: (&raw const SECRET).cast_mut().cast(),
        iov_len: 8,
    };
    // SAFETY: the local part is writable for its length; the kernel checks the remote one.
    let got = unsafe { libc::process_vm_readv(libc::getppid(), &local, 1, &remote, 1, 0) };
    got == 8 && found == SECRET
}

fn dumpable() -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) == 0 }
}

fn memory() -> bool {
    let memory = map(2 << 30, libc::PROT_READ | libc::PROT_WRITE);
    if memory == libc::MAP_FAILED {
        return false;
    }
    for page in (0..2_usize << 30).step_by(256 << 20) {
        // SAFETY: within the mapping.
        unsafe { memory.cast::<u8>().add(page).write_volatile(1) };
    }
    true
}

/// Uses so many milliseconds of processor time.
fn spin(milliseconds: u64) -> bool {
    let used = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let begun = used();
    loop {
        let now = used();
        let spent = (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1_000_000;
        if spent >= milliseconds as i64 {
            return true;
        }
    }
}

fn hang() -> bool {
    let lock = 0_u32;
    // SAFETY: waits for a number to change, which nobody does.
    unsafe { libc::syscall(libc::SYS_futex, &raw const lock, libc::FUTEX_WAIT, 0, 0) == 0 }
}

/// Says something that is no answer, with a descriptor when it smuggles.
fn lie(is_smuggling: bool) -> bool {
    const OWN: c_int = 3;
    let mut text = *b"not an answer";
    let mut control = [0_u64; 4];
    let mut part = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: message, part and control data are valid during the call, and the control data has room for one descriptor.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        if is_smuggling {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(4) as _;
            let header = &mut *libc::CMSG_FIRSTHDR(&message);
            header.cmsg_level = libc::SOL_SOCKET;
            header.cmsg_type = libc::SCM_RIGHTS;
            header.cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(OWN);
        }
        libc::sendmsg(OWN, &message, libc::MSG_NOSIGNAL) >= 0
    }
}
