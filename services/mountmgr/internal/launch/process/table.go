// Package process starts and reaps processes for a program that may be PID 1,
// where orphans of other processes arrive that nobody else reaps.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Table is the one place of a program that starts and waits for processes, so
// that reaping orphans never takes away a status that somebody waits for. While
// a table that reaps orphans is in use, os/exec and os.StartProcess must not be.
type Table struct {
	orphans bool
	signals chan os.Signal
	// mutex is held while a process starts, so that its end is not handled
	// before it is in running.
	mutex   sync.Mutex
	running map[int]*Process
}

// NewTable returns a table that reaps orphans too if told to. Run must be
// running for any process to end.
func NewTable(orphans bool) *Table {
	t := &Table{orphans: orphans, signals: make(chan os.Signal, 1), running: map[int]*Process{}}
	signal.Notify(t.signals, unix.SIGCHLD)
	return t
}

// Run reaps until ctx ends.
func (t *Table) Run(ctx context.Context) {
	defer signal.Stop(t.signals)
	for {
		t.reap()
		select {
		case <-ctx.Done():
			return
		case <-t.signals:
		}
	}
}

func (t *Table) reap() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.orphans {
		for t.reapOne(-1) {
		}
		return
	}
	for pid := range t.running {
		t.reapOne(pid)
	}
}

// reapOne collects one process that has ended; pid -1 means any.
func (t *Table) reapOne(pid int) bool {
	var status unix.WaitStatus
	for {
		ended, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || ended <= 0 {
			return false
		}
		if process, ours := t.running[ended]; ours {
			delete(t.running, ended)
			process.status = status
			close(process.done)
		}
		return true
	}
}

// Spec is what to start.
type Spec struct {
	// Argv is the argument vector; without a slash, Argv[0] is looked up in the
	// PATH of Env.
	Argv []string
	// Env is the whole environment.
	Env []string
	// Output and Errors are its standard output and standard error and stay the
	// caller's.
	Output, Errors *os.File
	// Extra files are its descriptors from 3 on and stay the caller's.
	Extra []*os.File
}

// Process is a started process, leader of its own session. It lives in / and
// reads /dev/null.
type Process struct {
	// PID is valid for signals through this type only: the number may be reused
	// after the end.
	PID    int
	table  *Table
	done   chan struct{}
	status unix.WaitStatus
}

// Start starts a process. The error names the program only, because arguments
// may hold secrets.
func (t *Table) Start(spec Spec) (*Process, error) {
	if len(spec.Argv) == 0 {
		return nil, fmt.Errorf("start process: empty argument vector")
	}
	program, err := lookUp(spec.Argv[0], spec.Env)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	defer null.Close()
	descriptors := []uintptr{null.Fd(), spec.Output.Fd(), spec.Errors.Fd()}
	for _, file := range spec.Extra {
		descriptors = append(descriptors, file.Fd())
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	pid, err := syscall.ForkExec(program, spec.Argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   spec.Env,
		Files: descriptors,
		// A group of its own: a stopped client whose group loses its session
		// would get SIGHUP from the kernel.
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	process := &Process{PID: pid, table: t, done: make(chan struct{})}
	t.running[pid] = process
	return process, nil
}

// Done is closed when the process has ended, all of its threads are gone and
// its descriptors are closed.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is how the process ended; valid after Done.
func (p *Process) Status() unix.WaitStatus { return p.status }

// Signal sends a signal; os.ErrProcessDone after the end.
func (p *Process) Signal(number unix.Signal) error { return p.signal(p.PID, number) }

// SignalGroup sends a signal to the process and to those of its descendants
// that did not make a group of their own; os.ErrProcessDone after the end.
func (p *Process) SignalGroup(number unix.Signal) error { return p.signal(-p.PID, number) }

func (p *Process) signal(target int, number unix.Signal) error {
	p.table.mutex.Lock()
	defer p.table.mutex.Unlock()
	if _, running := p.table.running[p.PID]; !running {
		return os.ErrProcessDone
	}
	if err := unix.Kill(target, number); err != nil {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(number), target, err)
	}
	return nil
}

// lookUp finds program as execvp would, but never in the working directory.
func lookUp(program string, env []string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, variable := range env {
		list, found := strings.CutPrefix(variable, "PATH=")
		if !found {
			continue
		}
		for _, directory := range filepath.SplitList(list) {
			candidate := filepath.Join(directory, program)
			info, err := os.Stat(candidate)
			if filepath.IsAbs(candidate) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return candidate, nil
			}
		}
	}
	return "", fmt.Errorf("look up program in PATH: %w", os.ErrNotExist)
}
