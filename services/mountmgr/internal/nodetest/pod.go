// Package nodetest is a node without Kubernetes for tests: a fake API server,
// and a kubelet that runs mount pods as processes in namespaces of their own,
// with the real jfs-launch and the real JuiceFS client, unprivileged as in a
// real pod. It needs root and /dev/fuse.
package nodetest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
)

// podEnv marks a process that is to become a pod; its value is the directory
// that the pod sees as its root. privilegedEnv keeps its privileges, and the
// propagation of mounts at the directory that it names.
const (
	podEnv        = "NODETEST_POD_ROOT"
	privilegedEnv = "NODETEST_POD_SHARES"
)

// lastCapability is beyond every capability that kernels know.
const lastCapability = 63

// Main is all of TestMain: it runs the tests, unless the process was started to
// be a pod or a probe.
func Main(m *testing.M) {
	var err error
	root, isPod := os.LookupEnv(podEnv) //nolint:forbidigo // this is main
	switch {
	case isPod:
		err = becomePod(root, os.Getenv(privilegedEnv)) //nolint:forbidigo // this is main
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
func becomePod(root, shared string) error {
	if err := leavePropagation(shared); err != nil {
		return fmt.Errorf("leave mount propagation: %w", err)
	}
	if err := unix.Mount("proc", root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("enter pod root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter pod root: %w", err)
	}
	if shared == "" {
		if err := dropPrivileges(); err != nil {
			return err
		}
	}
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool { //nolint:forbidigo // this is main
		return strings.HasPrefix(variable, "NODETEST_")
	})
	program, err := exec.LookPath(os.Args[1])
	if err != nil {
		return err
	}
	return unix.Exec(program, os.Args[1:], env)
}

func dropPrivileges() error {
	for capability := range uintptr(lastCapability) {
		_ = unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0) // Unknown ones fail.
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
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

// startPod starts argv as PID 1 of a pod whose root file system is root, with
// its own pid and mount namespaces. The mounts below root are the caller's. shared
// makes the pod privileged: a directory at which mounts propagate both ways.
func startPod(root, shared string, argv, env []string, log *os.File) (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe", argv...) //nolint:noctx // a pod lives until it is killed
	cmd.Env = append([]string{
		podEnv + "=" + root, privilegedEnv + "=" + shared, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root",
	}, env...)
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
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755) //nolint:gosec // as in a container
	} else {
		err = os.WriteFile(target, nil, 0o755) //nolint:gosec // as in a container
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", source, target, err)
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
