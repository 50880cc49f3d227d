package keeper_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/keeper"
)

const patience = 10 * time.Second

// shelf is a custody in memory.
type shelf struct {
	mu       sync.Mutex
	settings []byte
	file     *os.File
	away     bool
}

func (s *shelf) Get(context.Context) ([]byte, *os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.away:
		return nil, nil, errdefs.ErrUnavailable
	case s.file == nil:
		return nil, nil, errdefs.ErrNotFound
	}
	descriptor, err := unix.FcntlInt(s.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return s.settings, os.NewFile(uintptr(descriptor), "duplicate"), nil
}

func (s *shelf) Put(_ context.Context, settings []byte, file *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	descriptor, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.settings, s.file = settings, os.NewFile(uintptr(descriptor), "kept")
	return nil
}

func (s *shelf) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func request(length int, opcode uint32) []byte {
	data := make([]byte, length)
	binary.NativeEndian.PutUint32(data, uint32(length))
	binary.NativeEndian.PutUint32(data[4:], opcode)
	return data
}

func fuse(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

type fixture struct {
	server *keeper.Server
	shelf  *shelf
	path   string
	events chan keeper.Event
}

func serve(t *testing.T, admits func(int) bool) fixture {
	t.Helper()
	directory, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{shelf: new(shelf), path: filepath.Join(directory.Name(), keeper.SocketName), events: make(chan keeper.Event, 100)}
	f.server, err = keeper.Listen(directory, keeper.Options{
		Custody: f.shelf, Admits: admits, Tell: func(e keeper.Event) { f.events <- e }, Log: slog.New(slog.DiscardHandler),
		IsFuse: func(*os.File) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.server.Close(); _ = directory.Close() })
	return f
}

func (f fixture) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask is what a supervisor does when it starts.
func (f fixture) ask(t *testing.T) (string, int) {
	t.Helper()
	conn := f.dial(t)
	payload, files, err := clientfd.Receive(conn)
	if err != nil {
		t.Fatal(err)
	}
	clientfd.CloseFiles(files)
	if len(files) == 2 {
		if err := clientfd.Send(conn, []byte(clientfd.Closed), fuse(t)); err != nil {
			t.Fatal(err)
		}
	}
	return string(payload), len(files)
}

// deposit is what a supervisor does when its client serves.
func (f fixture) deposit(t *testing.T, settings []byte) {
	t.Helper()
	conn := f.dial(t)
	_, files, err := clientfd.Receive(conn)
	if err != nil {
		t.Fatal(err)
	}
	clientfd.CloseFiles(files)
	if err := clientfd.Send(conn, settings, fuse(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("after the deposit: %v", err)
	}
}

func TestTheLifeOfAConnection(t *testing.T) {
	f := serve(t, nil)
	f.server.Open(true)
	if payload, count := f.ask(t); payload != "FUSE" || count != 1 {
		t.Errorf("before there is a connection: %q and %d descriptors", payload, count)
	}
	for _, settings := range [][]byte{request(104, 26), request(56, 26)} {
		f.deposit(t, settings)
		for range 3 { // A supervisor that takes it takes nothing away.
			if payload, count := f.ask(t); payload != string(settings) || count != 2 {
				t.Errorf("%x and %d descriptors, want %x and 2", payload, count, settings)
			}
		}
	}
	good := request(56, 26)
	for name, bad := range map[string][]byte{
		"from before the INIT request": append([]byte("FUSE"), make([]byte, 100)...),
		"of another operation":         request(104, 1),
		"of another length":            request(104, 26)[:80],
	} {
		f.deposit(t, bad)
		if payload, count := f.ask(t); payload != string(good) || count != 2 {
			t.Errorf("settings %s are offered: %x and %d descriptors", name, payload, count)
		}
	}
	serves := 0
	for range len(f.events) {
		if event := <-f.events; event.Serves {
			serves++
		}
	}
	if serves == 0 {
		t.Error("nobody was told that the client serves")
	}
}

func TestWhoAsksAndHangsUpTakesNothing(t *testing.T) {
	f := serve(t, nil)
	f.server.Open(true)
	f.deposit(t, request(104, 26))
	for _, answer := range []string{"", "CLOSE"} {
		conn := f.dial(t)
		if _, files, err := clientfd.Receive(conn); err != nil || len(files) != 2 {
			t.Fatalf("%d descriptors, %v", len(files), err)
		} else {
			clientfd.CloseFiles(files)
		}
		if answer != "" {
			if _, err := conn.Write([]byte(answer)); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
	}
	if _, count := f.ask(t); count != 2 {
		t.Errorf("%d descriptors are left", count)
	}
}

// TestNobodyIsToldThatThereIsNone: a client would mount a second time.
func TestNobodyIsToldThatThereIsNone(t *testing.T) {
	f := serve(t, nil)
	f.server.Open(true)
	f.deposit(t, request(104, 26))
	f.shelf.setAway(true)
	conn := f.dial(t)
	answered := make(chan int, 1)
	go func() {
		_, files, err := clientfd.Receive(conn)
		if err != nil {
			answered <- -1
			return
		}
		clientfd.CloseFiles(files)
		answered <- len(files)
	}()
	for event := range f.events {
		if !event.Serves && len(f.events) == 0 {
			break
		}
	}
	select {
	case count := <-answered:
		t.Fatalf("answered with %d descriptors while custody is away", count)
	case <-time.After(150 * time.Millisecond):
	}
	f.shelf.setAway(false)
	if count := <-answered; count != 2 {
		t.Errorf("%d descriptors when custody is back", count)
	}
}

func TestGateOfAKeeper(t *testing.T) {
	f := serve(t, nil)
	if err := f.shelf.Put(t.Context(), request(104, 26), fuse(t)); err != nil {
		t.Fatal(err)
	}
	conn := f.dial(t)
	if event := <-f.events; event.PID != os.Getpid() || event.Serves {
		t.Errorf("event %+v", event)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := clientfd.Receive(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("answered before the gate was open: %v", err)
	}
	f.server.Open(false)
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, files, err := clientfd.Receive(conn); err != nil || len(files) != 2 {
		t.Fatalf("%d descriptors, %v", len(files), err)
	}
	f.server.Bar()
	late := f.dial(t)
	if err := late.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := clientfd.Receive(late); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("answered behind the bar: %v", err)
	}
}

func TestStrangersGetNothing(t *testing.T) {
	f := serve(t, func(int) bool { return false })
	f.server.Open(false)
	if payload, _, err := clientfd.Receive(f.dial(t)); err == nil && len(payload) > 0 {
		t.Errorf("a process of another pod was answered: %q", payload)
	}
}

func TestANewKeeperReplacesTheSocketOfTheOld(t *testing.T) {
	f := serve(t, nil)
	directory, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	info, err := os.Stat(f.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	f.server.Open(true)
	next, err := keeper.Listen(directory, keeper.Options{
		Custody: f.shelf, Tell: func(keeper.Event) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close() }()
	_ = f.server.Close()
	if err := f.shelf.Put(t.Context(), request(104, 26), fuse(t)); err != nil {
		t.Fatal(err)
	}
	next.Open(false)
	if _, count := f.ask(t); count != 2 {
		t.Errorf("%d descriptors from the new keeper", count)
	}
}
