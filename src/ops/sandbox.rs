//! The walls that the proxy puts up around itself before it lets the first client in: Landlock for files, seccomp for
//! system calls. Anyone who takes the process over finds what the proxy itself still needs, and nothing else of the machine.
//!
//! **Files** (Landlock, Linux 5.13 and later): only [`Places`] can be opened, nothing can be executed, no device be made.
//! From Linux 6.12 on no other process can be sent a signal, and no abstract socket of another be reached.
//!
//! **System calls** (seccomp): what no proxy needs and an intruder would like fails with EPERM. It is a list of what is
//! forbidden, because a list of what is allowed would have to foresee what every version of the C library does to resolve a
//! name; the service's own unit has one on top. A call fails and does not kill, since a call that was forgotten here would
//! otherwise end every session over and over, and an intruder gains nothing from an error.
//!
//! Both hold for the thread that puts them up and for all that it starts, so that has to happen before there is a second
//! one; and both last until the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags, path_beneath_rules,
};
use rustix::process::{geteuid, getpid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// The section `[sandbox]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether there are walls at all.
    pub enabled: bool,
    /// Files and folders that may be read besides those that the other settings name.
    pub read: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, read: Vec::new() }
    }
}

/// Paths that stay open: folders with all that is below them, and single files. Resolved, so that one can be looked for
/// in another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// To be read.
    pub read: BTreeSet<PathBuf>,
    /// To be read and written.
    pub write: BTreeSet<PathBuf>,
}

impl Places {
    /// The first of `wanted` that does not lie in these.
    pub fn lack<'w>(&self, wanted: &'w Self) -> Option<&'w Path> {
        let within = |path: &Path, places: &BTreeSet<PathBuf>| places.iter().any(|place| path.starts_with(place));
        let unreadable = |path: &&PathBuf| !within(path, &self.read) && !within(path, &self.write);
        let unwritable = |path: &&PathBuf| !within(path, &self.write);
        wanted.read.iter().find(unreadable).or_else(|| wanted.write.iter().find(unwritable)).map(PathBuf::as_path)
    }

    /// Returns the paths that every process needs: to resolve names, to know its own size, to load what the C library
    /// loads.
    fn of_this_machine() -> Self {
        let mut read: BTreeSet<PathBuf> = MACHINE.iter().map(PathBuf::from).collect();
        // Programs that keep it put a new file in its place, and a file that is new is outside. So the folder stays open
        // to those who find in it only what everybody may read; for root, who would find more, there is just the file.
        if !geteuid().is_root() {
            read.insert("/etc".into());
        }
        let resolver = fs::canonicalize(RESOLVER).ok();
        let elsewhere = resolver.as_deref().and_then(Path::parent).filter(|folder| *folder != Path::new("/etc"));
        read.extend(elsewhere.map(Path::to_owned));
        Self { read, write: ["/dev/null".into()].into() }
    }
}

const RESOLVER: &str = "/etc/resolv.conf";

const MACHINE: &[&str] = &[
    RESOLVER,
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/dev/urandom",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    // As a whole, since what stands for this process there is not the same for ever. It shows the environment of other
    // processes of the same user; a service manager can hide those.
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
];

/// Result of setting up the sandbox.
#[derive(Debug)]
pub struct Walls {
    /// Around files.
    pub files: Wall,
    /// Around system calls.
    pub calls: Wall,
}

/// One of them.
#[derive(Debug)]
pub enum Wall {
    /// It stands.
    Whole,
    /// It stands as far as this kernel knows how.
    Partial,
    /// This kernel cannot, or something went wrong.
    Missing(String),
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Partial => f.write_str("as far as this kernel knows how"),
            Self::Missing(why) => write!(f, "missing: {why}"),
        }
    }
}

/// Puts up the walls around this thread and all that it will start. They cannot be taken down again.
pub fn enter(places: &Places) -> Walls {
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    let files = match shut_files(places) {
        Ok(RulesetStatus::FullyEnforced) if alone => Wall::Whole,
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Wall::Partial,
        Ok(RulesetStatus::NotEnforced) => Wall::Missing("this kernel has no Landlock".into()),
        Err(error) => Wall::Missing(error.to_string()),
    };
    // Afterwards, since it forbids nothing that the other needs, while the other may not find its files any more.
    let calls = shut_calls().map_or_else(|error| Wall::Missing(error.to_string()), |()| Wall::Whole);
    Walls { files, calls }
}

