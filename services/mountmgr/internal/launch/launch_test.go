package launch_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

const (
	invalidArgument    = 3
	deadlineExceeded   = 4
	failedPrecondition = 9
	unimplemented      = 12
)

func itoa(number int32) string { return strconv.Itoa(int(number)) }

func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// spec starts the fake client with faults.
func (s *supervisor) spec(t *testing.T, mode string) *launchv1.Spec {
	t.Helper()
	return &launchv1.Spec{
		MountId: "mount-1",
		Client:  &launchv1.Process{Argv: []string{executable(t), "fake-client", "mode," + mode, s.directory}},
		Env:     []*launchv1.EnvVar{{Name: "TOKEN", Value: "s3cret-token"}, {Name: "JFS_SUPERVISOR", Value: "no"}},
	}
}

func start(start *launchv1.Start) *launchv1.Command {
	return &launchv1.Command{Operation: &launchv1.Command_Start{Start: start}}
}

func handOff(timeout time.Duration) *launchv1.Command {
	return &launchv1.Command{Operation: &launchv1.Command_HandOff{HandOff: &launchv1.HandOff{Timeout: durationpb.New(timeout)}}}
}

func stop(grace time.Duration) *launchv1.Command {
	return &launchv1.Command{Operation: &launchv1.Command_Stop{Stop: &launchv1.Stop{Grace: durationpb.New(grace)}}}
}

func release(session uint64) *launchv1.Command {
	return &launchv1.Command{Operation: &launchv1.Command_Release{Release: &launchv1.Release{SessionId: session}}}
}

func stateFile(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestStartServes(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	if status := m.hello(); status.GetState() != launchv1.Status_STATE_IDLE {
		t.Fatalf("got %v", status)
	}
	descriptor, kernel := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "")}), descriptor)
	descriptor.Close()
	if serving := m.serving(); !bytes.Equal(serving.GetSettings(), goodSettings()) {
		t.Errorf("settings %x", serving.GetSettings())
	}
	status := m.status()
	if status.GetState() != launchv1.Status_STATE_SERVING || !status.GetHoldsDescriptor() || status.GetMountId() != "mount-1" ||
		!bytes.Equal(status.GetSettings(), goodSettings()) {
		t.Errorf("got %v", status)
	}
	record := s.record(t, status.GetClientPid())
	contains(t, record, "JFS_SUPERVISOR=1\n", "JFS_FOREGROUND=1\n", "JFS_INSIDE_CONTAINER=1\n", "TOKEN=s3cret-token\n", "PASSED=on\n",
		"PATH=/usr/bin:/bin\n", "HOME=/root\n", "_FUSE_FD_COMM=", "STATE=none")
	for _, absent := range []string{"HOSTSECRET", "_JFS_META_SID", "_FUSE_STATE_PATH", "JFS_SUPERVISOR=no", "UNSET"} {
		if strings.Contains(record, absent) {
			t.Errorf("the client got %s", absent)
		}
	}
	second, _ := connection(t)
	m.refused(failedPrecondition, start(&launchv1.Start{Spec: s.spec(t, "")}), second)
	m.refused(failedPrecondition, release(1))
	m.refused(unimplemented, &launchv1.Command{})
	kernel.Close() // as umount does
	m.ended(false)
	s.exits(t, 0)
}

func TestBadSettingsAreNotReported(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "bad-settings")}), descriptor)
	if serving := m.serving(); len(serving.GetSettings()) != 0 {
		t.Errorf("settings %x", serving.GetSettings())
	}
	// The mount manager gives it another connection and the bytes it knows.
	a := m.call(handOff(patience))
	if !a.reply.GetHandOff().GetHasState() {
		t.Fatal("no state")
	}
	again, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "bad-settings"), Settings: goodSettings()}), again)
	if serving := m.serving(); !bytes.Equal(serving.GetSettings(), goodSettings()) {
		t.Errorf("settings %x", serving.GetSettings())
	}
}

func TestStartIsChecked(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	bad := s.spec(t, "")
	bad.Stages = []*launchv1.Stage{{Name: "format", Process: bad.GetClient()}}
	for name, command := range map[string]*launchv1.Start{
		"no spec":                 {},
		"stage without limit":     {Spec: bad},
		"bad settings":            {Spec: s.spec(t, ""), Settings: []byte("FUSE")},
		"state is missing":        {Spec: s.spec(t, ""), HasState: true},
		"file with relative path": {Spec: &launchv1.Spec{Client: bad.GetClient(), Files: []*launchv1.File{{Path: "a/b"}}}},
	} {
		t.Run(name, func(*testing.T) { m.refused(invalidArgument, start(command), descriptor) })
	}
	m.refused(invalidArgument, start(&launchv1.Start{Spec: s.spec(t, "")}))
	m.refused(failedPrecondition, handOff(time.Second))
	m.refused(failedPrecondition, &launchv1.Command{Operation: &launchv1.Command_Borrow{}})
}

