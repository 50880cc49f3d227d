package sandbox

import (
	"fmt"
	"maps"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// namespaceFlags make clone begin a namespace. That of a user would give every
// capability in it.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// refusedCalls are system calls that a file system client has no use for. They
// are much the same that container runtimes refuse to a process without
// capability.
func refusedCalls() []string {
	return []string{
		// Mounts and namespaces.
		"chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree",
		"open_tree_attr", "pivot_root", "setns", "umount", "umount2", "unshare",
		// Other processes.
		"kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
		// Files past their directories, and keys past the namespaces.
		"add_key", "keyctl", "name_to_handle_at", "open_by_handle_at", "request_key",
		// The kernel and the machine.
		"acct", "bpf", "delete_module", "fanotify_init", "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load",
		"kexec_load", "lookup_dcookie", "nfsservctl", "perf_event_open", "quotactl", "quotactl_fd", "reboot", "swapoff",
		"swapon", "syslog", "userfaultfd", "vhangup",
		// Clock and name of the machine, and placement of memory.
		"adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "migrate_pages", "move_pages",
		"setdomainname", "sethostname", "settimeofday", "stime",
		// Large and often at fault.
		"_sysctl", "create_module", "get_kernel_syms", "io_uring_enter", "io_uring_register", "io_uring_setup", "modify_ldt",
		"personality", "query_module", "sysfs", "uselib", "ustat", "vm86", "vm86old",
	}
}

// callPolicy allows every call that is known and not refused. The others, those
// of the machine's 32-bit mode too, fail with EPERM.
func callPolicy() (seccomp.Policy, error) {
	machine, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, fmt.Errorf("system calls of this processor: %w", err)
	}
	refused := append(refusedCalls(), "clone", "clone3")
	allowed := slices.DeleteFunc(slices.Sorted(maps.Keys(machine.SyscallNames)),
		func(name string) bool { return slices.Contains(refused, name) })
	withoutNamespace := seccomp.Condition{Argument: 0, Operation: seccomp.BitsNotSet, Value: namespaceFlags}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			{Names: allowed, Action: seccomp.ActionAllow},
			{Action: seccomp.ActionAllow, NamesWithCondtions: []seccomp.NameWithConditions{
				{Name: "clone", Conditions: seccomp.ArgumentConditions{withoutNamespace}},
			}},
			// Its flags are out of sight, and whoever calls it knows clone too.
			{Names: []string{"clone3"}, Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)},
		},
	}, nil
}

// filterCalls refuses system calls to the calling thread and to whatever it
// executes, for ever. The caller must have locked the thread and dropped its
// privileges.
func filterCalls() error {
	policy, err := callPolicy()
	if err != nil {
		return err
	}
	if err := seccomp.LoadFilter(seccomp.Filter{Policy: policy}); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	return nil
}
