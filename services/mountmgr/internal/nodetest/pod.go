// Package nodetest is a node without Kubernetes for tests: a fake API server,
// and a kubelet that runs mount pods as processes in namespaces of their own,
// with the real jfs-launch and the real JuiceFS client, unprivileged as in a
// real pod. It needs root and /dev/fuse.
package nodetest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/sandbox"
)

// podEnv marks a process that is to become a pod; its value is the directory
// that the pod sees as its root. userEnv is its uid. privilegedEnv keeps its
// privileges, and the propagation of mounts at the directory that it names.
const (
	podEnv        = "NODETEST_POD_ROOT"
	userEnv       = "NODETEST_POD_USER"
	privilegedEnv = "NODETEST_POD_SHARES"
)

// Main is all of TestMain: it runs the tests, unless the process was started to
// be a pod or a probe.
func Main(m *testing.M) {
	var err error
	root, isPod := os.LookupEnv(podEnv) //nolint:forbidigo // this is main
	switch {
	case isPod:
		err = becomePod(root, os.Getenv(userEnv), os.Getenv(privilegedEnv)) //nolint:forbidigo // this is main
	case len(os.Args) > 1 && os.Args[1] == "probe":
		err = probe.Main(os.Args[2:], os.Stdout)
	default:
		os.Exit(m.Run()) //nolint:forbidigo,revive // this is main
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo,revive // this is main
	}
}

// becomePod runs in new mount and pid namespaces. It gives up every privilege,
// unless shared names a directory, and executes the arguments.
func becomePod(root, user, shared string) error {
	if err := leavePropagation(shared); err != nil {
		return fmt.Errorf("leave mount propagation: %w", err)
	}
	if err := sandbox.MountProc(root + "/proc"); err != nil {
		return err
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("enter pod root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter pod root: %w", err)
	}
	runtime.LockOSThread() // Capabilities are a thread's.
	if uid, err := strconv.Atoi(user); err == nil && uid != 0 {
		if err := becomeUser(uid); err != nil {
			return fmt.Errorf("become user %d: %w", uid, err)
		}
	}
	if shared == "" {
		if err := sandbox.DropPrivileges(); err != nil {
			return err
		}
	}
	environment := slices.DeleteFunc(os.Environ(), func(variable string) bool { //nolint:forbidigo // this is main
		return strings.HasPrefix(variable, "NODETEST_")
	})
	program, err := exec.LookPath(os.Args[1])
	if err != nil {
		return err
	}
	return unix.Exec(program, os.Args[1:], environment)
}

// becomeUser changes the uid of the calling thread and keeps its capabilities,
// which are needed to drop them.
func becomeUser(uid int) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	// Not those of package syscall, which change every thread.
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, 0, 0, 0},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return unix.Capset(&header, &caps[0])
}

// leavePropagation makes every mount private, but for what is at or below
// shared.
func leavePropagation(shared string) error {
	if shared == "" {
		return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	entries, err := mountinfo.All()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Path == shared || strings.HasPrefix(entry.Path, shared+"/") {
			continue
		}
		_ = unix.Mount("", entry.Path, "", unix.MS_PRIVATE, "") // One that is covered cannot be reached.
	}
	return nil
}

// podProcess is PID 1 of a pod.
type podProcess struct {
	// root is its root file system. The mounts below it are the caller's.
	root string
	user int64
	// shared makes the pod privileged: a directory at which mounts propagate both
	// ways; empty for none.
	shared string
	argv   []string
	env    []string
}

// startPod starts a process with its own pid and mount namespaces.
func startPod(p podProcess, log *os.File) (*exec.Cmd, error) {
	argv, home := p.argv, "/root"
	if p.user != 0 {
		home = volume.SocketDir
	}
	cmd := exec.Command("/proc/self/exe", argv...) //nolint:noctx // a pod lives until it is killed
	cmd.Env = append([]string{
		podEnv + "=" + p.root, userEnv + "=" + strconv.FormatInt(p.user, 10), privilegedEnv + "=" + p.shared,
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + home,
	}, p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start pod %s: %w", strings.Join(argv, " "), err)
	}
	return cmd, nil
}

// bind mounts source at target, which is made: a directory or a file as the
// source is.
func bind(source, target string, readOnly bool) error {
	if err := sandbox.Show("/", sandbox.Bind{Source: source, Target: target}); err != nil {
		return err
	}
	if readOnly {
		return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return nil
}

// unmountBelow takes away every mount at or below path.
func unmountBelow(path string) {
	entries, err := mountinfo.Below(path)
	if err != nil {
		return
	}
	for _, entry := range slices.Backward(entries) {
		_ = unix.Unmount(entry.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}
