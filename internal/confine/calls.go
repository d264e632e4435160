package confine

import "golang.org/x/sys/unix"

// The lists below are what the Go runtime, its net and os packages, etcd's storage and the
// two processes were seen to use under strace in the test lab, and the nearest relations of
// those calls, which libraries turn to when a kernel has them.

// common are calls for everyone, with any arguments.
var common = []uint32{
	// memory, time, threads
	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MREMAP, unix.SYS_MINCORE, unix.SYS_BRK, unix.SYS_FUTEX, unix.SYS_SCHED_YIELD,
	unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES,
	unix.SYS_GETTIMEOFDAY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_SETITIMER,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_GETRANDOM, unix.SYS_SYSINFO, unix.SYS_UNAME,
	unix.SYS_GETRUSAGE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_GETGROUPS,
	// open files
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
	unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_FCNTL, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2, unix.SYS_EVENTFD2,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FLOCK, unix.SYS_FADVISE64,
	unix.SYS_GETDENTS64, unix.SYS_FSTATFS, unix.SYS_FCHMOD, unix.SYS_FCHOWN,
	unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_COPY_FILE_RANGE,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_PPOLL, unix.SYS_PSELECT6,
	// names of files; which ones is for Landlock to say
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT,
	unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKDIRAT, unix.SYS_LINKAT, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT,
	unix.SYS_UTIMENSAT, unix.SYS_STATFS, unix.SYS_GETCWD, unix.SYS_UMASK,
	// sockets that there are; which ones can be made is below
	unix.SYS_BIND, unix.SYS_CONNECT, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG,
	unix.SYS_SENDMMSG, unix.SYS_RECVMMSG, unix.SYS_SHUTDOWN,
}

// deadly are calls by which a process that was taken over would go on to the next one, or
// to the kernel. None of ours makes them.
var deadly = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN,
	unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_PERSONALITY,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}

const (
	kind      = 0xf        // the bits of a socket's type that are no flags (SOCK_TYPE_MASK)
	setVMA    = 0x53564d41 // PR_SET_VMA: the runtime names its memory
	threads   = unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND
	mptcp     = 262 // IPPROTO_MPTCP, which the net package listens with where it can
	netRoute  = unix.NETLINK_ROUTE
	netFilter = unix.NETLINK_NETFILTER
	generic   = unix.NETLINK_GENERIC
)

// socket allows sockets of a family, of some types, and of some protocols.
func socket(family uint32, types, protocols []uint32) clause {
	return clause{is(0, family), {1, kind, types}, is(2, protocols...)}
}

// base is what every profile has.
func base() calls {
	local := socket(unix.AF_UNIX, []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM}, []uint32{0})
	own := []clause{{is(0, ownPID)}}
	c := calls{
		allow: append(append([]uint32(nil), common...), commonHere...),
		kill:  append(append([]uint32(nil), deadly...), deadlyHere...),
		given: map[uint32][]clause{
			unix.SYS_MMAP:       {{without(2, unix.PROT_EXEC)}},
			unix.SYS_MPROTECT:   {{without(2, unix.PROT_EXEC)}},
			unix.SYS_CLONE:      {{has(0, threads)}}, // threads, and no processes
			unix.SYS_TGKILL:     own,
			unix.SYS_KILL:       own,
			unix.SYS_PRLIMIT64:  {{is(0, 0)}, {is(0, ownPID)}},
			unix.SYS_PRCTL:      {{is(0, setVMA)}},
			unix.SYS_IOCTL:      {{is(1, unix.TCGETS, unix.TIOCGWINSZ)}}, // whether this is a screen
			unix.SYS_SOCKETPAIR: {local},
		},
	}
	c.given[unix.SYS_SOCKET] = []clause{local}
	return c
}

// controlCalls are those of a process that serves and asks over TCP and UDP.
func controlCalls() calls {
	c := base()
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		c.given[unix.SYS_SOCKET] = append(c.given[unix.SYS_SOCKET],
			socket(family, []uint32{unix.SOCK_STREAM}, []uint32{0, unix.IPPROTO_TCP, mptcp}),
			socket(family, []uint32{unix.SOCK_DGRAM}, []uint32{0, unix.IPPROTO_UDP}))
	}
	c.given[unix.SYS_SOCKET] = append(c.given[unix.SYS_SOCKET], // which addresses this machine has
		socket(unix.AF_NETLINK, []uint32{unix.SOCK_RAW, unix.SOCK_DGRAM}, []uint32{netRoute}))
	return c
}

// planeCalls are those of the process that owns the firewall's table and the link. TCP
// sockets are for the net package, which tries by them which families there are.
func planeCalls() calls {
	c := base()
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		c.given[unix.SYS_SOCKET] = append(c.given[unix.SYS_SOCKET],
			socket(family, []uint32{unix.SOCK_STREAM}, []uint32{unix.IPPROTO_TCP}),
			socket(family, []uint32{unix.SOCK_DGRAM}, []uint32{0, unix.IPPROTO_UDP}))
	}
	c.given[unix.SYS_SOCKET] = append(c.given[unix.SYS_SOCKET],
		socket(unix.AF_NETLINK, []uint32{unix.SOCK_RAW, unix.SOCK_DGRAM}, []uint32{netRoute, netFilter, generic}))
	c.given[unix.SYS_IOCTL] = append(c.given[unix.SYS_IOCTL], clause{is(1,
		unix.TUNSETIFF, unix.TUNGETIFF, unix.TUNSETOFFLOAD, unix.TUNGETVNETHDRSZ, unix.TUNSETVNETHDRSZ, unix.TUNGETFEATURES, unix.TUNSETPERSIST,
		unix.SIOCGIFMTU, unix.SIOCSIFMTU, unix.SIOCGIFINDEX, unix.SIOCGIFNAME, unix.SIOCGIFFLAGS)})
	return c
}
