// Package sandbox confines a process that must not be able to do anything on
// the node: a root of its own with what it is shown and nothing else, process
// ids of its own, no capability, and a filter of system calls. It is what a
// container runtime does for a mount pod, for clients that run without one.
package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// descriptionFD is where a process that is to be confined reads its Box.
const descriptionFD = 3

// Box is what a confined process sees. All its paths are those of the mount
// namespace in Namespaces.
type Box struct {
	// Root is an existing directory for the root's mount point, which nobody
	// but the process sees.
	Root string `json:"root"`
	// Size bounds what the process can write outside of the binds, in bytes.
	Size int64 `json:"size"`
	// Namespaces is a directory of /proc that holds the namespaces mnt and net
	// to start from; empty for those of the caller.
	Namespaces string `json:"namespaces,omitempty"`
	Binds      []Bind `json:"binds,omitempty"`
	// Files are small files, by path.
	Files map[string][]byte `json:"files,omitempty"`
	// Links are symbolic links and where they lead, by path.
	Links map[string]string `json:"links,omitempty"`
}

// Bind shows a directory or file at another place.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Create makes the source, a directory, where it is missing.
	Create bool `json:"create,omitempty"`
}

// Child is a process that waits for its description.
type Child struct {
	*exec.Cmd
	description *os.File
}

// Start starts program, which must call Main, with the arguments that lead it
// there, in new process id, mount and IPC namespaces and a session of its own.
// It waits for Confine; when its parent dies before that, it ends. adjust may
// change the command and be nil.
func Start(program string, arguments []string, output *os.File, adjust func(*exec.Cmd)) (*Child, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a confined process: %w", err)
	}
	defer func() { _ = reader.Close() }()
	cmd := exec.Command(program, arguments...) //nolint:noctx // It outlives its parent.
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{reader}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC,
	}
	if adjust != nil {
		adjust(cmd)
	}
	if err := cmd.Start(); err != nil {
		_ = writer.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return &Child{Cmd: cmd, description: writer}, nil
}

// Confine lets the child go on in the box, to become the program argv.
func (c *Child) Confine(box Box, argv []string) error {
	err := json.NewEncoder(c.description).Encode(description{Box: box, Argv: argv})
	if closed := c.description.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("describe a confined process: %w", err)
	}
	return nil
}

// Abandon makes a child that was not confined end.
func (c *Child) Abandon() { _ = c.description.Close() }

type description struct {
	Box  Box      `json:"box"`
	Argv []string `json:"argv"`
}

// Main is the confined process until it becomes its program; it returns only
// when it fails. environment becomes that of the program.
func Main(environment []string) error {
	// Capabilities, filter and namespaces are those of a thread until the
	// program replaces all threads by this one.
	runtime.LockOSThread()
	unix.CloseOnExec(descriptionFD)
	file := os.NewFile(descriptionFD, "description")
	if file == nil {
		return fmt.Errorf("no description of the sandbox: %w", errdefs.ErrFailedPrecondition)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return fmt.Errorf("read the description of the sandbox: %w", err)
	}
	var d description
	if err := json.Unmarshal(text, &d); err != nil || len(d.Argv) == 0 {
		return fmt.Errorf("the description of the sandbox is not whole: %w", errdefs.ErrFailedPrecondition)
	}
	if err := joinNamespaces(d.Box.Namespaces); err != nil {
		return err
	}
	if err := build(d.Box); err != nil {
		return err
	}
	if err := enter(d.Box.Root); err != nil {
		return err
	}
	if err := DropPrivileges(); err != nil {
		return err
	}
	if err := filterCalls(); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", d.Argv[0], unix.Exec(d.Argv[0], d.Argv, environment))
}

// joinNamespaces leaves the namespaces of a container, which end with it, for
// those in directory, and then takes a copy of the mounts for this thread.
func joinNamespaces(directory string) error {
	// A thread that shares root and working directory with others cannot change
	// its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads' root: %w", err)
	}
	if directory != "" {
		for name, kind := range map[string]int{"net": unix.CLONE_NEWNET, "mnt": unix.CLONE_NEWNS} {
			if err := joinNamespace(filepath.Join(directory, name), kind); err != nil {
				return err
			}
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("copy the mounts: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave mount propagation: %w", err)
	}
	return nil
}

func joinNamespace(path string, kind int) error {
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer func() { _ = namespace.Close() }()
	if err := unix.Setns(int(namespace.Fd()), kind); err != nil {
		return fmt.Errorf("join namespace %s: %w", path, err)
	}
	return nil
}
