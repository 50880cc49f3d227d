package process_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/process"
)

func table(t *testing.T) *process.Table {
	t.Helper()
	table := process.NewTable(false)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { table.Run(ctx); close(stopped) }()
	t.Cleanup(func() { cancel(); <-stopped })
	return table
}

func run(t *testing.T, table *process.Table, argv ...string) (*process.Process, string) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	spec := process.Spec{Argv: argv, Env: []string{"PATH=/usr/bin:/bin", "A=b"}, Output: writer, Errors: writer}
	p, err := table.Start(spec)
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	output, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("never ended")
	}
	return p, string(output)
}

func TestStatusAndEnvironment(t *testing.T) {
	table := table(t)
	p, output := run(t, table, "env")
	if output != "PATH=/usr/bin:/bin\nA=b\n" || p.Status().ExitStatus() != 0 {
		t.Errorf("got %q, status %#x", output, p.Status())
	}
	if p, _ = run(t, table, "false"); p.Status().ExitStatus() != 1 {
		t.Errorf("status %#x, want exit 1", p.Status())
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signalled a process that has ended: %v", err)
	}
}

func TestSignals(t *testing.T) {
	table := table(t)
	p, err := table.Start(process.Spec{Argv: []string{"/bin/sleep", "1000"}, Output: os.Stderr, Errors: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SignalGroup(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Status().Signal() != unix.SIGKILL {
		t.Errorf("status %#x, want SIGKILL", p.Status())
	}
}

func TestErrorNamesTheProgramOnly(t *testing.T) {
	for _, program := range []string{"/missing/program", "missing-program"} {
		argv := []string{program, "secret"}
		_, err := table(t).Start(process.Spec{Argv: argv, Env: []string{"PATH=/usr/bin"}, Output: os.Stderr, Errors: os.Stderr})
		if !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", program, err)
		}
	}
}

func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	table := process.NewTable(true)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { table.Run(ctx); close(stopped) }()
	t.Cleanup(func() { cancel(); <-stopped })
	p, output := run(t, table, "sh", "-c", "sleep 0.05 >/dev/null 2>&1 & echo $!; exit 3")
	if p.Status().ExitStatus() != 3 {
		t.Errorf("status %#x, want exit 3", p.Status())
	}
	deadline, tick := time.After(10*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := os.Stat("/proc/" + strings.TrimSpace(output)); errors.Is(err, os.ErrNotExist) {
				return
			}
		case <-deadline:
			t.Fatal("the orphan is still there")
		}
	}
}