/// As far as anybody has tried it; the crate leaves out what the kernel at hand does not know.
const KNOWN: ABI = ABI::V6;

fn shut_files(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let Places { read, write } = Places::of_this_machine();
    let look = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let never = make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | IoctlDev});
    let change = AccessFs::from_all(KNOWN) & !never;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(scopes())?
        .create()?
        .add_rules(path_beneath_rules(read.iter().chain(&places.read), look))?
        .add_rules(path_beneath_rules(write.iter().chain(&places.write), change))?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// The service manager may listen at an abstract socket, and then those have to stay within reach.
fn scopes() -> BitFlags<Scope> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if socket.to_string_lossy().starts_with('@') => Scope::Signal.into(),
        _ => Scope::from_all(KNOWN),
    }
}

fn shut_calls() -> Result<(), seccompiler::Error> {
    // Its flags are in memory, where no filter can see them. The C library then takes the old call, which is looked at.
    let absent = [(libc::SYS_clone3, Vec::new())].into();
    apply_filter_all_threads(&filter(absent, libc::ENOSYS)?)?;
    apply_filter_all_threads(&filter(forbidden()?, libc::EPERM)?)
}

/// The requests TIOCSTI and TIOCLINUX, whose type is another with each C library.
const TYPING: [u64; 2] = [0x5412, 0x541c];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(rules: Rules, error: i32) -> Result<BpfProgram, seccompiler::Error> {
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()?)
}

/// Returns the rules for system calls that are refused, altogether or with these arguments.
fn forbidden() -> Result<Rules, seccompiler::Error> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};

    let is = |argument, how, value: u64| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value);
    let (write, execute) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let mut rules: Rules = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();

    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let families = families.into_iter().map(|family| is(0, Ne, family as u64)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(families)?]);
    // Threads, but no processes and no namespaces.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is(0, MaskedEq(thread), 0)?])?]);
    // Memory is to be written or to be executed.
    let both = is(2, MaskedEq(write | execute), write | execute)?;
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![both])?]);
    for call in [libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![is(2, MaskedEq(execute), execute)?])?]);
    }
    // No typing into someone's terminal.
    let typing = TYPING.map(|request| SeccompRule::new(vec![is(1, Eq, request)?]));
    let typing = typing.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, typing);
    // The process may give up, but not end another.
    let ours = getpid().as_raw_nonzero().get() as u64;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![is(0, Ne, ours)?])?]);

    second_numbers(&mut rules);
    Ok(rules)
}

/// On x86-64 most calls can also be made by a second number (x32), some of them by one of their own.
#[cfg(target_arch = "x86_64")]
fn second_numbers(rules: &mut Rules) {
    const X32: i64 = 0x4000_0000;
    let doubled: Vec<i64> = rules.keys().map(|call| call | X32).collect();
    rules.extend(doubled.into_iter().chain((512..=547).map(|call| call | X32)).map(|call| (call, Vec::new())));
}

#[cfg(not(target_arch = "x86_64"))]
fn second_numbers(_: &mut Rules) {}

