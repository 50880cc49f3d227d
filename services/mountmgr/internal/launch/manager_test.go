package launch_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/fdpass"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

const patience = 20 * time.Second

// manager is a mount manager's end of a connection.
type manager struct {
	t      *testing.T
	conn   *fdpass.Conn
	lastID uint64
	events chan *launchv1.Event
	mutex  sync.Mutex
	waits  map[uint64]chan answer
	gone   chan struct{}
}

type answer struct {
	reply *launchv1.Reply
	files []*os.File
}

func connect(t *testing.T, socket string) *manager {
	t.Helper()
	m := &manager{t: t, events: make(chan *launchv1.Event, 100), waits: map[uint64]chan answer{}, gone: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		var err error
		if m.conn, err = fdpass.Dial(ctx, socket); err == nil {
			break
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("cannot connect: %v", err)
		}
	}
	t.Cleanup(func() { _ = m.conn.Close() })
	go m.read()
	return m
}

func (m *manager) read() {
	defer close(m.gone)
	for {
		message := new(launchv1.Message)
		files, err := m.conn.Receive(context.Background(), message)
		if err != nil {
			return
		}
		if event := message.GetEvent(); event != nil {
			m.events <- event
			continue
		}
		m.mutex.Lock()
		m.waits[message.GetReply().GetId()] <- answer{message.GetReply(), files}
		m.mutex.Unlock()
	}
}

// send sends a command and returns where its answer comes.
func (m *manager) send(command *launchv1.Command, files ...*os.File) <-chan answer {
	m.t.Helper()
	m.lastID++
	command.Id = m.lastID
	result := make(chan answer, 1)
	m.mutex.Lock()
	m.waits[m.lastID] = result
	m.mutex.Unlock()
	if err := m.conn.Send(m.t.Context(), command, files...); err != nil {
		m.t.Fatal(err)
	}
	return result
}

func (m *manager) await(result <-chan answer) answer {
	m.t.Helper()
	select {
	case a := <-result:
		m.t.Cleanup(func() { fdpass.CloseFiles(a.files) })
		return a
	case <-time.After(patience):
		m.t.Fatal("no answer")
		return answer{}
	}
}

// call sends a command that must succeed.
func (m *manager) call(command *launchv1.Command, files ...*os.File) answer {
	m.t.Helper()
	a := m.await(m.send(command, files...))
	if failure := a.reply.GetFailure(); failure != nil {
		m.t.Fatalf("%v failed: %v", command, failure)
	}
	return a
}

// refused sends a command that must fail with code.
func (m *manager) refused(code uint32, command *launchv1.Command, files ...*os.File) {
	m.t.Helper()
	if a := m.await(m.send(command, files...)); a.reply.GetFailure().GetCode() != code {
		m.t.Fatalf("%v: got %v, want code %d", command, a.reply, code)
	}
}

// next returns the next event.
func (m *manager) next() *launchv1.Event {
	m.t.Helper()
	select {
	case event := <-m.events:
		return event
	case <-time.After(patience):
		m.t.Fatal("no event")
		return nil
	}
}

func (m *manager) serving() *launchv1.Serving {
	m.t.Helper()
	event := m.next()
	if event.GetServing() == nil {
		m.t.Fatalf("got %v, want serving", event)
	}
	return event.GetServing()
}

func (m *manager) ended(restarting bool) *launchv1.ExitStatus {
	m.t.Helper()
	event := m.next()
	if event.GetClientEnded() == nil || event.GetClientEnded().GetRestarting() != restarting {
		m.t.Fatalf("got %v, want client ended, restarting %t", event, restarting)
	}
	return event.GetClientEnded().GetExit()
}

func (m *manager) hello() *launchv1.Status {
	m.t.Helper()
	event := m.next()
	if event.GetHello() == nil {
		m.t.Fatalf("got %v, want hello", event)
	}
	return event.GetHello().GetStatus()
}

func (m *manager) status() *launchv1.Status {
	m.t.Helper()
	return m.call(&launchv1.Command{Operation: &launchv1.Command_GetStatus{}}).reply.GetStatus()
}

// supervisor is a jfs-launch that runs inside of the test.
type supervisor struct {
	directory, socket, termination string
	code                           chan int
}

func serve(t *testing.T) *supervisor {
	t.Helper()
	directory := t.TempDir()
	s := &supervisor{directory: directory, socket: filepath.Join(directory, "launch.sock"),
		termination: filepath.Join(directory, "termination-log"), code: make(chan int, 1)}
	if err := os.WriteFile(s.termination, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, err := launch.Serve(ctx, launch.Options{
			Socket: s.socket, TerminationLog: s.termination, StateDirectory: directory,
			Environment:  []string{"PATH=/usr/bin:/bin", "HOSTSECRET=not for the client", "PASSED=on", "TOKEN=not that of the spec"},
			PassEnv:      []string{"PASSED", "TOKEN", "UNSET"},
			RestartPause: time.Millisecond, Output: os.Stderr, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Error(err)
		}
		s.code <- code
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return s
}

func (s *supervisor) exits(t *testing.T, want int) {
	t.Helper()
	select {
	case code := <-s.code:
		if code != want {
			t.Fatalf("exit code %d, want %d", code, want)
		}
	case <-time.After(patience):
		t.Fatal("jfs-launch goes on")
	}
}

// record is what the running client wrote about its environment and state.
func (s *supervisor) record(t *testing.T, pid int32) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.directory, itoa(pid)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// connection is a socket pair in place of a FUSE connection.
func connection(t *testing.T) (descriptor, kernel *os.File) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	descriptor, kernel = os.NewFile(uintptr(ends[0]), "fuse"), os.NewFile(uintptr(ends[1]), "kernel")
	t.Cleanup(func() { descriptor.Close(); kernel.Close() })
	return descriptor, kernel
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}
