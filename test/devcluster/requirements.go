package devcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// searchPath is where the daemons and this package look for programs,
// whatever the caller's PATH.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cniDir is where Debian installs the CNI plugins.
const cniDir = "/usr/lib/cni"

// requirement is a program and the Debian package that brings it.
type requirement struct{ program, pkg string }

func requirements(redis bool) []requirement {
	list := []requirement{
		{"containerd", "containerd"},
		{"containerd-shim-runc-v2", "containerd"},
		{"ctr", "containerd"},
		{"runc", "runc"},
		{"iptables", "iptables"},
		{cniDir + "/bridge", "containernetworking-plugins"},
		{cniDir + "/host-local", "containernetworking-plugins"},
		{cniDir + "/portmap", "containernetworking-plugins"},
		{cniDir + "/loopback", "containernetworking-plugins"},
	}
	if redis {
		list = append(list, requirement{"redis-server", "redis-server"})
	}
	return list
}

func errNotRoot() error {
	return fmt.Errorf("a cluster needs root (namespaces, mounts and cgroups are made): run as root or with sudo: %w",
		errdefs.ErrPermissionDenied)
}

// checkRequirements reports everything that is missing at once.
func checkRequirements(opts Options) error {
	if os.Geteuid() != 0 {
		return errNotRoot()
	}
	var faults []error
	if err := checkFuse("/dev/fuse"); err != nil {
		faults = append(faults, err)
	}
	faults = append(faults, checkKernel("/proc"))
	if err := missingTools(requirements(opts.Redis), lookTool); err != nil {
		faults = append(faults, err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		faults = append(faults, fmt.Errorf("the go command is not in PATH: install Go 1.26 or later: %w", errdefs.ErrFailedPrecondition))
	}
	return errors.Join(faults...)
}

func checkFuse(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return nil
	}
	return fmt.Errorf("%s is missing: load the kernel module with `modprobe fuse`, "+
		"or in a container pass the device in: %w", path, errdefs.ErrFailedPrecondition)
}

// checkKernel looks for what a kernel may have as modules that nothing loads
// by itself. Without br_netfilter, a pod's answer to another pod of its node
// that asked by way of a Service does not get its address translated back.
func checkKernel(proc string) error {
	var modules []string
	if _, err := os.Stat(proc + "/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		modules = append(modules, "br_netfilter")
	}
	if data, err := os.ReadFile(proc + "/filesystems"); err != nil || !slices.Contains(strings.Fields(string(data)), "overlay") {
		modules = append(modules, "overlay")
	}
	if len(modules) == 0 {
		return nil
	}
	return fmt.Errorf("the kernel lacks %s; load with: modprobe -a %s: %w",
		strings.Join(modules, " and "), strings.Join(modules, " "), errdefs.ErrFailedPrecondition)
}

func missingTools(list []requirement, look func(string) (string, error)) error {
	var programs, pkgs []string
	for _, r := range list {
		if _, err := look(r.program); err == nil {
			continue
		}
		programs = append(programs, r.program)
		if !slices.Contains(pkgs, r.pkg) {
			pkgs = append(pkgs, r.pkg)
		}
	}
	if len(programs) == 0 {
		return nil
	}
	return fmt.Errorf("missing: %s; install with: apt-get install -y %s: %w",
		strings.Join(programs, ", "), strings.Join(pkgs, " "), errdefs.ErrFailedPrecondition)
}

// lookTool finds a program in searchPath, or checks an absolute path.
func lookTool(program string) (string, error) {
	if strings.HasPrefix(program, "/") {
		return program, executable(program)
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := dir + "/" + program
		if executable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("program %s: %w", program, errdefs.ErrNotFound)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not a program: %w", path, errdefs.ErrNotFound)
	}
	return nil
}