/// System calls that nothing in this program makes: other programs, other processes, the kernel's inner life, another
/// identity.
const ALWAYS: &[i64] = &[
    // Programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_personality,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // What is mounted where, and who sees it.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Whose process this is.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // The kernel, and where most of its recent holes were.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn places(read: &[&str], write: &[&str]) -> Places {
        let set = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Places { read: set(read), write: set(write) }
    }

    #[test]
    fn what_lies_in_an_open_place_is_not_lacking() {
        let open = places(&["/srv/www", "/etc/one.pem"], &["/var/lib/vizard"]);
        let lack = |read: &[&str], write: &[&str]| {
            open.lack(&places(read, write)).map(|path| path.display().to_string()).unwrap_or_default()
        };
        assert_eq!(lack(&["/srv/www/site", "/etc/one.pem", "/var/lib/vizard/x"], &["/var/lib/vizard"]), "");
        assert_eq!(lack(&["/srv/www", "/etc/two.pem"], &[]), "/etc/two.pem");
        assert_eq!(lack(&["/srv/wwwx"], &[]), "/srv/wwwx");
        assert_eq!(lack(&[], &["/srv/www"]), "/srv/www", "to be read is not to be written");
    }

    #[test]
    fn the_filters_can_be_made_for_this_machine() {
        let rules = forbidden().unwrap();
        assert!(rules.contains_key(&libc::SYS_execve) && !rules.contains_key(&libc::SYS_openat));
        // What the kernel takes at most.
        assert!(filter(rules, libc::EPERM).unwrap().len() < 4096);
    }

    /// What the kernel makes of a call, as seccomp(2) has it.
    fn outcome(program: &BpfProgram, call: i64, arguments: &[u64]) -> u32 {
        let audited: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = [u32::try_from(call).unwrap().to_le_bytes(), audited.to_le_bytes(), [0; 4], [0; 4]].concat();
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        data.resize(64, 0);
        let (mut held, mut at) = (0, 0);
        loop {
            let step = &program[at];
            let jump = |holds| usize::from(if holds { step.jt } else { step.jf });
            at += 1;
            match step.code {
                0x20 => held = u32::from_le_bytes(data[step.k as usize..][..4].try_into().unwrap()),
                0x54 => held &= step.k,
                0x05 => at += step.k as usize,
                0x15 => at += jump(held == step.k),
                0x25 => at += jump(held > step.k),
                0x35 => at += jump(held >= step.k),
                0x06 => return step.k,
                code => panic!("a step of kind {code:#x}"),
            }
        }
    }

    #[test]
    fn a_call_is_refused_for_what_it_is_or_for_what_it_is_given() {
        const REFUSED: u32 = 0x0005_0001;
        const ALLOWED: u32 = 0x7fff_0000;
        let program = filter(forbidden().unwrap(), libc::EPERM).unwrap();
        let [read, write, execute] = [libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC].map(|way| way as u64);
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
        let ours = u64::from(std::process::id());
        for (call, arguments, expected) in [
            (libc::SYS_mmap, &[0, 4096, read | write][..], ALLOWED),
            (libc::SYS_mmap, &[0, 4096, read | execute], ALLOWED),
            (libc::SYS_mmap, &[0, 4096, read | write | execute], REFUSED),
            (libc::SYS_mprotect, &[0, 4096, read | write], ALLOWED),
            (libc::SYS_mprotect, &[0, 4096, read | execute], REFUSED),
            (libc::SYS_pkey_mprotect, &[0, 4096, execute], REFUSED),
            (libc::SYS_clone, &[thread], ALLOWED),
            (libc::SYS_clone, &[libc::SIGCHLD as u64], REFUSED),
            (libc::SYS_clone, &[libc::CLONE_NEWUSER as u64], REFUSED),
            (libc::SYS_socket, &[libc::AF_INET6 as u64], ALLOWED),
            (libc::SYS_socket, &[libc::AF_PACKET as u64], REFUSED),
            (libc::SYS_socket, &[libc::AF_ALG as u64], REFUSED),
            (libc::SYS_ioctl, &[0, libc::FIONREAD], ALLOWED),
            (libc::SYS_ioctl, &[0, TYPING[0]], REFUSED),
            // Only half of the argument is the request.
            (libc::SYS_ioctl, &[0, TYPING[1] | 1 << 32], REFUSED),
            (libc::SYS_tgkill, &[ours, ours, 6], ALLOWED),
            (libc::SYS_tgkill, &[ours + 1, ours + 1, 9], REFUSED),
            (libc::SYS_ptrace, &[16, 1], REFUSED),
            (libc::SYS_process_vm_writev, &[1], REFUSED),
            (libc::SYS_kexec_load, &[], REFUSED),
            (libc::SYS_mount, &[], REFUSED),
            (libc::SYS_io_uring_setup, &[1], REFUSED),
            (libc::SYS_openat, &[], ALLOWED),
            (libc::SYS_futex, &[], ALLOWED),
        ] {
            assert_eq!(outcome(&program, call, arguments), expected, "{call} {arguments:x?}");
            #[cfg(target_arch = "x86_64")]
            assert!(
                expected == ALLOWED || outcome(&program, call | 0x4000_0000, arguments) == REFUSED,
                "{call} as x32"
            );
        }
        let absent = filter([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS).unwrap();
        assert_eq!(outcome(&absent, libc::SYS_clone3, &[]), 0x0005_0000 | libc::ENOSYS.unsigned_abs());
    }
}
