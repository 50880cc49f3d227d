package launcher_test

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// start starts a program and identifies it.
func start(t *testing.T, name string, arguments ...string) (launcher.Process, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(name, arguments...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	process, err := launcher.Identify(int32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return process, cmd
}

func TestAwaitEndOfAProcessThatEnds(t *testing.T) {
	process, cmd := start(t, "sleep", "0.05")
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	if err := process.AwaitEnd(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("it was ended: %v", err)
	}
	if err := process.AwaitEnd(t.Context(), time.Minute); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}

func TestAwaitEndKillsWhenPatienceIsOver(t *testing.T) {
	process, cmd := start(t, "sleep", "1000")
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	if err := process.AwaitEnd(t.Context(), 20*time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := <-waited; err == nil {
		t.Error("it ended by itself")
	}
}

func TestAwaitEndLeavesTheProcessToANewManager(t *testing.T) {
	process, cmd := start(t, "sleep", "1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := process.AwaitEnd(ctx, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("AwaitEnd = %v, want canceled", err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process is gone: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func TestAwaitEndSparesAnotherProcessOfTheSameNumber(t *testing.T) {
	process, cmd := start(t, "sleep", "1000")
	process.StartTicks++
	if err := process.AwaitEnd(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := (launcher.Process{}).AwaitEnd(t.Context(), 0); err != nil {
		t.Errorf("no process at all: %v", err)
	}
}