func TestCrashIsRepaired(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "")}), descriptor)
	m.serving()
	m.call(&launchv1.Command{Operation: &launchv1.Command_SetSession{SetSession: &launchv1.SetSession{SessionId: 42}}})
	before := m.status().GetClientPid()
	if err := unix.Kill(int(before), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit := m.ended(true)
	if exit.GetSignal() != 9 || exit.GetCode() != 137 {
		t.Errorf("got %v", exit)
	}
	contains(t, strings.Join(exit.GetStderr(), ""), "fake client speaks")
	m.serving()
	status := m.status()
	if status.GetClientPid() == before || status.GetRestarts() != 1 {
		t.Errorf("got %v", status)
	}
	contains(t, s.record(t, status.GetClientPid()), "_JFS_META_SID=42\n", "STATE=none")
	// A SIGHUP from somebody else leaves a state, which the next client loads.
	if err := unix.Kill(int(status.GetClientPid()), unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.ended(true)
	m.serving()
	contains(t, s.record(t, m.status().GetClientPid()), "STATE=state of "+itoa(status.GetClientPid()))
}

func TestCrashesWithoutEndAreGivenUp(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, kernel := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "crash")}), descriptor)
	descriptor.Close()
	for served, restarts := 0, 0; ; {
		event := m.next()
		if event.GetServing() != nil {
			served++
			continue
		}
		if event.GetClientEnded().GetRestarting() {
			restarts++
			continue
		}
		if event.GetClientEnded() == nil || served == 0 || restarts != 9 {
			t.Fatalf("served %d times, restarted %d times, then %v", served, restarts, event)
		}
		break
	}
	if status := m.status(); status.GetState() != launchv1.Status_STATE_FAILED || !status.GetHoldsDescriptor() {
		t.Fatalf("got %v", status)
	}
	// What was in use can still be saved.
	borrowed := m.call(&launchv1.Command{Operation: &launchv1.Command_Borrow{}})
	if _, err := borrowed.files[0].Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := kernel.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = m.conn.Close()
	s.exits(t, 1)
}

func TestFirstStartFailure(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, kernel := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "die")}), descriptor)
	descriptor.Close()
	if exit := m.ended(false); exit.GetCode() != 7 {
		t.Errorf("got %v", exit)
	}
	if status := m.status(); status.GetState() != launchv1.Status_STATE_FAILED || status.GetHoldsDescriptor() {
		t.Errorf("got %v", status)
	}
	if _, err := kernel.Read(make([]byte, 1)); err != nil && err != io.EOF {
		t.Errorf("the connection is still held: %v", err)
	}
	_ = m.conn.Close()
	s.exits(t, 1)
	var message launch.Termination
	data, err := os.ReadFile(s.termination)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &message); err != nil || message.Stage != "client" || message.Code != 7 ||
		strings.Join(message.Stderr, "") != "fake client speaks" {
		t.Errorf("got %s, %v", data, err)
	}
}

func TestTerminationIsAnnouncedAndSurvived(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "")}), descriptor)
	m.serving()
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if event := m.next(); event.GetTerminating() == nil {
		t.Fatalf("got %v", event)
	}
	again := connect(t, s.socket)
	if status := again.hello(); !status.GetTerminating() || status.GetState() != launchv1.Status_STATE_SERVING {
		t.Fatalf("got %v", status)
	}
	<-m.gone // a newer connection replaces the older one
	again.call(stop(time.Second))
	s.exits(t, 0)
}

func TestIdleEndsOnSignal(t *testing.T) {
	s := serve(t)
	connect(t, s.socket).hello()
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.exits(t, 0)
}

func TestStopKillsAStubbornClient(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, kernel := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "stubborn")}), descriptor)
	descriptor.Close()
	m.serving()
	m.call(stop(10 * time.Millisecond))
	if exit := m.ended(false); exit.GetSignal() != 9 {
		t.Errorf("got %v", exit)
	}
	s.exits(t, 0)
	if _, err := kernel.Read(make([]byte, 1)); err != io.EOF && err != nil {
		t.Errorf("the connection is still held: %v", err)
	}
}
