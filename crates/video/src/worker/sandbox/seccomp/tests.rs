//! The filter is run here as the kernel runs it.

use super::*;

const OURS: u32 = 0xc000_003e;
const PID: u32 = 4711;

/// One system call as the kernel shows it to a filter.
struct Call {
    machine: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn new(number: c_long) -> Self {
        Self {
            machine: OURS,
            number: number as u32,
            arguments: [0; 6],
        }
    }

    fn with(mut self, argument: usize, value: u64) -> Self {
        self.arguments[argument] = value;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.machine.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(self.arguments.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// Whether the filter lets it pass.
    fn passes(&self) -> bool {
        let (filter, data) = (filter(OURS, PID), self.bytes());
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            at += 1;
            let jump = match u32::from(code) {
                LOAD => {
                    let offset = k as usize;
                    value = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                    continue;
                }
                IF_EQUAL => value == k,
                IF_AT_LEAST => value >= k,
                IF_ANY_BIT => value & k != 0,
                RETURN => {
                    assert!([libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_KILL_PROCESS].contains(&k));
                    return k == libc::SECCOMP_RET_ALLOW;
                }
                other => panic!("instruction {other}"),
            };
            at += usize::from(if jump { jt } else { jf });
        }
    }
}

#[test]
fn only_listed_calls_pass() {
    let mut passed = Vec::new();
    for number in 0..2048 {
        if Call::new(number).passes() {
            passed.push(number);
        }
    }
    let mut listed: Vec<_> = ALLOWED.iter().chain(&MAPPING).copied().collect();
    listed.sort_unstable();
    assert_eq!(passed, listed);
    for never in [
        libc::SYS_openat,
        libc::SYS_execve,
        libc::SYS_clone,
        libc::SYS_socket,
        libc::SYS_kill,
        libc::SYS_ptrace,
        libc::SYS_prctl,
        libc::SYS_io_uring_setup,
    ] {
        assert!(!listed.contains(&never));
    }
}

#[test]
fn memory_is_never_executable() {
    for call in MAPPING {
        let asks = |protection: i32| Call::new(call).with(2, protection as u64).passes();
        assert!(asks(libc::PROT_READ | libc::PROT_WRITE));
        assert!(!asks(libc::PROT_EXEC));
        assert!(!asks(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC));
    }
}

#[test]
fn a_process_signals_only_itself_and_only_to_abort() {
    let sends = |pid: u32, signal: i32| {
        Call::new(libc::SYS_tgkill)
            .with(0, pid.into())
            .with(2, signal as u64)
            .passes()
    };
    assert!(sends(PID, libc::SIGABRT));
    assert!(!sends(PID, libc::SIGKILL));
    assert!(!sends(PID + 1, libc::SIGABRT));
}

#[test]
fn of_a_descriptor_only_whether_it_is_open_can_be_asked() {
    let asks = |command: i32| Call::new(libc::SYS_fcntl).with(1, command as u64).passes();
    assert!(asks(libc::F_GETFD));
    for never in [
        libc::F_DUPFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_SETOWN,
    ] {
        assert!(!asks(never));
    }
}

#[test]
fn calls_of_other_machines_and_of_the_second_abi_are_on_no_list() {
    for &call in ALLOWED {
        assert!(Call::new(call).passes());
        let mut other = Call::new(call);
        other.machine = 0x4000_0003;
        assert!(!other.passes());
        assert!(!Call::new(call | c_long::from(X32)).passes());
    }
}
