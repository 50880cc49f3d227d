package launcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/juicefs-csi/driver/libs/apiversion"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

func regular(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestGreeting(t *testing.T) {
	session := newStandIn(t).session()
	if session.Status().GetState() != launchv1.Status_STATE_SERVING || session.Status().GetMountId() != "m" {
		t.Errorf("status %v, want what was told", session.Status())
	}
	if session.Process().PID != int32(os.Getpid()) || session.Process().StartTicks == 0 {
		t.Errorf("process %+v, want ours", session.Process())
	}
}

func TestGreetingsThatAreRefused(t *testing.T) {
	ours := apiversion.Launch().Version
	for name, c := range map[string]struct {
		first *launchv1.Message
		uid   uint32
		is    func(error) bool
	}{
		"another user":    {hello(ours), ourselves() + 1, errdefs.IsPermissionDenied},
		"a newer version": {hello(ours + 9), ourselves(), errdefs.IsFailedPrecondition},
		"no greeting": {
			event(&launchv1.Event{Event: &launchv1.Event_Waiting{Waiting: &launchv1.Waiting{}}}), ourselves(), errdefs.IsInvalidArgument,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStandIn(t)
			surplus, done := regular(t, "surplus"), make(chan struct{})
			go func() {
				defer close(done)
				conn, err := s.listener.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				s.conn = conn
				_ = conn.Send(t.Context(), c.first, surplus) // It may be refused before that.
			}()
			if _, err := launcher.Connect(t.Context(), s.podsDir, podUID, c.uid); !c.is(err) {
				t.Errorf("Connect = %v", err)
			}
			<-done
			defer func() { _ = s.conn.Close() }()
			if _, err := s.conn.Receive(t.Context(), new(launchv1.Command)); !errors.Is(err, io.EOF) {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
}

func TestConnectWaitsForTheSocketAndReconnectDoesNot(t *testing.T) {
	podsDir := t.TempDir()
	if _, err := launcher.Reconnect(t.Context(), podsDir, podUID, ourselves()); !errdefs.IsUnavailable(err) {
		t.Errorf("Reconnect = %v, want unavailable", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := launcher.Connect(ctx, podsDir, podUID, ourselves()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connect = %v, want deadline exceeded", err)
	}
}

// A mount pod can put what it likes into its directory, also a link that would
// lead the mount manager elsewhere.
func TestALinkInThePodsDirectoryIsNotFollowed(t *testing.T) {
	genuine := newStandIn(t)
	podsDir := t.TempDir()
	directory := filepath.Join(podsDir, podUID, "volumes", "kubernetes.io~empty-dir", launcher.VolumeName)
	if err := os.MkdirAll(directory, 0o750); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(genuine.podsDir, podUID, "volumes", "kubernetes.io~empty-dir", launcher.VolumeName, launcher.SocketName)
	if err := os.Symlink(target, filepath.Join(directory, launcher.SocketName)); err != nil {
		t.Fatal(err)
	}
	if _, err := launcher.Reconnect(t.Context(), podsDir, podUID, ourselves()); err == nil {
		t.Error("the link was followed")
	}
}

func TestEventsArriveInOrderAndEndWithTheSession(t *testing.T) {
	s := newStandIn(t)
	session := s.session()
	surplus := regular(t, "x")
	s.send(event(&launchv1.Event{Event: &launchv1.Event_StageStarted{StageStarted: &launchv1.StageStarted{Name: "format"}}}), surplus)
	s.send(event(&launchv1.Event{Event: &launchv1.Event_Serving{Serving: &launchv1.Serving{Settings: []byte("init")}}}))
	if first := <-session.Events(); first.GetStageStarted().GetName() != "format" {
		t.Errorf("first event %v", first)
	}
	if second := <-session.Events(); string(second.GetServing().GetSettings()) != "init" {
		t.Errorf("second event %v", second)
	}
	_ = s.conn.Close()
	if last, open := <-session.Events(); open {
		t.Errorf("event %v after the end", last)
	}
	if err := session.SetSession(t.Context(), 1); !errdefs.IsUnavailable(err) {
		t.Errorf("command after the end: %v, want unavailable", err)
	}
}

func TestAPodThatFloodsIsCut(t *testing.T) {
	s := newStandIn(t)
	session := s.session()
	waiting := event(&launchv1.Event{Event: &launchv1.Event_Waiting{Waiting: &launchv1.Waiting{}}})
	var cut error
	for cut == nil { // Nobody reads the events.
		cut = s.conn.Send(t.Context(), waiting)
	}
	count := 0
	for range session.Events() {
		count++
	}
	if count == 0 || count > 1000 {
		t.Errorf("%d events were kept", count)
	}
}

func TestRepliesReachTheirCommands(t *testing.T) {
	s := newStandIn(t)
	session := s.session()
	results := map[uint64]chan error{1: make(chan error, 1), 2: make(chan error, 1), 3: make(chan error, 1)}
	for id, result := range results {
		go func() { result <- session.SetSession(t.Context(), id) }()
	}
	// Answered in another order, with one that nobody asked for.
	commands := []*launchv1.Command{s.receive(nil), s.receive(nil), s.receive(nil)}
	s.reply(failure(99, codes.Internal), regular(t, "x"))
	for _, index := range []int{2, 0, 1} {
		command := commands[index]
		if command.GetSetSession().GetSessionId() == 2 {
			s.reply(failure(command.GetId(), codes.NotFound), regular(t, "x"))
		} else {
			s.reply(&launchv1.Reply{Id: command.GetId()})
		}
	}
	for id, result := range results {
		if err := <-result; errdefs.IsNotFound(err) != (id == 2) || err != nil && id != 2 {
			t.Errorf("command of session %d: %v", id, err)
		}
	}
}

func TestALateReplyIsDropped(t *testing.T) {
	s := newStandIn(t)
	session := s.session()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- session.SetSession(ctx, 1) }()
	command := s.receive(nil)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	s.reply(failure(command.GetId(), codes.Internal), regular(t, "x"))
	go func() { result <- session.SetSession(t.Context(), 2) }()
	s.reply(&launchv1.Reply{Id: s.receive(nil).GetId()})
	if err := <-result; err != nil {
		t.Errorf("the next command: %v", err)
	}
}

// A jfs-launch may end right after its answer, which counts all the same.
func TestTheLastReplyCounts(t *testing.T) {
	for range 50 {
		s := newStandIn(t)
		session := s.session()
		result := make(chan string, 1)
		go func() {
			state, err := session.HandOff(t.Context(), time.Second)
			result <- fmt.Sprintf("%s %v", state, err)
		}()
		s.reply(&launchv1.Reply{Id: s.receive(nil).GetId(), Result: &launchv1.Reply_HandOff{
			HandOff: &launchv1.HandOffResult{HasState: true},
		}}, regular(t, "state"))
		_ = s.conn.Close()
		if got := <-result; got != "state <nil>" {
			t.Fatalf("HandOff = %s", got)
		}
	}
}

func TestNothingLeaks(t *testing.T) {
	file := regular(t, "x")
	round := func() {
		s := newStandIn(t)
		session := s.session()
		s.send(event(&launchv1.Event{Event: &launchv1.Event_Waiting{Waiting: &launchv1.Waiting{}}}), file, file)
		<-session.Events()
		done := make(chan error, 1)
		go func() { done <- session.SetSession(t.Context(), 1) }()
		s.reply(&launchv1.Reply{Id: s.receive(nil).GetId()}, file)
		if err := <-done; err != nil {
			t.Error(err)
		}
		session.Close()
		_, _ = s.conn.Close(), s.listener.Close()
		for range session.Events() {
			t.Error("an event after the end")
		}
	}
	round() // Opens what the runtime keeps.
	descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
	for range 10 {
		round()
	}
	// Goroutines may take a moment to end.
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for openDescriptors(t) > descriptors || runtime.NumGoroutine() > goroutines {
		select {
		case <-deadline:
			t.Fatalf("%d descriptors and %d goroutines, %d and %d before",
				openDescriptors(t), runtime.NumGoroutine(), descriptors, goroutines)
		case <-ticker.C:
		}
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func content(file *os.File) string {
	text, _ := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
	return string(text)
}

func TestStartAndReleasePassDescriptors(t *testing.T) {
	s := newStandIn(t)
	session, fuse := s.session(), regular(t, "fuse")
	for name, c := range map[string]struct {
		call func() error
		want string
	}{
		"start": {func() error { return session.Start(t.Context(), &launchv1.Start{}, fuse, nil) }, "fuse"},
		"start with state": {func() error {
			return session.Start(t.Context(), &launchv1.Start{}, fuse, launcher.State("state"))
		}, "fuse state"},
		"release":            {func() error { return session.Release(t.Context(), 5, nil) }, ""},
		"release with state": {func() error { return session.Release(t.Context(), 5, launcher.State("state")) }, "state"},
	} {
		result := make(chan error, 1)
		go func() { result <- c.call() }()
		var got []string
		command := s.receive(func(files []*os.File) {
			for _, file := range files {
				got = append(got, content(file))
			}
		})
		s.reply(&launchv1.Reply{Id: command.GetId()})
		if err := <-result; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s passed %q, want %q", name, text, c.want)
		}
		if hasState := strings.Contains(c.want, " "); command.GetStart() != nil && command.GetStart().GetHasState() != hasState {
			t.Errorf("%s: has_state %v", name, command.GetStart().GetHasState())
		}
	}
	if _, err := fuse.Stat(); err != nil {
		t.Errorf("the caller's descriptor: %v", err)
	}
}

func TestBorrowRefusesWhatIsNoFuseDevice(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	for name, files := range map[string][]*os.File{
		"nothing":          nil,
		"a file":           {regular(t, "x")},
		"another device":   {null},
		"two descriptors":  {null, null},
		"a pipe, a memory": {pipeEnd(t)},
	} {
		s := newStandIn(t)
		session := s.session()
		result := make(chan error, 1)
		go func() {
			_, _, err := session.Borrow(t.Context())
			result <- err
		}()
		command := s.receive(nil)
		s.reply(&launchv1.Reply{Id: command.GetId(), Result: &launchv1.Reply_Borrow{Borrow: &launchv1.BorrowResult{}}}, files...)
		if err := <-result; !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}

func pipeEnd(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = reader.Close(), writer.Close() })
	return reader
}

func TestHandOffReadsOnlyAStateFile(t *testing.T) {
	huge := regular(t, "")
	if err := unix.Ftruncate(int(huge.Fd()), 65<<20); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files    []*os.File
		hasState bool
		want     string
		refused  bool
	}{
		"a state":        {[]*os.File{regular(t, "state")}, true, "state", false},
		"no state":       {nil, false, "", false},
		"a surplus file": {[]*os.File{regular(t, "state"), regular(t, "x")}, true, "state", false},
		"not announced":  {[]*os.File{regular(t, "x")}, false, "", false},
		"a pipe":         {[]*os.File{pipeEnd(t)}, true, "", true},
		"far too large":  {[]*os.File{huge}, true, "", true},
	} {
		s := newStandIn(t)
		session := s.session()
		type outcome struct {
			state launcher.State
			err   error
		}
		result := make(chan outcome, 1)
		go func() {
			state, err := session.HandOff(t.Context(), time.Second)
			result <- outcome{state, err}
		}()
		command := s.receive(nil)
		s.reply(&launchv1.Reply{Id: command.GetId(), Result: &launchv1.Reply_HandOff{
			HandOff: &launchv1.HandOffResult{HasState: c.hasState},
		}}, c.files...)
		if got := <-result; string(got.state) != c.want || errdefs.IsInvalidArgument(got.err) != c.refused {
			t.Errorf("%s: state %q, %v", name, got.state, got.err)
		}
	}
}

func TestABusyClientIsToldApart(t *testing.T) {
	s := newStandIn(t)
	session := s.session()
	result := make(chan error, 1)
	go func() {
		_, err := session.HandOff(t.Context(), time.Second)
		result <- err
	}()
	s.reply(failure(s.receive(nil).GetId(), codes.DeadlineExceeded))
	if err := <-result; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("HandOff = %v, want deadline exceeded", err)
	}
}
