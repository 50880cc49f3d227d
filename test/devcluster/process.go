package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is a long-running program of the cluster.
type daemon struct {
	name    string // of its pid file and log
	machine machine
	path    string
	args    []string
	env     []string // beside PATH
}

// process is the content of a pid file: a process that this package started.
// The start time, in clock ticks since boot, and the boot id tell it from a
// later process with the same pid.
type process struct {
	Name      string   `json:"name"`
	PID       int      `json:"pid"`
	StartTime uint64   `json:"startTime"`
	BootID    string   `json:"bootID"`
	Command   []string `json:"command"`
}

// startDaemon starts a daemon in its machine's namespaces. The daemon gets a
// session of its own, so it outlives the caller.
func (l layout) startDaemon(ctx context.Context, d daemon) error {
	log, err := os.OpenFile(l.log(d.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", d.name, err)
	}
	defer log.Close()
	// No context ends a daemon: it outlives the caller.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.path, d.args...)
	cmd.Env = append([]string{"PATH=" + searchPath, "HOME=/root"}, d.env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.machine.do(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	if err := l.recordProcess(d, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	// Collects the daemon if it ends while this program runs; afterwards the
	// machine's init does.
	go func() { _ = cmd.Wait() }()
	return nil
}

func (l layout) recordProcess(d daemon, pid int) error {
	start, _, err := processStat(pid)
	if err != nil {
		return fmt.Errorf("%s ended at once, see %s: %w", d.name, l.log(d.name), err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	data, err := json.Marshal(process{
		Name: d.name, PID: pid, StartTime: start, BootID: boot,
		Command: append([]string{d.path}, d.args...),
	})
	if err != nil {
		return fmt.Errorf("encode pid file of %s: %w", d.name, err)
	}
	return writeFileAtomic(l.pidFile(d.name), append(data, '\n'), 0o600)
}

// processes reads all pid files, sorted by name.
func (l layout) processes() ([]process, error) {
	files, err := filepath.Glob(l.path("pids", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list pid files: %w", err)
	}
	var list []process
	for _, file := range files {
		p, err := readProcess(file)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func readProcess(file string) (process, error) {
	var p process
	data, err := os.ReadFile(file)
	if err != nil {
		return p, fmt.Errorf("read pid file: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("read pid file %s: %w", file, err)
	}
	return p, nil
}

// alive says whether the very process runs; one that only waits to be
// collected by its parent does not.
func (p process) alive() bool {
	boot, err := bootID()
	if err != nil || boot != p.BootID || p.PID <= 0 {
		return false
	}
	start, state, err := processStat(p.PID)
	return err == nil && start == p.StartTime && state != 'Z' && state != 'X'
}

// signal sends a signal unless the process has ended.
func (p process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d (%s): %w", p.PID, p.Name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() { // checked after the pidfd is held, so the pid cannot be reused
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d (%s): %w", p.PID, p.Name, err)
	}
	return nil
}

// stopDaemon ends a daemon with a signal, waits until it is gone and removes
// its pid file.
func (l layout) stopDaemon(ctx context.Context, name string, sig unix.Signal) error {
	p, err := readProcess(l.pidFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.signal(sig); err != nil {
		return err
	}
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) { return !p.alive(), nil })
	if err != nil {
		return fmt.Errorf("wait for %s to end: %w", name, err)
	}
	return os.Remove(l.pidFile(name))
}

// processStat returns the start time and the state letter of a process.
func processStat(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	return parseStat(string(data))
}

// parseStat follows proc_pid_stat(5): the second field, the program's name in
// parentheses, may hold anything, so fields count from the last parenthesis.
func parseStat(stat string) (start uint64, state byte, err error) {
	_, rest, ok := cutLast(stat, ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("process status %q has an unknown form", stat)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time of process: %w", err)
	}
	return start, fields[0][0], nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
