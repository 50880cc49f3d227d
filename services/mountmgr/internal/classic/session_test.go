package classic

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/keeper"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// supervisor stands for the socket of a client's supervisor: what it holds is
// "held" or "given away".
type supervisor struct {
	slot chan string
}

func listenAsSupervisor(t *testing.T, directory, name string) *supervisor {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(directory, name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	s := &supervisor{slot: make(chan string, 1)}
	s.slot <- "held"
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			s.exchange(conn, null)
		}
	}()
	return s
}

func (s *supervisor) exchange(conn *net.UnixConn, null *os.File) {
	defer func() { _ = conn.Close() }()
	held := <-s.slot
	fuse := null
	if held != "held" {
		fuse = nil
	}
	// It lets go as soon as it has sent.
	if err := clientfd.Offer(conn, nil, null, fuse); err == nil {
		held = "given away"
	}
	payload, files, _ := clientfd.Receive(conn)
	clientfd.CloseFiles(files)
	if len(files) > 0 && string(payload) != clientfd.Closed {
		held = "held"
	}
	s.slot <- held
}

func (s *supervisor) holds() bool {
	held := <-s.slot
	s.slot <- held
	return held == "held"
}

// process starts a program that ends when it is told to by SIGHUP, or ignores it.
func process(t *testing.T, script string) launcher.Process {
	t.Helper()
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, unix.SIGHUP) // Or the shell never hears it, when the tests run under nohup.
	t.Cleanup(func() { signal.Stop(heard) })
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := stdout.Read(make([]byte, 8)); err != nil { // It is ready.
		t.Fatal(err)
	}
	identified, err := launcher.Identify(int32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return identified
}

func testExchange(t *testing.T) *exchange {
	t.Helper()
	parent, err := os.MkdirTemp("", "x") //nolint:usetesting // The path of a socket is short.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	directory, err := openDirectory(parent, "x")
	if err != nil {
		t.Fatal(err)
	}
	e := &exchange{directory: directory}
	e.server, err = keeper.Listen(directory, keeper.Options{Tell: func(keeper.Event) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.server.Close() })
	return e
}

const (
	obeys   = `trap "exit 1" HUP; echo ready; while :; do sleep 0.01; done`
	isBusy  = `trap "" HUP; echo ready; while :; do sleep 0.01; done`
	socket1 = "fuse_fd_comm.1"
)

func TestAClientThatGoesLosesTheConnectionAndABusyOneGetsItBack(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		holds  bool
	}{
		"goes": {obeys, false},
		"busy": {isBusy, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := testExchange(t)
			supervisor := listenAsSupervisor(t, e.directory.Name(), socket1)
			client := process(t, c.script)
			session := newSession(New(Options{}, Parts{}), Target{}, e, 0)
			session.follow(client) // The supervisor ends with its client, so one process does for both.
			defer session.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if c.holds {
				var soon context.CancelFunc
				ctx, soon = context.WithTimeout(ctx, 200*time.Millisecond)
				defer soon()
			}
			err := session.takeAndEnd(ctx, socket1, client)
			if c.holds != errors.Is(err, context.DeadlineExceeded) || !c.holds && err != nil {
				t.Errorf("takeAndEnd = %v", err)
			}
			if supervisor.holds() != c.holds || client.Running() != c.holds {
				t.Errorf("the supervisor holds it: %t, the client runs: %t; want %t", supervisor.holds(), client.Running(), c.holds)
			}
		})
	}
}

func TestBorrowTakesNothingAway(t *testing.T) {
	e := testExchange(t)
	supervisor := listenAsSupervisor(t, e.directory.Name(), socket1)
	for range 3 {
		held, name, err := e.borrow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held.Close()
		if name != socket1 || held.PID != os.Getpid() || !supervisor.holds() {
			t.Errorf("socket %s of process %d, holds %t", name, held.PID, supervisor.holds())
		}
	}
}

func TestFilesOfAMountPodAreNotTrusted(t *testing.T) {
	e := testExchange(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := e.directory.Name()
	for name, make := range map[string]func(string) error{
		"a link":      func(path string) error { return os.Symlink(secret, path) },
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		path := filepath.Join(base, "state1.json")
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if state, err := e.readState("state1.json"); err == nil {
			t.Errorf("%s was read: %q", name, state)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(base, stateName)); err != nil {
		t.Fatal(err)
	}
	if err := e.writeState([]byte("state")); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(secret); string(text) != "secret" {
		t.Errorf("a link was followed: %q", text)
	}
	if state, err := e.readState(stateName); err != nil || string(state) != "state" {
		t.Errorf("state %q, %v", state, err)
	}
	if err := os.Symlink("/run", filepath.Join(filepath.Dir(base), "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := openDirectory(filepath.Dir(base), "link"); err == nil {
		t.Error("a link was taken for an exchange directory")
	}
}
