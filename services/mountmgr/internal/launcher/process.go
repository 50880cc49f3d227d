package launcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process identifies a jfs-launch on this machine, also after its process id
// was given to another process.
type Process struct {
	PID int32 `json:"pid,omitempty"`
	// StartTicks is when it started, in clock ticks since the boot.
	StartTicks uint64 `json:"startTicks,omitempty"`
}

// startTicksField is the index of starttime after the command name of
// /proc/PID/stat; see proc_pid_stat(5).
const startTicksField = 19

// pollStep bounds one wait for the end of a process, between looks at the
// context.
const pollStep = 50 * time.Millisecond

// Identify names the process with a process id that is known to run now: a child
// that was not waited for, a peer that is connected, or one that was just found.
func Identify(pid int32) (Process, error) {
	ticks, err := startTicks(pid)
	return Process{PID: pid, StartTicks: ticks}, err
}

func startTicks(pid int32) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read process %d: %w", pid, err)
	}
	_, rest, found := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) <= startTicksField {
		return 0, fmt.Errorf("read process %d: unknown format", pid)
	}
	return strconv.ParseUint(fields[startTicksField], 10, 64)
}

// Open returns a pidfd of the process, in non-blocking mode, which is readable
// when it has ended; nil without an error when it has ended already. The caller
// closes it.
func (p Process) Open() (*os.File, error) {
	if p.PID == 0 {
		return nil, nil
	}
	pidfd, err := unix.PidfdOpen(int(p.PID), unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	if ticks, err := startTicks(p.PID); err != nil || ticks != p.StartTicks {
		_ = unix.Close(pidfd)
		return nil, nil //nolint:nilerr // It is gone, or its number belongs to another process.
	}
	return os.NewFile(uintptr(pidfd), "pidfd"), nil
}

// AwaitEnd waits until the process and, since it is PID 1 of its namespace,
// all that it has started are gone: only then is nobody left who could answer a
// request. When patience is over it is killed; context.DeadlineExceeded when
// even that does not end it before ctx does.
func (p Process) AwaitEnd(ctx context.Context, patience time.Duration) error {
	if p.PID == 0 {
		return nil
	}
	pidfd, err := unix.PidfdOpen(int(p.PID), 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	if ticks, err := startTicks(p.PID); err != nil || ticks != p.StartTicks {
		return nil // It is gone, or its number belongs to another process.
	}
	gentle, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if awaitEnd(gentle, pidfd) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("wait for the end of jfs-launch (process %d): %w", p.PID, err)
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	if !awaitEnd(ctx, pidfd) {
		return fmt.Errorf("jfs-launch (process %d) does not end: %w", p.PID, ctx.Err())
	}
	return nil
}

// Wait returns when the process is gone, or ctx ends.
func (p Process) Wait(ctx context.Context) error {
	pidfd, err := p.open()
	if err != nil || pidfd < 0 {
		return err
	}
	defer func() { _ = unix.Close(pidfd) }()
	if !awaitEnd(ctx, pidfd) {
		return fmt.Errorf("process %d does not end: %w", p.PID, ctx.Err())
	}
	return nil
}

// Running tells whether the process is there.
func (p Process) Running() bool {
	pidfd, err := p.open()
	if err != nil || pidfd < 0 {
		return false
	}
	_ = unix.Close(pidfd)
	return true
}

// Signal sends a signal; a process that is gone is no error.
func (p Process) Signal(signal unix.Signal) error {
	pidfd, err := p.open()
	if err != nil || pidfd < 0 {
		return err
	}
	defer func() { _ = unix.Close(pidfd) }()
	if err := unix.PidfdSendSignal(pidfd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// File returns a duplicate of a descriptor of the process, which the caller
// owns.
func (p Process) File(descriptor int) (*os.File, error) {
	pidfd, err := p.open()
	if err != nil {
		return nil, err
	}
	if pidfd < 0 {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrProcessDone)
	}
	defer func() { _ = unix.Close(pidfd) }()
	duplicate, err := unix.PidfdGetfd(pidfd, descriptor, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor %d of process %d: %w", descriptor, p.PID, err)
	}
	return os.NewFile(uintptr(duplicate), "duplicate"), nil
}

// open returns a pidfd, which is negative when the process is gone or has
// ended and only waits for its parent.
func (p Process) open() (int, error) {
	if p.PID == 0 {
		return -1, nil
	}
	pidfd, err := unix.PidfdOpen(int(p.PID), 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	count, _ := unix.Poll(fds, 0)
	if now, err := Identify(p.PID); err != nil || now != p || count > 0 {
		_ = unix.Close(pidfd)
		return -1, nil //nolint:nilerr // It is gone, or its number belongs to another process.
	}
	return pidfd, nil
}

// awaitEnd returns false when ctx ends before the process does.
func awaitEnd(ctx context.Context, pidfd int) bool {
	for !ended(pidfd) {
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// ended waits up to pollStep for the end of a process.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	count, err := unix.Poll(fds, int(pollStep.Milliseconds()))
	return err == nil && count > 0
}
